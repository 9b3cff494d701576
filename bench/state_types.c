/*
 * What a type of cache and of state costs in perplexity when a text is computed token by token, as
 * generation does: states are rounded after every call, so `hymba perplexity`, which computes 512
 * tokens in one, does not show it. Chunks of 512 ids, each in a fresh session after the BOS token.
 *
 * Usage: state_types MODEL CACHE_TYPE STATE_TYPE < IDS
 */
#include <hymba.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { CHUNK = 512 };

static hymba_error error = {.struct_size = sizeof error};

static void need(hymba_status status)
{
    if (status == HYMBA_OK)
        return;
    fprintf(stderr, "state_types: %s: %s\n", hymba_status_name(status), error.message);
    exit(1);
}

/* Reads up to CHUNK ids; returns how many. */
static size_t read_chunk(int32_t *ids)
{
    size_t n = 0;
    while (n < CHUNK && scanf("%d", &ids[n]) == 1)
        n++;
    return n;
}

static double score_chunk(hymba_session *session, int32_t bos, const int32_t *ids, size_t n)
{
    double sum = 0.0;
    need(hymba_session_reset(session, &error));
    need(hymba_session_append(session, &bos, 1, HYMBA_LOGITS_LAST, &error));
    for (size_t i = 0; i < n; i++) {
        float probability;
        need(hymba_session_score(session, ids + i, 1, &probability, &error));
        sum -= (double)probability;
    }
    return sum;
}

int main(int argc, char **argv)
{
    hymba_model *model;
    hymba_context *context;
    hymba_session *session;
    hymba_model_info info = {.struct_size = sizeof info};
    hymba_context_params params;
    int32_t ids[CHUNK];
    double sum = 0.0, count = 0.0;
    if (argc != 4) {
        fprintf(stderr, "usage: state_types MODEL CACHE_TYPE STATE_TYPE < IDS\n");
        return 2;
    }
    hymba_context_params_init(&params, sizeof params);
    params.cache_type = hymba_dtype_from_name(argv[2]);
    params.state_type = hymba_dtype_from_name(argv[3]);
    params.compute = HYMBA_COMPUTE_F32;
    params.n_threads = 1;
    need(hymba_model_open(argv[1], NULL, &model, &error));
    need(hymba_model_get_info(model, &info, &error));
    need(hymba_context_create(model, &params, &context, &error));
    need(hymba_session_create(context, NULL, &session, &error));
    for (size_t n; (n = read_chunk(ids)) > 0; count += (double)n)
        sum += score_chunk(session, info.bos_token, ids, n);
    printf("cache %s, state %s: perplexity %.6f of %.0f tokens\n", argv[2], argv[3],
           exp(sum / count), count);
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
    return 0;
}
