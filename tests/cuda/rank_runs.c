#include "rank_runs.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "run/context.h"
#include "support.h"

enum {
    STEPS = 9, /* of decoding; each number of rows comes more than twice */
    PATIENT = 60000 /* milliseconds that ranks wait for each other */
};

#define FIRST_FIELDS                                                                              \
    "{\"model_type\": \"hymba\", \"vocab_size\": 50, \"hidden_size\": 160,\n"                     \
    "\"num_attention_heads\": 10, \"num_key_value_heads\": 5, \"num_memory_tokens\": 3,\n"        \
    "\"rms_norm_eps\": 1e-06, \"tie_word_embeddings\": true, \"mamba_d_state\": 4,\n"             \
    "\"mamba_d_conv\": 4, \"mamba_dt_rank\": 6, \"max_position_embeddings\": 640,\n"              \
    "\"rope\": true, \"rope_theta\": 10000.0, \"bos_token_id\": 1, "

static const char *const configs[N_RANK_MODELS] = {
    [RANK_MODEL_MIXED] =
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 224, \"num_hidden_layers\": 6,\n"
                  "\"global_attn_idx\": [0, 4], \"kv_reuse_group\": [[1, 2]],\n"
                  "\"layer_plan\": [{}, {\"fusion\": \"concat\"}, {},\n"
                  "{\"mixer\": \"mamba\", \"ffn\": \"none\"}, {\"fusion\": \"concat\"},\n"
                  "{\"mixer\": \"attention\"}]}",
    [RANK_MODEL_CHANNELS] =
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 192, \"num_hidden_layers\": 2,\n"
                  "\"global_attn_idx\": [], \"kv_reuse_group\": null,\n"
                  "\"layer_plan\": {\"mixer\": \"mamba\"}}",
    [RANK_MODEL_HEADS] =
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 192, \"num_hidden_layers\": 2,\n"
                  "\"global_attn_idx\": [0], \"kv_reuse_group\": null,\n"
                  "\"layer_plan\": {\"mixer\": \"attention\"}}",
    [RANK_MODEL_WIDE] =
     FIRST_FIELDS "\"sliding_window\": 5, \"intermediate_size\": 8192, \"num_hidden_layers\": 1,\n"
                  "\"global_attn_idx\": [0], \"kv_reuse_group\": null}",
};

const char *const rank_model_names[N_RANK_MODELS] = {"mixed", "channels alone", "heads alone",
                                                     "one wide layer"};

hymba_model *rank_model_open(enum rank_model number, hymba_dtype dtype)
{
    hymba_init_params init;
    hymba_model_params params;
    hymba_error error = {.struct_size = sizeof error};
    hymba_model *model;
    char path[300];
    bool quantised = dtype == HYMBA_DTYPE_INT8 || dtype == HYMBA_DTYPE_INT4;
    snprintf(path, sizeof path, "%s/model-%d-%d", test_directory(), (int)number, (int)dtype);
    hymba_init_params_init(&init, sizeof init);
    init.dtype = quantised ? HYMBA_DTYPE_F32 : dtype;
    hymba_model_init(path, configs[number], HYMBA_NUL_TERMINATED, &init, NULL);
    hymba_model_params_init(&params, sizeof params);
    params.quantize = quantised ? dtype : HYMBA_DTYPE_DEFAULT;
    test_status(hymba_model_open(path, &params, &model, &error), HYMBA_OK, error);
    return model;
}

static hymba_status open_rank(struct rank *rank)
{
    const struct rank_play *play = rank->play;
    hymba_context_params params = play->params;
    hymba_ranks ranks = {
        .struct_size = sizeof ranks,
        .rank = rank->index,
        .world_size = play->world_size,
        .local_rank = rank->index,
        .timeout_ms = PATIENT,
        .unique_id = play->id,
    };
    params.struct_size = sizeof params;
    params.device = "cuda";
    params.n_threads = 1;
    params.ranks = play->world_size > 1 ? &ranks : NULL;
    hymba_status status =
        hymba_context_create(play->model, &params, &rank->context, &rank->error);
    if (status == HYMBA_OK)
        rank->context->backend.plugin->single_ops = play->single_ops;
    for (size_t i = 0; status == HYMBA_OK && i < RANKS_SESSIONS; i++)
        status = hymba_session_create(rank->context, NULL, &rank->sessions[i], &rank->error);
    return status;
}

static hymba_status keep_logits(struct rank *rank, hymba_session *session)
{
    const float *logits;
    size_t n;
    hymba_status status = hymba_session_logits(session, &logits, &n, &rank->error);
    if (status != HYMBA_OK || rank->n_rows + n > RANKS_MOST_ROWS)
        return status != HYMBA_OK ? status : HYMBA_ERROR_LIMIT;
    memcpy(rank->logits[rank->n_rows], logits, n * sizeof rank->logits[0]);
    rank->n_rows += n;
    return HYMBA_OK;
}

