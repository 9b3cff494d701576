#include "text/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/checked.h"
#include "base/random.h"

enum { DEFAULT_REPEAT_LAST_N = 64, FIRST_RECENT_CAPACITY = 64 };

struct candidate {
    double logit; /* after the repetition penalty; finite, or -infinity */
    int32_t id;
    bool penalised;
};

/* The tokens that count for the repetition penalty: a ring once it is full. */
struct recent_tokens {
    int32_t *tokens;
    size_t capacity; /* allocated, at most limit */
    size_t limit;    /* how many count */
    size_t count;
    size_t next;     /* where the next one goes */
};

struct hymba_sampler {
    struct hy_memory memory;
    _Atomic uint32_t references;
    hymba_sampler_params params;
    uint64_t key;
    uint64_t counter;
    struct recent_tokens recent;
    struct candidate *candidates;
    size_t candidates_capacity;
};

/*
 * The candidates of one call. The array's first n_heap elements are a heap with the best on top,
 * the others the best ones so far, the very best last: only as many are sorted as a stage asks
 * for, and no second array is needed.
 */
struct selection {
    struct candidate *candidates;
    size_t count;
    size_t n_heap;
    size_t n_kept; /* the stages keep the n_kept best */
};

/* --------------------------------------------------------------- creation */

static hymba_status check_range(const char *field, double value, double highest,
                                hymba_error *error)
{
    if (isfinite(value) && value >= 0 && value <= highest)
        return HYMBA_OK;
    if (isinf(highest))
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "sampler parameters: %s must be a finite number that is not negative",
                       field);
    return hy_fail(error, HYMBA_ERROR_ARGUMENT, "sampler parameters: %s must lie between 0 and %d",
                   field, (int)highest);
}

static hymba_status check_params(const hymba_sampler_params *params, hymba_error *error)
{
    hymba_status status = check_range("temperature", params->temperature, INFINITY, error);
    if (!status)
        status = check_range("top_p", params->top_p, 1, error);
    if (!status)
        status = check_range("min_p", params->min_p, 1, error);
    if (!status)
        status = check_range("repeat_penalty", params->repeat_penalty, INFINITY, error);
    if (!status && params->top_k < 0)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "sampler parameters: top_k is %d, it must not be negative",
                         (int)params->top_k);
    if (!status && params->repeat_last_n < -1)
        status = hy_fail(error, HYMBA_ERROR_ARGUMENT,
                         "sampler parameters: repeat_last_n is %d, expected a number of tokens, "
                         "0 or -1",
                         (int)params->repeat_last_n);
    return status;
}

static size_t recent_limit(const hymba_sampler_params *params)
{
    if (params->repeat_last_n < 0)
        return SIZE_MAX;
    return params->repeat_last_n ? (size_t)params->repeat_last_n : DEFAULT_REPEAT_LAST_N;
}

static bool penalises(const hymba_sampler *sampler)
{
    return sampler->params.repeat_penalty != 0 && sampler->params.repeat_penalty != 1;
}

hymba_status hy_sampler_create(const hymba_sampler_params *params, const hymba_host *host,
                               hymba_sampler **sampler, hymba_error *error)
{
    struct hy_memory memory;
    *sampler = NULL;
    hymba_status status = check_params(params, error);
    if (!status)
        status = hy_memory_init(&memory, host, error);
    if (status)
        return status;
    hymba_sampler *created = hy_alloc_zero(&memory, 1, sizeof *created);
    if (!created)
        return hy_no_memory(error, sizeof *created, "a sampler");
    hy_memory_inherit(&created->memory, &memory);
    atomic_init(&created->references, 1);
    created->params = *params;
    created->key = hy_random_key(params->seed, "sampler");
    created->recent.limit = recent_limit(params);
    *sampler = created;
    return HYMBA_OK;
}

hymba_sampler *hy_sampler_retain(hymba_sampler *sampler)
{
    if (sampler)
        atomic_fetch_add(&sampler->references, 1);
    return sampler;
}

void hy_sampler_release(hymba_sampler *sampler)
{
    if (!sampler || atomic_fetch_sub(&sampler->references, 1) != 1)
        return;
    struct hy_memory memory;
    hy_free(&sampler->memory, sampler->recent.tokens);
    hy_free(&sampler->memory, sampler->candidates);
    hy_memory_inherit(&memory, &sampler->memory);
    hy_free(&memory, sampler);
}

