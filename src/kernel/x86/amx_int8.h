/*
 * Products of quantised weights and int8 activations by tiles. The integer sums of a group are
 * exact, and the f32 operations those of quantised_body.h in the same order: so is the result.
 *
 * A group's sums of 16 columns and 16 rows leave the tile for the vector units, which take some 32
 * cycles to scale and add them (four operations on each of 16 vectors, two at a time), as long as
 * the loads of a group of 64: one line of weights, activations, sums and scales for each. The
 * product itself takes 16; larger groups come nearer to it. Four groups are under way at once, and
 * the sums of the four before are scaled meanwhile.
 */

enum {
    GROUPS = 4,           /* that are multiplied at once */
    BLOCK_LENGTH = 1024,  /* elements of k that 16 columns keep in the nearest cache, about */
    ROW_VECTORS = TILE_ROWS / LANES, /* that one column's sums take */
};

/* 16 rows of weights at most. */
struct tile_panel {
    const unsigned char *w; /* in place, or unpacked: [k / 64][TILE_ROWS][TILE_BYTES] */
    size_t stride;          /* bytes between rows */
    const float *scales;    /* [n_groups][TILE_ROWS] */
};

/* Where the parts of the scratch memory lie. */
struct tile_scratch {
    unsigned char *unpacked;
    float *scales;
};

static struct tile_scratch divide_tile_scratch(void *scratch, size_t k)
{
    unsigned char *bytes = scratch;
    size_t padded = blocks_of(k, TILE_BYTES) * TILE_BYTES;
    return (struct tile_scratch){bytes, (float *)(void *)(bytes + TILE_ROWS * padded)};
}

/* Elements of a group that a tile product takes. */
HY_INLINE size_t step_of(size_t group)
{
    return group % TILE_BYTES == 0 ? TILE_BYTES : TILE_BYTES / 2;
}

static void configure_int8(size_t count, size_t block, size_t step)
{
    struct tile_config config = {.palette = 1};
    for (size_t i = 0; i < TILES; i++) {
        config.rows[i] = (uint8_t)count;
        config.row_bytes[i] = (uint16_t)(4 * block);
    }
    config.row_bytes[4] = config.row_bytes[5] = (uint16_t)step;
    config.rows[6] = config.rows[7] = (uint8_t)(step / 4);
    HY_TILE_CONFIGURE(&config);
}

/* ------------------------------------------------------------- weights */

/* Scales of count rows as f32; up to seven groups more than n_groups are written. */
static void unpack_tile_scales(const unsigned char *rows, size_t n_groups, size_t count,
                               float *scales)
{
    for (size_t g = 0; g < n_groups; g += 8) {
        unsigned char copy[TILE_ROWS * 16] = {0};
        size_t stride = n_groups * 2, bytes = hy_min_size(n_groups - g, 8) * 2;
        const unsigned char *eight = rows + g * 2;
        if (count < TILE_ROWS || bytes < 16) {
            for (size_t row = 0; row < count; row++)
                memcpy(copy + row * 16, eight + row * stride, bytes);
            eight = copy;
            stride = 16;
        }
        for (size_t first = 0; first < TILE_ROWS; first += LANES) {
            ivec v[4];
            float *out = scales + g * TILE_ROWS + first;
            load_turned(eight + first * stride, stride, v);
            HY_UNROLL
            for (size_t i = 0; i < 4; i++, out += 2 * TILE_ROWS) {
                vec_store(out, vec_from_low_bf16(v[i]));
                vec_store(out + TILE_ROWS, vec_from_high_bf16(v[i]));
            }
        }
    }
}

/* A byte for each element, in the order of split activations. */
static void unpack_tile_nibbles(const unsigned char *rows, size_t k, size_t count,
                                unsigned char *out)
{
    for (size_t i = 0; i < k; i += TILE_BYTES) {
        for (size_t row = 0; row < count; row++, out += TILE_BYTES) {
            const unsigned char *packed = rows + (row * k + i) / 2;
            unsigned char last[TILE_BYTES / 2] = {0};
            if (k - i < TILE_BYTES)
                packed = memcpy(last, packed, (k - i) / 2);
            HY_UNROLL
            for (size_t j = 0; j < TILE_BYTES; j += 4 * LANES)
                ivec_store(out + j, ivec_nibbles(packed + j / 2));
        }
        out += (TILE_ROWS - count) * TILE_BYTES;
    }
}

static struct tile_panel find_tile_panel(const struct hy_matmul_args *args, size_t j, size_t count,
                                         const struct tile_scratch *scratch)
{
    size_t n_groups = args->k / args->group, row_bytes = hy_row_bytes(args->dtype, args->k);
    const unsigned char *w = (const unsigned char *)args->w + j * row_bytes;
    unpack_tile_scales((const unsigned char *)args->w_scales + j * n_groups * 2, n_groups, count,
                       scratch->scales);
    if (args->dtype == HYMBA_DTYPE_INT8)
        return (struct tile_panel){w, row_bytes, scratch->scales};
    unpack_tile_nibbles(w, args->k, count, scratch->unpacked);
    return (struct tile_panel){scratch->unpacked, TILE_BYTES, scratch->scales};
}

