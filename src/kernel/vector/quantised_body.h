/*
 * Quantised weights: rows of them as f32, and products with activations rounded to int8.
 *
 * LANES columns are computed together, a panel. For a group, each lane gets the exact integer sum
 * of one column; the sums are scaled and added up in the order of the groups. However the integers
 * are found, for one row straight from the weights, for several from an unpacked panel, the f32
 * operations are the same: so is the result.
 */
#include "kernel/ref.h"

/* Weights as ivec_dot takes them are greater by this than the values they stand for. */
HY_INLINE int32_t zero_point(const hymba_dtype dtype)
{
    return dtype == HYMBA_DTYPE_INT8 ? INT8_ZERO : 8;
}

#ifdef __AVX512F__
#include "kernel/x86/four_rows_avx512.h"
#endif

/* LANES rows of weights. */
struct panel {
    const unsigned char *w;   /* in place, or a copy with rows of zeros behind the last */
    size_t stride;            /* bytes between rows */
    const unsigned char *next; /* begin of the next panel's weights; NULL: none */
    const float *scales;      /* [n_groups][LANES] */
    const unsigned char *unpacked; /* [k / 4][LANES][4] */
    size_t first, count;      /* columns */
};

/* Where the parts of the scratch memory lie. */
struct panel_scratch {
    unsigned char *unpacked, *copy, *scale_copy;
    float *scales;
};

static struct panel_scratch divide_scratch(void *scratch, size_t k)
{
    unsigned char *bytes = scratch;
    size_t scale_count = k / 32 + 8;
    return (struct panel_scratch){
        .unpacked = bytes,
        .scales = (float *)(void *)(bytes + HY_PANEL_COLUMNS * k),
        .copy = bytes + HY_PANEL_COLUMNS * (k + scale_count * sizeof(float)),
        .scale_copy = bytes + HY_PANEL_COLUMNS * (2 * k + scale_count * sizeof(float)),
    };
}

/* Rows of bytes, with zeros in place of those behind the last: in place if there are enough. */
static const unsigned char *whole_rows(const unsigned char *rows, size_t stride, size_t count,
                                       unsigned char *copy)
{
    if (count == LANES)
        return rows;
    memcpy(copy, rows, count * stride);
    memset(copy + count * stride, 0, (LANES - count) * stride);
    return copy;
}

/* Scales of eight groups of a panel's rows, as f32. */
HY_INLINE void unpack_eight_scales(const unsigned char *rows, size_t stride, float *scales)
{
    ivec v[4];
    HY_UNROLL
    for (size_t i = 0; i < 4; i++)
        v[i] = ivec_load_rows(rows + i * stride, stride);
    ivec_transpose_quads(v);
    HY_UNROLL
    for (size_t i = 0; i < 4; i++) {
        vec_store(scales + 2 * i * LANES, vec_from_low_bf16(v[i]));
        vec_store(scales + (2 * i + 1) * LANES, vec_from_high_bf16(v[i]));
    }
}

static void unpack_scales(const unsigned char *rows, size_t n_groups, float *scales)
{
    size_t stride = n_groups * 2;
    if (n_groups < 8) {
        unsigned char few[LANES * 16] = {0};
        for (size_t row = 0; row < LANES; row++)
            memcpy(few + row * 16, rows + row * stride, stride);
        unpack_eight_scales(few, 16, scales);
        return;
    }
    for (size_t g = 0; g < n_groups; g += 8) {
        size_t begin = hy_min_size(g, n_groups - 8); /* the last eight may overlap others */
        unpack_eight_scales(rows + begin * 2, stride, scales + begin * LANES);
    }
}

