/* cuBLASLt's stand-in with 8-bit matrices: its sums, and what it refuses as the library does. */
#include "harness.h"

#include <cublasLt.h>

#include <string.h>

#include <vector>

extern "C" {
#include "support.h"
#include "tensor/dtype.h"
}

enum { M = 16, N = 16, K = 32 };

/* A problem that is right, and what a test makes wrong of it. */
struct problem {
    cudaDataType_t type = CUDA_R_8I, sums = CUDA_R_32I, scale = CUDA_R_32I;
    cublasComputeType_t compute = CUBLAS_COMPUTE_32I;
    cublasOperation_t op_a = CUBLAS_OP_T, op_b = CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    uint64_t m = M, n = N, k = K;
    int64_t leading = K; /* of A */
    uint32_t alignment = 16;
    size_t offset = 0; /* of A's address */
    int32_t factors[2] = {1, 0};
    int capability = 89;
};

static struct problem of_fp8()
{
    struct problem p;
    const float one = 1.0f;
    p.type = CUDA_R_8F_E4M3;
    p.sums = p.scale = CUDA_R_32F;
    p.compute = CUBLAS_COMPUTE_32F;
    memcpy(&p.factors[0], &one, sizeof one);
    return p;
}

/* What became of it: the status of the question for algorithms, or of the product. */
struct outcome {
    cublasStatus_t asked, multiplied;
    bool fault;
    std::vector<unsigned char> sums;
};

static void *on_device(const std::vector<unsigned char> &values)
{
    void *data;
    ck_assert_int_eq(cudaMalloc(&data, values.size()), cudaSuccess);
    cudaMemcpy(data, values.data(), values.size(), cudaMemcpyHostToDevice);
    return data;
}

static struct outcome run(const struct problem &p, const std::vector<unsigned char> &a_values,
                          const std::vector<unsigned char> &b_values)
{
    struct harness_device_config config = harness_default_device();
    struct outcome outcome = {};
    cublasLtHandle_t handle;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result = {};
    int n_results = 0;
    config.major = p.capability / 10;
    config.minor = p.capability % 10;
    harness_configure(&config);
    cublasLtCreate(&handle);
    cublasLtMatmulDescCreate(&desc, p.compute, p.scale);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &p.op_a, sizeof p.op_a);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &p.op_b, sizeof p.op_b);
    cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &p.epilogue,
                                   sizeof p.epilogue);
    bool a_is_t = p.op_a == CUBLAS_OP_T, b_is_t = p.op_b == CUBLAS_OP_T;
    cublasLtMatrixLayoutCreate(&a, p.type, a_is_t ? p.k : p.m, a_is_t ? p.m : p.k, p.leading);
    cublasLtMatrixLayoutCreate(&b, p.type, b_is_t ? p.n : p.k, b_is_t ? p.k : p.n, K);
    cublasLtMatrixLayoutCreate(&d, p.sums, p.m, p.n, (int64_t)p.m);
    cublasLtMatmulPreferenceCreate(&preference);
    for (int i = CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
         i <= CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES; i++)
        cublasLtMatmulPreferenceSetAttribute(preference, (cublasLtMatmulPreferenceAttributes_t)i,
                                             &p.alignment, sizeof p.alignment);
    outcome.asked = cublasLtMatmulAlgoGetHeuristic(handle, desc, a, b, d, d, preference, 1,
                                                   &result, &n_results);
    void *x = on_device(a_values), *y = on_device(b_values);
    void *z = on_device(std::vector<unsigned char>(4 * p.m * p.n, 0x5a));
    outcome.multiplied =
        cublasLtMatmul(handle, desc, &p.factors[0], (unsigned char *)x + p.offset, a, y, b,
                       &p.factors[1], z, d, z, d, NULL, NULL, 0, NULL);
    outcome.sums.resize(4 * p.m * p.n);
    cudaMemcpy(outcome.sums.data(), z, outcome.sums.size(), cudaMemcpyDeviceToHost);
    outcome.fault = harness_error_count() > 0;
    for (void *data : {x, y, z})
        cudaFree(data);
    cublasLtMatmulPreferenceDestroy(preference);
    for (cublasLtMatrixLayout_t layout : {a, b, d})
        cublasLtMatrixLayoutDestroy(layout);
    cublasLtMatmulDescDestroy(desc);
    cublasLtDestroy(handle);
    return outcome;
}

static std::vector<unsigned char> some_bytes(size_t n, bool fp8)
{
    std::vector<unsigned char> values(n);
    for (unsigned char &value : values)
        value = (unsigned char)(fp8 ? test_random_below(2) * 0x80 + test_random_below(0x7f)
                                    : test_random_below(256));
    return values;
}