HY_INLINE const unsigned char *tile_weights(const struct tile_panel *panel, size_t i,
                                            const hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_INT8)
        return panel->w + i;
    return panel->w + i / TILE_BYTES * (TILE_ROWS * TILE_BYTES) + i % TILE_BYTES;
}

/* ------------------------------------------------------------- products */

/* Integer sums of groups. */
struct group_sums {
    int32_t tile[GROUPS][TILE_FLOATS];
};

/* A block of rows that meets a panel. */
struct tile_rows_int8 {
    const unsigned char *x;
    const float *scales; /* [n_groups][block] */
    const int32_t *sums;
    size_t block;
};

/* Four groups from element i on. */
HY_INLINE void multiply_four(const struct tile_panel *panel, const struct tile_rows_int8 *rows,
                             size_t i, size_t group, struct group_sums *sums,
                             const hymba_dtype dtype)
{
    const size_t step = step_of(group), x_row = 4 * rows->block;
    HY_TILE_ZERO(0);
    HY_TILE_ZERO(1);
    HY_TILE_ZERO(2);
    HY_TILE_ZERO(3);
    for (size_t end = i + group; i < end; i += step) {
        HY_TILE_LOAD(4, tile_weights(panel, i, dtype), panel->stride);
        HY_TILE_LOAD(6, rows->x + i * rows->block, x_row);
        HY_TILE_DOT_INT8(0, 4, 6);
        HY_TILE_LOAD(5, tile_weights(panel, i + group, dtype), panel->stride);
        HY_TILE_LOAD(7, rows->x + (i + group) * rows->block, x_row);
        HY_TILE_DOT_INT8(1, 5, 7);
        HY_TILE_LOAD(4, tile_weights(panel, i + 2 * group, dtype), panel->stride);
        HY_TILE_LOAD(6, rows->x + (i + 2 * group) * rows->block, x_row);
        HY_TILE_DOT_INT8(2, 4, 6);
        HY_TILE_LOAD(5, tile_weights(panel, i + 3 * group, dtype), panel->stride);
        HY_TILE_LOAD(7, rows->x + (i + 3 * group) * rows->block, x_row);
        HY_TILE_DOT_INT8(3, 5, 7);
    }
    HY_TILE_STORE(0, sums->tile[0], TILE_BYTES);
    HY_TILE_STORE(1, sums->tile[1], TILE_BYTES);
    HY_TILE_STORE(2, sums->tile[2], TILE_BYTES);
    HY_TILE_STORE(3, sums->tile[3], TILE_BYTES);
}

/* One group from element i on. */
HY_INLINE void multiply_one(const struct tile_panel *panel, const struct tile_rows_int8 *rows,
                            size_t i, size_t group, int32_t *sums, const hymba_dtype dtype)
{
    const size_t step = step_of(group), x_row = 4 * rows->block;
    HY_TILE_ZERO(0);
    for (size_t end = i + group; i < end; i += step) {
        HY_TILE_LOAD(4, tile_weights(panel, i, dtype), panel->stride);
        HY_TILE_LOAD(6, rows->x + i * rows->block, x_row);
        HY_TILE_DOT_INT8(0, 4, 6);
    }
    HY_TILE_STORE(0, sums, TILE_BYTES);
}

/* Adds the scaled sums of group g; totals: [column][row]. */
HY_INLINE void add_scaled(vec totals[TILE_ROWS * ROW_VECTORS], const int32_t *sums,
                          const struct tile_panel *panel, const struct tile_rows_int8 *rows,
                          size_t g, const int32_t zero)
{
    const float *scales = panel->scales + g * TILE_ROWS;
    int32_t offsets[TILE_ROWS] = {0};
    for (size_t row = 0; row < rows->block; row++)
        offsets[row] = -zero * rows->sums[g * rows->block + row];
    HY_UNROLL
    for (size_t part = 0; part < ROW_VECTORS; part++) {
        size_t first = part * LANES;
        if (first >= rows->block)
            break;
        vec x_scales = vec_load_n(rows->scales + g * rows->block + first,
                                  lanes_at(first, rows->block));
        ivec offset = ivec_load(offsets + first);
        HY_UNROLL
        for (size_t column = 0; column < TILE_ROWS; column++) {
            vec *total = &totals[column * ROW_VECTORS + part];
            vec scale = vec_mul(vec_all(scales[column]), x_scales);
            ivec products = ivec_add(ivec_load(sums + column * TILE_ROWS + first), offset);
            *total = vec_fma(vec_from_ints(products), scale, *total);
        }
    }
}