static struct panel find_panel(const struct hy_matmul_args *args, size_t j, size_t end,
                               const struct panel_scratch *scratch)
{
    size_t count = lanes_at(j, end), n_groups = args->k / args->group;
    size_t row_bytes = hy_row_bytes(args->dtype, args->k);
    const unsigned char *w = (const unsigned char *)args->w + j * row_bytes;
    const unsigned char *scales = (const unsigned char *)args->w_scales + j * n_groups * 2;
    for (size_t i = 0; end - j >= 2 * LANES && i < LANES * n_groups * 2; i += 64)
        __builtin_prefetch(scales + LANES * n_groups * 2 + i, 0, 2);
    unpack_scales(whole_rows(scales, n_groups * 2, count, scratch->scale_copy), n_groups,
                  scratch->scales);
    return (struct panel){
        .w = whole_rows(w, row_bytes, count, scratch->copy),
        .stride = row_bytes,
        .next = end - j >= 2 * LANES ? w + LANES * row_bytes : NULL,
        .scales = scratch->scales,
        .unpacked = scratch->unpacked,
        .first = j,
        .count = count,
    };
}

/* The 16 bytes from offset on of each of the panel's rows: quad q of v[i] is of row 4 q + i. */
HY_INLINE void load_panel(const struct panel *panel, size_t offset, ivec v[4])
{
    HY_UNROLL
    for (size_t i = 0; i < 4; i++)
        v[i] = ivec_load_rows(panel->w + i * panel->stride + offset, panel->stride);
}

/* Asks for the part of the next panel that corresponds to bytes [offset, offset + 16) of each row
 * of this one: the hardware does not follow so many rows at once. */
HY_INLINE void fetch_next(const struct panel *panel, size_t offset)
{
    if (!panel->next)
        return;
    const unsigned char *p = panel->next + offset * LANES;
    HY_UNROLL
    for (size_t i = 0; i < 16 * LANES; i += 64)
        __builtin_prefetch(p + i, 0, 2);
}

/* Asks for the first panel, which no panel before it asks for. */
HY_INLINE void fetch_first(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    size_t row_bytes = hy_row_bytes(args->dtype, args->k);
    const unsigned char *p = (const unsigned char *)args->w + begin * row_bytes;
    for (size_t i = 0; i < row_bytes * lanes_at(begin, end); i += 64)
        __builtin_prefetch(p + i, 0, 2);
}

/* The integer sums of one group of a row and the panel's columns, without the offset. */
HY_INLINE ivec group_sums(const struct panel *panel, size_t begin, size_t group, const int8_t *x,
                          const hymba_dtype dtype)
{
    ivec sums[4] = {ivec_zero(), ivec_zero(), ivec_zero(), ivec_zero()};
    const size_t block = dtype == HYMBA_DTYPE_INT8 ? 16 : 32; /* elements in 16 bytes */
    for (size_t i = 0; i < group; i += block) {
        ivec v[4], first = ivec_all_quads(x + i);
        size_t offset = dtype == HYMBA_DTYPE_INT8 ? begin + i : (begin + i) / 2;
        load_panel(panel, offset, v);
        fetch_next(panel, offset);
        if (dtype == HYMBA_DTYPE_INT8) {
            HY_UNROLL
            for (size_t j = 0; j < 4; j++)
                sums[j] = ivec_dot(sums[j], ivec_int8(v[j]), first);
        } else {
            ivec second = ivec_all_quads(x + i + 16);
            HY_UNROLL
            for (size_t j = 0; j < 4; j++)
                sums[j] = ivec_dot(sums[j], ivec_low_nibbles(v[j]), first);
            HY_UNROLL
            for (size_t j = 0; j < 4; j++)
                sums[j] = ivec_dot(sums[j], ivec_high_nibbles(v[j]), second);
        }
    }
    ivec_transpose_quads(sums);
    return ivec_add(ivec_add(sums[0], sums[1]), ivec_add(sums[2], sums[3]));
}

HY_INLINE void store_columns(const struct hy_matmul_args *args, const struct panel *panel, size_t t,
                             vec sum)
{
    float *y = args->y + t * args->y_stride + panel->first;
    if (args->bias)
        sum = vec_add(sum, vec_load_n(args->bias + panel->first, panel->count));
    if (args->accumulate)
        sum = vec_add(vec_load_n(y, panel->count), sum);
    vec_store_n(y, sum, panel->count);
}

