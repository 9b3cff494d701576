/* The device's memory, and the ways between it and the host's. */
#include "device.h"
#include "ranks.h"

#include <stdio.h>
#include <string.h>

enum { STAGING_ALIGNMENT = 64 };

static const size_t FIRST_CHUNK = (size_t)4 << 20;
static const size_t READBACK_BYTES = (size_t)4 << 20;
static const size_t SMALLEST_ROOM = (size_t)64 << 10;

/* ---------------------------------------------------------------- the pool */

/* The threshold is out of reach: what the pool gives back, and when, is decided here. For its
 * meaning is the whole of what the pool holds, so that no fixed one keeps a part unused. */
cudaError_t hy_cuda_open_pool(struct hy_device *device)
{
    struct cudaMemPoolProps properties = {};
    uint64_t threshold = UINT64_MAX;
    if (!device->has_pools)
        return cudaSuccess;
    properties.allocType = cudaMemAllocationTypePinned;
    properties.handleTypes = cudaMemHandleTypeNone;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device->index;
    cudaError_t code = cudaMemPoolCreate(&device->pool, &properties);
    if (code == cudaSuccess)
        code = cudaMemPoolSetAttribute(device->pool, cudaMemPoolAttrReleaseThreshold, &threshold);
    return code;
}

void hy_cuda_close_pool(struct hy_device *device)
{
    if (device->pool && cudaMemPoolDestroy(device->pool) != cudaSuccess)
        cudaGetLastError();
    device->pool = NULL;
}

/* What the pool holds, and how much of that is in use. Not worth failing for: 0 if it cannot be
 * told, and a lost device is told by others. */
static void ask_pool(struct hy_device *device, uint64_t *held, uint64_t *used)
{
    *held = *used = 0;
    if (device->pool
        && (cudaMemPoolGetAttribute(device->pool, cudaMemPoolAttrUsedMemCurrent, used)
                != cudaSuccess
            || cudaMemPoolGetAttribute(device->pool, cudaMemPoolAttrReservedMemCurrent, held)
                   != cudaSuccess)) {
        cudaGetLastError();
        *held = *used = 0;
    }
}

size_t hy_cuda_unused_bytes(struct hy_device *device)
{
    uint64_t held, used;
    ask_pool(device, &held, &used);
    return held > used ? (size_t)(held - used) : 0;
}

size_t hy_cuda_trim_pool(struct hy_device *device, size_t most_unused)
{
    uint64_t held, used, left;
    ask_pool(device, &held, &used);
    if (held <= used || held - used <= most_unused)
        return 0;
    if (cudaMemPoolTrimTo(device->pool, (size_t)used + most_unused) != cudaSuccess)
        cudaGetLastError();
    ask_pool(device, &left, &used);
    return left < held ? (size_t)(held - left) : 0;
}

/* -------------------------------------------------------------- allocation */

static cudaError_t try_allocate(struct hy_device *device, size_t bytes, void **data)
{
    *data = NULL;
    return device->pool ? cudaMallocFromPoolAsync(data, bytes, device->pool, device->home)
                        : cudaMalloc(data, bytes);
}

/* Gives up what is kept to save time, once nothing that is queued needs it: graphs, whose memory is
 * the driver's, and what the pool holds unused. False if the device turns out to have failed, or a
 * capture is under way, which none of this may enter. */
static bool give_up_what_is_kept(struct hy_device *device)
{
    char line[160];
    if (device->step.capturing || !hy_cuda_wait_stream(device, "waiting for what was queued"))
        return false;
    size_t n_graphs = hy_cuda_forget_graphs(device), bytes = hy_cuda_trim_pool(device, 0);
    if (device->log && (n_graphs > 0 || bytes > 0)) {
        snprintf(line, sizeof line,
                 "CUDA device %d: out of memory; %zu graphs of steps and %zu KiB kept in reserve "
                 "are given up, and it is tried again",
                 device->index, n_graphs, bytes >> 10);
        device->log(device->log_user, HYMBA_LOG_INFO, line);
    }
    return true;
}

