/*
 * Runs kernels written against cuda/portable.h on the CPU and checks what they do: the threads of a
 * block are fibres of one thread of the system, so that a kernel's whole run is repeatable. What is
 * checked stands in README.md; what was found is asked for with the functions at the end.
 */
#ifndef HYMBA_TEST_HARNESS_H
#define HYMBA_TEST_HARNESS_H

#include "cuda_runtime.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>
#include <tuple>
#include <type_traits>

#define HY_KERNEL void
#define HY_DEVICE static inline
#define __launch_bounds__(...)

/* ------------------------------------------------------------ of the inside */

struct harness_running {
    unsigned thread; /* the one that runs now */
    unsigned threads;
    dim3 block, grid;
};
extern struct harness_running harness_now;

enum harness_meeting {
    HARNESS_SHUFFLE_XOR,
    HARNESS_SHUFFLE_DOWN,
    HARNESS_SHUFFLE,
    HARNESS_BALLOT,
    HARNESS_SYNC_WARP,
    HARNESS_MMA_BF16,
    HARNESS_MMA_F16,
    HARNESS_MATRICES,
    HARNESS_MATRICES_TRANSPOSED
};

/* size is 1, 2, 4, 8 or 16. A bad load gives zeros, a bad store does nothing. */
void harness_global_load(const void *address, void *value, unsigned size);
void harness_global_store(void *address, const void *value, unsigned size);
void harness_shared_array(size_t bytes, size_t count, size_t size);
void harness_shared_load(size_t base, size_t count, size_t i, void *value, unsigned size);
void harness_shared_store(size_t base, size_t count, size_t i, const void *value, unsigned size);
uint64_t harness_shared_add(size_t base, size_t count, size_t i, uint64_t value, unsigned size);
uint32_t harness_exchange(enum harness_meeting kind, uint32_t value, unsigned argument);
void harness_mma(enum harness_meeting kind, float d[4], const uint32_t a[4], const uint32_t b[2]);
void harness_load_matrices(enum harness_meeting kind, size_t base, size_t count, size_t i,
                           uint32_t words[4]);
void harness_block_barrier();
void harness_copy_async(size_t base, size_t count, size_t i, const void *from, bool valid);
void harness_group_copies();
void harness_wait_copies(size_t groups);

/* Queues the launch, or sets the error that cudaGetLastError tells. */
void harness_queue_launch(const char *call, const void *kernel, cudaStream_t stream, dim3 grid,
                          unsigned threads, size_t shared_bytes, std::function<void()> body);

/* ------------------------------------------------------------------ memory */

template <typename T> struct harness_same {
    typedef T type;
};

template <typename T> HY_DEVICE T hy_load(const T *p)
{
    static_assert(sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "size of an element");
    T value;
    harness_global_load(p, &value, sizeof value);
    return value;
}

template <typename T> HY_DEVICE void hy_store(T *p, typename harness_same<T>::type value)
{
    static_assert(sizeof(T) <= 16 && (sizeof(T) & (sizeof(T) - 1)) == 0, "size of an element");
    harness_global_store(p, &value, sizeof value);
}

template <typename T> HY_DEVICE T hy_load_once(const T *p)
{
    return hy_load(p);
}

/* What indexing gives: reads when it becomes a T, writes when it is assigned to. It cannot be
 * kept (`auto x = array[i]` would read late), nor its address be taken. */
template <typename T> class harness_element {
public:
    harness_element(size_t base_, size_t count_, size_t i_) : base(base_), count(count_), i(i_)
    {
    }
    operator T() const &&
    {
        return get();
    }
    T operator=(T value) const
    {
        harness_shared_store(base, count, i, &value, sizeof value);
        return value;
    }
    T operator=(const harness_element &other) const
    {
        return *this = other.get();
    }
    T operator+=(T value) const
    {
        return *this = (T)(get() + value);
    }
    T operator-=(T value) const
    {
        return *this = (T)(get() - value);
    }
    T operator*=(T value) const
    {
        return *this = (T)(get() * value);
    }
    T operator/=(T value) const
    {
        return *this = (T)(get() / value);
    }
    T operator|=(T value) const
    {
        return *this = (T)(get() | value);
    }
    T operator&=(T value) const
    {
        return *this = (T)(get() & value);
    }
    T operator^=(T value) const
    {
        return *this = (T)(get() ^ value);
    }
    T operator++() const
    {
        return *this = (T)(get() + 1);
    }
    T operator--() const
    {
        return *this = (T)(get() - 1);
    }
    harness_element(const harness_element &) = delete;
    void operator&() const = delete;

private:
    T get() const
    {
        T value;
        harness_shared_load(base, count, i, &value, sizeof value);
        return value;
    }
    size_t base, count, i;
};

