/* What the files of cuBLASLt's stand-in share: its objects, and a product that is asked for. */
#ifndef HYMBA_TEST_BLAS_H
#define HYMBA_TEST_BLAS_H

#include "cublasLt.h"

#include "inside.h"

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

struct blas_matrix {
    struct harness_matrix_layout layout;
    const void *data;
    bool again; /* the call has read it before */
};

struct blas_product {
    struct harness_matmul_desc desc;
    float alpha, beta; /* of integers, too: only 0 and 1 are taken then */
    struct blas_matrix a, b, c, d;
    char *workspace;
    size_t workspace_bytes;
    bool cuts_by_place;
};

/* ----------------------------------------------------------- cublasLt.cpp */

/* Tells of a caller's mistake. */
cublasStatus_t blas_refuse(const char *call, const char *what);

/* Whether a test wants the call to fail, or the device was lost. */
cublasStatus_t blas_find_failure(const char *call);

/* Whether it is an object that is not destroyed yet. */
bool blas_has(const void *object);

/* ------------------------------------------------------ blas_problems.cpp */

/* Bytes of an element; 0: of another type than there are. */
size_t blas_type_size(cudaDataType_t type);

/* What addresses, leading dimensions and sizes are multiples of. */
uint64_t blas_step_of(cudaDataType_t type);

/* Without addresses. */
struct blas_product blas_problem_of(cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                    cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                    cublasLtMatrixLayout_t d);

/* NULL, or what is wrong with the problem. */
const char *blas_find_mistake(const struct blas_product &p);

/* NULL, or why the algorithm cannot be used for it. Says in p how it adds up. */
const char *blas_find_broken_promise(struct blas_product &p, const cublasLtMatmulAlgo_t *algo);

/* Before sm_80 there are no products of bf16, before sm_89 none of fp8. */
bool blas_device_has(cudaDataType_t type);

#endif
