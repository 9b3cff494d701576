/*
 * cuBLASLt's stand-in: its objects and their attributes. What it checks stands in
 * blas_problems.cpp, how it multiplies in blas_products.cpp.
 */
#include "blas.h"

#include <functional>
#include <map>

struct harness_blas {
    int unused;
};

namespace {

enum { DEFAULT_ALIGNMENT = 256 };

/* What is not destroyed yet, and how that is done. */
std::map<const void *, std::function<void()>> handles;

} // namespace

/* ----------------------------------------------------------------- handles */

cublasStatus_t blas_refuse(const char *call, const char *what)
{
    harness_report(HARNESS_CALL, "%s: %s", call, what);
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t blas_find_failure(const char *call)
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
    cublasStatus_t status = blas_find_failure(call);
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
        return blas_refuse(call, "no such object");
    found->second();
    handles.erase(found);
    return blas_find_failure(call);
}

bool blas_has(const void *object)
{
    return handles.count(object) != 0;
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
        return blas_refuse(call, "an attribute of another size");
    memcpy(field, value, sizeof *field);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    const char *call = "cublasLtMatmulDescSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    if (!blas_has(desc))
        return blas_refuse(call, "no such object");
    cublasStatus_t status = blas_find_failure(call);
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
        return blas_refuse(call, "an attribute that the stand-in does not have");
    }
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t bytes)
{
    const char *call = "cublasLtMatrixLayoutSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    if (!blas_has(layout))
        return blas_refuse(call, "no such object");
    cublasStatus_t status = blas_find_failure(call);
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
        return blas_refuse(call, "an attribute that the stand-in does not have");
    }
}

cublasStatus_t
cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                     cublasLtMatmulPreferenceAttributes_t attribute,
                                     const void *value, size_t bytes)
{
    const char *call = "cublasLtMatmulPreferenceSetAttribute";
    std::lock_guard<std::recursive_mutex> lock(harness_mutex);
    if (!blas_has(preference))
        return blas_refuse(call, "no such object");
    cublasStatus_t status = blas_find_failure(call);
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
        return blas_refuse(call, "an attribute that the stand-in does not have");
    }
}
