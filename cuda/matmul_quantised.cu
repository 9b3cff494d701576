#include "matmul_quantised.h"

/*
 * Numbers. A weight becomes the bf16 nearest to value times scale, ties to even, which is what the
 * CPU's reference has if it is given the matrix in bf16: the integer is exact, and one rounding
 * follows. (The scale could instead multiply the sum of each group. That would spare a rounding of
 * 2^-9 of a weight, half of an error that the activations have already; but a lane's 16 bytes then
 * had to be exchanged with three others', for the lanes of a product would have to lie in one
 * group, and many rows had to keep a second set of sums.) Products are exact, sums in f32.
 *
 * Order of sums. k is cut into chunks of 64 bytes of weights, the chunks into RANGES ranges of
 * neighbours, by k alone. The sum of a range is made on tensor cores, 16 elements at a time in the
 * order of place() below; then sums of ranges are added in their order, from 0 on, then bias, then
 * the old y. Every kernel here keeps this order for every row, so bits agree between them, whatever
 * tiles they use; what one row is multiplied with does not reach another's sums, if an element of
 * mma.sync is the same function of its own row, column and sum in every place, which is how tensor
 * cores work and is written nowhere: tests/cuda/check_cuda compares bits on the device at hand. (So
 * no other path may serve many rows: a prompt cut in another place would have other bits.)
 *
 * Work. A lane has 16 bytes of one row of w, 32 or 16 neighbours in one group: one load, one scale.
 * Lanes 4 c .. 4 c + 3 have the 64 bytes of row c of 8. Up to 16 rows of x: 8 warps of a block
 * have a range each and the same 8 or 16 columns of y, so that even 1600 columns fill 200 blocks;
 * weights are what is read, and each warp has two chunks of them under way. More rows: 4 warps have
 * 16 columns each and all rows of a panel, one range after another; x comes through shared memory
 * by asynchronous copies. Too few blocks of this kind are divided by ranges, whose sums pass
 * through scratch memory to a second launch.
 */
enum { RANGES = 8, CHUNK_BYTES = 64, LANE_BYTES = 16 };
enum { MANY_THREADS = 128, MANY_TILES = 2, MANY_COLUMNS = MANY_THREADS / HY_WARP * MANY_TILES * 8 };

/* Blocks that suffice without dividing them, and that a division should reach. */
enum { ENOUGH_BLOCKS = 64, WANTED_BLOCKS = 132 };

/* Few rows and fewer columns than this: 8 columns a block, otherwise 16. */
enum { NARROW_BELOW = 16 * WANTED_BLOCKS };

enum { NO_SHIFT = 32 };

struct product_args {
    const uint16_t *x;
    const unsigned char *w;
    const uint16_t *scales;
    const float *bias;
    float *y;
    float *parts; /* [RANGES][m][n] sums of ranges; NULL: y is written */
    size_t x_stride, y_stride, row_bytes /* of w */;
    unsigned m, n, k, n_chunks;
    unsigned groups;      /* in a row */
    unsigned group_size;
    unsigned group_shift; /* group_size is 2 to this; NO_SHIFT: to none */
    bool accumulate;
};

static unsigned round_up_div(size_t a, size_t b)
{
    return (unsigned)((a + b - 1) / b);
}

/* The first chunk of a range. */
HY_DEVICE unsigned range_begin(const struct product_args &args, unsigned range)
{
    return (unsigned)((uint64_t)args.n_chunks * range / RANGES);
}

/* ----------------------------------------------------------------- weights */

/*
 * The bits of an integer from 0 to 255 are, read as bf16, the subnormal or smallest normal number
 * 2^-133 times it, so that one multiplication and addition makes it (integer - offset) / 64,
 * exactly; and the scale is taken 64-fold. (From 2^122 on, which no weight of a model comes near,
 * that is infinity.)
 */
enum : uint32_t {
    TIMES_2_127 = 0x7f007f00, /* factors of the lowest bits, 2^127 */
    TIMES_2_123 = 0x7d007d00, /* of bits 4 to 7, which are worth 16 times as much */
    MINUS_2 = 0xc000c000,     /* -128 / 64 */
    MINUS_EIGHTH = 0xbe00be00, /* -8 / 64 */
    MINUS_0 = 0x80008000      /* what can be added to a product without changing it */
};

