/*
 * What a decode step of 128 sessions moves in the device's memory, by what lies there, counted by
 * the harness: each weight is read once, each session's caches and states are read once, and what
 * is written is the new states and the new keys and values. Loads of an operand that stay within a
 * launch (registers, shared memory) do not count; those that a cache may answer do. The copies that
 * a product's kernel makes for itself are not played.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness_plugin.h"
#include "random_model.h"
#include "run/session.h"
#include "support.h"
#include "traffic.h"

enum { SESSIONS = 128, SHORTEST = 90, LONGEST = 300 };

/* How much more than once is still called once. */
static const double slack = 0.03;

/* Proportions of the published shapes: 5 query heads to a key head, values of twice the size, inner
 * size twice the hidden one, a feed-forward layer of 3.4 times that size. */
static const char config[] =
    "{\"model_type\":\"hymba\",\"vocab_size\":1000,\"hidden_size\":160,"
    "\"intermediate_size\":544,\"num_hidden_layers\":5,\"num_attention_heads\":10,"
    "\"num_key_value_heads\":2,\"num_memory_tokens\":16,\"sliding_window\":64,"
    "\"global_attn_idx\":[0,4],\"kv_reuse_group\":[[1,2]],\"rms_norm_eps\":1e-06,\"rope\":true,"
    "\"rope_theta\":10000.0,\"tie_word_embeddings\":true,\"mamba_d_state\":16,"
    "\"mamba_d_conv\":4,\"mamba_dt_rank\":10,\"mamba_expand\":2,\"bos_token_id\":1,"
    "\"eos_token_id\":2}";

/* What lies where. */
enum label {
    OTHER,   /* activations, lists, logits, partial results */
    MATRIX,  /* weights of products, and the embedding */
    VECTOR,  /* the small f32 weights: norms, convolution, A and D */
    META,    /* keys and values of the meta tokens */
    VISIBLE, /* sessions' keys and values that the step's queries see */
    REST,    /* the room beside them */
    STATE,   /* sessions' recurrent states */
    SPARE,   /* what takes their places */
    STEP,    /* the step's own keys and values, before they are appended */
    N_LABELS
};
static const char *const names[] = {
    "activations", "matrices", "small weights", "meta tokens", "visible keys and values",
    "other keys and values", "states", "new states", "the step's keys and values",
};

static hymba_error error = {.struct_size = sizeof error};
static traffic_begin_function begin;
static traffic_label_function mark;
static traffic_end_function end;

static void setup(void)
{
    harness_plugin_open();
    harness_plugin_find(&begin, "traffic_begin");
    harness_plugin_find(&mark, "traffic_label");
    harness_plugin_find(&end, "traffic_end");
}

static bool is_long(void)
{
    return getenv("HYMBA_LONG") != NULL;
}

/* The address sanitizer sees the kernels in their own tests; of whole steps one is enough. */
static bool is_left_out(int number)
{
#ifdef __SANITIZE_ADDRESS__
    return number > 0;
#else
    return number > 1 && !is_long();
#endif
}

/* ---------------------------------------------------------------- sessions */

struct saved {
    unsigned char *data;
    size_t size, capacity;
};

static int32_t take_piece(void *user, const void *data, size_t size)
{
    struct saved *saved = user;
    if (saved->size + size > saved->capacity) {
        saved->capacity = 2 * (saved->size + size);
        saved->data = realloc(saved->data, saved->capacity);
        ck_assert_ptr_nonnull(saved->data);
    }
    memcpy(saved->data + saved->size, data, size);
    saved->size += size;
    return 0;
}

/* A session in the same state in the other context, which shares no block with others. Its meta
 * tokens are its own, too, since those computed there may differ in the last bit. */
static hymba_session *copy_session(hymba_context *context, hymba_session *session)
{
    struct saved saved = {NULL, 0, 0};
    hymba_session *copy;
    test_status(hymba_session_save_to(session, NULL, take_piece, &saved, NULL, &error), HYMBA_OK,
                error);
    test_status(hymba_session_load_memory(context, saved.data, saved.size, NULL, &copy, NULL, NULL,
                                          &error),
                HYMBA_OK, error);
    free(saved.data);
    return copy;
}