void hy_sampler_reset(hymba_sampler *sampler)
{
    if (!sampler)
        return;
    sampler->counter = 0;
    sampler->recent.count = 0;
    sampler->recent.next = 0;
}

/* ---------------------------------------------------------- recent tokens */

/* Makes room for one more token; accepting it cannot fail then. */
static hymba_status reserve_recent(hymba_sampler *sampler, hymba_error *error)
{
    struct recent_tokens *recent = &sampler->recent;
    if (!penalises(sampler) || recent->count < recent->capacity ||
        recent->capacity == recent->limit)
        return HYMBA_OK;
    size_t capacity, bytes;
    if (!hy_mul_size(recent->capacity, 2, &capacity))
        capacity = SIZE_MAX;
    capacity = hy_min_size(hy_max_size(capacity, FIRST_RECENT_CAPACITY), recent->limit);
    int32_t *tokens = hy_mul_size(capacity, sizeof *tokens, &bytes)
                          ? hy_realloc(&sampler->memory, recent->tokens, bytes)
                          : NULL;
    if (!tokens)
        return hy_no_memory(error, bytes, "the sampler's recent tokens");
    recent->tokens = tokens;
    recent->capacity = capacity;
    /* It grows only before it is full, so it has not wrapped round yet. */
    recent->next = recent->count;
    return HYMBA_OK;
}

static void remember(hymba_sampler *sampler, int32_t token)
{
    struct recent_tokens *recent = &sampler->recent;
    if (!penalises(sampler))
        return;
    recent->tokens[recent->next] = token;
    recent->next = recent->next + 1 == recent->limit ? 0 : recent->next + 1;
    if (recent->count < recent->limit)
        recent->count++;
}

hymba_status hy_sampler_accept(hymba_sampler *sampler, int32_t token, hymba_error *error)
{
    if (token < 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "token %d is negative", (int)token);
    hymba_status status = reserve_recent(sampler, error);
    if (!status)
        remember(sampler, token);
    return status;
}

/* ------------------------------------------------------------- candidates */

/*
 * e to the power of x <= 0. The C library's exp differs in its last bit from one system to the
 * next, which would now and then draw another token for the same seed; this one uses nothing but
 * exactly rounded operations. Relative error below 1e-15; 0 below the smallest normal number.
 */
static double exponential(double x)
{
    static const double LOG2_E = 1.4426950408889634, LN2_HIGH = 0x1.62e42feep-1,
                        LN2_LOW = 0x1.a39ef35793c76p-33;
    static const double INVERSE_FACTORIAL[] = {
        1,           1,            1.0 / 2,       1.0 / 6,        1.0 / 24,
        1.0 / 120,   1.0 / 720,    1.0 / 5040,    1.0 / 40320,    1.0 / 362880,
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800,
    };
    if (!(x > -708))
        return 0;
    double power = floor(x * LOG2_E + 0.5);
    double rest = (x - power * LN2_HIGH) - power * LN2_LOW; /* within +-0.35 */
    double sum = 0;
    for (int n = 13; n >= 0; n--)
        sum = INVERSE_FACTORIAL[n] + sum * rest;
    return ldexp(sum, (int)power);
}

