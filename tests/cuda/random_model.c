#include "random_model.h"

#include <stdio.h>
#include <unistd.h>

#include "support.h"

const char random_model_for_ranks[] =
    "{\"model_type\":\"hymba\",\"vocab_size\":150,\"hidden_size\":96,\"intermediate_size\":160,"
    "\"num_hidden_layers\":3,\"num_attention_heads\":6,\"num_key_value_heads\":3,"
    "\"num_memory_tokens\":4,\"sliding_window\":16,\"global_attn_idx\":[0],"
    "\"kv_reuse_group\":[[1,2]],\"rms_norm_eps\":1e-06,\"rope\":true,\"rope_theta\":10000.0,"
    "\"tie_word_embeddings\":true,\"mamba_d_state\":16,\"mamba_d_conv\":4,\"mamba_dt_rank\":6,"
    "\"mamba_expand\":2,\"bos_token_id\":1,\"eos_token_id\":2}";

hymba_model *random_model_open(const char *config)
{
    hymba_error error = {.struct_size = sizeof error};
    char path[300];
    hymba_model *model;
    snprintf(path, sizeof path, "%s/model", test_directory());
    if (access(path, F_OK) != 0)
        test_status(hymba_model_init(path, config, HYMBA_NUL_TERMINATED, NULL, &error), HYMBA_OK,
                    error);
    test_status(hymba_model_open(path, NULL, &model, &error), HYMBA_OK, error);
    return model;
}