/* What a lane has of one chunk: 16 bytes of each of TILES rows, 8 rows apart, and their scales. */
template <int TILES> struct hy_weights {
    uint4 bytes[TILES];
    uint32_t scales[TILES]; /* 64-fold, twice */
};

HY_DEVICE uint32_t scale_pair(uint16_t scale)
{
    const uint32_t bits = hy_to_bits(hy_from_bf16(scale) * 64.0f);
    return bits >> 16 | (bits & 0xffff0000);
}

HY_DEVICE uint32_t weigh(uint32_t bits, uint32_t factor, uint32_t offset, uint32_t scale)
{
    return hy_fma_pair_bf16(hy_fma_pair_bf16(bits, factor, offset), scale, MINUS_0);
}

/* The layouts: what a lane's bytes are, and how they become fragments of two products at a time,
 * each of four of the lane's elements. */
struct int4_weights {
    enum { ELEMENTS = 2 * LANE_BYTES, CHUNK = 4 * ELEMENTS, PIECES = ELEMENTS / 8 };
    /* Pairs of elements 0 and 4, 1 and 5; 2 and 6, 3 and 7. */
    HY_DEVICE void unpack(const uint32_t (&words)[4], unsigned piece, uint32_t scale,
                          uint32_t (&b)[2][2])
    {
        const uint32_t word = words[piece];
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const uint32_t half = word >> 8 * i;
            b[i][0] = weigh(half & 0x000f000f, TIMES_2_127, MINUS_EIGHTH, scale);
            b[i][1] = weigh(half & 0x00f000f0, TIMES_2_123, MINUS_EIGHTH, scale);
        }
    }
    HY_DEVICE uint4 place(uint4 x)
    {
        return make_uint4(x.x, x.z, x.y, x.w);
    }
};

struct int8_weights {
    enum { ELEMENTS = LANE_BYTES, CHUNK = 4 * ELEMENTS, PIECES = ELEMENTS / 8 };
    /* Pairs of elements 0 and 2, 1 and 3; 4 and 6, 5 and 7. */
    HY_DEVICE void unpack(const uint32_t (&words)[4], unsigned piece, uint32_t scale,
                          uint32_t (&b)[2][2])
    {
#pragma unroll
        for (unsigned i = 0; i < 2; i++) {
            const uint32_t word = words[2 * piece + i];
            b[i][0] = weigh(word & 0x00ff00ff, TIMES_2_127, MINUS_2, scale);
            b[i][1] = weigh(word >> 8 & 0x00ff00ff, TIMES_2_127, MINUS_2, scale);
        }
    }
    HY_DEVICE uint4 place(uint4 x)
    {
        return x;
    }
};

/* Where a lane's elements begin in a row. */
template <typename Weights> HY_DEVICE unsigned first_element(unsigned chunk)
{
    return chunk * Weights::CHUNK + hy_thread() % 4 * Weights::ELEMENTS;
}

HY_DEVICE uint32_t load_scale(const struct product_args &args, size_t row, unsigned element)
{
    const unsigned group = args.group_shift == NO_SHIFT ? element / args.group_size
                                                        : element >> args.group_shift;
    return scale_pair(hy_load(args.scales + row * args.groups + group));
}

/* Of rows first + 8 i + c; nothing from chunk `end` on, nor beyond the matrix. ONCE: nobody will
 * read them again soon. */
template <typename Weights, bool ONCE, int TILES>
HY_DEVICE void load_weights(const struct product_args &args, unsigned first, unsigned chunk,
                            unsigned end, struct hy_weights<TILES> &weights)
{
    const unsigned element = first_element<Weights>(chunk);
    const unsigned byte = chunk * CHUNK_BYTES + hy_thread() % 4 * LANE_BYTES;
#pragma unroll
    for (unsigned i = 0; i < TILES; i++) {
        const unsigned row = first + 8 * i + hy_thread() % HY_WARP / 4;
        const bool here = row < args.n && chunk < end && element < args.k;
        const uint4 *bytes = (const uint4 *)(args.w + row * args.row_bytes + byte);
        weights.bytes[i] = make_uint4(0, 0, 0, 0);
        if (here)
            weights.bytes[i] = ONCE ? hy_load_once(bytes) : hy_load(bytes);
        weights.scales[i] = here ? load_scale(args, row, element) : 0;
    }
}

