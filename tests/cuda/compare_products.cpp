#include "compare_parts.h"

extern "C" {
#include "kernel/ref.h"
}

/* The same matrix in bf16, as which a device multiplies quantised weights with rounded rows. */
static bytes as_bf16(bench &b, const struct weights &w, size_t n, size_t k)
{
    const struct hy_matrix matrix = {w.data.data(), w.dtype, n, k, w.scales.data(), w.group,
                                     false};
    floats values(n * k);
    for (size_t j = 0; j < n; j++)
        hy_ref_dequantise_row(&matrix, j, &values[j * k]);
    return b.as(values, HYMBA_DTYPE_BF16);
}

/* The weights of a column as the numbers that they are. */
static floats column_of(const struct hy_matmul_args *args, size_t j)
{
    const struct hy_matrix matrix = {args->w, args->dtype, args->n, args->k, args->w_scales,
                                     args->group, false};
    const unsigned char *row =
        (const unsigned char *)args->w + j * hy_row_bytes(args->dtype, args->w_stride);
    floats w(args->k);
    if (hy_is_quantised(args->dtype))
        hy_ref_dequantise_row(&matrix, j, w.data());
    else
        hy_row_to_f32(row, args->dtype, w.data(), args->k);
    return w;
}

/*
 * How far each result may be from generic C's, whatever the order of its sum; args as generic C has
 * them, before the product. Let s be the sum of all magnitudes, of the products and of what they
 * are added to, and e = 2^-23.
 *
 * f32: every addition of either rounds to nearest, by e/2 of a partial sum, which is at most s:
 * together (k + 2) e s.
 *
 * 16 bits: tensor cores add b products and the sum so far at once. They shift all to the greatest
 * exponent and cut off what is below 24 bits, so that each of the b + 1 loses less than e s, and
 * cut the sum to f32, once more e s. b is 4 on sm_70, 8 on sm_80 and 16 on sm_90 (M. Fasi,
 * N. Higham, M. Mikaitis, S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer
 * Science 7:e330, 2021; F. Khattak, M. Mikaitis, Accurate models of NVIDIA tensor cores,
 * arXiv:2512.07004). With b of 4 or more that is (b + 2) k / b e s, at most 1.5 k e s, and
 * generic C's (k + 2) e/2 s beside it.
 */
static floats product_tolerances(const struct hy_matmul_args *args)
{
    const float rounding = args->rounded ? 2.0f : 1.0f;
    floats tolerances(args->m * args->y_stride), x(args->k);
    for (size_t j = 0; j < args->n; j++) {
        const floats w = column_of(args, j);
        for (size_t t = 0; t < args->m; t++) {
            float sum = args->accumulate ? fabsf(args->y[t * args->y_stride + j]) : 0.0f;
            const float *row = args->x + t * args->x_stride;
            if (args->rounded) {
                const uint16_t *data = (const uint16_t *)args->rounded->data;
                hy_row_to_f32(data + t * args->rounded->stride, HYMBA_DTYPE_BF16, x.data(),
                              args->k);
                row = x.data();
            }
            sum += args->bias ? fabsf(args->bias[j]) : 0.0f;
            for (size_t i = 0; i < args->k; i++)
                sum += fabsf(w[i] * row[i]);
            tolerances[t * args->y_stride + j] =
                rounding * (float)(args->k + 2) * 0x1p-23f * sum;
        }
    }
    return tolerances;
}

static void compare_product(bench &b, hymba_dtype dtype, bool rounded, size_t m)
{
    size_t n = 1 + b.below(40);
    size_t k = hy_is_quantised(dtype) ? 32 * (1 + b.below(20))
                                      : 32 * (1 + b.below(4)) - 8 * b.below(4);
    size_t stride = rounded ? hy_padded_row(k) : k + 4 * b.below(2), y_stride = n + b.below(5);
    struct weights w = some_weights(b, dtype, n, k);
    size_t room = b.coin() ? 0 : 1 + b.below(200);
    floats x = b.some(m * stride), bias = b.some(n), y = b.some(m * y_stride);
    x.resize((m + room) * stride, NAN);
    y.resize((m + room) * y_stride, NAN);
    std::vector<uint16_t> rows(x.size());
    hy_row_from_f32(x.data(), HYMBA_DTYPE_BF16, rows.data(), x.size());
    struct hy_rounded rounded_x = {};
    rounded_x.dtype = HYMBA_DTYPE_BF16;
    rounded_x.data = rows.data();
    rounded_x.stride = stride;
    float *on_device = b.put(y);
    y.resize(m * y_stride);
    struct hy_matmul_args args = {};
    args.x = x.data();
    args.x_stride = stride;
    args.rounded = rounded ? &rounded_x : NULL;
    args.m = m;
    args.n = n;
    args.k = k;
    args.w = w.data.data();
    args.dtype = dtype;
    args.w_stride = k;
    args.w_scales = w.scales.data();
    args.group = w.group;
    args.bias = b.coin() ? bias.data() : NULL;
    args.accumulate = b.coin();
    args.y = y.data();
    args.y_stride = y_stride;
    bytes narrow;
    if (rounded && hy_is_quantised(dtype)) {
        narrow = as_bf16(b, w, n, k);
        args.w = narrow.data();
        args.dtype = HYMBA_DTYPE_BF16;
    }
    const floats tolerances = product_tolerances(&args);
    hy_ref_matmul(&args, 0, n, NULL);
    args.dtype = dtype;
    args.room = room;
    args.x = b.put(x);
    rounded_x.data = b.put(rows);
    args.w = b.put(w.data);
    args.w_scales = b.put(w.scales);
    args.bias = args.bias ? b.put(bias) : NULL;
    args.y = on_device;
    b.ops->matmul(b.device, &args);
    b.agree("a product", b.get(args.y, m * y_stride), y, tolerances);
}