static cudaError_t allocate(struct hy_device *device, size_t bytes, void **data)
{
    cudaError_t code = try_allocate(device, bytes, data);
    if (code != cudaErrorMemoryAllocation)
        return code;
    cudaGetLastError();
    return give_up_what_is_kept(device) ? try_allocate(device, bytes, data) : code;
}

void *hy_cuda_allocate(struct hy_device *device, size_t bytes)
{
    void *data;
    if (device->failed || cudaSetDevice(device->index) != cudaSuccess)
        return NULL;
    cudaError_t code = allocate(device, bytes ? bytes : 1, &data);
    if (code == cudaSuccess)
        return data;
    /* The caller hears of missing memory by the NULL; other failures concern later calls too. */
    if (code == cudaErrorMemoryAllocation)
        cudaGetLastError();
    else
        hy_cuda_check(device, code, "taking memory");
    return NULL;
}

/* Another thread may be using the device: so nothing of it is written here, and a failure, which
 * other calls will meet, is left to them. */
void hy_cuda_release(struct hy_device *device, void *data)
{
    if (!data)
        return;
    /* A lost device refuses even this, yet takes memory back. */
    cudaError_t code = cudaSetDevice(device->index);
    if (device->has_pools) {
        code = cudaFreeAsync(data, device->home);
    } else {
        code = cudaStreamSynchronize(device->home);
        cudaError_t freed = cudaFree(data);
        code = code == cudaSuccess ? freed : code;
    }
    if (code != cudaSuccess)
        cudaGetLastError();
}

bool hy_cuda_reserve(struct hy_device *device, struct hy_room *room, size_t bytes,
                     const char *what)
{
    room->recorded = room->recorded || hy_cuda_is_recording(&device->step);
    if (bytes <= room->bytes)
        return true;
    size_t wanted = SMALLEST_ROOM;
    while (wanted < bytes && wanted <= SIZE_MAX / 2)
        wanted *= 2;
    wanted = wanted < bytes ? bytes : wanted;
    hy_cuda_free_room(device, room);
    if (room->recorded)
        device->generation++;
    if (!hy_cuda_check(device, allocate(device, wanted, &room->data), what))
        return false;
    room->bytes = wanted;
    return hy_cuda_check(device, cudaMemsetAsync(room->data, 0, wanted, device->home), what);
}

void hy_cuda_free_room(struct hy_device *device, struct hy_room *room)
{
    hy_cuda_release(device, room->data);
    room->data = NULL;
    room->bytes = 0;
}

/* ----------------------------------------------------------------- staging */

static cudaError_t allocate_chunks(struct hy_staging *staging, size_t chunk_bytes)
{
    void *data;
    cudaError_t code =
        cudaHostAlloc(&data, HY_STAGING_CHUNKS * chunk_bytes, cudaHostAllocPortable);
    if (code != cudaSuccess)
        return code;
    staging->data = (unsigned char *)data;
    staging->chunk_bytes = chunk_bytes;
    staging->current = staging->used = 0;
    return cudaSuccess;
}

cudaError_t hy_cuda_open_staging(struct hy_device *device)
{
    struct hy_staging *staging = &device->staging;
    cudaError_t code = allocate_chunks(staging, FIRST_CHUNK);
    for (size_t i = 0; code == cudaSuccess && i < HY_STAGING_CHUNKS; i++)
        code = cudaEventCreateWithFlags(&staging->read[i], cudaEventDisableTiming);
    return code;
}

/* Made when it is first used: a device that only holds weights reads nothing back. */
static bool open_readback(struct hy_device *device)
{
    void *data = NULL;
    if (device->readback.data)
        return true;
    if (!hy_cuda_check(device, cudaHostAlloc(&data, READBACK_BYTES, cudaHostAllocPortable),
                       "taking pinned memory"))
        return false;
    device->readback.data = (unsigned char *)data;
    device->readback.bytes = READBACK_BYTES;
    return true;
}