/* The right sides of both products that a piece of eight elements makes, for all tiles. */
template <typename Weights, int TILES>
HY_DEVICE void unpack(const struct hy_weights<TILES> &weights, unsigned piece,
                      uint32_t (&b)[TILES][2][2])
{
#pragma unroll
    for (unsigned i = 0; i < TILES; i++) {
        const uint32_t words[4] = {weights.bytes[i].x, weights.bytes[i].y, weights.bytes[i].z,
                                   weights.bytes[i].w};
        Weights::unpack(words, piece, weights.scales[i], b[i]);
    }
}

/* Eight elements of row c of x, and of row c + 8, as the left sides. */
template <typename Weights> HY_DEVICE void pair_up(uint4 upper, uint4 lower, uint32_t (&a)[2][4])
{
    upper = Weights::place(upper);
    lower = Weights::place(lower);
    const uint32_t up[4] = {upper.x, upper.y, upper.z, upper.w};
    const uint32_t low[4] = {lower.x, lower.y, lower.z, lower.w};
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
        a[i][0] = (up[2 * i] & 0xffff) | up[2 * i + 1] << 16;
        a[i][1] = (low[2 * i] & 0xffff) | low[2 * i + 1] << 16;
        a[i][2] = up[2 * i] >> 16 | (up[2 * i + 1] & 0xffff0000);
        a[i][3] = low[2 * i] >> 16 | (low[2 * i + 1] & 0xffff0000);
    }
}

template <int TILES>
HY_DEVICE void multiply_piece(const uint32_t (&a)[2][4], const uint32_t (&b)[TILES][2][2],
                              float (&sums)[TILES][4])
{
#pragma unroll
    for (unsigned i = 0; i < 2; i++) {
#pragma unroll
        for (unsigned tile = 0; tile < TILES; tile++)
            hy_mma_bf16(sums[tile], a[i], b[tile][i]);
    }
}

HY_DEVICE void store_result(const struct product_args &args, unsigned row, unsigned column,
                            float sum)
{
    float *y = args.y + row * args.y_stride + column;
    if (args.bias)
        sum += hy_load(args.bias + column);
    if (args.accumulate)
        sum += hy_load(y);
    hy_store(y, sum);
}

/* ---------------------------------------------------------------- few rows */

/* The lane's elements of a chunk, of rows c and c + 8; 0 beyond the rows and the columns. */
template <typename Weights, int HALVES>
HY_DEVICE void load_rows(const struct product_args &args, unsigned chunk,
                         uint4 (&x)[HALVES][Weights::PIECES])
{
    const unsigned element = first_element<Weights>(chunk);
#pragma unroll
    for (unsigned half = 0; half < HALVES; half++) {
        const unsigned row = hy_thread() % HY_WARP / 4 + 8 * half;
        const bool here = row < args.m && element < args.k;
        const uint4 *words = (const uint4 *)(args.x + row * args.x_stride + element);
#pragma unroll
        for (unsigned piece = 0; piece < Weights::PIECES; piece++)
            x[half][piece] = here ? hy_load(words + piece) : make_uint4(0, 0, 0, 0);
    }
}

