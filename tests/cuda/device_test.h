/* What the tests of kernels share: arrays on the device that the harness plays, and comparisons. */
#ifndef HYMBA_DEVICE_TEST_H
#define HYMBA_DEVICE_TEST_H

extern "C" {
#include "kernel/kernel.h"
#include "support.h"
#include "tensor/dtype.h"
}

#include "portable.h"

#include <math.h>
#include <string.h>

#include <vector>

/* A copy of host values on the device, between allocations that the harness watches. */
template <typename T> class device_array {
public:
    explicit device_array(const std::vector<T> &values) : size(values.size())
    {
        ck_assert_int_eq(cudaMalloc(reinterpret_cast<void **>(&data), bytes() + 1), cudaSuccess);
        ck_assert_int_eq(cudaMemcpy(data, values.data(), bytes(), cudaMemcpyHostToDevice),
                         cudaSuccess);
    }
    device_array(const device_array &) = delete;
    device_array &operator=(const device_array &) = delete;
    ~device_array()
    {
        cudaFree(data);
    }
    std::vector<T> read() const
    {
        std::vector<T> values(size);
        ck_assert_int_eq(cudaMemcpy(values.data(), data, bytes(), cudaMemcpyDeviceToHost),
                         cudaSuccess);
        return values;
    }
    T *data;
    const size_t size;

private:
    size_t bytes() const
    {
        return size * sizeof(T);
    }
};

/* Uniform in [-scale, scale). */
static inline float random_float(float scale)
{
    return (float)(2.0 * test_random() - 1.0) * scale;
}

static inline std::vector<float> random_floats(size_t n, float scale)
{
    std::vector<float> values(n);
    for (float &value : values)
        value = random_float(scale);
    return values;
}

static inline std::vector<unsigned char> random_elements(size_t n, hymba_dtype dtype, float scale)
{
    const std::vector<float> values = random_floats(n, scale);
    std::vector<unsigned char> elements(n * hy_dtype_size(dtype));
    hy_row_from_f32(values.data(), dtype, elements.data(), n);
    return elements;
}

/* A matrix of quantised weights: bytes of any value, scales of both signs. */
struct quantised {
    hymba_dtype dtype;
    size_t rows, columns, group;
    std::vector<unsigned char> data;
    std::vector<uint16_t> scales;
    struct hy_matrix matrix() const
    {
        return {data.data(), dtype, rows, columns, scales.data(), group, false};
    }
};

static inline struct quantised random_quantised(hymba_dtype dtype, size_t rows, size_t columns,
                                                size_t group)
{
    struct quantised w = {dtype, rows, columns, group, {}, {}};
    w.data.resize(rows * hy_row_bytes(dtype, columns));
    for (unsigned char &byte : w.data)
        byte = (unsigned char)test_random_below(256);
    for (size_t i = 0; i < rows * (columns / group); i++)
        w.scales.push_back(hy_f32_to_bf16(random_float(0.1f)));
    return w;
}

/* Of every element of large arrays: Check would write to a pipe for each assertion that holds. */
static inline void check_near(double actual, double expected, double tolerance, const char *what)
{
    if (!(fabs(actual - expected) <= tolerance))
        ck_abort_msg("%s: %.9g, expected %.9g within %.3g", what, actual, expected, tolerance);
}

static inline void check_same_bits(const std::vector<float> &a, const std::vector<float> &b,
                                   const char *what)
{
    ck_assert_uint_eq(a.size(), b.size());
    for (size_t i = 0; i < a.size(); i++)
        if (hy_f32_to_bits(a[i]) != hy_f32_to_bits(b[i]))
            ck_abort_msg("%s: element %zu: %.9g, %.9g", what, i, (double)a[i], (double)b[i]);
}

/* Waits for the launches; the harness found nothing wrong in them. */
static inline void check_harness()
{
    ck_assert_int_eq(cudaDeviceSynchronize(), cudaSuccess);
    ck_assert_int_eq(cudaGetLastError(), cudaSuccess);
    ck_assert_msg(harness_error_count() == 0, "%s", harness_first_error());
}

/* The latest launch's loads and stores. */
static inline void check_traffic(uint64_t read, uint64_t written)
{
    const struct harness_launch_record *launch = harness_last_launch();
    ck_assert_ptr_nonnull(launch);
    ck_assert_msg(launch->bytes_read == read && launch->bytes_written == written,
                  "%s: %llu bytes read, %llu written; expected %llu and %llu", launch->name,
                  (unsigned long long)launch->bytes_read,
                  (unsigned long long)launch->bytes_written, (unsigned long long)read,
                  (unsigned long long)written);
}

/* The same with each byte counted once. */
static inline void check_distinct_traffic(uint64_t read, uint64_t written)
{
    const struct harness_launch_record *launch = harness_last_launch();
    ck_assert_ptr_nonnull(launch);
    ck_assert_msg(launch->unique_bytes_read == read && launch->unique_bytes_written == written,
                  "%s: %llu distinct bytes read, %llu written; expected %llu and %llu",
                  launch->name, (unsigned long long)launch->unique_bytes_read,
                  (unsigned long long)launch->unique_bytes_written, (unsigned long long)read,
                  (unsigned long long)written);
}

static inline uint64_t ceil_div(uint64_t a, uint64_t b)
{
    return (a + b - 1) / b;
}

#endif
