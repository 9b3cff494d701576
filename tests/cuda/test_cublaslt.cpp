/* cuBLASLt's stand-in: its products of floats, the bytes they move, and what it refuses. */
#include "harness_test.h"

#include <cublasLt.h>

/* One product's objects: D[m x n] = A^T B + beta C, A of k x m, B of k x n, all by columns. */
struct blas {
    blas(cudaDataType_t in, cudaDataType_t out, size_t m, size_t n, size_t k)
    {
        cublasOperation_t transposed = CUBLAS_OP_T;
        uint64_t room = 4 << 20;
        uint32_t aligned = 4;
        ck_assert_int_eq(cublasLtCreate(&handle), 0);
        ck_assert_int_eq(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), 0);
        ck_assert_int_eq(cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA,
                                                        &transposed, sizeof transposed),
                         0);
        ck_assert_int_eq(cublasLtMatrixLayoutCreate(&a, in, k, m, (int64_t)k), 0);
        ck_assert_int_eq(cublasLtMatrixLayoutCreate(&b, in, k, n, (int64_t)k), 0);
        ck_assert_int_eq(cublasLtMatrixLayoutCreate(&d, out, m, n, (int64_t)m), 0);
        ck_assert_int_eq(cublasLtMatmulPreferenceCreate(&preference), 0);
        cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                             &room, sizeof room);
        for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
             i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; i++)
            cublasLtMatmulPreferenceSetAttribute(
                preference, (cublasLtMatmulPreferenceAttributes_t)i, &aligned, sizeof aligned);
    }
    ~blas()
    {
        cublasLtMatmulPreferenceDestroy(preference);
        cublasLtMatrixLayoutDestroy(d);
        cublasLtMatrixLayoutDestroy(b);
        cublasLtMatrixLayoutDestroy(a);
        cublasLtMatmulDescDestroy(desc);
        cublasLtDestroy(handle);
    }
    int find(cublasLtMatmulHeuristicResult_t results[3])
    {
        int n = 0;
        cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 3, results, &n);
        return n;
    }
    cublasStatus_t run(const void *x, const void *y, void *z, float beta,
                       const cublasLtMatmulAlgo_t *algo, void *workspace, size_t bytes)
    {
        float alpha = 1.0f;
        return cublasLtMatmul(handle, desc, &alpha, x, a, y, b, &beta, z, d, z, d, algo, workspace,
                              bytes, nullptr);
    }
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
};

enum { M = 6, N = 3, K = 10 };

/* The same numbers in f32, bf16 and f16: small integers. */
static void fill_numbers(void *data, size_t n, cudaDataType_t type)
{
    for (size_t i = 0; i < n; i++) {
        float value = (float)(i * 7 % 11) - 5.0f;
        uint16_t bits = type == CUDA_R_16F ? hy_to_f16(value) : hy_to_bf16(value);
        if (type == CUDA_R_32F)
            static_cast<float *>(data)[i] = value;
        else
            static_cast<uint16_t *>(data)[i] = bits;
    }
}

START_TEST(test_products)
{
    static const struct {
        cudaDataType_t in, out;
    } types[] = {{CUDA_R_32F, CUDA_R_32F},
                 {CUDA_R_16BF, CUDA_R_32F},
                 {CUDA_R_16F, CUDA_R_32F},
                 {CUDA_R_16BF, CUDA_R_16BF}};
    numbers a(K * M), b(K * N), d(M * N), bias(M), workspace(1 << 19);
    blas product(types[_i].in, types[_i].out, M, N, K);
    cublasLtMatmulHeuristicResult_t results[3];
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const void *bias_pointer = bias.data();
    std::vector<float> x(K * M), y(K * N), c(M * N);
    fill_numbers(x.data(), K * M, CUDA_R_32F);
    fill_numbers(y.data(), K * N, CUDA_R_32F);
    fill_numbers(c.data(), M * N, CUDA_R_32F);
    fill_numbers(a.data(), K * M, types[_i].in);
    fill_numbers(b.data(), K * N, types[_i].in);
    fill_numbers(d.data(), M * N, types[_i].out);
    fill_numbers(bias.data(), M, types[_i].out);
    cublasLtMatmulDescSetAttribute(product.desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                   sizeof epilogue);
    cublasLtMatmulDescSetAttribute(product.desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias_pointer,
                                   sizeof bias_pointer);
    ck_assert_int_eq(product.find(results), 3);
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 1.0f, &results[0].algo,
                                 workspace.data(), results[0].workspaceSize),
                     CUBLAS_STATUS_SUCCESS);
    expect_no_fault();
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            float expected = c[j * M + i] + c[i], found = d.values[j * M + i];
            for (size_t k = 0; k < K; k++)
                expected += x[i * K + k] * y[j * K + k];
            if (types[_i].out != CUDA_R_32F) {
                const uint16_t *bits = reinterpret_cast<const uint16_t *>(d.data());
                expected = hy_from_bf16(hy_to_bf16(expected));
                found = hy_from_bf16(bits[j * M + i]);
            }
            ck_assert_float_eq(found, expected);
        }
}
END_TEST