/* Lengths from SHORTEST to LONGEST, computed in another context, on the CPU. */
static void make_sessions(hymba_context *here, hymba_context *context,
                          hymba_session *sessions[SESSIONS])
{
    int32_t ids[LONGEST];
    hymba_session *longest;
    size_t done = 0;
    test_status(hymba_session_create(here, NULL, &longest, &error), HYMBA_OK, error);
    for (size_t i = 0; i < LONGEST; i++)
        ids[i] = (int32_t)test_random_below(1000);
    for (size_t s = 0; s < SESSIONS; s++) {
        size_t length = SHORTEST + s * (LONGEST - SHORTEST) / (SESSIONS - 1);
        if (length > done)
            test_status(hymba_session_append(longest, ids + done, length - done,
                                             HYMBA_LOGITS_NONE, &error),
                        HYMBA_OK, error);
        done = length;
        sessions[s] = copy_session(context, longest);
        test_status(hymba_session_reserve(sessions[s], length + 8, &error), HYMBA_OK, error);
    }
    hymba_session_release(longest);
}

static void decode_step(hymba_context *context, hymba_session *const sessions[SESSIONS])
{
    static hymba_batch_item items[SESSIONS];
    static int32_t ids[SESSIONS];
    for (size_t s = 0; s < SESSIONS; s++) {
        ids[s] = (int32_t)test_random_below(1000);
        items[s] = (hymba_batch_item){
            .session = sessions[s], .tokens = &ids[s], .n_tokens = 1, .logits = HYMBA_LOGITS_LAST};
    }
    test_status(hymba_context_decode(context, items, sizeof items[0], SESSIONS, &error), HYMBA_OK,
                error);
}

/* ------------------------------------------------------------------ labels */

/* What is expected of a step. */
struct expected {
    uint64_t matrices, vectors, gathered; /* bytes of weights; rows of the embedding */
    uint64_t visible;                     /* keys and values in the caches, each once */
    uint64_t attended;                    /* the same for each layer that reads them */
    uint64_t meta;
    uint64_t states, new_rows;
};

struct label_weights {
    struct hy_weights *weights;
    struct expected *expected;
};

static hymba_status label_tensor(void *user, enum hy_slot slot, uint32_t layer,
                                 const struct hy_slot_info *info, hymba_error *fault)
{
    struct label_weights *all = user;
    struct hy_matrix *matrix = hy_weights_matrix(all->weights, slot, layer);
    (void)fault;
    if (slot == HY_SLOT_META) /* no token of a session is one of them */
        return HYMBA_OK;
    if (matrix) {
        size_t bytes = matrix->rows * hy_row_bytes(matrix->dtype, matrix->columns);
        mark(matrix->data, bytes, MATRIX);
        all->expected->matrices += bytes;
    } else {
        size_t bytes = (size_t)info->n_elements * sizeof(float);
        mark(*hy_weights_small(all->weights, slot, layer), bytes, VECTOR);
        all->expected->vectors += bytes;
    }
    return HYMBA_OK;
}

static void label_weights(hymba_context *context, struct expected *expected)
{
    struct label_weights all = {&context->device_weights->weights, expected};
    const struct hy_matrix *embedding = &all.weights->embedding;
    test_status(hy_plan_visit(&context->model->plan, label_tensor, &all, &error), HYMBA_OK, error);
    expected->gathered = SESSIONS * hy_row_bytes(embedding->dtype, embedding->columns);
}

/* The rows of all heads that a span has; their bytes. */
static uint64_t label_span(const struct hy_state_layout *layout, const struct hy_span *span)
{
    for (size_t head = 0; head < layout->n_kv_heads; head++) {
        mark((const unsigned char *)span->k + head * span->k_head_stride,
             span->count * layout->k_row_bytes, VISIBLE);
        mark((const unsigned char *)span->v + head * span->v_head_stride,
             span->count * layout->v_row_bytes, VISIBLE);
    }
    return span->count * layout->n_kv_heads * (layout->k_row_bytes + layout->v_row_bytes);
}

