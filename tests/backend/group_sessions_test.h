/*
 * What the tests of saved sessions of groups share: a model, its tokens, and sessions as files.
 */
#ifndef HYMBA_GROUP_SESSIONS_TEST_H
#define HYMBA_GROUP_SESSIONS_TEST_H

#include <string.h>

#include "../fuzz/fuzz_container.h"
#include "group_world.h"
#include "support.h"

enum { VOCABULARY = 90, N_TOKENS = 700 };

#define FIRST_FIELDS                                                                              \
    "{\"model_type\":\"hymba\",\"vocab_size\":90,\"hidden_size\":80,\"num_attention_heads\":10,"  \
    "\"num_key_value_heads\":5,\"num_memory_tokens\":4,\"sliding_window\":16,"                    \
    "\"rms_norm_eps\":1e-06,\"rope\":true,\"rope_theta\":10000.0,\"tie_word_embeddings\":true,"   \
    "\"mamba_d_state\":8,\"mamba_d_conv\":4,\"mamba_dt_rank\":6,\"mamba_expand\":4,"              \
    "\"intermediate_size\":250,\"bos_token_id\":1,\"eos_token_id\":2,"

/* Five key heads: no number of devices has equal parts. Every kind of layer. */
static const char mixed[] = FIRST_FIELDS
    "\"num_hidden_layers\":6,\"global_attn_idx\":[0,3],\"kv_reuse_group\":[[1,2]],"
    "\"layer_plan\":[{},{\"fusion\":\"concat\"},{},{\"mixer\":\"attention\"},"
    "{\"mixer\":\"mamba\",\"ffn\":\"none\"},{\"mixer\":\"none\"}]}";

static hymba_error error = {.struct_size = sizeof error};
static int32_t tokens[N_TOKENS];

static inline void setup(void)
{
    group_begin(mixed);
    test_random_seed(5);
    for (size_t i = 0; i < N_TOKENS; i++)
        tokens[i] = (int32_t)test_random_below(VOCABULARY);
}

static inline void append(hymba_session *session, size_t first, size_t n)
{
    test_status(hymba_session_append(session, tokens + first, n, HYMBA_LOGITS_LAST, &error),
                HYMBA_OK, error);
}

static inline const float *logits_of(hymba_session *session)
{
    const float *logits;
    test_status(hymba_session_logits(session, &logits, NULL, &error), HYMBA_OK, error);
    return logits;
}

static inline struct fuzz_file save(hymba_session *session, const hymba_sampler *sampler)
{
    struct fuzz_file file = {0};
    hymba_reuse_info info = {.struct_size = sizeof info};
    test_status(hymba_session_save_to(session, sampler, fuzz_write, &file, &info, &error),
                HYMBA_OK, error);
    ck_assert_uint_eq(info.copied_bytes, file.size);
    return file;
}

static inline hymba_status try_load(hymba_context *context, const struct fuzz_file *file,
                             hymba_session **session, hymba_sampler **sampler)
{
    return hymba_session_load_memory(context, file->data, file->size, NULL, session, sampler, NULL,
                                     &error);
}

static inline hymba_session *load(hymba_context *context, const struct fuzz_file *file)
{
    hymba_session *session;
    test_status(try_load(context, file, &session, NULL), HYMBA_OK, error);
    group_compare_peers(session);
    return session;
}

static inline void compare_files(const struct fuzz_file *found, const struct fuzz_file *expected)
{
    ck_assert_uint_eq(found->size, expected->size);
    ck_assert_msg(memcmp(found->data, expected->data, found->size) == 0, "the files differ");
}

#endif