/* By rows, what was B and A before: the same numbers, transposed. */
START_TEST(test_products_by_rows)
{
    numbers a(M * K), b(K * N), d(M * N, false);
    float alpha = 2.0f, beta = 0.0f;
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t layouts[3];
    cublasLtOrder_t order = CUBLASLT_ORDER_ROW;
    fill_numbers(a.data(), M * K, CUDA_R_32F);
    fill_numbers(b.data(), K * N, CUDA_R_32F);
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    cublasLtMatrixLayoutCreate(&layouts[0], CUDA_R_32F, M, K, K);
    cublasLtMatrixLayoutCreate(&layouts[1], CUDA_R_32F, K, N, N);
    cublasLtMatrixLayoutCreate(&layouts[2], CUDA_R_32F, M, N, N);
    for (cublasLtMatrixLayout_t layout : layouts)
        cublasLtMatrixLayoutSetAttribute(layout, CUBLASLT_MATRIX_LAYOUT_ORDER, &order,
                                         sizeof order);
    struct traffic traffic[TRAFFIC_LABELS];
    traffic_begin();
    traffic_label(a.data(), M * K * 4, 1);
    traffic_label(b.data(), K * N * 4, 2);
    traffic_label(d.data(), M * N * 4, 3);
    ck_assert_int_eq(cublasLtMatmul(handle, desc, &alpha, a.data(), layouts[0], b.data(),
                                    layouts[1], &beta, d.data(), layouts[2], d.data(), layouts[2],
                                    NULL, NULL, 0, nullptr),
                     CUBLAS_STATUS_SUCCESS);
    traffic_end(traffic);
    expect_no_fault();
    expect_traffic(traffic[1], M * K * 4, M * K * 4, 0, 0);
    expect_traffic(traffic[2], K * N * 4, K * N * 4, 0, 0);
    expect_traffic(traffic[3], 0, 0, M * N * 4, M * N * 4);
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            float expected = 0.0f;
            for (size_t k = 0; k < K; k++)
                expected += a.values[i * K + k] * b.values[k * N + j];
            ck_assert_float_eq(d.values[i * N + j], 2.0f * expected);
        }
}
END_TEST

START_TEST(test_wrong_products)
{
    numbers a(K * M), b(K * N), d(M * N + 1, false), workspace(1 << 19);
    blas product(CUDA_R_32F, CUDA_R_32F, M, N, K), other(CUDA_R_32F, CUDA_R_32F, M, N, K + 1);
    cublasLtMatmulHeuristicResult_t results[3], others[3];
    ck_assert_int_eq(product.find(results), 3);
    ck_assert_int_eq(other.find(others), 3);
    /* Another problem's algorithm, no workspace, a broken promise, C that nobody wrote. */
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 0.0f, &others[2].algo, NULL, 0),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 0.0f, &results[0].algo,
                                 workspace.data(), 4),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    ck_assert_int_eq(product.run(reinterpret_cast<char *>(a.data()) + 1, b.data(), d.data(), 0.0f,
                                 &results[2].algo, NULL, 0),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    product.run(a.data(), b.data(), d.data(), 1.0f, &results[2].algo, NULL, 0);
    expect_fault(HARNESS_GLOBAL_UNINITIALISED);
    /* Matrices that end elsewhere. */
    product.run(a.data() + 1, b.data(), d.data(), 0.0f, &results[2].algo, NULL, 0);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
    product.run(a.data(), b.data(), d.data() + 2, 0.0f, &results[2].algo, NULL, 0);
    expect_fault(HARNESS_GLOBAL_BOUNDS);
    product.run(a.data(), b.data(), d.data() + 1, 0.0f, &results[2].algo, NULL, 0);
    expect_no_fault();
    /* Sizes that do not fit. */
    int n = 0;
    ck_assert_int_eq(cublasLtMatmulAlgoGetHeuristic(product.handle, product.desc, other.a,
                                                    product.b, product.d, product.d,
                                                    product.preference, 3, results, &n),
                     CUBLAS_STATUS_INVALID_VALUE);
    expect_fault(HARNESS_CALL);
    harness_fail_next("cublasLtMatmul", 1, cudaErrorUnknown);
    ck_assert_int_eq(product.run(a.data(), b.data(), d.data(), 0.0f, NULL, NULL, 0),
                     CUBLAS_STATUS_EXECUTION_FAILED);
    ck_assert_uint_eq(harness_live_count(), 12);
}
END_TEST

int main()
{
    Suite *suite = suite_create("cuda/cublaslt");
    TCase *tcase = tcase_create("all");
    tcase_add_checked_fixture(tcase, harness_reset, harness_reset);
    tcase_add_loop_test(tcase, test_products, 0, 4);
    tcase_add_test(tcase, test_products_by_rows);
    tcase_add_test(tcase, test_wrong_products);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