/* The spans that a layer's queries see of a session's cache, pinned ones apart. */
static uint64_t label_cache(const struct hy_state *state, uint32_t cache, uint64_t window)
{
    struct hy_span spans[16];
    uint64_t bytes = 0;
    ck_assert_uint_lt(hy_state_max_spans(state), 16);
    size_t n = hy_state_spans(state, cache, window, spans);
    for (size_t i = 0; i < n; i++)
        if (!spans[i].pinned)
            bytes += label_span(state->layout, &spans[i]);
    return bytes;
}

static void label_session(const hymba_context *context, const hymba_session *session,
                          struct expected *expected)
{
    const struct hy_plan *plan = &context->model->plan;
    const struct hy_state_layout *layout = &context->layout;
    const struct hy_state *state = &session->state;
    size_t row = layout->n_kv_heads * (layout->k_row_bytes + layout->v_row_bytes);
    mark(state->fixed, layout->ring_bytes + layout->history_bytes, REST);
    for (size_t i = 0; i < state->n_blocks; i++)
        mark(state->blocks[i]->data, layout->block_bytes, REST);
    for (uint32_t i = 0; i < plan->config.n_layers; i++) {
        const struct hy_layer_plan *layer = &plan->layers[i];
        uint64_t bytes = label_cache(state, layer->kv, layer->window);
        expected->attended += bytes;
        if (layer->kv_producer)
            expected->visible += bytes;
    }
    mark(state->recurrent, layout->recurrent_bytes, STATE);
    expected->states += layout->conv_bytes + layout->ssm_bytes;
    expected->new_rows += layout->n_caches * row;
}

static struct expected label_all(hymba_context *context, hymba_session *const sessions[SESSIONS])
{
    struct expected expected = {0};
    const struct hy_step_lists *lists = &context->lists;
    begin();
    label_weights(context, &expected);
    mark(context->workspace.step_kv, context->layout.step_bytes, STEP);
    for (size_t s = 0; s < SESSIONS; s++) {
        mark(sessions[s]->state.meta->data, context->layout.meta_kv_bytes, META);
        label_session(context, sessions[s], &expected);
    }
    expected.meta = context->layout.n_meta * context->layout.n_kv_heads *
                    (context->layout.k_row_bytes + context->layout.v_row_bytes);
    ck_assert_uint_eq(lists->n_spares, SESSIONS);
    for (size_t s = 0; s < SESSIONS; s++)
        mark(lists->spares[s], lists->spare_bytes, SPARE);
    return expected;
}

/* ------------------------------------------------------------------- bounds */

static void check_once(const char *what, uint64_t found, uint64_t expected)
{
    ck_assert_msg(found >= expected && (double)found <= (1.0 + slack) * (double)expected,
                  "%s: %llu bytes, expected %llu", what, (unsigned long long)found,
                  (unsigned long long)expected);
}

static void print_traffic(const char *types, const struct traffic traffic[TRAFFIC_LABELS])
{
    for (int i = 0; i < N_LABELS; i++)
        printf("a step of %d sessions, %s: %s: %.3f MB loaded (%.3f distinct), %.3f MB stored "
               "(%.3f distinct)\n",
               SESSIONS, types, names[i], (double)traffic[i].loads * 1e-6,
               (double)traffic[i].distinct_loads * 1e-6, (double)traffic[i].stores * 1e-6,
               (double)traffic[i].distinct_stores * 1e-6);
}

static void check_weights(const struct traffic traffic[TRAFFIC_LABELS],
                          const struct expected *expected)
{
    /* Rows of the embedding are gathered beside the head, which is the same matrix. */
    check_once("matrices", traffic[MATRIX].loads, expected->matrices);
    ck_assert_uint_eq(traffic[MATRIX].distinct_loads, expected->matrices);
    ck_assert_uint_le(traffic[MATRIX].loads, expected->matrices + expected->gathered);
    /* All rows share these: what is read again comes from a cache. */
    ck_assert_uint_eq(traffic[VECTOR].distinct_loads, expected->vectors);
    ck_assert_uint_eq(traffic[MATRIX].stores + traffic[VECTOR].stores, 0);
}

