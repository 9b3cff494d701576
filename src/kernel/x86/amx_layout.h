/*
 * Memory layouts around the tiles: activations of several rows interleaved, as the second factor of
 * a tile product wants them, and sums turned from columns of weights to rows of outputs.
 *
 * Weights are the first factor, 16 rows as they lie in the file, 64 bytes at a time; so nothing of
 * them is repacked, and sums come out as [column of the product][row of activations].
 */
#include "kernel/kernel.h"
#include "kernel/x86/amx_config.h"

enum {
    MOST_BLOCKS = 16,             /* blocks of rows that weights meet at once */
    CACHED_ROWS = 3 * 512 * 1024, /* bytes of activations that stay in the second cache, of 2 MB */
};

HY_INLINE size_t blocks_of(size_t n, size_t size)
{
    return (n + size - 1) / size;
}

HY_INLINE vec vec_of_bits(ivec v)
{
    vec same;
    memcpy(&same, &v, sizeof same);
    return same;
}

/* Of four neighbouring 4-byte elements in LANES rows: v[i] has element i of every row. */
HY_INLINE void load_turned(const void *rows, size_t stride, ivec v[4])
{
    HY_UNROLL
    for (size_t i = 0; i < 4; i++)
        v[i] = ivec_load_rows((const unsigned char *)rows + i * stride, stride);
    ivec_transpose_quads(v);
}

/* ------------------------------------------------------------- rounding */

enum { PIECE = 32 }; /* elements of a row that are rounded together */

/* Puts n bytes, a multiple of 16, of TILE_ROWS rows into block rows' place. */
HY_INLINE void interleave(const unsigned char *rows, size_t stride, size_t n, size_t block,
                          unsigned char *out)
{
    for (size_t i = 0; i < n; i += 16, out += 16 * block) {
        for (size_t first = 0; first < block; first += LANES) {
            ivec v[4];
            load_turned(rows + first * stride + i, stride, v);
            HY_UNROLL
            for (size_t j = 0; j < 4; j++)
                vec_store_n((float *)(void *)(out + 4 * (j * block + first)), vec_of_bits(v[j]),
                            lanes_at(first, block));
        }
    }
}

/* Rows t .. t + count, the only ones of their block that there are. */
static void round_block_to_bf16(const struct hy_round_args *args, size_t t, size_t count)
{
    const struct hy_rounded *y = &args->y;
    unsigned char *out = (unsigned char *)y->data + t * y->stride * 2;
    uint16_t piece[TILE_ROWS * PIECE] = {0};
    for (size_t i = 0; i < args->n; i += PIECE, out += PIECE * 2 * y->block) {
        const float *x = args->x + t * args->x_stride + i;
        for (size_t row = 0; row < count; row++)
            round_to_bf16(y, x + row * args->x_stride, hy_min_size(args->n - i, PIECE),
                          piece + row * PIECE);
        interleave((const unsigned char *)piece, PIECE * 2, PIECE * 2, y->block, out);
    }
}

/* Group g of the same rows; values of rows without a usable scale stay 0. */
static void round_block_group(const struct hy_round_args *args, size_t t, size_t count, size_t g)
{
    const struct hy_rounded *y = &args->y;
    size_t n_groups = args->n / y->group, index = t * n_groups + g * y->block;
    unsigned char *out = (unsigned char *)y->data + t * y->stride + g * y->group * y->block;
    const float *x = args->x + t * args->x_stride + g * y->group;
    int8_t piece[TILE_ROWS * PIECE] = {0};
    float factors[TILE_ROWS] = {0};
    ivec sums[TILE_ROWS];
    memset(y->sums + index, 0, y->block * sizeof *y->sums);
    memset(y->scales + index, 0, y->block * sizeof *y->scales);
    for (size_t row = 0; row < count; row++) {
        float greatest = greatest_magnitude(x + row * args->x_stride, y->group);
        y->scales[index + row] = greatest / 127.0f;
        factors[row] = hy_can_round(greatest) ? 127.0f / greatest : 0.0f;
        sums[row] = ivec_zero();
    }
    for (size_t i = 0; i < y->group; i += PIECE, out += PIECE * y->block) {
        for (size_t row = 0; row < count; row++)
            if (factors[row] > 0.0f)
                sums[row] = ivec_add(sums[row], round_32(x + row * args->x_stride + i, factors[row],
                                                         y->split, piece + row * PIECE));
        interleave((const unsigned char *)piece, PIECE, PIECE, y->block, out);
    }
    for (size_t row = 0; row < count; row++)
        y->sums[index + row] = ivec_sum(sums[row]);
}

/* Rounds rows; begin is that of a block. */
static void round_blocks(const struct hy_round_args *args, size_t begin, size_t end)
{
    const struct hy_rounded *y = &args->y;
    if (y->block < 2) {
        round_rows(args, begin, end);
        return;
    }
    for (size_t t = begin; t < end; t += y->block) {
        size_t count = hy_min_size(end - t, y->block);
        if (y->dtype == HYMBA_DTYPE_BF16)
            round_block_to_bf16(args, t, count);
        for (size_t g = 0; y->dtype == HYMBA_DTYPE_INT8 && g < args->n / y->group; g++)
            round_block_group(args, t, count, g);
    }
}

/* ------------------------------------------------------------- products */

/* Stores a tile of sums: count columns from j on of n_rows rows from t on. */
HY_INLINE void store_sums(const struct hy_matmul_args *args, size_t j, size_t count, size_t t,
                          size_t n_rows, const float *sums)
{
    for (size_t row = 0; row < n_rows; row += 4) {
        for (size_t first = 0; first < count; first += LANES) {
            struct panel panel = {.first = j + first, .count = lanes_at(first, count)};
            ivec v[4];
            load_turned(sums + first * TILE_ROWS + row, TILE_BYTES, v);
            for (size_t i = 0; i < hy_min_size(n_rows - row, 4); i++)
                store_columns(args, &panel, t + row + i, vec_of_bits(v[i]));
        }
    }
}

/* Weights that are asked for ahead of their use, line by line as they lie in memory: that the
 * hardware follows, but not the rows of a tile. */
struct fetch {
    const unsigned char *next, *end;
    size_t bytes; /* at a time */
};

/* Weights of count rows, of which a part is asked for at each of so many times. */
static struct fetch fetch_of(const unsigned char *weights, size_t row_bytes, size_t count,
                             size_t times)
{
    size_t bytes = count * row_bytes;
    return (struct fetch){weights, weights + bytes, (bytes / times + 63) / 64 * 64};
}

HY_INLINE void fetch_part(struct fetch *fetch)
{
    size_t left = (size_t)(fetch->end - fetch->next), bytes = hy_min_size(fetch->bytes, left);
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(fetch->next + i, 0, 2);
    fetch->next += bytes;
}

/* Asks for the first weights, which nothing before them asks for. */
static void fetch_all(const unsigned char *weights, size_t row_bytes, size_t count)
{
    struct fetch fetch = fetch_of(weights, row_bytes, count, 1);
    fetch_part(&fetch);
}

/* Blocks of rows that weights meet while they are in the nearest caches: as many as stay in the
 * second cache, at least a pair of tiles. */
static size_t blocks_at_once(size_t block_bytes)
{
    size_t fitting = CACHED_ROWS / (block_bytes + 1) / 2 * 2;
    return hy_max_size(hy_min_size(fitting, MOST_BLOCKS), 2);
}