void compare_products(bench &b)
{
    for (size_t m : {1 + b.below(30), (size_t)128, 129 + b.below(30)}) {
        for (hymba_dtype dtype : float_types)
            compare_product(b, dtype, false, m);
        compare_product(b, HYMBA_DTYPE_BF16, true, m);
        for (hymba_dtype dtype : {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4})
            for (bool rounded : {false, true})
                compare_product(b, dtype, rounded, m);
    }
}

/* Rows alone or few, and the same rows among others in any place: bit by bit. */
static void compare_neighbours_of(bench &b, hymba_dtype dtype, size_t m, size_t n, size_t k)
{
    const size_t stride = hy_padded_row(k);
    floats x = b.some(m * stride);
    std::vector<uint16_t> rows(m * stride);
    for (size_t i = 0; i < x.size(); i++)
        x[i] = i % stride < k ? x[i] : 0.0f;
    hy_row_from_f32(x.data(), HYMBA_DTYPE_BF16, rows.data(), x.size());
    struct weights w = some_weights(b, dtype, n, k);
    struct hy_rounded rounded = {};
    rounded.dtype = HYMBA_DTYPE_BF16;
    uint16_t *rows_on_device = b.put(rows);
    float *x_on_device = b.put(x), *y = (float *)b.take(m * n * sizeof(float));
    rounded.data = rows_on_device;
    rounded.stride = stride;
    struct hy_matmul_args args = {};
    args.x = x_on_device;
    args.x_stride = stride;
    args.rounded = dtype == HYMBA_DTYPE_F32 ? NULL : &rounded;
    args.m = m;
    args.n = args.y_stride = n;
    args.k = args.w_stride = k;
    args.w = b.put(w.data);
    args.dtype = dtype;
    args.w_scales = b.put(w.scales);
    args.group = w.group;
    args.y = y;
    b.ops->matmul(b.device, &args);
    floats together = b.get((const float *)y, m * n);
    const struct {
        size_t row, count;
    } parts[] = {
        {0, 1},            {m - 1, 1},   {b.below(m), 1},         {m / 2 - 1, 2},
        {b.below(20), 12}, {m - 20, 20}, {b.below(m / 2), m / 5}, {m - m / 3, m / 3},
    };
    for (const auto &part : parts) {
        args.m = part.count;
        args.x = x_on_device + part.row * stride;
        args.room = b.coin() ? m - part.row - part.count : 0; /* which changes nothing */
        rounded.data = rows_on_device + part.row * stride;
        b.ops->matmul(b.device, &args);
        floats apart = b.get((const float *)y, part.count * n);
        if (memcmp(apart.data(), &together[part.row * n], apart.size() * sizeof(float)) != 0)
            b.fail("rows %zu to %zu have other bits apart than among %zu rows", part.row,
                   part.row + part.count - 1, m);
    }
}

void compare_neighbours(bench &b)
{
    for (hymba_dtype dtype : {HYMBA_DTYPE_F32, HYMBA_DTYPE_BF16})
        compare_neighbours_of(b, dtype, 300, 24 + 8 * b.below(4), 256);
    for (hymba_dtype dtype : {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4})
        compare_neighbours_of(b, dtype, 300, 24 + 8 * b.below(4), 1312);
    compare_neighbours_of(b, HYMBA_DTYPE_INT4, 40, 4100, 96);
}

/* The products of a layer of the 1.5B model, and its head; feed-forward columns as a rank of two
 * has them, too. */
void compare_neighbours_of_model(bench &b)
{
    static const struct {
        size_t n, k;
    } shapes[] = {{8960, 1600}, {8000, 1600}, {132, 3200}, {3200, 100}, {1600, 3200}, {5504, 1600},
                  {1600, 5504}, {2752, 1600}, {1600, 2752}, {32001, 1600}};
    for (const auto &shape : shapes)
        compare_neighbours_of(b, HYMBA_DTYPE_BF16, 300, shape.n, shape.k);
    for (hymba_dtype dtype : {HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4}) {
        compare_neighbours_of(b, dtype, 300, 8960, 1600);
        compare_neighbours_of(b, dtype, 300, 1600, 5504);
    }
    compare_neighbours_of(b, HYMBA_DTYPE_F32, 300, 132, 3200);
    compare_neighbours_of(b, HYMBA_DTYPE_F32, 300, 1600, 3200);
}