static void check_caches(const hymba_context *context,
                         const struct traffic traffic[TRAFFIC_LABELS],
                         const struct expected *expected)
{
    uint32_t n_layers = context->model->plan.config.n_layers;
    uint64_t own = expected->new_rows / context->layout.n_caches; /* of one cache */
    ck_assert_uint_eq(traffic[VISIBLE].distinct_loads, expected->visible);
    check_once("keys and values, once a layer", traffic[VISIBLE].loads, expected->attended);
    ck_assert_uint_eq(traffic[REST].loads, 0);
    ck_assert_uint_eq(traffic[META].stores, 0);
    check_once("meta tokens, once a session and layer", traffic[META].loads,
               SESSIONS * n_layers * expected->meta);
    /* The new ones are written as a step's, read by each layer and once more to be appended. */
    ck_assert_uint_eq(traffic[STEP].stores, expected->new_rows);
    check_once("the step's keys and values", traffic[STEP].loads,
               expected->new_rows + n_layers * own);
    /* A full ring has the oldest of the visible rows in their place. */
    ck_assert_uint_eq(traffic[VISIBLE].stores + traffic[REST].stores, expected->new_rows);
}

static void check_states(const struct traffic traffic[TRAFFIC_LABELS],
                         const struct expected *expected)
{
    ck_assert_uint_eq(traffic[STATE].loads, expected->states);
    ck_assert_uint_eq(traffic[STATE].distinct_loads, expected->states);
    ck_assert_uint_eq(traffic[STATE].stores, 0);
    ck_assert_uint_eq(traffic[SPARE].stores, expected->states);
    ck_assert_uint_eq(traffic[SPARE].distinct_stores, expected->states);
    ck_assert_uint_eq(traffic[SPARE].loads, 0);
}

static const struct {
    const char *name;
    hymba_dtype cache_type, state_type;
} types[] = {
    {"bf16 caches, f32 states", HYMBA_DTYPE_BF16, HYMBA_DTYPE_F32},
    {"bf16 caches, bf16 states", HYMBA_DTYPE_BF16, HYMBA_DTYPE_BF16},
    {"f16 caches, f16 states", HYMBA_DTYPE_F16, HYMBA_DTYPE_F16}, /* in the long form */
    {"fp8 caches, f32 states", HYMBA_DTYPE_FP8, HYMBA_DTYPE_F32}, /* in the long form */
};
enum { N_TYPES = sizeof types / sizeof types[0] };

START_TEST(a_step_moves_what_it_must)
{
    if (is_left_out(_i))
        return;
    hymba_session *sessions[SESSIONS];
    hymba_context *here, *context;
    struct traffic traffic[TRAFFIC_LABELS];
    hymba_model *model = random_model_open(config);
    hymba_context_params params = {
        .struct_size = sizeof params,
        .device = "cuda",
        .cache_type = types[_i].cache_type,
        .state_type = types[_i].state_type,
    };
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    params.device = "cpu";
    test_status(hymba_context_create(model, &params, &here, &error), HYMBA_OK, error);
    make_sessions(here, context, sessions);
    hymba_context_release(here);
    for (int step = 0; step < (is_long() ? 3 : 1); step++) /* until all has its place */
        decode_step(context, sessions);
    struct expected expected = label_all(context, sessions);
    decode_step(context, sessions);
    end(traffic);
    print_traffic(types[_i].name, traffic);
    check_weights(traffic, &expected);
    check_caches(context, traffic, &expected);
    check_states(traffic, &expected);
    for (size_t s = 0; s < SESSIONS; s++)
        hymba_session_release(sessions[s]);
    hymba_context_release(context);
    hymba_model_release(model);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bytes of a step on the CUDA harness");
    TCase *bytes = tcase_create("bytes");
    tcase_set_timeout(bytes, 600);
    tcase_add_checked_fixture(bytes, setup, harness_plugin_close);
    tcase_add_loop_test(bytes, a_step_moves_what_it_must, 0, N_TYPES);
    suite_add_tcase(suite, bytes);
    return test_main(suite);
}