void hy_cuda_close_staging(struct hy_device *device)
{
    struct hy_staging *staging = &device->staging;
    for (size_t i = 0; i < HY_STAGING_CHUNKS; i++)
        if (staging->read[i])
            cudaEventDestroy(staging->read[i]);
    if (staging->data)
        cudaFreeHost(staging->data);
    if (device->readback.data)
        cudaFreeHost(device->readback.data);
}

/* Chunks of at least so many bytes; the device may still read from the old ones. */
static bool grow_chunks(struct hy_device *device, size_t bytes)
{
    struct hy_staging *staging = &device->staging;
    size_t wanted = staging->chunk_bytes ? staging->chunk_bytes : FIRST_CHUNK;
    while (wanted < bytes && wanted <= SIZE_MAX / 2 / HY_STAGING_CHUNKS)
        wanted *= 2;
    if (wanted < bytes) {
        hy_cuda_fail(device, HYMBA_ERROR_MEMORY, "a list is too long to be copied to the device");
        return false;
    }
    if (!hy_cuda_wait_stream(device, "waiting for copies"))
        return false;
    cudaFreeHost(staging->data);
    staging->data = NULL;
    staging->chunk_bytes = 0;
    return hy_cuda_check(device, allocate_chunks(staging, wanted), "growing the pinned memory");
}

static bool next_chunk(struct hy_device *device)
{
    struct hy_staging *staging = &device->staging;
    cudaEvent_t left = staging->read[staging->current];
    if (!hy_cuda_check(device, cudaEventRecord(left, device->stream), "marking a copy"))
        return false;
    staging->current = (staging->current + 1) % HY_STAGING_CHUNKS;
    staging->used = 0;
    return hy_cuda_wait_event(device, staging->read[staging->current], "waiting for a copy");
}

void *hy_cuda_stage(struct hy_device *device, size_t bytes)
{
    struct hy_staging *staging = &device->staging;
    if (bytes > staging->chunk_bytes && !grow_chunks(device, bytes))
        return NULL;
    if (bytes > staging->chunk_bytes - staging->used && !next_chunk(device))
        return NULL;
    void *data = staging->data + staging->current * staging->chunk_bytes + staging->used;
    size_t padded = hy_round_up(bytes, STAGING_ALIGNMENT);
    staging->used = hy_min_size(staging->chunk_bytes, staging->used + padded);
    return data;
}

/* ------------------------------------------------------------------ copies */

/* One copy that the runtime can make in one call, where strides allow it. */
static cudaError_t copy_rows(struct hy_device *device, const struct hy_copy_args *args,
                             cudaMemcpyKind kind)
{
    if (args->n_rows == 1 || (args->to_stride == args->width && args->from_stride == args->width))
        return cudaMemcpyAsync(args->to, args->from, args->width * args->n_rows, kind,
                               device->stream);
    if (args->to_stride <= device->greatest_pitch && args->from_stride <= device->greatest_pitch)
        return cudaMemcpy2DAsync(args->to, args->to_stride, args->from, args->from_stride,
                                 args->width, args->n_rows, kind, device->stream);
    cudaError_t code = cudaSuccess;
    for (size_t row = 0; row < args->n_rows && code == cudaSuccess; row++)
        code = cudaMemcpyAsync((unsigned char *)args->to + row * args->to_stride,
                               (const unsigned char *)args->from + row * args->from_stride,
                               args->width, kind, device->stream);
    return code;
}

