/*
 * cuBLASLt's stand-in: D = alpha op(A) op(B) + beta C, and a bias, in plain C++. Products of bf16,
 * f16 and fp8 are exact in f32; sums are f32, one product after the other in rising order. Sums of
 * int8 products are exact, and one that does not fit 32 bits is a fault.
 *
 * It checks sizes, types and leading dimensions; that addresses have the alignment the caller
 * promised when it asked for algorithms; that an algorithm is used for what it was given out for,
 * with its workspace; and that all memory is the device's, inputs written. Alpha and beta are read
 * when the call is made, all else when its turn on the stream comes. Algorithms are asked for their
 * splits of k; all but the last one proposed add up by place, so that bits tell which was taken.
 *
 * What the real library asks of 8-bit products in matrices that lie column by column: A transposed
 * and B not; for int8 addresses, leading dimensions, m and k that are multiples of 4, scale type,
 * C and D int32, no epilogue; for fp8 addresses and lengths of rows and columns that are multiples
 * of 16 bytes, of which it makes the stricter multiples of 16 of m, n and k, and capability 8.9.
 */
#include "cublasLt.h"

#include "inside.h"
#include "memory.h"

#include <math.h>

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
    int32_t batches;
    int64_t stride; /* elements from one matrix to the next */
};

struct harness_matmul_preference {
    uint64_t workspace;
    uint32_t schemes; /* of reduction that are allowed, beside none */
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

/* What is proposed, best first, for every problem: as real algorithms, those that cut sums, and
 * those of which that cannot be told, come before the one that adds up all elements alike. */
const struct {
    uint64_t workspace;
    int32_t n_splits;
    uint32_t scheme;
    bool cuts_by_place; /* each element's sum over k is cut in two, where its column says */
} proposals[] = {
    {1 << 20, 4, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, true},
    {0, 2, CUBLASLT_REDUCTION_SCHEME_NONE, true},
    {0, 1, CUBLASLT_REDUCTION_SCHEME_INPLACE, true},
    {1 << 16, 1, CUBLASLT_REDUCTION_SCHEME_NONE, true},
    {0, 1, CUBLASLT_REDUCTION_SCHEME_NONE, false},
};
enum { N_PROPOSALS = sizeof proposals / sizeof proposals[0] };
static_assert(sizeof(algorithm) <= sizeof(cublasLtMatmulAlgo_t), "room of an algorithm");

enum { MAGIC = 0x48594d42, DEFAULT_ALIGNMENT = 256 };

/* What is not destroyed yet, and how that is done. */
std::map<const void *, std::function<void()>> handles;

struct matrix {
    struct harness_matrix_layout layout;
    const void *data;
    bool again; /* the call has read it before */
};

struct product {
    struct harness_matmul_desc desc;
    float alpha, beta; /* of integers, too: only 0 and 1 are taken then */
    struct matrix a, b, c, d;
    char *workspace;
    size_t workspace_bytes;
    bool cuts_by_place;
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
    harness_matrix_layout value = {type, CUBLASLT_ORDER_COL, rows, columns, leading, 1, 0};
    return create("cublasLtMatrixLayoutCreate", layout, value);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    return destroy("cublasLtMatrixLayoutDestroy", layout);
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    harness_matmul_preference value = {
        0,
        CUBLASLT_REDUCTION_SCHEME_MASK,
        {DEFAULT_ALIGNMENT, DEFAULT_ALIGNMENT, DEFAULT_ALIGNMENT, DEFAULT_ALIGNMENT}};
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
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT:
        return set(call, &layout->batches, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET:
        return set(call, &layout->stride, value, bytes);
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
        return set(call, &preference->schemes, value, bytes);
    default:
        return refuse(call, "an attribute that the stand-in does not have");
    }
}

/* ------------------------------------------------------------------ checks */

static size_t type_size(cudaDataType_t type)
{
    switch (type) {
    case CUDA_R_32F:
    case CUDA_R_32I:
        return 4;
    case CUDA_R_16F:
    case CUDA_R_16BF:
        return 2;
    case CUDA_R_8I:
    case CUDA_R_8F_E4M3:
        return 1;
    default:
        return 0;
    }
}

static bool is_8_bits(cudaDataType_t type)
{
    return type == CUDA_R_8I || type == CUDA_R_8F_E4M3;
}

/* What addresses, leading dimensions and sizes are multiples of. */
static uint64_t step_of(cudaDataType_t type)
{
    return type == CUDA_R_8I ? 4 : type == CUDA_R_8F_E4M3 ? 16 : 1;
}

static bool is_good_layout(const struct harness_matrix_layout &layout)
{
    uint64_t least = layout.order == CUBLASLT_ORDER_ROW ? layout.columns : layout.rows;
    return type_size(layout.type) != 0 && layout.rows > 0 && layout.columns > 0 &&
           layout.leading > 0 && (uint64_t)layout.leading >= least;
}

static bool are_steps(cudaDataType_t type, std::initializer_list<uint64_t> numbers)
{
    for (uint64_t number : numbers)
        if (number % step_of(type) != 0)
            return false;
    return true;
}

/* NULL, or what is wrong with a product of 8 bits, beside sizes that do not fit. */
static const char *find_narrow_mistake(const struct product &p)
{
    const struct harness_matrix_layout &a = p.a.layout, &b = p.b.layout, &c = p.c.layout,
                                       &d = p.d.layout;
    cudaDataType_t sum = a.type == CUDA_R_8I ? CUDA_R_32I : CUDA_R_32F;
    if (p.desc.compute != (a.type == CUDA_R_8I ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F))
        return "a compute type that does not fit the types";
    if (p.desc.scale != sum || b.type != a.type || c.type != sum || d.type != sum)
        return "a mixture of types that is not supported";
    if (p.desc.op_a != CUBLAS_OP_T || p.desc.op_b != CUBLAS_OP_N)
        return "8-bit matrices of which A is not transposed, or B is";
    for (const struct harness_matrix_layout *x : {&a, &b, &c, &d})
        if (x->order != CUBLASLT_ORDER_COL || (uint64_t)x->leading % step_of(a.type) != 0)
            return "an 8-bit product's matrix by rows, or with columns an odd distance apart";
    if (!are_steps(a.type, {a.rows, a.columns}) ||
        (a.type == CUDA_R_8F_E4M3 && !are_steps(a.type, {b.columns})))
        return "an 8-bit product's sizes are no multiples of what they must be";
    if (p.desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        return "an 8-bit product with an epilogue";
    return nullptr;
}

/* NULL, or what is wrong with the types. */
static const char *find_wrong_type(const struct product &p)
{
    const struct harness_matrix_layout &a = p.a.layout, &d = p.d.layout;
    if (is_8_bits(a.type))
        return find_narrow_mistake(p);
    if (p.desc.scale != CUDA_R_32F || a.type != p.b.layout.type || p.c.layout.type != d.type ||
        a.type == CUDA_R_32I || (d.type != CUDA_R_32F && d.type != a.type))
        return "a mixture of types that is not supported";
    if (a.type == CUDA_R_32F ? p.desc.compute == CUBLAS_COMPUTE_16F ||
                                   p.desc.compute == CUBLAS_COMPUTE_32I
                             : p.desc.compute != CUBLAS_COMPUTE_32F &&
                                   p.desc.compute != CUBLAS_COMPUTE_32F_PEDANTIC)
        return "a compute type that does not fit the types";
    return nullptr;
}

/* NULL, or what is wrong with the problem. */
static const char *find_mistake(const struct product &p)
{
    const struct harness_matrix_layout &a = p.a.layout, &b = p.b.layout, &c = p.c.layout,
                                       &d = p.d.layout;
    if (!is_good_layout(a) || !is_good_layout(b) || !is_good_layout(c) || !is_good_layout(d))
        return "a matrix that is empty, of another type, or with too short a leading dimension";
    const char *wrong = find_wrong_type(p);
    if (wrong)
        return wrong;
    uint64_t m = p.desc.op_a == CUBLAS_OP_N ? a.rows : a.columns;
    uint64_t k = p.desc.op_a == CUBLAS_OP_N ? a.columns : a.rows;
    uint64_t n = p.desc.op_b == CUBLAS_OP_N ? b.columns : b.rows;
    uint64_t k_of_b = p.desc.op_b == CUBLAS_OP_N ? b.rows : b.columns;
    if (k != k_of_b || m != d.rows || n != d.columns || m != c.rows || n != c.columns)
        return "matrices whose sizes do not fit";
    if (p.desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT && p.desc.epilogue != CUBLASLT_EPILOGUE_BIAS)
        return "an epilogue that the stand-in does not have";
    for (const struct harness_matrix_layout *x : {&a, &b, &c, &d})
        if (x->batches != a.batches || x->batches < 1)
            return "numbers of matrices that differ, or none";
    if (d.batches > 1 && d.stride < d.leading * (int64_t)n)
        return "results of several matrices that overlap";
    return nullptr;
}

static struct product problem_of(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                 cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                 cublasLtMatrixLayout_t d)
{
    struct product p = {*desc,
                        0.0f,
                        0.0f,
                        {*a, nullptr, false},
                        {*b, nullptr, false},
                        {*c, nullptr, false},
                        {*d, nullptr, false},
                        nullptr,
                        0,
                        false};
    return p;
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

/* Before sm_80 there are no products of bf16, before sm_89 none of fp8. */
static bool device_has(cudaDataType_t type)
{
    int device, major = 0, minor = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
    int least = type == CUDA_R_16BF ? 80 : type == CUDA_R_8F_E4M3 ? 89 : 0;
    return 10 * major + minor >= least;
}

/* Whether what is promised of addresses is enough for any algorithm. */
static bool is_aligned_enough(cudaDataType_t type, const uint32_t alignments[4])
{
    for (int i = 0; i < 4; i++)
        if (alignments[i] % step_of(type) != 0)
            return false;
    return true;
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
    struct product p = problem_of(desc, a, b, c, d);
    const char *mistake = find_mistake(p);
    if (mistake || n_wanted < 1)
        return refuse(call, mistake ? mistake : "no algorithms are wanted");
    if (!device_has(a->type) || !is_aligned_enough(a->type, preference->alignments))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    /* One that is not allowed to reduce may say so only in the number of its splits. */
    for (uint32_t i = 0; i < N_PROPOSALS && *n_results < n_wanted; i++) {
        struct algorithm algorithm = {};
        algorithm.magic = MAGIC;
        algorithm.number = i;
        algorithm.problem = problem_sum(p);
        algorithm.workspace = proposals[i].workspace;
        memcpy(algorithm.alignments, preference->alignments, sizeof algorithm.alignments);
        if (algorithm.workspace > preference->workspace
            || (proposals[i].scheme & preference->schemes) != proposals[i].scheme)
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

template <typename T> static void tell(void *value, size_t *written, T number)
{
    memcpy(value, &number, sizeof number);
    *written = sizeof number;
}

cublasStatus_t
cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *algo,
                                     cublasLtMatmulAlgoConfigAttributes_t attribute, void *value,
                                     size_t bytes, size_t *written)
{
    const char *call = "cublasLtMatmulAlgoConfigGetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cublasStatus_t status = find_failure(call);
    struct algorithm algorithm;
    memcpy(&algorithm, algo, sizeof algorithm);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (algorithm.magic != MAGIC || algorithm.number >= N_PROPOSALS)
        return refuse(call, "an algorithm that was not given out");
    if (bytes != sizeof(int32_t))
        return refuse(call, "an attribute of another size");
    if (attribute == CUBLASLT_ALGO_CONFIG_ID)
        tell(value, written, (int32_t)algorithm.number);
    else if (attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM)
        tell(value, written, proposals[algorithm.number].n_splits);
    else if (attribute == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)
        tell(value, written, proposals[algorithm.number].scheme);
    else
        return refuse(call, "an attribute that the stand-in does not have");
    return CUBLAS_STATUS_SUCCESS;
}

/* ---------------------------------------------------------------- products */

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
    struct matrix line = {
        {type, CUBLASLT_ORDER_COL, p.d.layout.rows, 1, (int64_t)p.d.layout.rows, 1, 0},
        p.desc.bias, false};
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

/* Of int8, with beta 0. */
static void multiply_integers(const struct product &p)
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

static void multiply(const struct product &p)
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
                 memset(state, MEMORY_LIVE | MEMORY_WRITTEN, type_size(p.d.layout.type));
             });
}

/* Alpha and beta, which are of the scale type; false for what the stand-in does not compute. */
static bool read_factors(struct product &p, const void *alpha, const void *beta)
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

static bool are_addresses_aligned(const struct product &p)
{
    for (const struct matrix *x : {&p.a, &p.b, &p.c, &p.d})
        if (reinterpret_cast<uintptr_t>(x->data) % step_of(p.a.layout.type) != 0)
            return false;
    return true;
}

/* Says in p how the algorithm adds up. */
static const char *find_broken_promise(struct product &p, const cublasLtMatmulAlgo_t *algo)
{
    struct algorithm algorithm;
    memcpy(&algorithm, algo, sizeof algorithm);
    p.cuts_by_place = algorithm.number >= N_PROPOSALS || proposals[algorithm.number].cuts_by_place;
    if (algorithm.magic != MAGIC || algorithm.number >= N_PROPOSALS)
        return "an algorithm that was not given out";
    if (algorithm.problem != problem_sum(p))
        return "an algorithm that was given out for another problem";
    if (algorithm.workspace > p.workspace_bytes)
        return "a workspace that is smaller than the algorithm's";
    const void *addresses[4] = {p.a.data, p.b.data, p.c.data, p.d.data};
    for (int i = 0; i < 4; i++)
        if (reinterpret_cast<uintptr_t>(addresses[i]) % algorithm.alignments[i] != 0)
            return "a matrix that is not aligned as was promised";
    const struct harness_matrix_layout *layouts[4] = {&p.a.layout, &p.b.layout, &p.c.layout,
                                                      &p.d.layout};
    for (int i = 0; i < 4 && p.a.layout.batches > 1; i++)
        if ((size_t)layouts[i]->stride * type_size(layouts[i]->type) % algorithm.alignments[i] != 0)
            return "a matrix of several that is not aligned as was promised";
    return nullptr;
}

/* Those of one call, one after the other. */
static void multiply_all(struct product p)
{
    for (int32_t i = 0; i < p.a.layout.batches; i++) {
        multiply(p);
        for (struct matrix *x : {&p.a, &p.b, &p.c, &p.d}) {
            x->again = x->layout.stride == 0;
            x->data = static_cast<const char *>(x->data)
                      + x->layout.stride * (int64_t)type_size(x->layout.type);
        }
    }
}

/* Every algorithm takes several matrices. */
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result)
{
    const char *call = "cublasLtMatmulAlgoCheck";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    cublasStatus_t status = find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void *object : std::initializer_list<const void *>{handle, desc, a, b, c, d})
        if (handles.count(object) == 0)
            return refuse(call, "no such object");
    struct product p = problem_of(desc, a, b, c, d);
    struct algorithm algorithm;
    memcpy(&algorithm, algo, sizeof algorithm);
    p.workspace_bytes = algorithm.workspace;
    const char *mistake = find_mistake(p);
    if (!mistake)
        mistake = find_broken_promise(p, algo);
    if (mistake)
        return refuse(call, mistake);
    memset(result, 0, sizeof *result);
    result->algo = *algo;
    result->workspaceSize = algorithm.workspace;
    result->state = CUBLAS_STATUS_SUCCESS;
    return CUBLAS_STATUS_SUCCESS;
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
    struct product p = problem_of(desc, a_layout, b_layout, c_layout, d_layout);
    p.a.data = a;
    p.b.data = b;
    p.c.data = c;
    p.d.data = d;
    p.workspace = static_cast<char *>(workspace);
    p.workspace_bytes = workspace_bytes;
    bool computes = read_factors(p, alpha, beta);
    const char *mistake = find_mistake(p);
    if (!mistake && !computes)
        mistake = "factors of integers that are not 1 and 0";
    if (!mistake && !are_addresses_aligned(p))
        mistake = "an 8-bit product's matrix at an odd address";
    if (!mistake && algo)
        mistake = find_broken_promise(p, algo);
    if (!mistake && c == d && p.beta != 0.0f && c_layout->leading != d_layout->leading)
        mistake = "C and D at one address with different leading dimensions";
    if (mistake)
        return refuse(call, mistake);
    if (!device_has(a_layout->type))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    harness_queue(stream, [p]() { multiply_all(p); });
    return CUBLAS_STATUS_SUCCESS;
}