/* All warps' sums, of a range each, to results. All threads. */
template <int TILES, int HALVES>
HY_DEVICE void add_ranges(const struct product_args &args, unsigned first,
                          const float (&sums)[TILES][4])
{
    enum { COLUMNS = 8 * TILES, VALUES = 2 * HALVES, RANGE = TILES * VALUES * HY_WARP };
    hy_shared<float> parts(0, RANGES * RANGE); /* [range][tile][value][lane] */
    const unsigned lane = hy_thread() % HY_WARP, range = hy_thread() / HY_WARP;
#pragma unroll
    for (unsigned i = 0; i < TILES; i++) {
#pragma unroll
        for (unsigned j = 0; j < VALUES; j++)
            parts[range * RANGE + (i * VALUES + j) * HY_WARP + lane] = sums[i][j];
    }
    hy_sync();
    for (unsigned i = hy_thread(); i < args.m * COLUMNS; i += RANGES * HY_WARP) {
        const unsigned row = i / COLUMNS, column = i % COLUMNS;
        const unsigned value = column / 8 * VALUES + row / 8 * 2 + column % 2;
        const unsigned place = value * HY_WARP + row % 8 * 4 + column % 8 / 2;
        float sum = 0.0f;
#pragma unroll
        for (unsigned j = 0; j < RANGES; j++)
            sum += parts[j * RANGE + place];
        if (first + column < args.n)
            store_result(args, row, first + column, sum);
    }
}

/*
 * Up to 8 HALVES rows. Block b has columns from 8 TILES b on. Reads each weight once, the scale of
 * each 16 bytes of weights, and every block all rows: w + w / 8 + 2 m k blocks bytes, w those of
 * the weights; of bias and old y 4 m n each. Writes 4 m n.
 */
template <typename Weights, int TILES, int HALVES>
static HY_KERNEL __launch_bounds__(RANGES * HY_WARP)
multiply_few_rows(struct product_args args)
{
    enum { AHEAD = 2 };
    const unsigned first = hy_block().x * TILES * 8, range = hy_thread() / HY_WARP;
    const unsigned begin = range_begin(args, range), end = range_begin(args, range + 1);
    struct hy_weights<TILES> ahead[AHEAD];
    float sums[TILES][4];
#pragma unroll
    for (unsigned i = 0; i < TILES; i++)
        sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0.0f;
#pragma unroll
    for (unsigned j = 0; j < AHEAD; j++)
        load_weights<Weights, true>(args, first, begin + j, end, ahead[j]);
    for (unsigned base = begin; base < end; base += AHEAD) {
#pragma unroll
        for (unsigned j = 0; j < AHEAD; j++) {
            const unsigned chunk = base + j;
            uint4 x[HALVES][Weights::PIECES];
            if (chunk >= end)
                break;
            load_rows<Weights, HALVES>(args, chunk, x);
            const struct hy_weights<TILES> weights = ahead[j];
            load_weights<Weights, true>(args, first, chunk + AHEAD, end, ahead[j]);
#pragma unroll
            for (unsigned piece = 0; piece < Weights::PIECES; piece++) {
                const uint4 none = {0, 0, 0, 0};
                uint32_t a[2][4], b[TILES][2][2];
                pair_up<Weights>(x[0][piece], HALVES == 2 ? x[HALVES - 1][piece] : none, a);
                unpack<Weights>(weights, piece, b);
                multiply_piece(a, b, sums);
            }
        }
    }
    add_ranges<TILES, HALVES>(args, first, sums);
}

/* --------------------------------------------------------------- many rows */

/* Chunks of x that lie in shared memory. A row of one is padded by 16 words, so that the 16-byte
 * words of two rows which eight lanes read together lie in 32 banks. */
template <typename Weights> struct x_stage {
    enum { WORDS = 4 * Weights::PIECES, ROW = WORDS + 4 };
};

/* Begins to copy a chunk of rows [0, n_rows) of a panel; those up to a multiple of 16 become 0.
 * Piece p of lane l's elements lies at word 4 p + l % 4 of a row. */
template <typename Weights>
HY_DEVICE void begin_stage(const struct product_args &args, hy_shared<uint4> stages, size_t offset,
                           const uint16_t *x, unsigned n_rows, unsigned chunk)
{
    enum { WORDS = x_stage<Weights>::WORDS, ROW = x_stage<Weights>::ROW };
    const unsigned n_staged = (n_rows + 15) / 16 * 16;
#pragma unroll 4
    for (unsigned i = hy_thread(); i < n_staged * WORDS; i += MANY_THREADS) {
        const unsigned row = i / WORDS, word = i % WORDS;
        const unsigned element = chunk * Weights::CHUNK + word * 8;
        const bool here = row < n_rows && element < args.k;
        stages.copy_async(offset + row * ROW + word % Weights::PIECES * 4 + word / Weights::PIECES,
                          (const uint4 *)(here ? x + row * args.x_stride + element : x), here);
    }
}

