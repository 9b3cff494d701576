#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/checked.h"
#include "text/sampler_object.h"

/*
 * A saved sampler is this struct, without padding, and behind it the logit biases, the sequence
 * breakers, and the accepted tokens, oldest first. Numbers are in the machine's byte order, which
 * the magic number tells.
 */
struct saved_sampler {
    uint64_t magic;
    uint32_t version;
    uint32_t reserved;
    uint64_t seed;
    uint64_t n_draws, n_xtc_draws;
    double mu;
    uint64_t n_logit_bias, n_dry_breakers, n_history;
    float temperature, top_p, min_p, typical_p, top_n_sigma;
    float repeat_penalty, presence_penalty, frequency_penalty;
    float xtc_probability, xtc_threshold, dry_multiplier, dry_base;
    float mirostat_tau, mirostat_eta;
    int32_t top_k, repeat_last_n, dry_allowed_length, dry_penalty_last_n, mirostat;
    uint32_t n_stages;
    unsigned char stages[16];
};

_Static_assert(sizeof(struct saved_sampler) == 72 + 20 * 4 + 16, "no padding in saved bytes");
_Static_assert(HY_N_STAGES <= 16, "room for all stages");

static const uint64_t MAGIC = 0x72656C706D617368; /* "hsampler" on little-endian machines */
enum { VERSION = 2 };

/* The parameters of four bytes, by where they lie in both structs. */
#define FIELD(name)                                                                               \
    {                                                                                             \
        offsetof(struct saved_sampler, name), offsetof(hymba_sampler_params, name)                \
    }

static const struct {
    size_t in_saved, in_params;
} fields[] = {
    FIELD(temperature),
    FIELD(top_p),
    FIELD(min_p),
    FIELD(typical_p),
    FIELD(top_n_sigma),
    FIELD(repeat_penalty),
    FIELD(presence_penalty),
    FIELD(frequency_penalty),
    FIELD(xtc_probability),
    FIELD(xtc_threshold),
    FIELD(dry_multiplier),
    FIELD(dry_base),
    FIELD(mirostat_tau),
    FIELD(mirostat_eta),
    FIELD(top_k),
    FIELD(repeat_last_n),
    FIELD(dry_allowed_length),
    FIELD(dry_penalty_last_n),
    FIELD(mirostat),
};

enum { N_FIELDS = sizeof fields / sizeof *fields };

/* ---------------------------------------------------------------- writing */

hymba_status hy_sampler_state_size(const hymba_sampler *sampler, size_t *size, hymba_error *error)
{
    *size = 0;
    if (sampler->params.process)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "a sampler with a stage of the caller's own cannot be saved");
    /* All of it lies in memory, so the sum fits. */
    *size = sizeof(struct saved_sampler) +
            sampler->params.n_logit_bias * sizeof(hymba_logit_bias) +
            sampler->params.n_dry_breakers * sizeof(int32_t) +
            sampler->history.count * sizeof(int32_t);
    return HYMBA_OK;
}

static unsigned char *put(unsigned char *to, const void *from, size_t size)
{
    if (size > 0)
        memcpy(to, from, size);
    return to + size;
}

void hy_sampler_write_state(const hymba_sampler *sampler, unsigned char *state)
{
    const hymba_sampler_params *params = &sampler->params;
    struct saved_sampler saved;
    memset(&saved, 0, sizeof saved);
    saved.magic = MAGIC;
    saved.version = VERSION;
    saved.n_draws = sampler->progress.n_draws;
    saved.n_xtc_draws = sampler->progress.n_xtc_draws;
    saved.mu = sampler->progress.mu;
    saved.n_logit_bias = params->n_logit_bias;
    saved.n_dry_breakers = params->n_dry_breakers;
    saved.n_history = sampler->history.count;
    saved.seed = params->seed;
    for (size_t i = 0; i < N_FIELDS; i++)
        memcpy((unsigned char *)&saved + fields[i].in_saved,
               (const unsigned char *)params + fields[i].in_params, sizeof(int32_t));
    saved.n_stages = (uint32_t)sampler->order.count;
    for (size_t i = 0; i < sampler->order.count; i++)
        saved.stages[i] = (unsigned char)sampler->order.stages[i];
    state = put(state, &saved, sizeof saved);
    state = put(state, sampler->logit_bias, params->n_logit_bias * sizeof(hymba_logit_bias));
    state = put(state, sampler->dry_breakers, params->n_dry_breakers * sizeof(int32_t));
    for (size_t age = sampler->history.count; age-- > 0;) {
        int32_t token = hy_token_history_back(&sampler->history, age);
        state = put(state, &token, sizeof token);
    }
}

/* ---------------------------------------------------------------- reading */

static hymba_status damaged(hymba_error *error, const char *what)
{
    return hy_fail(error, HYMBA_ERROR_FORMAT, "the saved sampler: %s", what);
}

/* Takes count elements of size bytes off the rest; false if there are not as many. */
static bool take(size_t *rest, uint64_t count, size_t size)
{
    if (count > *rest / size)
        return false;
    *rest -= (size_t)count * size;
    return true;
}