/* Row t, straight from the weights. */
HY_INLINE void panel_row(const struct hy_matmul_args *args, const struct panel *panel, size_t t,
                         const hymba_dtype dtype)
{
    const struct hy_rounded *rounded = args->rounded;
    const int8_t *x = (const int8_t *)rounded->data + t * rounded->stride;
    size_t group = args->group, n_groups = args->k / group;
    const float *x_scales = rounded->scales + t * n_groups;
    const int32_t *x_sums = rounded->sums + t * n_groups;
    vec sum = vec_zero();
    for (size_t g = 0; g < n_groups; g++) {
        ivec products = group_sums(panel, g * group, group, x + g * group, dtype);
        products = ivec_add(products, ivec_all(-zero_point(dtype) * x_sums[g]));
        vec scale = vec_mul(vec_load(panel->scales + g * LANES), vec_all(x_scales[g]));
        sum = vec_fma(vec_from_ints(products), scale, sum);
    }
    store_columns(args, panel, t, sum);
}

/* Puts the four bytes that a lane multiplies at once next to one another. */
HY_INLINE void unpack_panel(const struct panel *panel, size_t k, unsigned char *unpacked,
                            const hymba_dtype dtype)
{
    size_t row_bytes = hy_row_bytes(dtype, k);
    for (size_t offset = 0; offset < row_bytes; offset += 16) {
        ivec v[4];
        load_panel(panel, offset, v);
        ivec_transpose_quads(v);
        HY_UNROLL
        for (size_t i = 0; i < 4; i++) {
            ivec_store(unpacked, dtype == HYMBA_DTYPE_INT8 ? ivec_int8(v[i])
                                                           : ivec_low_nibbles(v[i]));
            unpacked += 4 * LANES;
        }
        HY_UNROLL
        for (size_t i = 0; dtype == HYMBA_DTYPE_INT4 && i < 4; i++) {
            ivec_store(unpacked, ivec_high_nibbles(v[i]));
            unpacked += 4 * LANES;
        }
    }
}

/* Rows t .. t + n_x from the unpacked panel; the first ones of a panel ask for the next panel. */
HY_INLINE void panel_rows(const struct hy_matmul_args *args, const struct panel *panel, size_t t,
                          const size_t n_x, const hymba_dtype dtype)
{
    const size_t packed = dtype == HYMBA_DTYPE_INT8 ? 16 : 32; /* elements in 16 bytes */
    const struct hy_rounded *rounded = args->rounded;
    const int8_t *x = (const int8_t *)rounded->data + t * rounded->stride;
    const unsigned char *w = panel->unpacked;
    size_t group = args->group, n_groups = args->k / group;
    vec sums[TILE_INT8];
    HY_UNROLL
    for (size_t row = 0; row < n_x; row++)
        sums[row] = vec_zero();
    for (size_t g = 0; g < n_groups; g++) {
        ivec products[TILE_INT8];
        HY_UNROLL
        for (size_t row = 0; row < n_x; row++)
            products[row] =
                ivec_all(-zero_point(dtype) * rounded->sums[(t + row) * n_groups + g]);
        for (size_t i = 0; t == 0 && i < group; i += packed)
            fetch_next(panel, (g * group + i) / packed * 16);
        for (size_t i = 0; i < group; i += 4, w += 4 * LANES) {
            ivec weights = ivec_load(w);
            HY_UNROLL
            for (size_t row = 0; row < n_x; row++)
                products[row] =
                    ivec_dot(products[row], weights, ivec_all_lanes(x + row * rounded->stride + i));
        }
        vec scales = vec_load(panel->scales + g * LANES);
        HY_UNROLL
        for (size_t row = 0; row < n_x; row++) {
            vec scale = vec_mul(scales, vec_all(rounded->scales[(t + row) * n_groups + g]));
            sums[row] = vec_fma(vec_from_ints(products[row]), scale, sums[row]);
        }
        x += group;
    }
    HY_UNROLL
    for (size_t row = 0; row < n_x; row++)
        store_columns(args, panel, t + row, sums[row]);
}

