/*
 * What comparisons of a device's ops with generic C share: random data, arrays on the device, and
 * the first disagreement.
 */
#ifndef HYMBA_TEST_COMPARE_BENCH_H
#define HYMBA_TEST_COMPARE_BENCH_H

extern "C" {
#include "backend/device.h"
}

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <random>
#include <vector>

typedef std::vector<float> floats;
typedef std::vector<unsigned char> bytes;

/* What a comparison works with, and the first disagreement it finds. */
class bench {
public:
    bench(const struct hy_device_ops *ops_, struct hy_device *device_, unsigned seed)
        : ops(ops_), device(device_), random(seed)
    {
        message[0] = '\0';
    }
    ~bench()
    {
        for (void *data : taken)
            ops->release(device, data);
    }
    size_t below(size_t n)
    {
        return random() % n;
    }
    bool coin()
    {
        return below(2) == 1;
    }
    floats some(size_t n, float scale = 1.0f)
    {
        floats values(n);
        for (float &value : values)
            value = ((float)(random() % 20001) / 10000.0f - 1.0f) * scale;
        return values;
    }
    /* Numbers of a float type. */
    bytes as(const floats &values, hymba_dtype dtype)
    {
        bytes data(values.size() * hy_dtype_size(dtype));
        hy_row_from_f32(values.data(), dtype, data.data(), values.size());
        return data;
    }
    void *take(size_t size)
    {
        void *data = ops->allocate(device, size);
        if (!data || (uintptr_t)data % 256 != 0)
            fail("%zu bytes of the device could not be had at a multiple of 256", size);
        taken.push_back(data);
        return data;
    }
    template <typename T> T *put(const std::vector<T> &values)
    {
        size_t size = values.size() * sizeof(T);
        T *data = (T *)take(size ? size : 1);
        if (size == 0)
            return data;
        std::vector<T> passing = values;
        struct hy_copy_args args = {HY_COPY_TO_DEVICE, data, size, passing.data(), size, size, 1};
        ops->copy(device, &args);
        memset((void *)passing.data(), 0x5a, size); /* the source may change at once */
        return data;
    }
    template <typename T> std::vector<T> get(const T *data, size_t n)
    {
        std::vector<T> values(n);
        struct hy_copy_args args = {HY_COPY_TO_HOST,    values.data(),       n * sizeof(T), data,
                                    n * sizeof(T), n * sizeof(T), 1};
        ops->copy(device, &args);
        finish();
        return values;
    }
    void finish()
    {
        hymba_error error = {};
        error.struct_size = sizeof error;
        if (ops->finish(device, &error) != HYMBA_OK)
            fail("%s", error.message);
    }
    void fail(const char *format, ...) __attribute__((format(printf, 2, 3)))
    {
        va_list arguments;
        if (message[0])
            return;
        va_start(arguments, format);
        vsnprintf(message, sizeof message, format, arguments);
        va_end(arguments);
    }
    /* Rows of n elements, stride apart; what lies between them is to be as it was, too. */
    void agree(const char *what, const floats &actual, const floats &expected, float tolerance)
    {
        for (size_t i = 0; i < expected.size(); i++)
            if (!(fabsf(actual[i] - expected[i]) <= tolerance * (1.0f + fabsf(expected[i]))))
                fail("%s: number %zu is %g, generic C has %g", what, i, (double)actual[i],
                     (double)expected[i]);
    }
    /* The same with a tolerance for each number. */
    void agree(const char *what, const floats &actual, const floats &expected,
               const floats &tolerances)
    {
        for (size_t i = 0; i < expected.size(); i++)
            if (!(fabsf(actual[i] - expected[i]) <= tolerances[i]))
                fail("%s: number %zu is %.9g, generic C has %.9g, and no more than %g may be "
                     "between",
                     what, i, (double)actual[i], (double)expected[i], (double)tolerances[i]);
    }
    void same(const char *what, const bytes &actual, const bytes &expected)
    {
        for (size_t i = 0; i < expected.size(); i++)
            if (actual[i] != expected[i])
                fail("%s: byte %zu is %d, generic C has %d", what, i, actual[i], expected[i]);
    }
    const struct hy_device_ops *ops;
    struct hy_device *device;
    char message[512];

private:
    std::mt19937 random;
    std::vector<void *> taken;
};

static const hymba_dtype float_types[] = {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16};

/* Weights of any type, as a device wants them, and scales for those that have them. */
struct weights {
    hymba_dtype dtype;
    size_t group;
    bytes data;
    std::vector<uint16_t> scales;
};

struct weights some_weights(bench &b, hymba_dtype dtype, size_t n, size_t k);

/* Rows that an op rounds: generic C's, and where the device is to put them. */
struct rounded_rows {
    size_t n, stride;
    std::vector<uint16_t> expected;
    struct hy_rounded on_device;
};

struct rounded_rows some_rounded(bench &b, size_t rows, size_t n);

/* What generic C has of the op is x as f32; nothing else may differ than what rounding makes of a
 * last bit. */
void agree_rounded(bench &b, const char *what, struct rounded_rows &rounded, const floats &x,
                   size_t x_stride, size_t rows);

#endif