/* A part of the rows, or of one row, that fits into `room` bytes close together. */
static struct hy_copy_args piece_of(const struct hy_copy_args *args, size_t row, size_t column,
                                    size_t room)
{
    struct hy_copy_args piece = *args;
    piece.to = (unsigned char *)args->to + row * args->to_stride + column;
    piece.from = (const unsigned char *)args->from + row * args->from_stride + column;
    piece.width = hy_min_size(args->width - column, room);
    piece.n_rows = piece.width < args->width
                       ? 1
                       : hy_min_size(args->n_rows - row, room / args->width);
    return piece;
}

static bool copy_piece_to_device(struct hy_device *device, const struct hy_copy_args *piece)
{
    unsigned char *staged =
        (unsigned char *)hy_cuda_stage(device, piece->width * piece->n_rows);
    if (!staged)
        return false;
    for (size_t row = 0; row < piece->n_rows; row++)
        memcpy(staged + row * piece->width,
               (const unsigned char *)piece->from + row * piece->from_stride, piece->width);
    struct hy_copy_args copy = *piece;
    copy.from = staged;
    copy.from_stride = piece->width;
    return hy_cuda_check(device, copy_rows(device, &copy, cudaMemcpyHostToDevice),
                         "copying to the device");
}

static bool copy_piece_to_host(struct hy_device *device, const struct hy_copy_args *piece)
{
    struct hy_readback *readback = &device->readback;
    size_t bytes = piece->width * piece->n_rows;
    if (!open_readback(device))
        return false;
    if ((bytes > readback->bytes - readback->used || readback->n_copies == HY_READBACK_COPIES)
        && !hy_cuda_drain(device))
        return false;
    struct hy_copy_args copy = *piece;
    copy.to = readback->data + readback->used;
    copy.to_stride = piece->width;
    if (!hy_cuda_check(device, copy_rows(device, &copy, cudaMemcpyDeviceToHost),
                       "copying to the host"))
        return false;
    readback->copies[readback->n_copies++] = {(unsigned char *)piece->to, piece->to_stride,
                                              readback->used, piece->width, piece->n_rows};
    readback->used += bytes;
    return true;
}

/* Rows one after another in pieces of up to `room` bytes. */
static void copy_pieces(struct hy_device *device, const struct hy_copy_args *args, size_t room,
                        bool (*copy)(struct hy_device *, const struct hy_copy_args *))
{
    size_t row = 0, column = 0;
    while (row < args->n_rows) {
        struct hy_copy_args piece = piece_of(args, row, column, room);
        if (!copy(device, &piece))
            return;
        column += piece.width;
        if (column == args->width) {
            row += piece.n_rows;
            column = 0;
        }
    }
}

void hy_cuda_copy(struct hy_device *device, const struct hy_copy_args *args)
{
    if (args->width == 0 || args->n_rows == 0 || !hy_cuda_begin(device))
        return;
    if (args->kind == HY_COPY_TO_DEVICE)
        copy_pieces(device, args, FIRST_CHUNK, copy_piece_to_device);
    else if (args->kind == HY_COPY_TO_HOST)
        copy_pieces(device, args, READBACK_BYTES, copy_piece_to_host);
    else
        hy_cuda_check(device, copy_rows(device, args, cudaMemcpyDeviceToDevice),
                      "copying on the device");
}

bool hy_cuda_drain(struct hy_device *device)
{
    struct hy_readback *readback = &device->readback;
    bool good = hy_cuda_wait_stream(device, "waiting for what was queued");
    for (size_t i = 0; good && i < readback->n_copies; i++) {
        const struct hy_readback_copy *copy = &readback->copies[i];
        for (size_t row = 0; row < copy->n_rows; row++)
            memcpy(copy->to + row * copy->to_stride,
                   readback->data + copy->from + row * copy->width, copy->width);
    }
    readback->n_copies = readback->used = 0;
    return good;
}

void hy_cuda_fill(struct hy_device *device, void *data, int byte, size_t bytes)
{
    if (bytes > 0 && hy_cuda_begin(device))
        hy_cuda_check(device, cudaMemsetAsync(data, byte, bytes, device->stream),
                      "filling memory");
}
