/*
 * Which products cuBLASLt's stand-in makes, and the algorithms for them.
 *
 * It checks sizes, types and leading dimensions; that addresses have the alignment the caller
 * promised when it asked for algorithms; that an algorithm is used for what it was given out for,
 * with its workspace. Algorithms are asked for their splits of k; all but the last one proposed add
 * up by place, so that bits tell which was taken.
 *
 * What the real library asks of 8-bit products in matrices that lie column by column: A transposed
 * and B not; for int8 addresses, leading dimensions, m and k that are multiples of 4, scale type,
 * C and D int32, no epilogue; for fp8 addresses and lengths of rows and columns that are multiples
 * of 16 bytes, of which it makes the stricter multiples of 16 of m, n and k, and capability 8.9.
 */
#include "blas.h"

#include <string.h>

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

enum { MAGIC = 0x48594d42 };

} // namespace

size_t blas_type_size(cudaDataType_t type)
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

uint64_t blas_step_of(cudaDataType_t type)
{
    return type == CUDA_R_8I ? 4 : type == CUDA_R_8F_E4M3 ? 16 : 1;
}

static bool is_good_layout(const struct harness_matrix_layout &layout)
{
    uint64_t least = layout.order == CUBLASLT_ORDER_ROW ? layout.columns : layout.rows;
    return blas_type_size(layout.type) != 0 && layout.rows > 0 && layout.columns > 0 &&
           layout.leading > 0 && (uint64_t)layout.leading >= least;
}

static bool are_steps(cudaDataType_t type, std::initializer_list<uint64_t> numbers)
{
    for (uint64_t number : numbers)
        if (number % blas_step_of(type) != 0)
            return false;
    return true;
}

/* NULL, or what is wrong with a product of 8 bits, beside sizes that do not fit. */
static const char *find_narrow_mistake(const struct blas_product &p)
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
        if (x->order != CUBLASLT_ORDER_COL || (uint64_t)x->leading % blas_step_of(a.type) != 0)
            return "an 8-bit product's matrix by rows, or with columns an odd distance apart";
    if (!are_steps(a.type, {a.rows, a.columns}) ||
        (a.type == CUDA_R_8F_E4M3 && !are_steps(a.type, {b.columns})))
        return "an 8-bit product's sizes are no multiples of what they must be";
    if (p.desc.epilogue != CUBLASLT_EPILOGUE_DEFAULT)
        return "an 8-bit product with an epilogue";
    return nullptr;
}

/* NULL, or what is wrong with the types. */
static const char *find_wrong_type(const struct blas_product &p)
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

const char *blas_find_mistake(const struct blas_product &p)
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

struct blas_product blas_problem_of(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                    cublasLtMatrixLayout_t d)
{
    struct blas_product p = {*desc,
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

static uint64_t problem_sum(const struct blas_product &p)
{
    uint64_t sum = 0xcbf29ce484222325u;
    sum = mix(sum, p.desc.compute);
    sum = mix(sum, p.desc.op_a);
    sum = mix(sum, p.desc.op_b);
    sum = mix(sum, p.desc.epilogue);
    for (const struct blas_matrix *x : {&p.a, &p.b, &p.c, &p.d}) {
        sum = mix(sum, x->layout.type);
        sum = mix(sum, x->layout.order);
        sum = mix(sum, x->layout.rows);
        sum = mix(sum, x->layout.columns);
        sum = mix(sum, (uint64_t)x->layout.leading);
    }
    return sum;
}

bool blas_device_has(cudaDataType_t type)
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
        if (alignments[i] % blas_step_of(type) != 0)
            return false;
    return true;
}

const char *blas_find_broken_promise(struct blas_product &p, const cublasLtMatmulAlgo_t *algo)
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
        if ((size_t)layouts[i]->stride * blas_type_size(layouts[i]->type) % algorithm.alignments[i]
            != 0)
            return "a matrix of several that is not aligned as was promised";
    return nullptr;
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
    cublasStatus_t status = blas_find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void *object :
         std::initializer_list<const void *>{handle, desc, a, b, c, d, preference})
        if (!blas_has(object))
            return blas_refuse(call, "no such object");
    struct blas_product p = blas_problem_of(desc, a, b, c, d);
    const char *mistake = blas_find_mistake(p);
    if (mistake || n_wanted < 1)
        return blas_refuse(call, mistake ? mistake : "no algorithms are wanted");
    if (!blas_device_has(a->type) || !is_aligned_enough(a->type, preference->alignments))
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
    cublasStatus_t status = blas_find_failure(call);
    struct algorithm algorithm;
    memcpy(&algorithm, algo, sizeof algorithm);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (algorithm.magic != MAGIC || algorithm.number >= N_PROPOSALS)
        return blas_refuse(call, "an algorithm that was not given out");
    if (bytes != sizeof(int32_t))
        return blas_refuse(call, "an attribute of another size");
    if (attribute == CUBLASLT_ALGO_CONFIG_ID)
        tell(value, written, (int32_t)algorithm.number);
    else if (attribute == CUBLASLT_ALGO_CONFIG_SPLITK_NUM)
        tell(value, written, proposals[algorithm.number].n_splits);
    else if (attribute == CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME)
        tell(value, written, proposals[algorithm.number].scheme);
    else
        return blas_refuse(call, "an attribute that the stand-in does not have");
    return CUBLAS_STATUS_SUCCESS;
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
    cublasStatus_t status = blas_find_failure(call);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    for (const void *object : std::initializer_list<const void *>{handle, desc, a, b, c, d})
        if (!blas_has(object))
            return blas_refuse(call, "no such object");
    struct blas_product p = blas_problem_of(desc, a, b, c, d);
    struct algorithm algorithm;
    memcpy(&algorithm, algo, sizeof algorithm);
    p.workspace_bytes = algorithm.workspace;
    const char *mistake = blas_find_mistake(p);
    if (!mistake)
        mistake = blas_find_broken_promise(p, algo);
    if (mistake)
        return blas_refuse(call, mistake);
    memset(result, 0, sizeof *result);
    result->algo = *algo;
    result->workspaceSize = algorithm.workspace;
    result->state = CUBLAS_STATUS_SUCCESS;
    return CUBLAS_STATUS_SUCCESS;
}