template <typename T> class hy_shared {
public:
    hy_shared(size_t bytes, size_t count_) : base(bytes), count(count_)
    {
        harness_shared_array(bytes, count, sizeof(T));
    }
    harness_element<T> operator[](size_t i) const
    {
        return harness_element<T>(base, count, i);
    }
    T add(size_t i, T value) const
    {
        static_assert(std::is_unsigned<T>::value && sizeof(T) >= 4, "what can be added to");
        return (T)harness_shared_add(base, count, i, value, sizeof(T));
    }

    void copy_async(size_t i, const T *from, bool valid) const
    {
        static_assert(sizeof(T) == 16, "what is copied at once");
        harness_copy_async(base, count, i, from, valid);
    }

    template <bool TRANSPOSED> void load_matrices(size_t i, uint32_t (&words)[4]) const
    {
        static_assert(sizeof(T) == 16, "a row of a matrix");
        harness_load_matrices(TRANSPOSED ? HARNESS_MATRICES_TRANSPOSED : HARNESS_MATRICES, base,
                              count, i, words);
    }

private:
    size_t base, count;
};

HY_DEVICE void hy_group_copies()
{
    harness_group_copies();
}

template <int GROUPS> HY_DEVICE void hy_wait_copies()
{
    harness_wait_copies(GROUPS);
}

/* ----------------------------------------------------------------- threads */

HY_DEVICE unsigned hy_thread()
{
    return harness_now.thread;
}

HY_DEVICE unsigned hy_block_threads()
{
    return harness_now.threads;
}

HY_DEVICE dim3 hy_block()
{
    return harness_now.block;
}

HY_DEVICE dim3 hy_grid()
{
    return harness_now.grid;
}

HY_DEVICE void hy_sync()
{
    harness_block_barrier();
}

HY_DEVICE void hy_sync_warp()
{
    harness_exchange(HARNESS_SYNC_WARP, 0, 0);
}

template <typename T>
HY_DEVICE T harness_shuffle(enum harness_meeting kind, T value, unsigned argument)
{
    static_assert(sizeof(T) == 4, "a shuffle is of 4 bytes");
    uint32_t bits;
    memcpy(&bits, &value, 4);
    bits = harness_exchange(kind, bits, argument);
    memcpy(&value, &bits, 4);
    return value;
}

template <typename T> HY_DEVICE T hy_shuffle_xor(T value, unsigned mask)
{
    return harness_shuffle(HARNESS_SHUFFLE_XOR, value, mask);
}

template <typename T> HY_DEVICE T hy_shuffle_down(T value, unsigned distance)
{
    return harness_shuffle(HARNESS_SHUFFLE_DOWN, value, distance);
}

template <typename T> HY_DEVICE T hy_shuffle(T value, unsigned lane)
{
    return harness_shuffle(HARNESS_SHUFFLE, value, lane);
}

HY_DEVICE unsigned hy_ballot(bool predicate)
{
    return harness_exchange(HARNESS_BALLOT, predicate, 0);
}

/* -------------------------------------------------------------- arithmetic */

HY_DEVICE float hy_exp(float x)
{
    return expf(x);
}

HY_DEVICE float hy_exp2(float x)
{
    return exp2f(x);
}

HY_DEVICE float hy_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

HY_DEVICE float hy_greater(float a, float b)
{
    return fmaxf(a, b);
}

HY_DEVICE float hy_ceil(float x)
{
    return ceilf(x);
}

HY_DEVICE double hy_multiply(double a, double b)
{
    return a * b;
}

HY_DEVICE float hy_multiply_f32(float a, float b)
{
    return a * b;
}

/*
 * The products are exact in f32. They are added to d one by one, the column of a rising, each sum
 * rounded to nearest even; tensor cores add several at once, with fewer bits, in no known order.
 */
HY_DEVICE void hy_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    harness_mma(HARNESS_MMA_BF16, d, a, b);
}

HY_DEVICE void hy_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    harness_mma(HARNESS_MMA_F16, d, a, b);
}

/* The f16 number of these bits; and the bits of the nearest, ties to even. */
float harness_from_f16(uint16_t bits);
uint16_t harness_to_f16(float value);

HY_DEVICE float hy_from_f16(uint16_t bits)
{
    return harness_from_f16(bits);
}

HY_DEVICE uint16_t hy_to_f16(float value)
{
    return harness_to_f16(value);
}

