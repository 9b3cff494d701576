/* A shard index, alone and as the index of a whole model in two shards. */
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"
#include "fuzz.h"

/* Parsed alone: names it gives are plain. */
static void parse(const uint8_t *data, size_t size)
{
    struct fuzz_host host;
    struct hy_memory memory;
    struct hy_shard_index index;
    hymba_error error = {.struct_size = sizeof error};
    fuzz_host_init(&host);
    fuzz_check(hy_memory_init(&memory, &host.host, &error), &error);
    hymba_status status =
        hy_shard_index_parse(&memory, (const char *)data, size, "INDEX", &index, &error);
    fuzz_check(status, &error);
    for (size_t i = 0; status == HYMBA_OK && i < index.n_files; i++)
        fuzz_require(!strpbrk(index.files[i], "/\\") && strcmp(index.files[i], "..") != 0,
                     "a shard outside its directory");
    if (status == HYMBA_OK) {
        fuzz_require(index.n_files <= hy_shard_index_size(&index), "more files than tensors");
        hy_shard_index_find(&index, "model.embed_tokens.weight");
    }
    hy_shard_index_free(&index);
    fuzz_require(host.live == 0, "memory that did not come back");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void *config, *weights;
    static size_t config_size, weights_size;
    static const char empty[] = "\2\0\0\0\0\0\0\0{}";
    struct fuzz_host host;
    hymba_error error = {.struct_size = sizeof error};
    hymba_model *model;
    if (!config) {
        config = fuzz_read_file("tests/data/variants/no_rope/config.json", &config_size);
        weights = fuzz_read_file("tests/data/variants/no_rope/model.safetensors", &weights_size);
    }
    parse(data, size);
    hymba_memory_file files[] = {
        {"config.json", config, config_size},
        {"model.safetensors.index.json", data, size},
        {"a.safetensors", weights, weights_size},
        {"b.safetensors", empty, sizeof empty - 1},
    };
    fuzz_host_init(&host);
    hymba_model_params params = {.struct_size = sizeof params, .host = &host.host};
    hymba_status status = hymba_model_open_memory(files, sizeof files[0], 4, &params, &model,
                                                  &error);
    fuzz_check(status, &error);
    hymba_model_release(model);
    fuzz_require(host.live == 0, "memory that did not come back");
    return 0;
}
