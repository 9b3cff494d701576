/*
 * cuBLASLt's stand-in: D = alpha op(A) op(B) + beta C, and a bias, in plain C++. Products of bf16,
 * f16 and fp8 are exact in f32; sums are f32, one product after the other in rising order. Sums of
 * int8 products are exact, and one that does not fit 32 bits is a fault.
 *
 * It checks that all memory is the device's, inputs written. Alpha and beta are read when the call
 * is made, all else when its turn on the stream comes.
 */
#include "blas.h"

#include "memory.h"

#include <math.h>

#include <vector>

/* A sign, 4 bits of exponent with a bias of 7, 3 of mantissa; the greatest bits are NaN. */
static float from_e4m3(uint8_t bits)
{
    int exponent = bits >> 3 & 15, mantissa = bits & 7;
    float value = exponent == 15 && mantissa == 7
                      ? NAN
                      : ldexpf((float)(exponent ? mantissa + 8 : mantissa),
                               (exponent ? exponent : 1) - 10);
    return bits & 0x80 ? -value : value;
}

static float read_number(const uint8_t *bytes, cudaDataType_t type)
{
    uint16_t half;
    uint32_t word;
    float value;
    if (type == CUDA_R_8I)
        return (float)(int8_t)*bytes;
    if (type == CUDA_R_8F_E4M3)
        return from_e4m3(*bytes);
    if (type == CUDA_R_32F) {
        memcpy(&value, bytes, 4);
        return value;
    }
    memcpy(&half, bytes, 2);
    if (type == CUDA_R_16F)
        return harness_from_f16(half);
    word = (uint32_t)half << 16;
    memcpy(&value, &word, 4);
    return value;
}

static void write_number(uint8_t *bytes, cudaDataType_t type, float value)
{
    uint16_t half;
    uint32_t word;
    if (type == CUDA_R_32F) {
        memcpy(bytes, &value, 4);
        return;
    }
    memcpy(&word, &value, 4);
    if (type == CUDA_R_16F)
        half = harness_to_f16(value);
    else if (value != value)
        half = (uint16_t)(word >> 16 | 0x40);
    else
        half = (uint16_t)((word + 0x7fff + (word >> 16 & 1)) >> 16);
    memcpy(bytes, &half, 2);
}

/* Calls use(row, column, bytes, state) for each element; false if one is not in live memory, or not
 * written though it is read. */
template <typename Use>
static bool for_each(const struct blas_matrix &x, uint8_t wanted, const char *name, Use use)
{
    const struct harness_matrix_layout &l = x.layout;
    bool by_rows = l.order == CUBLASLT_ORDER_ROW;
    size_t size = blas_type_size(l.type), n_lines = by_rows ? l.rows : l.columns;
    size_t length = by_rows ? l.columns : l.rows;
    for (size_t i = 0; i < n_lines; i++) {
        const char *line = static_cast<const char *>(x.data) + i * (size_t)l.leading * size;
        if (!memory_is(line, length * size, MEMORY_LIVE)) {
            harness_report(HARNESS_GLOBAL_BOUNDS,
                           "cublasLtMatmul: line %zu of %s, %zu bytes, lies or ends elsewhere: %s",
                           i, name, length * size, memory_describe(line).c_str());
            return false;
        }
        if (!memory_is(line, length * size, wanted)) {
            harness_report(HARNESS_GLOBAL_UNINITIALISED,
                           "cublasLtMatmul: line %zu of %s has what nobody wrote: %s", i, name,
                           memory_describe(line).c_str());
        }
        struct memory_region *region = memory_find(line);
        size_t offset = reinterpret_cast<uintptr_t>(line) - region->begin;
        if (memory_counts && !x.again)
            (wanted & MEMORY_WRITTEN ? memory_count_load : memory_count_store)(region, offset,
                                                                               length * size);
        for (size_t j = 0; j < length; j++)
            use(by_rows ? i : j, by_rows ? j : i, region->bytes + offset + j * size,
                region->state + offset + j * size);
    }
    return true;
}

