/*
 * The host cuts the copies into pieces: rows of caches, which are short, and parts of what is long,
 * as many as keep all warps of a large device busy. So a list's length does not grow with the bytes
 * that it moves.
 */
#include "copy_list.h"

#include "device.h"

/* A warp for each piece, WARPS of them a block. */
enum { WARPS = 8, THREADS = WARPS * HY_WARP, BATCH = 4 };

/* Elements of T that both ends are aligned to; what is left of the bytes goes one by one. */
template <typename T> HY_DEVICE void copy_elements(const struct hy_copy_piece &piece, unsigned lane)
{
    const size_t n = piece.bytes / sizeof(T);
    const T *from = (const T *)piece.from;
    T *to = (T *)piece.to;
    for (size_t first = lane; first < n; first += BATCH * HY_WARP) {
        T values[BATCH];
#pragma unroll
        for (unsigned k = 0; k < BATCH; k++)
            if (first + k * HY_WARP < n)
                values[k] = hy_load(from + first + k * HY_WARP);
#pragma unroll
        for (unsigned k = 0; k < BATCH; k++)
            if (first + k * HY_WARP < n)
                hy_store(to + first + k * HY_WARP, values[k]);
    }
    for (size_t i = n * sizeof(T) + lane; i < piece.bytes; i += HY_WARP)
        hy_store(piece.to + i, hy_load(piece.from + i));
}

/* A piece of b bytes: reads 24 * 32 + b and writes b. */
static HY_KERNEL __launch_bounds__(THREADS) copy_pieces(const struct hy_copy_piece *pieces,
                                                        size_t n)
{
    const size_t index = (size_t)hy_block().x * WARPS + hy_thread() / HY_WARP;
    const unsigned lane = hy_thread() % HY_WARP;
    if (index >= n)
        return;
    struct hy_copy_piece piece;
    piece.to = hy_load(&pieces[index].to);
    piece.from = hy_load(&pieces[index].from);
    piece.bytes = hy_load(&pieces[index].bytes);
    const uint64_t ends = (uint64_t)piece.to | (uint64_t)piece.from;
    if (ends % sizeof(uint4) == 0)
        copy_elements<uint4>(piece, lane);
    else if (ends % sizeof(uint32_t) == 0)
        copy_elements<uint32_t>(piece, lane);
    else
        copy_elements<unsigned char>(piece, lane);
}

void hy_cuda_copy_pieces(cudaStream_t stream, const struct hy_copy_piece *pieces, size_t n)
{
    if (n > 0)
        hy_launch(stream, copy_pieces, dim3((unsigned)((n + WARPS - 1) / WARPS)), THREADS, 0,
                  pieces, n);
}

/* ------------------------------------------------------------------ the list */

/* Bytes of a piece, at least, and a multiple of it; pieces of a launch. */
enum { LEAST_PIECE = 4096, MOST_PIECES = 8192 };

static const size_t LIST_BYTES = MOST_PIECES * sizeof(struct hy_copy_piece);

/* How far the cutting is. */
struct cut {
    const struct hy_copy_args *copies;
    size_t piece_bytes;
    size_t n_left; /* pieces */
    size_t copy, row, column;
};

static struct cut begin_cut(const struct hy_copy_args *copies, size_t n)
{
    struct cut cut = {copies, 0, 0, 0, 0, 0};
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += copies[i].width * copies[i].n_rows;
    cut.piece_bytes = (bytes / MOST_PIECES / LEAST_PIECE + 1) * LEAST_PIECE;
    for (size_t i = 0; i < n; i++)
        cut.n_left +=
            (copies[i].width + cut.piece_bytes - 1) / cut.piece_bytes * copies[i].n_rows;
    return cut;
}

static struct hy_copy_piece cut_piece(struct cut *cut)
{
    while (cut->row == cut->copies[cut->copy].n_rows || cut->copies[cut->copy].width == 0) {
        cut->copy++;
        cut->row = 0;
    }
    const struct hy_copy_args *copy = &cut->copies[cut->copy];
    struct hy_copy_piece piece;
    piece.to = (unsigned char *)copy->to + cut->row * copy->to_stride + cut->column;
    piece.from = (const unsigned char *)copy->from + cut->row * copy->from_stride + cut->column;
    piece.bytes = hy_min_size(copy->width - cut->column, cut->piece_bytes);
    cut->column += piece.bytes;
    if (cut->column == copy->width) {
        cut->row++;
        cut->column = 0;
    }
    cut->n_left--;
    return piece;
}

/* Copies are made when a step has succeeded, and nothing may be missing for them then: without room
 * for the list there are single copies. */
static bool has_room(struct hy_device *device)
{
    if (!device->pieces.data) {
        device->pieces.data = hy_cuda_allocate(device, LIST_BYTES);
        device->pieces.bytes = device->pieces.data ? LIST_BYTES : 0;
    }
    return device->pieces.data && LIST_BYTES <= device->staging.chunk_bytes;
}

/* A launch of the next pieces; false after a failure, which is kept. */
static bool queue_pieces(struct hy_device *device, struct cut *cut)
{
    const size_t n = hy_min_size(cut->n_left, MOST_PIECES);
    const size_t bytes = n * sizeof(struct hy_copy_piece);
    struct hy_copy_piece *packed = (struct hy_copy_piece *)hy_cuda_stage(device, bytes);
    for (size_t i = 0; packed && i < n; i++)
        packed[i] = cut_piece(cut);
    if (!packed
        || !hy_cuda_check(device,
                          cudaMemcpyAsync(device->pieces.data, packed, bytes,
                                          cudaMemcpyHostToDevice, device->stream),
                          "copying a list of copies"))
        return false;
    hy_cuda_copy_pieces(device->stream, (const struct hy_copy_piece *)device->pieces.data, n);
    return hy_cuda_check_launch(device, "copying on the device");
}

void hy_cuda_copy_list(struct hy_device *device, const struct hy_copy_args *copies, size_t n)
{
    if (n == 0 || !hy_cuda_begin(device))
        return;
    if (n == 1 || !has_room(device)) {
        for (size_t i = 0; i < n; i++)
            hy_cuda_copy(device, &copies[i]);
        return;
    }
    struct cut cut = begin_cut(copies, n);
    while (cut.n_left > 0 && queue_pieces(device, &cut))
        continue;
}
