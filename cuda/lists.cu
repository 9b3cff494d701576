/*
 * Ragged lists on their way to the device: packed into pinned memory and copied by one call a
 * launch. Launches and copies stand in one stream, so the copy begins when the launch before it has
 * read its own list.
 */
#include "device.h"

#include <string.h>

void *hy_cuda_begin_list(struct hy_device *device, size_t bytes, void **on_device)
{
    if (!hy_cuda_reserve(device, &device->lists, bytes, "taking memory for lists"))
        return NULL;
    *on_device = device->lists.data;
    return hy_cuda_stage(device, bytes);
}

bool hy_cuda_end_list(struct hy_device *device, const void *packed, size_t bytes)
{
    return bytes == 0
           || hy_cuda_check(device,
                            cudaMemcpyAsync(device->lists.data, packed, bytes,
                                            cudaMemcpyHostToDevice, device->stream),
                            "copying a list");
}

const struct hy_state_sequence *hy_cuda_list_states(struct hy_device *device,
                                                    const struct hy_state_sequence *sequences,
                                                    size_t n_sequences)
{
    void *on_device;
    size_t bytes;
    if (!hy_mul_size(n_sequences, sizeof *sequences, &bytes)) {
        hy_cuda_fail(device, HYMBA_ERROR_MEMORY, "a list of sequences is longer than memory");
        return NULL;
    }
    void *packed = hy_cuda_begin_list(device, bytes, &on_device);
    if (!packed)
        return NULL;
    memcpy(packed, sequences, bytes);
    return hy_cuda_end_list(device, packed, bytes) ? (const struct hy_state_sequence *)on_device
                                                   : NULL;
}
