/* A safetensors file. What is accepted is read to its last byte and found by name. */
#include <string.h>

#include "format/safetensors.h"
#include "fuzz.h"

static unsigned sum_of(const struct hy_tensor *tensor)
{
    const unsigned char *bytes = tensor->data;
    unsigned sum = 0;
    for (uint64_t i = 0; i < tensor->size; i++)
        sum += bytes[i];
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_host host;
    struct hy_memory memory;
    struct hy_file file;
    struct hy_safetensors tensors;
    hymba_error error = {.struct_size = sizeof error};
    uint64_t bytes = 0;
    volatile unsigned sum = 0;
    fuzz_host_init(&host);
    fuzz_check(hy_memory_init(&memory, &host.host, &error), &error);
    hy_file_borrow(data, size, &file);
    hymba_status status = hy_safetensors_parse(&memory, &file, "FILE", &tensors, &error);
    fuzz_check(status, &error);
    for (size_t i = 0; status == HYMBA_OK && i < tensors.count; i++) {
        const struct hy_tensor *tensor = &tensors.tensors[i];
        fuzz_require(tensor->n_dims <= HY_MAX_DIMS, "too many dimensions");
        fuzz_require(hy_safetensors_find(&tensors, tensor->name) == tensor,
                     "a tensor that is not found by its name");
        bytes += tensor->size;
        sum += sum_of(tensor);
    }
    (void)sum;
    fuzz_require(bytes <= size, "tensors larger than their file");
    hy_safetensors_free(&tensors);
    fuzz_require(host.live == 0, "memory that did not come back");
    return 0;
}
