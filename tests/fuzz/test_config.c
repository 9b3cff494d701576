/* config.json: a model without weights, its plan, and what its sessions would need. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_host host;
    hymba_error error = {.struct_size = sizeof error};
    fuzz_host_init(&host);
    hymba_model_params params = {
        .struct_size = sizeof params, .flags = HYMBA_MODEL_NO_WEIGHTS, .host = &host.host};
    hymba_memory_file file = {"config.json", data, size};
    hymba_model *model;
    hymba_status status =
        hymba_model_open_memory(&file, sizeof file, 1, &params, &model, &error);
    fuzz_check(status, &error);
    fuzz_require((status == HYMBA_OK) == (model != NULL), "a handle that belies the status");
    if (status == HYMBA_OK) {
        hymba_model_info info = {.struct_size = sizeof info};
        hymba_memory_info memory = {.struct_size = sizeof memory, .n_tokens = size};
        status = hymba_model_get_info(model, &info, &error);
        fuzz_require(status == HYMBA_OK && info.n_layers > 0 && info.n_parameters > 0,
                     "an open model without layers");
        for (uint32_t i = 0; i < info.n_layers; i++) {
            hymba_layer_info layer = {.struct_size = sizeof layer};
            status = hymba_model_get_layer_info(model, i, &layer, &error);
            fuzz_require(status == HYMBA_OK && layer.kv_layer < (int32_t)info.n_layers,
                         "a layer that reads the keys of none");
        }
        fuzz_check(hymba_model_get_memory_info(model, NULL, &memory, &error), &error);
        memory.n_tokens = UINT64_MAX - size;
        fuzz_check(hymba_model_get_memory_info(model, NULL, &memory, &error), &error);
        hymba_model_fingerprint(model);
    }
    hymba_model_release(model);
    fuzz_require(host.live == 0, "memory that did not come back");
    return 0;
}
