/*
 * bf16 products by tiles: y[t][j] is one chain of tile products over k in order, each adding up 32
 * elements, for any number of rows and in any block. Sums that wait in memory between blocks of k
 * are f32 as in the tile: blocks change no bit.
 *
 * Two tiles of weights meet two of activations: four loads for four products, 32 to 48 cycles of
 * loads beside 64 of products, and four sums hide the latency. Over K_STEPS of k the weights of a
 * pair stay in the nearest cache (36 KB of 48) while they meet all rows, whose activations come
 * from the second: 2 KB in 64 cycles. Sums are put down and taken up again after each block, about
 * 96 cycles in 1,152. With at most 32 rows nothing is used twice, and k is not divided.
 */
enum {
    STEP = 32,      /* elements of k in a tile product */
    K_STEPS = 18,
    PAIR = 2 * TILE_ROWS,
};

/* Up to 32 rows of weights, and the activations that they meet. */
struct tile_pair {
    const unsigned char *w;
    size_t w_stride;           /* bytes */
    size_t whole;              /* steps that lie in w; there may be one more: */
    const unsigned char *tail; /* [PAIR][TILE_BYTES], zeros behind the last elements */
    const unsigned char *x;    /* blocks */
    size_t x_stride;           /* bytes from one block to the next */
    size_t x_row;              /* bytes of a row of x's tiles */
};

/* Sums of one block of rows: for the first 16 columns, then for the others. */
struct pair_sums {
    float tile[2][TILE_FLOATS];
};

/* Shapes for count columns and blocks of so many rows. */
static void configure_bf16(size_t count, size_t block)
{
    struct tile_config config = {.palette = 1};
    for (size_t i = 0; i < 2; i++) {
        size_t first = i * TILE_ROWS, columns = count > first ? count - first : 0;
        columns = hy_max_size(hy_min_size(columns, TILE_ROWS), 1);
        config.rows[4 + i] = (uint8_t)columns;
        config.row_bytes[4 + i] = TILE_BYTES;
        config.rows[6 + i] = TILE_ROWS;
        config.row_bytes[6 + i] = (uint16_t)(4 * block);
        for (size_t j = 0; j < 2; j++) {
            config.rows[2 * i + j] = (uint8_t)columns;
            config.row_bytes[2 * i + j] = (uint16_t)(4 * block);
        }
    }
    HY_TILE_CONFIGURE(&config);
}

HY_INLINE void begin_sums(const struct pair_sums *sums, bool first, const size_t n_w,
                          const size_t n_x)
{
    if (first) {
        HY_TILE_ZERO(0);
        HY_TILE_ZERO(1);
        HY_TILE_ZERO(2);
        HY_TILE_ZERO(3);
        return;
    }
    HY_TILE_LOAD(0, sums[0].tile[0], TILE_BYTES);
    if (n_x == 2)
        HY_TILE_LOAD(1, sums[1].tile[0], TILE_BYTES);
    if (n_w == 2)
        HY_TILE_LOAD(2, sums[0].tile[1], TILE_BYTES);
    if (n_w == 2 && n_x == 2)
        HY_TILE_LOAD(3, sums[1].tile[1], TILE_BYTES);
}

HY_INLINE void end_sums(struct pair_sums *sums, const size_t n_w, const size_t n_x)
{
    HY_TILE_STORE(0, sums[0].tile[0], TILE_BYTES);
    if (n_x == 2)
        HY_TILE_STORE(1, sums[1].tile[0], TILE_BYTES);
    if (n_w == 2)
        HY_TILE_STORE(2, sums[0].tile[1], TILE_BYTES);
    if (n_w == 2 && n_x == 2)
        HY_TILE_STORE(3, sums[1].tile[1], TILE_BYTES);
}

/* Adds the products of steps [begin, end) of n_w tiles of weights and n_x blocks of rows, the first
 * of which has this number. */
HY_INLINE void tile_steps_bf16(const struct tile_pair *pair, struct range steps, size_t block,
                               struct pair_sums *sums, struct fetch *fetch, const size_t n_w,
                               const size_t n_x)
{
    const unsigned char *x =
        pair->x + block * pair->x_stride + steps.begin * TILE_ROWS * pair->x_row;
    begin_sums(sums, steps.begin == 0, n_w, n_x);
    for (size_t i = steps.begin; i < steps.end; i++, x += TILE_ROWS * pair->x_row) {
        bool whole = i < pair->whole;
        const unsigned char *w = whole ? pair->w + i * TILE_BYTES : pair->tail;
        size_t w_stride = whole ? pair->w_stride : TILE_BYTES;
        HY_TILE_LOAD(4, w, w_stride);
        HY_TILE_LOAD(6, x, pair->x_row);
        HY_TILE_DOT_BF16(0, 4, 6);
        if (n_x == 2) {
            HY_TILE_LOAD(7, x + pair->x_stride, pair->x_row);
            HY_TILE_DOT_BF16(1, 4, 7);
        }
        if (n_w == 2) {
            HY_TILE_LOAD(5, w + TILE_ROWS * w_stride, w_stride);
            HY_TILE_DOT_BF16(2, 5, 6);
        }
        if (n_w == 2 && n_x == 2)
            HY_TILE_DOT_BF16(3, 5, 7);
        fetch_part(fetch);
    }
    end_sums(sums, n_w, n_x);
}

