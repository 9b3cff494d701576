#include "compare_parts.h"

extern "C" {
#include "kernel/ref.h"
}

static const hymba_dtype weight_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                                           HYMBA_DTYPE_INT8, HYMBA_DTYPE_INT4};

void compare_embed(bench &b)
{
    for (hymba_dtype dtype : weight_types) {
        size_t rows = 1 + b.below(9), vocabulary = 1 + b.below(40);
        size_t n = hy_is_quantised(dtype) ? 32 * (1 + b.below(5)) : 1 + b.below(150);
        struct weights table = some_weights(b, dtype, vocabulary, n);
        std::vector<int32_t> ids(rows);
        for (int32_t &id : ids)
            id = (int32_t)b.below(vocabulary);
        floats y(rows * n);
        struct hy_embed_args args = {
            ids.data(),
            {table.data.data(), dtype, vocabulary, n, table.scales.data(), table.group,
             false},
            y.data()};
        hy_ref_embed(&args, 0, rows);
        args.ids = b.put(ids);
        args.table.data = b.put(table.data);
        args.table.scales = b.put(table.scales);
        args.y = (float *)b.take(y.size() * sizeof(float));
        b.ops->embed(b.device, &args, rows);
        b.agree("an embedding", b.get(args.y, y.size()), y, 0.0f);
    }
}

static void compare_rms_norm_of(bench &b, bool rounds, bool wants_floats)
{
    size_t rows = 1 + b.below(9), n = 1 + b.below(400), x_stride = n + b.below(9);
    size_t y_stride = n + b.below(9);
    floats x = b.some(rows * x_stride), weight = b.some(n), y = b.some(rows * y_stride);
    float *on_device = b.put(y);
    struct rounded_rows rounded = some_rounded(b, rows, n);
    struct hy_rms_norm_args args = {x.data(), x_stride, weight.data(), n, 1e-6f,
                                    y.data(), y_stride, {}};
    hy_ref_rms_norm(&args, 0, rows);
    args.x = b.put(x);
    args.weight = b.put(weight);
    args.y = wants_floats ? on_device : NULL;
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->rms_norm(b.device, &args, rows);
    if (wants_floats)
        b.agree("a norm", b.get((const float *)on_device, y.size()), y, 1e-5f);
    if (rounds)
        agree_rounded(b, "a norm", rounded, y, y_stride, rows);
}

void compare_rms_norm(bench &b)
{
    compare_rms_norm_of(b, false, true);
    compare_rms_norm_of(b, true, true);
    compare_rms_norm_of(b, true, false);
}

static void compare_norm_parts_of(bench &b, bool rounds)
{
    size_t rows = 1 + b.below(9), sizes[] = {1 + b.below(150), b.below(20), 1 + b.below(300)};
    size_t n = sizes[0] + sizes[1] + sizes[2], stride = n + b.below(9);
    floats x = b.some(rows * stride), weights[] = {b.some(sizes[0]), b.some(sizes[1] + 1),
                                                  b.some(sizes[2])};
    struct hy_norm_parts_args args = {};
    float *on_device = b.put(x);
    struct rounded_rows rounded = some_rounded(b, rows, sizes[0]);
    args.x_stride = stride;
    args.epsilon = 1e-6f;
    for (size_t i = 0, first = 0; i < HY_NORM_PARTS; first += sizes[i++]) {
        struct hy_rms_norm_args norm = {&x[first], stride, weights[i].data(), sizes[i], 1e-6f,
                                        &x[first], stride, {}};
        if (sizes[i] > 0)
            hy_ref_rms_norm(&norm, 0, rows);
        args.parts[i].weight = b.put(weights[i]);
        args.parts[i].n = sizes[i];
    }
    args.x = on_device;
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->norm_parts(b.device, &args, rows);
    floats actual = b.get((const float *)on_device, x.size());
    for (size_t i = 0; i < x.size() && rounds; i++) /* which need not have been written */
        if (i % stride < sizes[0])
            actual[i] = x[i];
    b.agree("norms of parts", actual, x, 1e-5f);
    if (rounds)
        agree_rounded(b, "norms of parts", rounded, x, stride, rows);
}