template <typename Weights, int TILES, int ROWS>
HY_DEVICE void multiply_stage(hy_shared<uint4> stages, size_t offset, unsigned n_rows,
                              const struct hy_weights<TILES> &weights,
                              float (&sums)[ROWS / 16][TILES][4])
{
    enum { ROW = x_stage<Weights>::ROW };
    const unsigned lane = hy_thread() % HY_WARP;
    const size_t place = offset + lane / 4 * ROW + lane % 4;
#pragma unroll
    for (unsigned piece = 0; piece < Weights::PIECES; piece++) {
        uint32_t b[TILES][2][2];
        unpack<Weights>(weights, piece, b);
#pragma unroll
        for (unsigned i = 0; i < ROWS / 16; i++) {
            if (16 * i < n_rows) {
                const uint4 upper = stages[place + 16 * i * ROW + 4 * piece];
                const uint4 lower = stages[place + (16 * i + 8) * ROW + 4 * piece];
                uint32_t a[2][4];
                pair_up<Weights>(upper, lower, a);
                multiply_piece(a, b, sums[i]);
            }
        }
    }
}

/* The sum of a range goes where it belongs, and the next one begins with 0. */
template <int TILES, int ROWS>
HY_DEVICE void end_range(const struct product_args &args, unsigned range, unsigned first,
                         unsigned first_row, unsigned n_rows, float (&sums)[ROWS / 16][TILES][4],
                         float (&totals)[ROWS / 16][TILES][4])
{
    const unsigned lane = hy_thread() % HY_WARP;
    float *parts = args.parts + (size_t)range * args.m * args.n;
#pragma unroll
    for (unsigned i = 0; i < ROWS / 16; i++) {
#pragma unroll
        for (unsigned tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                const unsigned row = 16 * i + lane / 4 + j / 2 * 8;
                const unsigned column = first + 8 * tile + lane % 4 * 2 + j % 2;
                if (!args.parts)
                    totals[i][tile][j] += sums[i][tile][j];
                else if (row < n_rows && column < args.n)
                    hy_store(parts + (size_t)(first_row + row) * args.n + column, sums[i][tile][j]);
                sums[i][tile][j] = 0.0f;
            }
        }
    }
}

template <int TILES, int ROWS>
HY_DEVICE void store_panel(const struct product_args &args, unsigned first, unsigned first_row,
                           unsigned n_rows, const float (&totals)[ROWS / 16][TILES][4])
{
    const unsigned lane = hy_thread() % HY_WARP;
#pragma unroll
    for (unsigned i = 0; i < ROWS / 16; i++) {
#pragma unroll
        for (unsigned tile = 0; tile < TILES; tile++) {
#pragma unroll
            for (unsigned j = 0; j < 4; j++) {
                const unsigned row = 16 * i + lane / 4 + j / 2 * 8;
                const unsigned column = first + 8 * tile + lane % 4 * 2 + j % 2;
                if (row < n_rows && column < args.n)
                    store_result(args, first_row + row, column, totals[i][tile][j]);
            }
        }
    }
}

template <int TILES, int ROWS> HY_DEVICE void clear(float (&sums)[ROWS / 16][TILES][4])
{
#pragma unroll
    for (unsigned i = 0; i < ROWS / 16 * TILES * 4; i++)
        sums[i / 4 / TILES][i / 4 % TILES][i % 4] = 0.0f;
}

/*
 * A panel of up to ROWS rows, number block y; columns from MANY_COLUMNS times block x on; of equal
 * parts of the ranges, as many as blocks z, number block z. STAGES - 1 chunks are under way. With p
 * panels, reads p (w + w / 8) bytes of weights and scales, and 2 m k blocks x of rows. Either reads
 * of bias and old y 4 m n each and writes 4 m n; or writes 4 m n for every range.
 */
