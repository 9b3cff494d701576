/*
 * cuBLASLt's stand-in: D = alpha op(A) op(B) + beta C, and a bias, in plain C++. Products of bf16
 * and f16 are exact in f32; sums are f32, one product after the other in rising order.
 *
 * It checks sizes, types and leading dimensions; that addresses have the alignment the caller
 * promised when it asked for algorithms; that an algorithm is used for what it was given out for,
 * with its workspace; and that all memory is the device's, inputs written. Alpha and beta are read
 * when the call is made, all else when its turn on the stream comes.
 */
#include "cublasLt.h"

#include "inside.h"
#include "memory.h"

#include <functional>
#include <map>
#include <vector>

struct harness_blas {
    int unused;
};

struct harness_matmul_desc {
    cublasComputeType_t compute;
    cudaDataType_t scale;
    cublasOperation_t op_a, op_b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    int bias_type; /* -1: that of D */
};

struct harness_matrix_layout {
    cudaDataType_t type;
    cublasLtOrder_t order;
    uint64_t rows, columns;
    int64_t leading;
};

struct harness_matmul_preference {
    uint64_t workspace;
    uint32_t alignments[4]; /* of A, B, C, D */
};

namespace {

/* What an algorithm's opaque words hold. */
struct algorithm {
    uint32_t magic, number;
    uint64_t problem; /* a sum of what it was asked for */
    uint64_t workspace;
    uint32_t alignments[4];
    uint64_t unused[2];
};
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "room of an algorithm");

enum { MAGIC = 0x48594d42, N_ALGORITHMS = 3, FIRST_WORKSPACE = 1 << 20, DEFAULT_ALIGNMENT = 256 };

/* What is not destroyed yet, and how that is done. */
std::map<const void *, std::function<void()>> handles;

struct matrix {
    struct harness_matrix_layout layout;
    const void *data;
};

struct product {
    struct harness_matmul_desc desc;
    float alpha, beta;
    struct matrix a, b, c, d;
    char *workspace;
    size_t workspace_bytes;
};

} // namespace

/* ----------------------------------------------------------------- handles */

static cublasStatus_t refuse(const char *call, const char *what)
{
    harness_report(HARNESS_CALL, "%s: %s", call, what);
    return CUBLAS_STATUS_INVALID_VALUE;
}

/* Whether a test wants the call to fail, or the device was lost. */
static cublasStatus_t find_failure(const char *call)
{
    cudaError_t error = harness_lost();
    if (!harness_call_fails(call, &error) && error == cudaSuccess)
        return CUBLAS_STATUS_SUCCESS;
    return error == cudaErrorMemoryAllocation ? CUBLAS_STATUS_ALLOC_FAILED
           : error == cudaErrorNotSupported   ? CUBLAS_STATUS_NOT_SUPPORTED
                                              : CUBLAS_STATUS_EXECUTION_FAILED;
}

template <typename T> static cublasStatus_t create(const char *call, T **object, const T &value)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    *object = nullptr;
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    T *made = *object = new T(value);
    handles[made] = [made]() { delete made; };
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t destroy(const char *call, const void *object)
{
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    auto found = handles.find(object);
    if (found == handles.end())
        return refuse(call, "no such object");
    found->second();
    handles.erase(found);
    return find_failure(call);
}

size_t harness_live_handles()
{
    return handles.size();
}

void harness_forget_handles()
{
    for (const auto &entry : handles)
        entry.second();
    handles.clear();
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return create("cublasLtCreate", handle, harness_blas());
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    return destroy("cublasLtDestroy", handle);
}