void compare_norm_parts(bench &b)
{
    compare_norm_parts_of(b, false);
    compare_norm_parts_of(b, true);
}

void compare_round(bench &b)
{
    size_t rows = 1 + b.below(9), n = 1 + b.below(150), x_stride = n + b.below(9);
    size_t stride = hy_padded_row(n);
    floats x = b.some(rows * x_stride);
    std::vector<uint16_t> y(rows * stride);
    struct hy_round_args args = {};
    args.x = x.data();
    args.x_stride = x_stride;
    args.n = n;
    args.y.dtype = HYMBA_DTYPE_BF16;
    args.y.data = y.data();
    args.y.stride = stride;
    hy_ref_round(&args, 0, rows);
    args.x = b.put(x);
    args.y.data = b.take(y.size() * sizeof y[0]);
    b.ops->round(b.device, &args, rows);
    if (b.get((const uint16_t *)args.y.data, y.size()) != y)
        b.fail("rounded activations differ from those of generic C");
}

/* Keys and values of generic C: from the device's rotated queries, which are the same numbers, so
 * that what is stored is the same to the last bit. */
static void compare_rope_store_of(bench &b, hymba_dtype dtype, bool rotates, bool stores)
{
    size_t rows = 1 + b.below(9), heads = 1 + b.below(4), half = 1 + b.below(40), size = 2 * half;
    size_t v_size = 4 * (1 + b.below(20)), of_k = heads * size, of_v = heads * v_size;
    size_t stride = 2 * of_k + of_v + b.below(9);
    size_t k_row = hy_cache_row_bytes(dtype, size), v_row = hy_cache_row_bytes(dtype, v_size);
    floats x = b.some(rows * stride), cosine = b.some(rows * half), sine = b.some(rows * half);
    for (size_t i = 0; i < x.size(); i++) /* keys are the queries */
        if (i % stride >= of_k && i % stride < 2 * of_k)
            x[i] = x[i - of_k];
    bytes k_rows(heads * (rows + 1) * k_row), v_rows(heads * (rows + 2) * v_row);
    unsigned char *k_on_device = b.put(k_rows), *v_on_device = b.put(v_rows);
    float *on_device = b.put(x);
    struct hy_rope_args rope = {x.data(), stride, heads, size, cosine.data(), sine.data()};
    struct hy_rope_store_args args = {
        on_device, on_device + of_k, on_device + 2 * of_k, stride, heads, stores ? heads : 0, size,
        v_size, rotates ? b.put(cosine) : NULL, rotates ? b.put(sine) : NULL, dtype,
        k_on_device, v_on_device, (rows + 1) * k_row, (rows + 2) * v_row};
    b.ops->rope_store(b.device, &args, rows);
    if (rotates)
        hy_ref_rope(&rope, 0, rows);
    floats actual = b.get((const float *)on_device, x.size());
    for (size_t i = 0; i < x.size(); i++) /* keys need not have been written */
        if (i % stride >= of_k && i % stride < 2 * of_k)
            actual[i] = x[i];
    b.agree("a rotation", actual, x, 1e-6f);
    struct hy_cache_rows_args k = {actual.data(), stride, heads, size, dtype, k_rows.data(),
                                   args.k_head_stride};
    struct hy_cache_rows_args v = {actual.data() + 2 * of_k, stride, heads, v_size, dtype,
                                   v_rows.data(), args.v_head_stride};
    if (stores) {
        hy_ref_cache_rows(&k, 0, rows);
        hy_ref_cache_rows(&v, 0, rows);
    }
    b.same("a stored key", b.get((const unsigned char *)k_on_device, k_rows.size()), k_rows);
    b.same("a stored value", b.get((const unsigned char *)v_on_device, v_rows.size()), v_rows);
}

void compare_rope_store(bench &b)
{
    for (hymba_dtype dtype : {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                              HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8}) {
        compare_rope_store_of(b, dtype, true, true);
        compare_rope_store_of(b, dtype, false, true);
    }
    compare_rope_store_of(b, HYMBA_DTYPE_BF16, true, false);
}