/* Adds what groups [begin, end) contribute. */
HY_INLINE void add_groups(const struct tile_panel *panel, const struct tile_rows_int8 *rows,
                          struct range groups, size_t group, float *sums, struct fetch *fetch,
                          const hymba_dtype dtype)
{
    const int32_t zero = zero_point(dtype);
    struct group_sums products[2];
    vec totals[TILE_ROWS * ROW_VECTORS];
    size_t g = groups.begin, which = 0;
    HY_UNROLL
    for (size_t i = 0; i < TILE_ROWS * ROW_VECTORS; i++)
        totals[i] = groups.begin == 0 ? vec_zero() : vec_load(sums + i * LANES);
    if (g + GROUPS <= groups.end)
        multiply_four(panel, rows, g * group, group, &products[0], dtype);
    for (; g + GROUPS <= groups.end; g += GROUPS, which ^= 1) {
        if (g + 2 * GROUPS <= groups.end)
            multiply_four(panel, rows, (g + GROUPS) * group, group, &products[which ^ 1], dtype);
        for (size_t i = 0; i < GROUPS; i++) {
            add_scaled(totals, products[which].tile[i], panel, rows, g + i, zero);
            fetch_part(fetch);
        }
    }
    for (; g < groups.end; g++) {
        multiply_one(panel, rows, g * group, group, products[0].tile[0], dtype);
        add_scaled(totals, products[0].tile[0], panel, rows, g, zero);
        fetch_part(fetch);
    }
    HY_UNROLL
    for (size_t i = 0; i < TILE_ROWS * ROW_VECTORS; i++)
        vec_store(sums + i * LANES, totals[i]);
}

/* Tiles of columns from j on: one for each of n_blocks blocks of rows from first on. */
HY_INLINE void panel_int8(const struct hy_matmul_args *args, size_t j, size_t count,
                          const struct tile_scratch *scratch, struct range blocks, size_t next,
                          const hymba_dtype dtype)
{
    const struct hy_rounded *x = args->rounded;
    float sums[MOST_BLOCKS][TILE_FLOATS];
    size_t group = args->group, n_groups = args->k / group, n_blocks = blocks.end - blocks.begin;
    size_t row_bytes = hy_row_bytes(dtype, args->k);
    const unsigned char *w = (const unsigned char *)args->w + j * row_bytes;
    struct tile_panel panel = find_tile_panel(args, j, count, scratch);
    struct fetch fetch = fetch_of(w + count * row_bytes, row_bytes, hy_min_size(next, TILE_ROWS),
                                  n_groups * n_blocks);
    size_t length = hy_max_size(BLOCK_LENGTH / group / GROUPS * GROUPS, GROUPS);
    if (n_blocks == 1)
        length = n_groups;
    for (size_t g = 0; g < n_groups; g += length) {
        struct range groups = {g, hy_min_size(n_groups, g + length)};
        for (size_t i = 0; i < n_blocks; i++) {
            size_t t = (blocks.begin + i) * x->block;
            struct tile_rows_int8 rows = {(const unsigned char *)x->data + t * x->stride,
                                          x->scales + t * n_groups, x->sums + t * n_groups,
                                          x->block};
            add_groups(&panel, &rows, groups, group, sums[i], &fetch, dtype);
        }
    }
    for (size_t i = 0; i < n_blocks; i++) {
        size_t t = (blocks.begin + i) * x->block;
        store_sums(args, j, count, t, hy_min_size(args->m - t, x->block), sums[i]);
    }
}

HY_INLINE void matmul_tiles_int8_as(const struct hy_matmul_args *args, size_t begin, size_t end,
                                    void *scratch, const hymba_dtype dtype)
{
    const struct hy_rounded *x = args->rounded;
    struct tile_scratch parts = divide_tile_scratch(scratch, args->k);
    size_t n_blocks = blocks_of(args->m, x->block), row_bytes = hy_row_bytes(dtype, args->k);
    size_t at_once = blocks_at_once(x->block * x->stride);
    fetch_all((const unsigned char *)args->w + begin * row_bytes, row_bytes,
              hy_min_size(end - begin, TILE_ROWS));
    for (size_t first = 0; first < n_blocks; first += at_once) {
        struct range blocks = {first, hy_min_size(n_blocks, first + at_once)};
        for (size_t j = begin; j < end; j += TILE_ROWS) {
            size_t count = hy_min_size(end - j, TILE_ROWS);
            if (j == begin || count < TILE_ROWS)
                configure_int8(count, x->block, step_of(args->group));
            panel_int8(args, j, count, &parts, blocks, end - j - count, dtype);
        }
    }
    HY_TILE_RELEASE();
}

static void matmul_tiles_int8(const struct hy_matmul_args *args, size_t begin, size_t end,
                              void *scratch)
{
    if (args->dtype == HYMBA_DTYPE_INT8)
        matmul_tiles_int8_as(args, begin, end, scratch, HYMBA_DTYPE_INT8);
    else
        matmul_tiles_int8_as(args, begin, end, scratch, HYMBA_DTYPE_INT4);
}