/* Members: bit i stands for session i, which gets n tokens, and i more of a prompt. */
static hymba_status decode(struct rank *rank, unsigned members, size_t n, int32_t seed)
{
    int32_t tokens[RANKS_SESSIONS][32];
    hymba_batch_item items[RANKS_SESSIONS];
    size_t n_items = 0;
    memset(items, 0, sizeof items);
    for (size_t i = 0; i < RANKS_SESSIONS; i++) {
        if (!(members >> i & 1))
            continue;
        hymba_batch_item *item = &items[n_items++];
        item->session = rank->sessions[i];
        item->tokens = tokens[i];
        item->n_tokens = n == 1 ? 1 : n + i;
        item->logits = n > 1 && i == 1 ? HYMBA_LOGITS_ALL : HYMBA_LOGITS_LAST;
        for (size_t t = 0; t < item->n_tokens; t++)
            tokens[i][t] = (int32_t)(((size_t)seed * 31 + 7 * i + 3 * t) % RANKS_VOCABULARY);
    }
    hymba_status status =
        hymba_context_decode(rank->context, items, sizeof *items, n_items, &rank->error);
    for (size_t i = 0; status == HYMBA_OK && i < n_items; i++)
        status = keep_logits(rank, items[i].session);
    return status;
}

hymba_status rank_generate(struct rank *rank)
{
    static const unsigned members[STEPS] = {7, 7, 7, 5, 2, 7, 2, 3, 2};
    hymba_status status = decode(rank, 7, 9, 1);
    for (size_t step = 0; status == HYMBA_OK && step < STEPS; step++)
        status = decode(rank, members[step], 1, (int32_t)step + 2);
    return status == HYMBA_OK ? decode(rank, 6, 3, 99) : status;
}

hymba_status rank_generate_alone(struct rank *rank)
{
    static const int32_t seeds[] = {2, 3, 4, 5, 7, 9};
    hymba_status status = decode(rank, 1, 9, 1);
    for (size_t i = 0; status == HYMBA_OK && i < sizeof seeds / sizeof *seeds; i++)
        status = decode(rank, 1, 1, seeds[i]);
    return status;
}

static void *run_rank(void *argument)
{
    struct rank *rank = argument;
    rank->status = open_rank(rank);
    if (rank->status == HYMBA_OK)
        rank->status = rank->play->act(rank);
    for (size_t i = 0; i < RANKS_SESSIONS; i++)
        hymba_session_release(rank->sessions[i]);
    hymba_context_release(rank->context);
    return NULL;
}

void rank_run(struct rank_play *play, struct rank *ranks)
{
    pthread_t threads[RANKS_MOST];
    hymba_error error = {.struct_size = sizeof error};
    if (play->world_size > 1)
        test_status(hymba_unique_id(play->id, &error), HYMBA_OK, error);
    for (uint32_t i = 0; i < play->world_size; i++) {
        memset(&ranks[i], 0, sizeof ranks[i]);
        ranks[i].play = play;
        ranks[i].index = i;
        ranks[i].error.struct_size = sizeof ranks[i].error;
        ck_assert_int_eq(pthread_create(&threads[i], NULL, run_rank, &ranks[i]), 0);
    }
    for (uint32_t i = 0; i < play->world_size; i++)
        pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < play->world_size; i++) {
        test_status(ranks[i].status, HYMBA_OK, ranks[i].error);
        ck_assert_uint_eq(ranks[i].n_rows, ranks[0].n_rows);
        ck_assert_msg(memcmp(ranks[i].logits, ranks[0].logits, sizeof ranks[i].logits) == 0,
                      "rank %u of %u", (unsigned)i, (unsigned)play->world_size);
    }
}

struct rank_difference rank_compare(const struct rank *a, const struct rank *b)
{
    struct rank_difference difference = {0, 0};
    size_t n = a->n_rows * RANKS_VOCABULARY;
    ck_assert_uint_eq(a->n_rows, b->n_rows);
    ck_assert_uint_gt(n, 0);
    for (size_t i = 0; i < n; i++) {
        double x = (double)a->logits[0][i] - (double)b->logits[0][i];
        difference.greatest = fmax(difference.greatest, fabs(x));
        difference.square += x * x / (double)n;
    }
    return difference;
}

double rank_deviation(const struct rank *rank)
{
    double square = 0;
    for (size_t i = 0; i < rank->n_rows * RANKS_VOCABULARY; i++)
        square += (double)rank->logits[0][i] * (double)rank->logits[0][i];
    return sqrt(square / (double)(rank->n_rows * RANKS_VOCABULARY));
}