HY_INLINE void panel_all_rows(const struct hy_matmul_args *args, const struct panel *panel,
                              const hymba_dtype dtype)
{
    size_t t = 0;
    for (; t + TILE_INT8 <= args->m; t += TILE_INT8)
        panel_rows(args, panel, t, TILE_INT8, dtype);
    for (; TILE_INT8 > 8 && t + 8 <= args->m; t += 8)
        panel_rows(args, panel, t, 8, dtype);
    for (; t + 4 <= args->m; t += 4)
        panel_rows(args, panel, t, 4, dtype);
    for (; t + 2 <= args->m; t += 2)
        panel_rows(args, panel, t, 2, dtype);
    for (; t < args->m; t++)
        panel_rows(args, panel, t, 1, dtype);
}

HY_INLINE void matmul_int8_as(const struct hy_matmul_args *args, size_t begin, size_t end,
                              void *scratch, const hymba_dtype dtype)
{
    struct panel_scratch parts = divide_scratch(scratch, args->k);
#ifdef __AVX512F__
    if (args->m == 1)
        begin = one_row(args, begin, end, parts.scales, dtype);
#endif
    fetch_first(args, begin, end);
    for (size_t j = begin; j < end; j += LANES) {
        struct panel panel = find_panel(args, j, end, &parts);
        if (args->m == 1) {
            panel_row(args, &panel, 0, dtype);
        } else {
            unpack_panel(&panel, args->k, parts.unpacked, dtype);
            panel_all_rows(args, &panel, dtype);
        }
    }
}

static void matmul_int8(const struct hy_matmul_args *args, size_t begin, size_t end, void *scratch)
{
    if (args->dtype == HYMBA_DTYPE_INT8)
        matmul_int8_as(args, begin, end, scratch, HYMBA_DTYPE_INT8);
    else
        matmul_int8_as(args, begin, end, scratch, HYMBA_DTYPE_INT4);
}

/* ------------------------------------------------------------- f32 rows */

/* A group of a row, as hy_ref_dequantise_row has it. */
HY_INLINE void dequantise_bytes(const unsigned char *bytes, size_t n, float zero, float scale,
                                float *y)
{
    for (size_t i = 0; i < n; i += LANES)
        vec_store(y + i, vec_mul(vec_sub(vec_from_bytes(bytes + i), vec_all(zero)),
                                 vec_all(scale)));
}

static void dequantise_row(const struct hy_matrix *matrix, size_t row, float *y)
{
    size_t n = matrix->columns, group = matrix->group, n_groups = n / group;
    const unsigned char *data =
        (const unsigned char *)matrix->data + row * hy_row_bytes(matrix->dtype, n);
    for (size_t g = 0; g < n_groups; g++) {
        float scale = hy_ref_load(matrix->scales, HYMBA_DTYPE_BF16, row * n_groups + g);
        for (size_t i = g * group; i < (g + 1) * group; i += 32) {
            unsigned char nibbles[32];
            if (matrix->dtype == HYMBA_DTYPE_INT8) {
                dequantise_bytes(data + i, 32, 128.0f, scale, y + i);
                continue;
            }
            for (size_t pair = 0; pair < 16; pair++) {
                nibbles[2 * pair] = data[i / 2 + pair] & 15;
                nibbles[2 * pair + 1] = data[i / 2 + pair] >> 4;
            }
            dequantise_bytes(nibbles, 32, 8.0f, scale, y + i);
        }
    }
}