START_TEST(sums)
{
    const bool fp8 = _i == 1;
    const struct problem p = fp8 ? of_fp8() : problem();
    const std::vector<unsigned char> a = some_bytes(M * K, fp8), b = some_bytes(N * K, fp8);
    const struct outcome outcome = run(p, a, b);
    ck_assert_int_eq(outcome.multiplied, CUBLAS_STATUS_SUCCESS);
    ck_assert_msg(!outcome.fault, "%s", harness_first_error());
    for (size_t i = 0; i < M; i++)
        for (size_t j = 0; j < N; j++) {
            const unsigned char *place = &outcome.sums[4 * (j * M + i)];
            double sum = 0.0, magnitude = 0.0;
            for (size_t k = 0; k < K; k++) {
                const double one = fp8 ? (double)hy_fp8_to_f32(a[i * K + k])
                                             * (double)hy_fp8_to_f32(b[j * K + k])
                                       : (double)(int8_t)a[i * K + k] * (int8_t)b[j * K + k];
                sum += one;
                magnitude += fabs(one);
            }
            int32_t integer;
            float number;
            memcpy(&integer, place, 4);
            memcpy(&number, place, 4);
            const bool right = fp8 ? fabs((double)number - sum) <= K * 0x1p-24 * magnitude
                                   : (double)integer == sum;
            if (!right)
                ck_abort_msg("row %zu, column %zu: %g or %d, expected %g", (size_t)j, (size_t)i,
                             (double)number, (int)integer, sum);
        }
}
END_TEST

/* What both refuse, as a fault: the library would say INVALID_VALUE or NOT_SUPPORTED. */
START_TEST(mistakes)
{
    for (int number = 0; number < 13; number++) {
        harness_reset();
        struct problem p = _i == 1 ? of_fp8() : problem();
        const uint64_t odd = _i == 1 ? 8 : 2;
        if (number == 0)
            p.op_a = CUBLAS_OP_N;
        else if (number == 1)
            p.op_b = CUBLAS_OP_T;
        else if (number == 2)
            p.compute = CUBLAS_COMPUTE_16F;
        else if (number == 3)
            p.scale = _i == 1 ? CUDA_R_32I : CUDA_R_32F;
        else if (number == 4)
            p.sums = CUDA_R_16BF;
        else if (number == 5)
            p.m += odd;
        else if (number == 6)
            p.k -= odd;
        else if (number == 7)
            p.leading += (int64_t)odd;
        else if (number == 8)
            p.epilogue = CUBLASLT_EPILOGUE_BIAS;
        else if (number == 9)
            p.offset = odd;
        else if (number == 10 && _i == 1)
            p.n += odd;
        else if (number == 10)
            p.factors[1] = 1;
        else if (number == 11)
            p.sums = _i == 1 ? CUDA_R_32I : CUDA_R_32F;
        else
            p.compute = _i == 1 ? CUBLAS_COMPUTE_32I : CUBLAS_COMPUTE_32F;
        const std::vector<unsigned char> bytes(2 * M * K, 1);
        const struct outcome outcome = run(p, bytes, bytes);
        ck_assert_msg(outcome.fault, "mistake %d", number);
        ck_assert_int_ne(outcome.multiplied, CUBLAS_STATUS_SUCCESS);
    }
    harness_reset();
}
END_TEST

/* What hangs on the device or on what is promised is answered, and is no fault. */
START_TEST(not_supported)
{
    const std::vector<unsigned char> bytes(2 * M * K, 1);
    struct problem p = of_fp8();
    p.capability = 86;
    struct outcome outcome = run(p, bytes, bytes);
    ck_assert_int_eq(outcome.asked, CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert_int_eq(outcome.multiplied, CUBLAS_STATUS_NOT_SUPPORTED);
    ck_assert(!outcome.fault);
    p = of_fp8();
    p.alignment = 8;
    ck_assert_int_eq(run(p, bytes, bytes).asked, CUBLAS_STATUS_NOT_SUPPORTED);
    p = problem();
    p.alignment = 2;
    ck_assert_int_eq(run(p, bytes, bytes).asked, CUBLAS_STATUS_NOT_SUPPORTED);
    p.alignment = 4;
    p.capability = 80;
    ck_assert_int_eq(run(p, bytes, bytes).asked, CUBLAS_STATUS_SUCCESS);
    ck_assert_uint_eq(harness_error_count(), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cuBLASLt's stand-in with 8 bits");
    TCase *tcase = tcase_create("8 bits");
    tcase_add_checked_fixture(tcase, harness_reset, NULL);
    tcase_add_loop_test(tcase, sums, 0, 2);
    tcase_add_loop_test(tcase, mistakes, 0, 2);
    tcase_add_test(tcase, not_supported);
    suite_add_tcase(suite, tcase);
    return test_main(suite);
}