/* ---------------------------------------------------------------- launches */

template <typename... Parameters, typename... Arguments>
static inline void harness_launch(const char *call, cudaStream_t stream,
                                  void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                                  size_t shared_bytes, Arguments... arguments)
{
    std::tuple<std::decay_t<Parameters>...> values{Parameters(arguments)...};
    harness_queue_launch(call, reinterpret_cast<const void *>(kernel), stream, grid, threads,
                         shared_bytes, [kernel, values]() { std::apply(kernel, values); });
}

/* A macro, since the words of the call tell the kernel's name. */
#define hy_launch(...) harness_launch(#__VA_ARGS__, __VA_ARGS__)

/* ------------------------------------------------- what tests ask and set */

enum harness_fault {
    HARNESS_BARRIER,               /* threads wait where not all arrive */
    HARNESS_WARP,                  /* a shuffle or the like that not all 32 lanes reach */
    HARNESS_SHARED_RACE,
    HARNESS_SHARED_UNINITIALISED,
    HARNESS_SHARED_BOUNDS,
    HARNESS_GLOBAL_RACE,
    HARNESS_GLOBAL_UNINITIALISED,
    HARNESS_GLOBAL_BOUNDS,
    HARNESS_ALIGNMENT,
    HARNESS_LAUNCH,                /* a launch that breaks the rules of portable.h */
    HARNESS_CALL,                  /* a call of the runtime or of cuBLASLt that does */
    HARNESS_FAULTS
};

/* These first run all that is queued. */
size_t harness_error_count();
size_t harness_fault_count(enum harness_fault fault);
const char *harness_first_error(); /* "none" without one */
const char *harness_error(size_t i); /* the first hundred are kept */
void harness_clear_errors();

/* Kernels may use these bytes of the host's memory as global memory until they are unregistered. */
void harness_register(const void *data, size_t bytes, bool initialised);
void harness_unregister(const void *data);

/* Whether every one of these bytes of global memory was written. */
bool harness_is_written(const void *data, size_t bytes);

enum harness_order { HARNESS_ASCENDING, HARNESS_DESCENDING, HARNESS_RANDOM };

/* In what order blocks, warps and lanes run. Else the environment's HYMBA_HARNESS_ORDER says it:
 * ascending (the default), descending, or random, or the number that random begins with. */
void harness_set_order(enum harness_order order, unsigned seed);

struct harness_launch_record {
    const char *name; /* as the launch wrote it: "scan<16>" */
    dim3 grid;
    unsigned threads;
    size_t shared_bytes;
    uint64_t bytes_read, bytes_written;               /* all loads' and stores' sizes */
    uint64_t unique_bytes_read, unique_bytes_written; /* each byte counted once */
};

/* The latest launch (of that name, with or without template arguments); NULL if there was none. */
const struct harness_launch_record *harness_last_launch();
const struct harness_launch_record *harness_find_launch(const char *name);
size_t harness_launch_count();

/* How many kernels of that name, without template arguments, ran since the last harness_reset. */
size_t harness_kernel_count(const char *name);

/* ----------------------------------------------- the device that is played */

struct harness_device_config {
    int n_devices;
    int driver_version, runtime_version;
    int major, minor;
    size_t memory; /* bytes a device has; allocations beyond fail */
    size_t graph_bytes; /* of them, that each executable graph takes */
    size_t shared_optin;
    int n_multiprocessors;
    int l2_bytes;
    bool urgent_first; /* streams with a priority work as early as they may, or else as late */
};

/* One device, or as many as the environment's HYMBA_HARNESS_DEVICES says; urgent_first if its
 * HYMBA_HARNESS_STREAMS is "early". */
struct harness_device_config harness_default_device();
void harness_configure(const struct harness_device_config *config);

/* The nth call of that name from now on (the first is 1) fails with the error, once; of cuBLASLt's
 * with the status that fits best. A launch's name is cudaLaunchKernel. */
void harness_fail_next(const char *call, unsigned nth, cudaError_t error);

/* What is still to fail does not. */
void harness_fail_no_more();

/* How many calls of that name there were since the last harness_reset. */
size_t harness_call_count(const char *call);

/* The nth kernel that runs from now on (the first is 1) ends with the error, and so does every call
 * after it; until harness_reset. 0: none. */
void harness_lose_device(unsigned nth, cudaError_t error);

/* What was allocated or created and not released: device memory, pinned memory, streams, events and
 * handles. */
size_t harness_live_count();

/* Back to the start: releases everything, forgets errors, faults, launches and configuration. */
void harness_reset();

#endif
