#include "state_world.h"

#include <stdio.h>
#include <string.h>

struct test_host state_host;
struct hy_memory state_memory, state_block_memory;
static hymba_error error = {.struct_size = sizeof error};

const struct shape state_shapes[] = {
    /* layers, kv heads, queries, qk, v factor, meta, window, state, conv, full, groups, plan */
    {3, 2, 2, 4, 2, 5, 7, 3, 4, "[1]", "null", "{}"},
    {4, 1, 1, 2, 2, 0, 1, 1, 2, "[0]", "[[1,2]]", "{}"},       /* no meta tokens, smallest window */
    {2, 3, 1, 2, 3, 1, 16, 2, 3, "[]", "null", "{}"},          /* no full layer */
    {2, 1, 3, 6, 1, 3, 0, 2, 4, "null", "null", "{}"},         /* no window */
    {4, 2, 1, 2, 2, 4, 9, 2, 4, "[2]", "[[1,2,3]]", "{}"},     /* a full and a sliding reader */
    {3, 1, 2, 4, 2, 2, 300, 1, 2, "[0]", "null", "{}"},        /* window wider than a block */
    {2, 2, 1, 2, 2, 3, 5, 2, 4, "[1]", "null", "{\"mixer\":\"attention\"}"},
    {2, 1, 1, 2, 2, 3, 5, 2, 4, "[]", "null", "{\"mixer\":\"mamba\"}"},
};
_Static_assert(sizeof state_shapes / sizeof state_shapes[0] == STATE_SHAPES, "number of shapes");

void state_setup(void)
{
    test_host_init(&state_host);
    test_status(hy_memory_init(&state_memory, &state_host.host, &error), HYMBA_OK, error);
    hy_memory_inherit(&state_block_memory, &state_memory);
}

void state_teardown(void)
{
    test_host_check(&state_host);
}

void state_create_plan(const struct shape *shape, struct hy_plan *plan)
{
    struct hy_config config;
    char text[1500], window[16] = "null";
    unsigned n_heads = shape->n_kv_heads * shape->queries_per_kv;
    if (shape->window)
        snprintf(window, sizeof window, "%u", shape->window);
    snprintf(text, sizeof text,
             "{\"model_type\":\"hymba\",\"vocab_size\":50,\"hidden_size\":%u,"
             "\"intermediate_size\":9,\"num_hidden_layers\":%u,\"num_attention_heads\":%u,"
             "\"num_key_value_heads\":%u,\"num_memory_tokens\":%u,\"sliding_window\":%s,"
             "\"global_attn_idx\":%s,\"kv_reuse_group\":%s,\"rms_norm_eps\":1e-6,\"rope\":false,"
             "\"tie_word_embeddings\":true,\"mamba_d_state\":%u,\"mamba_d_conv\":%u,"
             "\"mamba_dt_rank\":1,\"mamba_expand\":%u,\"layer_plan\":%s}",
             n_heads * shape->qk_size, shape->n_layers, n_heads, shape->n_kv_heads, shape->n_meta,
             window, shape->full, shape->groups, shape->state_size, shape->conv_width,
             shape->v_factor, shape->plan);
    test_status(hy_config_parse(&state_memory, text, strlen(text), "config.json", &config, &error),
                HYMBA_OK, error);
    test_status(hy_plan_create(&state_memory, &config, plan, &error), HYMBA_OK, error);
}

void state_create_preset_plan(const char *name, struct hy_plan *plan)
{
    struct hy_config config;
    char *text;
    size_t length;
    test_status(hy_preset_config(&state_memory, name, &text, &length, &error), HYMBA_OK, error);
    test_status(hy_config_parse(&state_memory, text, length, name, &config, &error), HYMBA_OK,
                error);
    test_status(hy_plan_create(&state_memory, &config, plan, &error), HYMBA_OK, error);
    hy_free(&state_memory, text);
}