static hymba_status read_header(const unsigned char *state, size_t size,
                                struct saved_sampler *saved, hymba_error *error)
{
    if (size < sizeof *saved)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "the saved sampler: found %zu bytes, expected at least %zu", size,
                       sizeof *saved);
    memcpy(saved, state, sizeof *saved);
    if (saved->magic == __builtin_bswap64(MAGIC))
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "the saved sampler: made on a machine of the other byte order");
    if (saved->magic != MAGIC)
        return damaged(error, "it does not begin as one");
    if (saved->version != VERSION)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "the saved sampler: found version %u, expected %d",
                       (unsigned)saved->version, VERSION);
    size_t rest = size - sizeof *saved;
    if (!take(&rest, saved->n_logit_bias, sizeof(hymba_logit_bias)) ||
        !take(&rest, saved->n_dry_breakers, sizeof(int32_t)) ||
        !take(&rest, saved->n_history, sizeof(int32_t)) || rest != 0)
        return damaged(error, "the counts in it do not make up its size");
    if (saved->reserved != 0 || !isfinite(saved->mu))
        return damaged(error, "a number in it is not possible");
    return HYMBA_OK;
}

/* The arrays lie in the bytes without alignment, so they are copied first. */
struct saved_arrays {
    struct hy_memory memory;
    hymba_logit_bias *logit_bias;
    int32_t *dry_breakers;
};

static hymba_status copy_arrays(const struct saved_sampler *saved, const unsigned char *bytes,
                                struct saved_arrays *arrays, hymba_error *error)
{
    size_t n_bias = (size_t)saved->n_logit_bias, n_breakers = (size_t)saved->n_dry_breakers;
    arrays->logit_bias = hy_alloc_array(&arrays->memory, n_bias, sizeof *arrays->logit_bias);
    arrays->dry_breakers =
        hy_alloc_array(&arrays->memory, n_breakers, sizeof *arrays->dry_breakers);
    if (!arrays->logit_bias || !arrays->dry_breakers)
        return hy_no_memory(error, n_bias + n_breakers, "the saved sampler's lists");
    put((unsigned char *)arrays->logit_bias, bytes, n_bias * sizeof *arrays->logit_bias);
    put((unsigned char *)arrays->dry_breakers, bytes + n_bias * sizeof *arrays->logit_bias,
        n_breakers * sizeof *arrays->dry_breakers);
    return HYMBA_OK;
}

/* Parameters that are wrong are the bytes' fault here, not the caller's. */
static hymba_status create(const struct saved_sampler *saved, const struct saved_arrays *arrays,
                           const hymba_host *host, hymba_sampler **sampler, hymba_error *error)
{
    char order[HY_ORDER_TEXT];
    hymba_error fault;
    hymba_sampler_params params = {.struct_size = sizeof params};
    if (saved->n_stages > HY_N_STAGES ||
        !hy_stage_order_text(saved->stages, saved->n_stages, order))
        return damaged(error, "its order names a stage that there is not");
    params.seed = saved->seed;
    for (size_t i = 0; i < N_FIELDS; i++)
        memcpy((unsigned char *)&params + fields[i].in_params,
               (const unsigned char *)saved + fields[i].in_saved, sizeof(int32_t));
    params.order = order;
    params.logit_bias = arrays->logit_bias;
    params.n_logit_bias = (size_t)saved->n_logit_bias;
    params.dry_breakers = arrays->dry_breakers;
    params.n_dry_breakers = (size_t)saved->n_dry_breakers;
    memset(&fault, 0, sizeof fault);
    fault.struct_size = sizeof fault;
    hymba_status status = hy_sampler_create(&params, host, sampler, &fault);
    if (status == HYMBA_ERROR_ARGUMENT)
        return damaged(error, fault.message);
    return status == HYMBA_OK ? status : hy_fail(error, status, "%s", fault.message);
}

static hymba_status accept_saved(hymba_sampler *sampler, const unsigned char *bytes, size_t count,
                                 hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (size_t i = 0; status == HYMBA_OK && i < count; i++) {
        int32_t token;
        memcpy(&token, bytes + i * sizeof token, sizeof token);
        status = token < 0 ? damaged(error, "one of its tokens is negative")
                           : hy_sampler_accept(sampler, token, error);
    }
    return status;
}

hymba_status hy_sampler_read_state(const unsigned char *state, size_t size,
                                   const hymba_host *host, hymba_sampler **sampler,
                                   hymba_error *error)
{
    struct saved_sampler saved;
    struct saved_arrays arrays = {.logit_bias = NULL};
    *sampler = NULL;
    hymba_status status = read_header(state, size, &saved, error);
    if (status == HYMBA_OK)
        status = hy_memory_init(&arrays.memory, host, error);
    if (status != HYMBA_OK)
        return status;
    status = copy_arrays(&saved, state + sizeof saved, &arrays, error);
    if (status == HYMBA_OK)
        status = create(&saved, &arrays, host, sampler, error);
    hy_free(&arrays.memory, arrays.logit_bias);
    hy_free(&arrays.memory, arrays.dry_breakers);
    if (status == HYMBA_OK) {
        size_t n_history = (size_t)saved.n_history;
        status = accept_saved(*sampler, state + size - n_history * sizeof(int32_t), n_history,
                              error);
    }
    if (status != HYMBA_OK) {
        hy_sampler_release(*sampler);
        *sampler = NULL;
        return status;
    }
    (*sampler)->progress =
        (struct hy_sampler_progress){saved.n_draws, saved.n_xtc_draws, saved.mu};
    return HYMBA_OK;
}