size_t cublasLtGetVersion(void)
{
    return 120400;
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "CUBLAS_STATUS_NOT_INITIALIZED";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_ARCH_MISMATCH:
        return "CUBLAS_STATUS_ARCH_MISMATCH";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
        return "another status of cuBLAS";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    harness_matmul_desc value = {compute,     scale,   CUBLAS_OP_N,
                                 CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                                 nullptr,     -1};
    return create("cublasLtMatmulDescCreate", desc, value);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    return destroy("cublasLtMatmulDescDestroy", desc);
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t leading)
{
    harness_matrix_layout value = {type, CUBLASLT_ORDER_COL, rows, columns, leading};
    return create("cublasLtMatrixLayoutCreate", layout, value);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy("cublasLtMatrixLayoutDestroy", layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    harness_matmul_preference value = {
        0, {DEFAULT_ALIGNMENT, DEFAULT_ALIGNMENT, DEFAULT_ALIGNMENT, DEFAULT_ALIGNMENT}};
    return create("cublasLtMatmulPreferenceCreate", preference, value);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    return destroy("cublasLtMatmulPreferenceDestroy", preference);
}

/* -------------------------------------------------------------- attributes */

template <typename T>
static cublasStatus_t set(const char *call, T *field, const void *value, size_t bytes)
{
    if (bytes != sizeof *field)
        return refuse(call, "an attribute of another size");
    memcpy(field, value, sizeof *field);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    const char *call = "cublasLtMatmulDescSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    if (handles.count(desc) == 0)
        return refuse(call, "no such object");
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return set(call, &desc->op_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return set(call, &desc->op_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return set(call, &desc->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return set(call, &desc->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return set(call, &desc->bias_type, value, bytes);
    default:
        return refuse(call, "an attribute that the stand-in does not have");
    }
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    const char *call = "cublasLtMatrixLayoutSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    if (handles.count(layout) == 0)
        return refuse(call, "no such object");
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE:
        return set(call, &layout->type, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ORDER:
        return set(call, &layout->order, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_ROWS:
        return set(call, &layout->rows, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_COLS:
        return set(call, &layout->columns, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_LD:
        return set(call, &layout->leading, value, bytes);
    default:
        return refuse(call, "an attribute that the stand-in does not have");
    }
}

cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                     cublasLtMatmulPreferenceAttributes_t attribute,
                                     const void *value, size_t bytes)
{
    const char *call = "cublasLtMatmulPreferenceSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    if (handles.count(preference) == 0)
        return refuse(call, "no such object");
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES:
        return set(call, &preference->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
        return set(call,
                   &preference->alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                   value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK:
        return CUBLAS_STATUS_SUCCESS;
    default:
        return refuse(call, "an attribute that the stand-in does not have");
    }
}

/* ------------------------------------------------------------------ checks */

static size_t type_size(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_16F || type == CUDA_R_16BF ? 2 : 0;
}

static bool is_good_layout(const struct harness_matrix_layout &layout)
{
    uint64_t least = layout.order == CUBLASLT_ORDER_ROW ? layout.columns : layout.rows;
    return type_size(layout.type) != 0 && layout.rows > 0 && layout.columns > 0 &&
           layout.leading > 0 && (uint64_t)layout.leading >= least;
}

/* NULL, or what is wrong with the problem. */
static const char *find_mistake(const struct product &p)
{
    const struct harness_matrix_layout &a = p.a.layout, &b = p.b.layout, &c = p.c.layout,
                                       &d = p.d.layout;
    if (!is_good_layout(a) || !is_good_layout(b) || !is_good_layout(c) || !is_good_layout(d))
        return "a matrix that is empty, of another type, or with too short a leading dimension";
    if (p.desc.scale != CUDA_R_32F || a.type != b.type || c.type != d.type ||
        (d.type != CUDA_R_32F && d.type != a.type))
        return "a mixture of types that is not supported";
    if (a.type == CUDA_R_32F ? p.desc.compute == CUBLAS_COMPUTE_16F
                             : p.desc.compute != CUBLAS_COMPUTE_32F &&
                                   p.desc.compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return "a compute type that does not fit the types";
    uint64_t m = p.desc.op_a == CUBLAS_OP_N ? a.rows : a.columns;
    uint64_t k = p.desc.op_a == CUBLAS_OP_N ? a.columns : a.rows;
    uint64_t n = p.desc.op_b == CUBLAS_OP_N ? b.columns : b.rows;
    uint64_t k_of_b = p.desc.op_b == CUBLAS_OP_N ? b.rows : b.columns;
    if (k != k_of_b || m != d.rows || n != d.columns || m != c.rows || n != c.columns)
        return "matrices whose sizes do not fit";
    if (p.desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.desc.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return "an epilogue that the stand-in does not have";
    return nullptr;
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
    return (sum ^ value) * 0x100000001b3u;
}

static uint64_t problem_sum(const struct product &p)
{
    uint64_t sum = 0xcbf29ce484222325u;
    sum = mix(sum, p.desc.compute);
    sum = mix(sum, p.desc.op_a);
    sum = mix(sum, p.desc.op_b);
    sum = mix(sum, p.desc.epilogue);
    for (const struct matrix *x : {&p.a, &p.b, &p.c, &p.d}) {
        sum = mix(sum, x->layout.type);
        sum = mix(sum, x->layout.order);
        sum = mix(sum, x->layout.rows);
        sum = mix(sum, x->layout.columns);
        sum = mix(sum, (uint64_t)x->layout.leading);
    }
    return sum;
}

/* Before sm_80 there are no products of bf16. */
static bool device_has(cudaDataType_t type)
{
    int device, major = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    return type != CUDA_R_16BF || major >= 8;
}

cublasStatus_t
cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                               cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                               cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                               cublasLtMatmulPreference_t preference, int n_wanted,
                               cublasLtMatmulHeuristicResult_t *results, int *n_results)
{
    const char *call = "cublasLtMatmulAlgoGetHeuristic";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    *n_results = 0;
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void *object :
         std::initializer_list<const void *>{handle, desc, a, b, c, d, preference})
        if (handles.count(object) == 0)
            return refuse(call, "no such object");
    struct product p = {*desc,       0.0f,        0.0f,        {*a, nullptr}, {*b, nullptr},
                        {*c, nullptr}, {*d, nullptr}, nullptr, 0};
    const char *mistake = find_mistake(p);
    if (mistake || n_wanted < 1)
        return refuse(call, mistake ? mistake : "no algorithms are wanted");
    if (!device_has(a->type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    /* The first ones want a workspace, the last does without. */
    for (uint32_t i = 0; i < N_ALGORITHMS && *n_results < n_wanted; i++) {
        struct algorithm algorithm = {};
        algorithm.magic = MAGIC;
        algorithm.number = i;
        algorithm.problem = problem_sum(p);
        algorithm.workspace = i + 1 < N_ALGORITHMS ? (uint64_t)FIRST_WORKSPACE >> 4 * i : 0;
        memcpy(algorithm.alignments, preference->alignments, sizeof algorithm.alignments);
        if (algorithm.workspace > preference->workspace)
            continue;
        cublasLtMatmulHeuristicResult_t *result = &results[(*n_results)++];
        memset(result, 0, sizeof *result);
        memcpy(&result->algo, &algorithm, sizeof algorithm);
        result->workspaceSize = algorithm.workspace;
        result->state = CUBLAS_STATUS_SUCCESS;
        result->wavesCount = 1.0f;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/* ---------------------------------------------------------------- products */

static float read_number(const uint8_t *bytes, cudaDataType_t type)
{
    uint16_t half;
    uint32_t word;
    float value;
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
static bool for_each(const struct matrix &x, uint8_t wanted, const char *name, Use use)
{
    const struct harness_matrix_layout &l = x.layout;
    bool by_rows = l.order == CUBLASLT_ORDER_ROW;
    size_t size = type_size(l.type), n_lines = by_rows ? l.rows : l.columns;
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
        if (memory_counts)
            (wanted & MEMORY_WRITTEN ? memory_count_load : memory_count_store)(region, offset,
                                                                               length * size);
        for (size_t j = 0; j < length; j++)
            use(by_rows ? i : j, by_rows ? j : i, region->bytes + offset + j * size,
                region->state + offset + j * size);
    }
    return true;
}

/* op(X) as f32, an array of [inner][outer], where inner is the index that is summed over. */
static bool gather(const struct matrix &x, bool inner_is_row, size_t n_outer, const char *name,
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

static bool gather_bias(const struct product &p, std::vector<float> &bias)
{
    if (p.desc.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return true;
    cudaDataType_t type =
        p.desc.bias_type < 0 ? p.d.layout.type : (cudaDataType_t)p.desc.bias_type;
    struct matrix line = {{type, CUBLASLT_ORDER_COL, p.d.layout.rows, 1, (int64_t)p.d.layout.rows},
                          p.desc.bias};
    return gather(line, false, p.d.layout.rows, "the bias", bias);
}

/* What an algorithm leaves in its workspace is no one's to read. */
static bool spoil_workspace(const struct product &p)
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

static void multiply(const struct product &p)
{
    size_t m = p.d.layout.rows, n = p.d.layout.columns;
    std::vector<float> a, b, c, bias;
    bool a_inner_is_row = p.desc.op_a != CUBLAS_OP_N, b_inner_is_row = p.desc.op_b == CUBLAS_OP_N;
    if (!spoil_workspace(p) || !gather(p.a, a_inner_is_row, m, "A", a) ||
        !gather(p.b, b_inner_is_row, n, "B", b) || !gather_bias(p, bias) ||
        (p.beta != 0.0f && !gather(p.c, false, m, "C", c)))
        return;
    size_t k = a.size() / m;
    std::vector<float> sums(m * n);
    for (size_t j = 0; j < n; j++) {
        float *sum = sums.data() + j * m;
        for (size_t i = 0; i < k; i++) {
            const float *column = a.data() + i * m;
            float factor = b[i * n + j];
            for (size_t row = 0; row < m; row++)
                sum[row] += column[row] * factor;
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
                 memset(state, MEMORY_LIVE | MEMORY_WRITTEN, type_size(p.d.layout.type));
             });
}

static const char *find_broken_promise(const struct product &p, const cublasLtMatmulAlgo_t *algo)
{
    struct algorithm algorithm;
    memcpy(&algorithm, algo, sizeof algorithm);
    if (algorithm.magic != MAGIC)
        return "an algorithm that was not given out";
    if (algorithm.problem != problem_sum(p))
        return "an algorithm that was given out for another problem";
    if (algorithm.workspace > p.workspace_bytes)
        return "a workspace that is smaller than the algorithm's";
    const void *addresses[4] = {p.a.data, p.b.data, p.c.data, p.d.data};
    for (int i = 0; i < 4; i++)
        if (reinterpret_cast<uintptr_t>(addresses[i]) % algorithm.alignments[i] != 0)
            return "a matrix that is not aligned as was promised";
    return nullptr;
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
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void *object : std::initializer_list<const void *>{handle, desc, a_layout, b_layout,
                                                                  c_layout, d_layout})
        if (handles.count(object) == 0)
            return refuse(call, "no such object");
    if (!harness_is_stream(stream))
        return refuse(call, "no such stream");
    struct product p = {*desc,          0.0f,           0.0f,
                        {*a_layout, a}, {*b_layout, b}, {*c_layout, c},
                        {*d_layout, d}, static_cast<char *>(workspace), workspace_bytes};
    memcpy(&p.alpha, alpha, sizeof p.alpha);
    memcpy(&p.beta, beta, sizeof p.beta);
    const char *mistake = find_mistake(p);
    if (!mistake && algo)
        mistake = find_broken_promise(p, algo);
    if (!mistake && c == d && p.beta != 0.0f && c_layout->leading != d_layout->leading)
        mistake = "C and D at one address with different leading dimensions";
    if (mistake)
        return refuse(call, mistake);
    if (!device_has(a_layout->type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    harness_queue(stream, [p]() { multiply(p); });
    return CUBLAS_STATUS_SUCCESS;
}