void compare_fuse(bench &b)
{
    for (int i = 0; i < 6; i++) {
        const bool concat = i % 2 == 1, rounds = i >= 2, wants_floats = i < 4;
        size_t rows = 1 + b.below(9), n = 1 + b.below(300), columns = concat ? 2 * n : n;
        size_t stride = n + b.below(9), y_stride = columns + b.below(9);
        floats attention = b.some(rows * stride), ssm = b.some(rows * stride);
        floats first = b.some(n), second = b.some(n), y = b.some(rows * y_stride);
        float *on_device = b.put(y);
        struct hy_fuse_args args = {attention.data(), stride, ssm.data(), stride, first.data(),
                                    second.data(), n, 1e-6f, concat, y.data(), y_stride, {},
                                    NULL, n};
        struct rounded_rows rounded = some_rounded(b, rows, columns);
        hy_ref_fuse(&args, 0, rows);
        args.attention = b.put(attention);
        args.ssm = b.put(ssm);
        args.weight_attention = b.put(first);
        args.weight_ssm = b.put(second);
        args.y = wants_floats ? on_device : NULL;
        if (rounds)
            args.rounded = rounded.on_device;
        b.ops->fuse(b.device, &args, rows);
        if (wants_floats)
            b.agree("a fusion", b.get((const float *)on_device, y.size()), y, 1e-5f);
        if (rounds)
            agree_rounded(b, "a fusion", rounded, y, y_stride, rows);
    }
}

/* A part of the channels of each row, by sums that another kernel made of all of them. */
void compare_square_sums(bench &b)
{
    for (int i = 0; i < 4; i++) {
        size_t rows = 1 + b.below(9), n = 1 + b.below(300), part = 1 + b.below(n);
        size_t stride = n + b.below(9);
        floats attention = b.some(rows * stride), ssm = b.some(rows * stride);
        floats first = b.some(n), second = b.some(n), y(rows * part), sums(2 * rows);
        float *sums_on_device = b.put(sums), *y_on_device = b.put(y);
        struct hy_square_sums_args squares = {attention.data(), stride, ssm.data(), stride, n,
                                              sums.data()};
        struct hy_fuse_args args = {attention.data(), stride, ssm.data(), stride, first.data(),
                                    second.data(), part, 1e-6f, false, y.data(), part, {},
                                    sums.data(), n};
        hy_ref_square_sums(&squares, 0, rows);
        hy_ref_fuse(&args, 0, rows);
        squares.attention = args.attention = b.put(attention);
        squares.ssm = args.ssm = b.put(ssm);
        squares.sums = sums_on_device;
        args.weight_attention = b.put(first);
        args.weight_ssm = b.put(second);
        args.sums = sums_on_device;
        args.y = y_on_device;
        b.ops->square_sums(b.device, &squares, rows);
        b.ops->fuse(b.device, &args, rows);
        b.agree("sums of squares", b.get((const float *)sums_on_device, sums.size()), sums, 1e-5f);
        b.agree("a part of a fusion", b.get((const float *)y_on_device, y.size()), y, 1e-5f);
    }
}

static void compare_swiglu_of(bench &b, bool rounds, bool wants_floats)
{
    size_t rows = 1 + b.below(9), n = 1 + b.below(300), stride = n + b.below(9);
    floats gate = b.some(rows * stride, 4.0f), up = b.some(rows * stride);
    float *on_device = b.put(gate);
    struct hy_swiglu_args args = {gate.data(), stride, up.data(), stride, n, gate.data(), stride,
                                  {}};
    struct rounded_rows rounded = some_rounded(b, rows, n);
    hy_ref_swiglu(&args, 0, rows);
    args.gate = on_device;
    args.y = wants_floats ? on_device : NULL;
    args.up = b.put(up);
    if (rounds)
        args.rounded = rounded.on_device;
    b.ops->swiglu(b.device, &args, rows);
    if (wants_floats)
        b.agree("a gate", b.get((const float *)on_device, gate.size()), gate, 1e-5f);
    if (rounds)
        agree_rounded(b, "a gate", rounded, gate, stride, rows);
}

void compare_swiglu(bench &b)
{
    compare_swiglu_of(b, false, true);
    compare_swiglu_of(b, true, true);
    compare_swiglu_of(b, true, false);
}