template <typename Weights, int ROWS, int STAGES>
static HY_KERNEL __launch_bounds__(MANY_THREADS)
multiply_many_rows(struct product_args args)
{
    enum { TILES = MANY_TILES, AHEAD = STAGES - 1, STAGE = ROWS * x_stage<Weights>::ROW };
    const unsigned first = hy_block().x * MANY_COLUMNS + hy_thread() / HY_WARP * TILES * 8;
    const unsigned first_row = hy_block().y * ROWS;
    const unsigned n_rows = args.m - first_row < ROWS ? args.m - first_row : ROWS;
    const unsigned n_parts = hy_grid().z;
    const uint16_t *x = args.x + first_row * args.x_stride;
    unsigned range = RANGES * hy_block().z / n_parts;
    const unsigned begin = range_begin(args, range);
    const unsigned end = range_begin(args, RANGES * (hy_block().z + 1) / n_parts);
    hy_shared<uint4> stages(0, STAGES * STAGE);
    struct hy_weights<TILES> ahead[AHEAD];
    float sums[ROWS / 16][TILES][4], totals[ROWS / 16][TILES][4];
    clear<TILES, ROWS>(sums);
    clear<TILES, ROWS>(totals);
#pragma unroll
    for (unsigned j = 0; j < AHEAD; j++) {
        load_weights<Weights, false>(args, first, begin + j, end, ahead[j]);
        if (begin + j < end)
            begin_stage<Weights>(args, stages, j * STAGE, x, n_rows, begin + j);
        hy_group_copies();
    }
    for (unsigned base = begin; base < end; base += AHEAD) {
#pragma unroll
        for (unsigned j = 0; j < AHEAD; j++) {
            const unsigned chunk = base + j, next = chunk + AHEAD;
            if (chunk >= end)
                break;
            /* The chunk is there, and nobody reads the one before it any more. */
            hy_wait_copies<AHEAD - 1>();
            hy_sync();
            const struct hy_weights<TILES> weights = ahead[j];
            load_weights<Weights, false>(args, first, next, end, ahead[j]);
            if (next < end)
                begin_stage<Weights>(args, stages, (next - begin) % STAGES * STAGE, x, n_rows,
                                     next);
            hy_group_copies();
            multiply_stage<Weights, TILES, ROWS>(stages, (chunk - begin) % STAGES * STAGE, n_rows,
                                                 weights, sums);
            while (range_begin(args, range + 1) <= chunk)
                range++;
            if (range_begin(args, range + 1) == chunk + 1)
                end_range<TILES, ROWS>(args, range, first, first_row, n_rows, sums, totals);
        }
    }
    if (!args.parts)
        store_panel<TILES, ROWS>(args, first, first_row, n_rows, totals);
}

enum { ADD_THREADS = 256 };

/* Reads 4 m n bytes for every range that has chunks; of bias and old y 4 m n each. Writes 4 m n. */
static HY_KERNEL __launch_bounds__(ADD_THREADS)
add_parts(struct product_args args)
{
    const unsigned column = hy_block().x * ADD_THREADS + hy_thread(), row = hy_block().y;
    float sum = 0.0f;
    if (column >= args.n)
        return;
#pragma unroll
    for (unsigned range = 0; range < RANGES; range++)
        if (range_begin(args, range) < range_begin(args, range + 1))
            sum += hy_load(args.parts + ((size_t)range * args.m + row) * args.n + column);
    store_result(args, row, column, sum);
}

/* ---------------------------------------------------------------- launches */

enum { FEW_ROWS = 16, PANEL_ROWS = 128 };

static unsigned rows_of_panel(size_t m)
{
    return m <= 32 ? 32 : m <= 64 ? 64 : PANEL_ROWS;
}

static unsigned shift_of(unsigned size)
{
    unsigned shift = 0;
    while (shift < NO_SHIFT && size != 1u << shift)
        shift++;
    return shift;
}