/* op(X) as f32, an array of [inner][outer], where inner is the index that is summed over. */
static bool gather(const struct blas_matrix &x, bool inner_is_row, size_t n_outer, const char *name,
                   std::vector<float> &values)
{
    cudaDataType_t type = x.layout.type;
    values.resize(x.layout.rows * x.layout.columns);
    return for_each(x, MEMORY_LIVE | MEMORY_WRITTEN, name,
                    [&](size_t row, size_t column, const uint8_t *bytes, const uint8_t *) {
                        size_t inner = inner_is_row ? row : column;
                        size_t outer = inner_is_row ? column : row;
                        values[inner * n_outer + outer] = read_number(bytes, type);
                    });
}

static bool gather_bias(const struct blas_product &p, std::vector<float> &bias)
{
    if (p.desc.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return true;
    cudaDataType_t type =
        p.desc.bias_type < 0 ? p.d.layout.type : (cudaDataType_t)p.desc.bias_type;
    struct blas_matrix line = {
        {type, CUBLASLT_ORDER_COL, p.d.layout.rows, 1, (int64_t)p.d.layout.rows, 1, 0},
        p.desc.bias, false};
    return gather(line, false, p.d.layout.rows, "the bias", bias);
}

/* What an algorithm leaves in its workspace is no one's to read. */
static bool spoil_workspace(const struct blas_product &p)
{
    if (p.workspace_bytes == 0)
        return true;
    if (!memory_is(p.workspace, p.workspace_bytes, MEMORY_LIVE)) {
        harness_report(HARNESS_GLOBAL_BOUNDS, "cublasLtMatmul: the workspace of %zu bytes is %s",
                       p.workspace_bytes, memory_describe(p.workspace).c_str());
        return false;
    }
    struct memory_region *region = memory_find(p.workspace);
    size_t offset = reinterpret_cast<uintptr_t>(p.workspace) - region->begin;
    memset(region->bytes + offset, 0xff, p.workspace_bytes);
    memset(region->state + offset, MEMORY_LIVE, p.workspace_bytes);
    return true;
}

/* Of int8, with beta 0. */
static void multiply_integers(const struct blas_product &p)
{
    size_t m = p.d.layout.rows, n = p.d.layout.columns;
    std::vector<float> a, b;
    if (!spoil_workspace(p) || !gather(p.a, true, m, "A", a) || !gather(p.b, true, n, "B", b))
        return;
    size_t k = a.size() / m;
    std::vector<int64_t> sums(m * n);
    for (size_t j = 0; j < n; j++)
        for (size_t i = 0; i < k; i++) {
            int factor = (int)b[i * n + j];
            for (size_t row = 0; row < m; row++)
                sums[j * m + row] += (int)a[i * m + row] * factor;
        }
    for_each(p.d, MEMORY_LIVE, "D",
             [&](size_t row, size_t column, uint8_t *bytes, uint8_t *state) {
                 int64_t sum = sums[column * m + row];
                 int32_t value = (int32_t)sum;
                 if (value != sum)
                     harness_report(HARNESS_CALL, "cublasLtMatmul: a sum of int8 products is %lld",
                                    (long long)sum);
                 memcpy(bytes, &value, sizeof value);
                 memset(state, MEMORY_LIVE | MEMORY_WRITTEN, sizeof value);
             });
}

static void multiply(const struct blas_product &p)
{
    if (p.a.layout.type == CUDA_R_8I) {
        multiply_integers(p);
        return;
    }
    size_t m = p.d.layout.rows, n = p.d.layout.columns;
    std::vector<float> a, b, c, bias;
    bool a_inner_is_row = p.desc.op_a != CUBLAS_OP_N, b_inner_is_row = p.desc.op_b == CUBLAS_OP_N;
    if (!spoil_workspace(p) || !gather(p.a, a_inner_is_row, m, "A", a) ||
        !gather(p.b, b_inner_is_row, n, "B", b) || !gather_bias(p, bias) ||
        (p.beta != 0.0f && !gather(p.c, false, m, "C", c)))
        return;
    size_t k = a.size() / m;
    std::vector<float> sums(m * n), rest(m);
    for (size_t j = 0; j < n; j++) {
        size_t cut = p.cuts_by_place ? (5 * j + 3) % k : k;
        for (size_t i = 0; i < k; i++) {
            float *sum = i < cut ? sums.data() + j * m : rest.data();
            const float *column = a.data() + i * m;
            float factor = b[i * n + j];
            for (size_t row = 0; row < m; row++)
                sum[row] += column[row] * factor;
        }
        for (size_t row = 0; row < m && cut < k; row++) {
            sums[j * m + row] += rest[row];
            rest[row] = 0.0f;
        }
    }
    for_each(p.d, MEMORY_LIVE, "D",
             [&](size_t row, size_t column, uint8_t *bytes, uint8_t *state) {
                 float value = p.alpha * sums[column * m + row];
                 if (!c.empty())
                     value += p.beta * c[column * m + row];
                 if (!bias.empty())
                     value += bias[row];
                 write_number(bytes, p.d.layout.type, value);
                 memset(state, MEMORY_LIVE | MEMORY_WRITTEN, blas_type_size(p.d.layout.type));
             });
}

/* Alpha and beta, which are of the scale type; false for what the stand-in does not compute. */
static bool read_factors(struct blas_product &p, const void *alpha, const void *beta)
{
    int32_t integers[2];
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    if (p.desc.scale != CUDA_R_32I)
        return true;
    memcpy(&integers[0], alpha, sizeof integers[0]);
    memcpy(&integers[1], beta, sizeof integers[1]);
    return integers[0] == 1 && integers[1] == 0;
}

static bool are_addresses_aligned(const struct blas_product &p)
{
    for (const struct blas_matrix *x : {&p.a, &p.b, &p.c, &p.d})
        if (reinterpret_cast<uintptr_t>(x->data) % blas_step_of(p.a.layout.type) != 0)
            return false;
    return true;
}

/* Those of one call, one after the other. */
static void multiply_all(struct blas_product p)
{
    for (int32_t i = 0; i < p.a.layout.batches; i++) {
        multiply(p);
        for (struct blas_matrix *x : {&p.a, &p.b, &p.c, &p.d}) {
            x->again = x->layout.stride == 0;
            x->data = static_cast<const char *>(x->data)
                      + x->layout.stride * (int64_t)blas_type_size(x->layout.type);
        }
    }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                              const void *alpha, const void *a, cublasLtMatrixLayout_t a_layout,
                              const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    const char *call = "cublasLtMatmul";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cublasStatus_t status = blas_find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void *object : std::initializer_list<const void *>{handle, desc, a_layout, b_layout,
                                                                  c_layout, d_layout})
        if (!blas_has(object))
            return blas_refuse(call, "no such object");
    if (!harness_is_stream(stream))
        return blas_refuse(call, "no such stream");
    struct blas_product p = blas_problem_of(desc, a_layout, b_layout, c_layout, d_layout);
    p.a.data = a;
    p.b.data = b;
    p.c.data = c;
    p.d.data = d;
    p.workspace = static_cast<char *>(workspace);
    p.workspace_bytes = workspace_bytes;
    bool computes = read_factors(p, alpha, beta);
    const char *mistake = blas_find_mistake(p);
    if (!mistake && !computes)
        mistake = "factors of integers that are not 1 and 0";
    if (!mistake && !are_addresses_aligned(p))
        mistake = "an 8-bit product's matrix at an odd address";
    if (!mistake && algo)
        mistake = blas_find_broken_promise(p, algo);
    if (!mistake && c == d && p.beta != 0.0f && c_layout->leading != d_layout->leading)
        mistake = "C and D at one address with different leading dimensions";
    if (mistake)
        return blas_refuse(call, mistake);
    if (!blas_device_has(a_layout->type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    harness_queue(stream, [p]() { multiply_all(p); });
    return CUBLAS_STATUS_SUCCESS;
}