/* The order of everything: more probable first, then the lower id. */
static bool is_better(const struct candidate *a, const struct candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sift_down(struct candidate *heap, size_t count, size_t parent)
{
    struct candidate moving = heap[parent];
    for (size_t child = 2 * parent + 1; child < count; child = 2 * parent + 1) {
        if (child + 1 < count && is_better(&heap[child + 1], &heap[child]))
            child++;
        if (!is_better(&heap[child], &moving))
            break;
        heap[parent] = heap[child];
        parent = child;
    }
    heap[parent] = moving;
}

static void start_selection(struct selection *selection, struct candidate *candidates,
                            size_t count)
{
    selection->candidates = candidates;
    selection->count = count;
    selection->n_heap = count;
    selection->n_kept = count;
    for (size_t parent = count / 2; parent-- > 0;)
        sift_down(candidates, count, parent);
}

/* The candidate with so many better ones before it, rank < count. */
static const struct candidate *ranked(struct selection *selection, size_t rank)
{
    struct candidate *candidates = selection->candidates;
    size_t place = selection->count - 1 - rank;
    while (selection->n_heap > place) {
        struct candidate best = candidates[0];
        selection->n_heap--;
        candidates[0] = candidates[selection->n_heap];
        sift_down(candidates, selection->n_heap, 0);
        candidates[selection->n_heap] = best;
    }
    return &candidates[place];
}

/* Probability relative to the best candidate. */
static double weight(const struct candidate *candidate, double best_logit, double temperature)
{
    return exponential((candidate->logit - best_logit) / temperature);
}

/* Sum of the weights of what is kept. */
static double total_weight(struct selection *selection, double best_logit, double temperature)
{
    double total = 0;
    if (selection->n_kept == selection->count) {
        for (size_t i = 0; i < selection->count; i++)
            total += weight(&selection->candidates[i], best_logit, temperature);
        return total;
    }
    for (size_t rank = 0; rank < selection->n_kept; rank++)
        total += weight(ranked(selection, rank), best_logit, temperature);
    return total;
}

/* ----------------------------------------------------------------- stages */

static hymba_status reserve_candidates(hymba_sampler *sampler, size_t count, hymba_error *error)
{
    if (count <= sampler->candidates_capacity)
        return HYMBA_OK;
    struct candidate *candidates =
        hy_alloc_array(&sampler->memory, count, sizeof *sampler->candidates);
    if (!candidates)
        return hy_no_memory(error, count * sizeof *candidates, "the sampler's candidates");
    hy_free(&sampler->memory, sampler->candidates);
    sampler->candidates = candidates;
    sampler->candidates_capacity = count;
    return HYMBA_OK;
}

static void penalise_recent(hymba_sampler *sampler, size_t n_logits)
{
    double penalty = sampler->params.repeat_penalty;
    for (size_t i = 0; i < sampler->recent.count; i++) {
        size_t token = (size_t)sampler->recent.tokens[i];
        if (token >= n_logits || sampler->candidates[token].penalised)
            continue;
        struct candidate *candidate = &sampler->candidates[token];
        candidate->logit =
            candidate->logit > 0 ? candidate->logit / penalty : candidate->logit * penalty;
        candidate->penalised = true;
    }
}

/* Fills the candidates with all logits that are not -infinity; *count of them. */
static void collect(hymba_sampler *sampler, const float *logits, size_t n_logits, size_t *count)
{
    struct candidate *candidates = sampler->candidates;
    for (size_t i = 0; i < n_logits; i++)
        candidates[i] = (struct candidate){.logit = logits[i], .id = (int32_t)i};
    if (penalises(sampler))
        penalise_recent(sampler, n_logits);
    *count = 0;
    for (size_t i = 0; i < n_logits; i++)
        if (candidates[i].logit > -INFINITY)
            candidates[(*count)++] = candidates[i];
}

static int32_t choose_greedily(const struct candidate *candidates, size_t count)
{
    const struct candidate *best = candidates;
    for (size_t i = 1; i < count; i++)
        if (is_better(&candidates[i], best))
            best = &candidates[i];
    return best->id;
}

static void keep_top_k(struct selection *selection, int32_t top_k)
{
    if (top_k > 0)
        selection->n_kept = hy_min_size(selection->n_kept, (size_t)top_k);
}

static void keep_top_p(struct selection *selection, double top_p)
{
    if (top_p == 0 || top_p == 1)
        return;
    double best_logit = ranked(selection, 0)->logit, sum = 0;
    double wanted = top_p * total_weight(selection, best_logit, 1);
    for (size_t rank = 0; rank < selection->n_kept; rank++) {
        sum += weight(ranked(selection, rank), best_logit, 1);
        if (sum >= wanted)
            selection->n_kept = rank + 1;
    }
}

static void keep_min_p(struct selection *selection, double min_p)
{
    if (min_p == 0)
        return;
    double best_logit = ranked(selection, 0)->logit;
    for (size_t rank = 1; rank < selection->n_kept; rank++)
        if (weight(ranked(selection, rank), best_logit, 1) < min_p)
            selection->n_kept = rank;
}

static int32_t draw(hymba_sampler *sampler, struct selection *selection)
{
    double best_logit = ranked(selection, 0)->logit, sum = 0;
    double temperature = sampler->params.temperature;
    double wanted = hy_random_unit(sampler->key, &sampler->counter) *
                    total_weight(selection, best_logit, temperature);
    int32_t chosen = ranked(selection, 0)->id;
    for (size_t rank = 0; rank < selection->n_kept; rank++) {
        const struct candidate *candidate = ranked(selection, rank);
        double part = weight(candidate, best_logit, temperature);
        /* Rounding may leave the sum just below the total: then the last possible one it is. */
        if (part == 0)
            break;
        chosen = candidate->id;
        sum += part;
        if (sum > wanted)
            break;
    }
    return chosen;
}

static hymba_status check_logits(const float *logits, size_t n_logits, hymba_error *error)
{
    bool any = false;
    if (!logits || n_logits == 0 || n_logits > INT32_MAX)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT, "sampling needs 1 to %d logits, got %zu",
                       INT32_MAX, logits ? n_logits : 0);
    for (size_t i = 0; i < n_logits; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return hy_fail_at(error, HYMBA_ERROR_ARGUMENT, (int64_t)i, "logit %zu is %s", i,
                              isnan(logits[i]) ? "not a number" : "positive infinity");
        any = any || logits[i] > -INFINITY;
    }
    if (!any)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "all %zu logits are negative infinity, there is nothing to choose",
                       n_logits);
    return HYMBA_OK;
}

