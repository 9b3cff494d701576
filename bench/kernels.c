/*
 * Times the matrix product against what the machine can do: gigabytes per second at one row (the
 * decode step) against a plain read loop, and operations per second at 128 rows (a prompt) against
 * a plain loop of fused multiply-adds. Prints ratios. Not a test: run it on a quiet machine.
 *
 * Usage: kernels [INSTRUCTION_SET]
 */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernel/kernel.h"

enum {
    K = 1600,
    N = 8960,
    ROWS = 128,
    COPIES = 24,       /* of the weights: 688 MB, far more than any cache */
    MOST_THREADS = 2,
    REPEATS = 5,
};

static const size_t weights_size = (size_t)N * K * 2;

struct job {
    struct hy_kernels kernels;
    const unsigned char *weights; /* COPIES of [N][K] bf16 */
    const float *x;
    float *y;
    unsigned thread, n_threads;
    uint64_t result; /* keeps the loops from being dropped */
};

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Fastest of several runs of work on n_threads threads. */
static double time_threads(void *(*work)(void *), const struct job *base, unsigned n_threads)
{
    double best = 1e30;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        struct job jobs[MOST_THREADS];
        pthread_t threads[MOST_THREADS];
        double start = seconds();
        for (unsigned i = 0; i < n_threads; i++) {
            jobs[i] = *base;
            jobs[i].thread = i;
            jobs[i].n_threads = n_threads;
            if (pthread_create(&threads[i], NULL, work, &jobs[i]) != 0)
                exit(1);
        }
        for (unsigned i = 0; i < n_threads; i++)
            pthread_join(threads[i], NULL);
        double taken = seconds() - start;
        best = taken < best ? taken : best;
    }
    return best;
}

/* Reads the thread's half of every copy of the weights, four independent sums. */
static void *read_weights(void *argument)
{
    struct job *job = argument;
    size_t part = weights_size / job->n_threads, count = part / sizeof(uint64_t);
    uint64_t sums[4] = {0};
    for (size_t copy = 0; copy < COPIES; copy++) {
        const uint64_t *words =
            (const void *)(job->weights + copy * weights_size + part * job->thread);
        for (size_t i = 0; i + 32 <= count; i += 32)
            for (size_t j = 0; j < 4; j++)
                sums[j] += words[i + 8 * j];
    }
    job->result = sums[0] + sums[1] + sums[2] + sums[3];
    return NULL;
}

static void *multiply(void *argument, size_t m)
{
    struct job *job = argument;
    size_t begin = (size_t)N / job->n_threads * job->thread;
    size_t end = job->thread + 1 == job->n_threads ? (size_t)N : begin + N / job->n_threads;
    size_t copies = m == 1 ? COPIES : 1;
    for (size_t copy = 0; copy < copies; copy++) {
        struct hy_matmul_args args = {
            .x = job->x, .x_stride = K, .m = m, .n = N, .k = K,
            .w = job->weights + copy * weights_size, .dtype = HYMBA_DTYPE_BF16, .w_stride = K,
            .y = job->y, .y_stride = N,
        };
        job->kernels.matmul(&args, begin, end, NULL);
    }
    return NULL;
}

static void *multiply_row(void *argument)
{
    return multiply(argument, 1);
}

static void *multiply_rows(void *argument)
{
    return multiply(argument, ROWS);
}

#if defined(__x86_64__)
#include <immintrin.h>

#include "kernel/vector/inline.h"

enum { STEPS = 20000000, CHAINS = 12 };

/* Fused multiply-adds in registers alone; returns operations. */
__attribute__((target("avx2,fma"))) static double peak_avx2(float *sink)
{
    __m256 sums[CHAINS], factor = _mm256_set1_ps(0.999f);
    HY_UNROLL
    for (int j = 0; j < CHAINS; j++)
        sums[j] = _mm256_set1_ps((float)j);
    for (int i = 0; i < STEPS; i++) {
        HY_UNROLL
        for (int j = 0; j < CHAINS; j++)
            sums[j] = _mm256_fmadd_ps(sums[j], factor, factor);
    }
    HY_UNROLL
    for (int j = 0; j < CHAINS; j++)
        _mm256_storeu_ps(sink + 8 * j, sums[j]);
    return 16.0 * CHAINS * STEPS;
}

__attribute__((target("avx512f"))) static double peak_avx512(float *sink)
{
    __m512 sums[CHAINS], factor = _mm512_set1_ps(0.999f);
    HY_UNROLL
    for (int j = 0; j < CHAINS; j++)
        sums[j] = _mm512_set1_ps((float)j);
    for (int i = 0; i < STEPS; i++) {
        HY_UNROLL
        for (int j = 0; j < CHAINS; j++)
            sums[j] = _mm512_fmadd_ps(sums[j], factor, factor);
    }
    HY_UNROLL
    for (int j = 0; j < CHAINS; j++)
        _mm512_storeu_ps(sink + 16 * j, sums[j]);
    return 32.0 * CHAINS * STEPS;
}

/* Operations per second of one thread; 0 where no such loop is known. */
static double peak(const char *name)
{
    float sink[16 * CHAINS];
    bool wide = strcmp(name, "avx512") == 0 || strcmp(name, "amx") == 0;
    if (!wide && strcmp(name, "avx2") != 0)
        return 0.0;
    double start = seconds();
    double operations = wide ? peak_avx512(sink) : peak_avx2(sink);
    return operations / (seconds() - start);
}
#else
static double peak(const char *name)
{
    (void)name;
    return 0.0;
}
#endif

int main(int argc, char **argv)
{
    struct job job = {.thread = 0};
    hymba_error error = {.struct_size = sizeof error};
    if (hy_kernels_init(&job.kernels, argc > 1 ? argv[1] : NULL, &error) != HYMBA_OK) {
        fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    unsigned char *weights = aligned_alloc(64, COPIES * weights_size);
    float *x = aligned_alloc(64, sizeof(float) * ROWS * K);
    float *y = aligned_alloc(64, sizeof(float) * ROWS * N);
    if (!weights || !x || !y)
        return 1;
    for (size_t i = 0; i < COPIES * weights_size / 2; i++)
        memcpy(weights + 2 * i, &(uint16_t){(uint16_t)(0x3c00u + i % 255u)}, 2);
    for (size_t i = 0; i < (size_t)ROWS * K; i++)
        x[i] = (float)(i % 7);
    job.weights = weights;
    job.x = x;
    job.y = y;

    double gigabytes = 1e-9 * (double)(COPIES * weights_size);
    double operations = 2e-9 * ROWS * (double)K * N, peak_rate = 1e-9 * peak(job.kernels.name);
    printf("instruction set %s, bf16 weights [%d][%d]\n", job.kernels.name, N, K);
    for (unsigned n_threads = 1; n_threads <= MOST_THREADS; n_threads++) {
        double read = gigabytes / time_threads(read_weights, &job, n_threads);
        double row = gigabytes / time_threads(multiply_row, &job, n_threads);
        double rows = operations / time_threads(multiply_rows, &job, n_threads);
        printf("%u thread(s): read %.1f GB/s, 1 row %.1f GB/s (%.2f of it)", n_threads, read, row,
               row / read);
        printf("; %d rows %.0f GFLOP/s", ROWS, rows);
        if (peak_rate > 0.0)
            printf(" (%.2f of %.0f)", rows / (peak_rate * n_threads), peak_rate * n_threads);
        printf("\n");
    }
    free(weights);
    free(x);
    free(y);
    return 0;
}