/* f32 activations: TILE_W rows of weights at a time as f32. */
static void matmul_dequantised(const struct hy_matmul_args *args, size_t begin, size_t end,
                               float *rows)
{
    struct hy_matrix matrix = {args->w, args->dtype, end, args->k, args->w_scales, args->group,
                               false};
    struct hy_matmul_args part = *args;
    part.dtype = HYMBA_DTYPE_F32;
    part.w = rows;
    for (size_t j = begin; j < end; j += TILE_W) {
        part.n = hy_min_size(end - j, TILE_W);
        for (size_t row = 0; row < part.n; row++)
            dequantise_row(&matrix, j + row, rows + row * args->k);
        part.y = args->y + j;
        part.bias = args->bias ? args->bias + j : NULL;
        matmul_f32(&part, 0, part.n);
    }
}

/* ------------------------------------------------------------- rounding */

static float greatest_magnitude(const float *x, size_t n)
{
    ivec magnitudes = ivec_zero();
    for (size_t i = 0; i < n; i += LANES)
        magnitudes = ivec_max(magnitudes, ivec_magnitudes(vec_load(x + i)));
    return hy_bits_to_f32((uint32_t)ivec_greatest(magnitudes));
}

/* Rounds 32 elements; their sums in lanes. */
HY_INLINE ivec round_32(const float *x, float factor, bool split, int8_t *values)
{
    ivec sum = ivec_zero();
    HY_UNROLL
    for (size_t i = 0; i < 32; i += LANES) {
        ivec rounded = ivec_from_vec(vec_mul(vec_load(x + i), vec_all(factor)));
        sum = ivec_add(sum, rounded);
        ivec_store_bytes(values + i, rounded);
    }
    if (split) {
        int8_t block[32];
        memcpy(block, values, sizeof block);
        for (size_t pair = 0; pair < 16; pair++) {
            values[pair] = block[2 * pair];
            values[16 + pair] = block[2 * pair + 1];
        }
    }
    return sum;
}

static void round_group(const struct hy_rounded *y, size_t index, const float *x, int8_t *values)
{
    float greatest = greatest_magnitude(x, y->group);
    y->scales[index] = greatest / 127.0f;
    y->sums[index] = 0;
    if (!hy_can_round(greatest)) {
        memset(values, 0, y->group);
        return;
    }
    ivec sum = ivec_zero();
    for (size_t i = 0; i < y->group; i += 32)
        sum = ivec_add(sum, round_32(x + i, 127.0f / greatest, y->split, values + i));
    y->sums[index] = ivec_sum(sum);
}

static void round_to_bf16(const struct hy_rounded *y, const float *x, size_t n, uint16_t *values)
{
    size_t padded = (n + 31) / 32 * 32;
    for (size_t i = 0; i < n; i += LANES) {
        size_t count = lanes_at(i, n);
        vec_store_as_n((unsigned char *)(values + i), vec_load_n(x + i, count), y->dtype, count);
    }
    memset(values + n, 0, (padded - n) * sizeof *values);
}

static void round_rows(const struct hy_round_args *args, size_t begin, size_t end)
{
    const struct hy_rounded *y = &args->y;
    for (size_t t = begin; t < end; t++) {
        const float *x = args->x + t * args->x_stride;
        if (y->dtype == HYMBA_DTYPE_BF16) {
            round_to_bf16(y, x, args->n, (uint16_t *)y->data + t * y->stride);
            continue;
        }
        size_t n_groups = args->n / y->group;
        for (size_t g = 0; g < n_groups; g++)
            round_group(y, t * n_groups + g, x + g * y->group,
                        (int8_t *)y->data + t * y->stride + g * y->group);
    }
}

static void matmul(const struct hy_matmul_args *args, size_t begin, size_t end, void *scratch)
{
    if (args->rounded && args->rounded->dtype == HYMBA_DTYPE_INT8)
        matmul_int8(args, begin, end, scratch);
    else if (args->rounded)
        matmul_bf16(args, begin, end);
    else if (hy_is_quantised(args->dtype))
        matmul_dequantised(args, begin, end, scratch);
    else
        matmul_f32(args, begin, end);
}