hymba_status hy_sampler_sample(hymba_sampler *sampler, const float *logits, size_t n_logits,
                               int32_t *token, hymba_error *error)
{
    const hymba_sampler_params *params = &sampler->params;
    size_t count;
    hymba_status status = check_logits(logits, n_logits, error);
    if (!status)
        status = reserve_candidates(sampler, n_logits, error);
    if (!status)
        status = reserve_recent(sampler, error);
    if (status)
        return status;
    collect(sampler, logits, n_logits, &count);
    if (params->temperature == 0) {
        *token = choose_greedily(sampler->candidates, count);
    } else {
        struct selection selection;
        start_selection(&selection, sampler->candidates, count);
        keep_top_k(&selection, params->top_k);
        keep_top_p(&selection, params->top_p);
        keep_min_p(&selection, params->min_p);
        *token = draw(sampler, &selection);
    }
    remember(sampler, *token);
    return HYMBA_OK;
}

/* ------------------------------------------------------------------ state */

/* The bytes of a saved sampler: this, then the accepted tokens, oldest first. */
struct saved_sampler {
    uint64_t version;
    uint64_t counter;
    uint64_t n_recent;
    hymba_sampler_params params;
};

enum { STATE_VERSION = 1 };

hymba_status hy_sampler_state_size(const hymba_sampler *sampler, size_t *size, hymba_error *error)
{
    (void)error;
    *size = sizeof(struct saved_sampler) + sampler->recent.count * sizeof(int32_t);
    return HYMBA_OK;
}

void hy_sampler_write_state(const hymba_sampler *sampler, unsigned char *state)
{
    const struct recent_tokens *recent = &sampler->recent;
    struct saved_sampler saved;
    memset(&saved, 0, sizeof saved);
    saved.version = STATE_VERSION;
    saved.counter = sampler->counter;
    saved.n_recent = recent->count;
    saved.params = sampler->params;
    memcpy(state, &saved, sizeof saved);
    size_t oldest = recent->count < recent->limit ? 0 : recent->next;
    for (size_t i = 0; i < recent->count; i++)
        memcpy(state + sizeof saved + i * sizeof(int32_t),
               &recent->tokens[(oldest + i) % recent->count], sizeof(int32_t));
}

hymba_status hy_sampler_read_state(const unsigned char *state, size_t size,
                                   const hymba_host *host, hymba_sampler **sampler,
                                   hymba_error *error)
{
    struct saved_sampler saved;
    *sampler = NULL;
    if (size < sizeof saved)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "the sampler's state has %zu bytes, expected at least %zu", size,
                       sizeof saved);
    memcpy(&saved, state, sizeof saved);
    if (saved.version != STATE_VERSION)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "the sampler's state has version %llu, expected %d",
                       (unsigned long long)saved.version, STATE_VERSION);
    if (saved.n_recent != (size - sizeof saved) / sizeof(int32_t) ||
        (size - sizeof saved) % sizeof(int32_t) != 0)
        return hy_fail(error, HYMBA_ERROR_FORMAT,
                       "the sampler's state counts %llu tokens in %zu bytes",
                       (unsigned long long)saved.n_recent, size);
    saved.params.struct_size = sizeof saved.params;
    hymba_status status = hy_sampler_create(&saved.params, host, sampler, error);
    for (size_t i = 0; status == HYMBA_OK && i < saved.n_recent; i++) {
        int32_t token;
        memcpy(&token, state + sizeof saved + i * sizeof token, sizeof token);
        status = hy_sampler_accept(*sampler, token, error);
    }
    if (status != HYMBA_OK) {
        hy_sampler_release(*sampler);
        *sampler = NULL;
        return status;
    }
    (*sampler)->counter = saved.counter;
    return HYMBA_OK;
}