static void pair_steps(const struct tile_pair *pair, struct range steps, size_t n_blocks,
                       struct pair_sums *sums, struct fetch *fetch, const size_t n_w)
{
    size_t block = 0;
    for (; block + 2 <= n_blocks && n_w == 2; block += 2)
        tile_steps_bf16(pair, steps, block, sums + block, fetch, 2, 2);
    for (; block + 2 <= n_blocks; block += 2)
        tile_steps_bf16(pair, steps, block, sums + block, fetch, 1, 2);
    if (block < n_blocks && n_w == 2)
        tile_steps_bf16(pair, steps, block, sums + block, fetch, 2, 1);
    else if (block < n_blocks)
        tile_steps_bf16(pair, steps, block, sums + block, fetch, 1, 1);
}

/* The last elements of count rows of weights, fewer than a step has. */
static void copy_tail(const struct hy_matmul_args *args, const struct tile_pair *pair, size_t count,
                      unsigned char *tail)
{
    size_t bytes = args->k % STEP * 2;
    if (bytes == 0)
        return;
    memset(tail, 0, PAIR * TILE_BYTES);
    for (size_t row = 0; row < count; row++)
        memcpy(tail + row * TILE_BYTES, pair->w + row * pair->w_stride + pair->whole * TILE_BYTES,
               bytes);
}

/* count columns from j on of n_blocks blocks of rows from first on; next: columns that follow. */
static void pair_bf16(const struct hy_matmul_args *args, size_t j, size_t count, size_t first,
                      size_t n_blocks, size_t next)
{
    const struct hy_rounded *x = args->rounded;
    unsigned char tail[PAIR * TILE_BYTES];
    struct pair_sums sums[MOST_BLOCKS];
    struct tile_pair pair = {
        .w = weight_row(args, j, HYMBA_DTYPE_BF16),
        .w_stride = args->w_stride * 2,
        .whole = args->k / STEP,
        .tail = tail,
        .x = (const unsigned char *)x->data + first * x->block * x->stride * 2,
        .x_stride = x->block * x->stride * 2,
        .x_row = 4 * x->block,
    };
    size_t n_steps = blocks_of(args->k, STEP), length = n_steps;
    if (n_blocks > 2)
        length = blocks_of(n_steps, blocks_of(n_steps, K_STEPS));
    struct fetch fetch = fetch_of(pair.w + count * pair.w_stride, pair.w_stride,
                                  hy_min_size(next, PAIR), n_steps * blocks_of(n_blocks, 2));
    copy_tail(args, &pair, count, tail);
    for (size_t i = 0; i < n_steps; i += length) {
        struct range steps = {i, hy_min_size(n_steps, i + length)};
        pair_steps(&pair, steps, n_blocks, sums, &fetch, count > TILE_ROWS ? 2 : 1);
    }
    for (size_t block = 0; block < n_blocks; block++) {
        size_t t = (first + block) * x->block, n_rows = hy_min_size(args->m - t, x->block);
        for (size_t i = 0; i * TILE_ROWS < count; i++)
            store_sums(args, j + i * TILE_ROWS, hy_min_size(count - i * TILE_ROWS, TILE_ROWS), t,
                       n_rows, sums[block].tile[i]);
    }
}

static void matmul_tiles_bf16(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    const struct hy_rounded *x = args->rounded;
    size_t n_blocks = blocks_of(args->m, x->block);
    size_t at_once = blocks_at_once(x->block * x->stride * 2);
    fetch_all(weight_row(args, begin, HYMBA_DTYPE_BF16), args->w_stride * 2,
              hy_min_size(end - begin, PAIR));
    for (size_t first = 0; first < n_blocks; first += at_once) {
        for (size_t j = begin; j < end; j += PAIR) {
            size_t count = hy_min_size(end - j, PAIR);
            if (j == begin || count < PAIR)
                configure_bf16(count, x->block);
            pair_bf16(args, j, count, first, hy_min_size(n_blocks - first, at_once),
                      end - j - count);
        }
    }
    HY_TILE_RELEASE();
}