/* Parts that many rows' blocks are divided into. */
static unsigned parts_of(const struct hy_matmul_args *args)
{
    const size_t blocks = (size_t)round_up_div(args->n, MANY_COLUMNS)
                          * round_up_div(args->m, rows_of_panel(args->m));
    unsigned parts = RANGES;
    if (args->m <= FEW_ROWS || blocks >= ENOUGH_BLOCKS)
        return 1;
    while (parts > 2 && blocks * parts / 2 >= WANTED_BLOCKS)
        parts /= 2;
    return parts;
}

size_t hy_cuda_matmul_quantised_scratch(const struct hy_matmul_args *args)
{
    return parts_of(args) == 1 ? 0 : RANGES * args->m * args->n * sizeof(float);
}

template <typename Weights, int TILES>
static void launch_few_rows(cudaStream_t stream, const struct product_args &args)
{
    const dim3 grid(round_up_div(args.n, 8 * TILES));
    const size_t half = RANGES * TILES * 2 * HY_WARP * sizeof(float);
    if (args.m <= 8)
        hy_launch(stream, multiply_few_rows<Weights, TILES, 1>, grid, RANGES * HY_WARP, half, args);
    else
        hy_launch(stream, multiply_few_rows<Weights, TILES, 2>, grid, RANGES * HY_WARP, 2 * half,
                  args);
}

template <typename Weights, int ROWS, int STAGES>
static void launch_many_rows(cudaStream_t stream, const struct product_args &args, unsigned parts)
{
    const dim3 grid(round_up_div(args.n, MANY_COLUMNS), round_up_div(args.m, ROWS), parts);
    const size_t bytes = (size_t)STAGES * ROWS * x_stage<Weights>::ROW * sizeof(uint4);
    if (bytes > 48 * 1024
        && cudaFuncSetAttribute(multiply_many_rows<Weights, ROWS, STAGES>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
               != cudaSuccess)
        return; /* cudaGetLastError tells */
    hy_launch(stream, multiply_many_rows<Weights, ROWS, STAGES>, grid, MANY_THREADS, bytes, args);
}

template <typename Weights>
static void launch(cudaStream_t stream, const struct product_args &args, unsigned parts)
{
    if (args.m <= FEW_ROWS && args.n < NARROW_BELOW)
        launch_few_rows<Weights, 1>(stream, args);
    else if (args.m <= FEW_ROWS)
        launch_few_rows<Weights, 2>(stream, args);
    else if (rows_of_panel(args.m) == 32)
        launch_many_rows<Weights, 32, 4>(stream, args, parts);
    else if (rows_of_panel(args.m) == 64)
        launch_many_rows<Weights, 64, 3>(stream, args, parts);
    else
        launch_many_rows<Weights, PANEL_ROWS, 2>(stream, args, parts);
}

void hy_cuda_matmul_quantised(cudaStream_t stream, const struct hy_matmul_args *args, void *scratch)
{
    const unsigned parts = parts_of(args);
    const bool int4 = args->dtype == HYMBA_DTYPE_INT4;
    struct product_args product = {};
    if (args->m == 0 || args->n == 0 || args->k == 0)
        return;
    product.x = (const uint16_t *)args->rounded->data;
    product.w = (const unsigned char *)args->w;
    product.scales = (const uint16_t *)args->w_scales;
    product.bias = args->bias;
    product.y = args->y;
    product.parts = parts > 1 ? (float *)scratch : NULL;
    product.x_stride = args->rounded->stride;
    product.y_stride = args->y_stride;
    product.row_bytes = hy_row_bytes(args->dtype, args->k);
    product.m = (unsigned)args->m;
    product.n = (unsigned)args->n;
    product.k = (unsigned)args->k;
    product.n_chunks = round_up_div(product.row_bytes, CHUNK_BYTES);
    product.groups = (unsigned)(args->k / args->group);
    product.group_size = (unsigned)args->group;
    product.group_shift = shift_of(product.group_size);
    product.accumulate = args->accumulate;
    if (int4)
        launch<int4_weights>(stream, product, parts);
    else
        launch<int8_weights>(stream, product, parts);
    if (parts > 1)
        hy_launch(stream, add_parts, dim3(round_up_div(args->n, ADD_THREADS), product.m),
                  ADD_THREADS, 0, product);
}
