/*
 * What kernels are written in: CUDA C++ with its hardware-only parts behind inline functions, so
 * that the same sources run on a CPU under the harness of tests/cuda, which defines HYMBA_HARNESS
 * and supplies all of this in plain C++ with checks.
 *
 * Rules of every kernel:
 *   - Global memory is read and written through hy_load and hy_store alone; shared memory is
 *     dynamic and reached through hy_shared alone. So the harness can count bytes, and finds races,
 *     accesses out of bounds, and reads of what nobody wrote.
 *   - All threads of a block reach every hy_sync; all 32 of a warp reach every shuffle.
 *   - Blocks have one dimension, a multiple of 32 threads. Grids may have three.
 */
#ifndef HYMBA_CUDA_PORTABLE_H
#define HYMBA_CUDA_PORTABLE_H

#include <stddef.h>
#include <stdint.h>

enum { HY_WARP = 32 };

#ifdef HYMBA_HARNESS

#include "harness.h" /* of tests/cuda: everything that stands below, and the runtime's stand-in */

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define HY_KERNEL __global__ void
#define HY_DEVICE static __device__ __forceinline__

/* ------------------------------------------------------------------ memory */

/* T is a number or a vector type of up to 16 bytes, aligned to its size. */
template <typename T> HY_DEVICE T hy_load(const T *p)
{
    return *p;
}

template <typename T> HY_DEVICE void hy_store(T *p, T value)
{
    *p = value;
}

/* For what is read once: does not stay in the caches. */
template <typename T> HY_DEVICE T hy_load_once(const T *p)
{
    return __ldcs(p);
}

/* What the hardware adds to, of so many bytes. */
template <size_t> struct hy_atomic {
    typedef unsigned type;
};
template <> struct hy_atomic<8> {
    typedef unsigned long long type;
};

template <typename T> class hy_shared {
public:
    /* The array of count elements that begins `bytes` bytes into the block's shared memory. */
    __device__ __forceinline__ hy_shared(size_t bytes, size_t count)
    {
        extern __shared__ __align__(16) unsigned char hy_shared_memory[];
        (void)count;
        data = reinterpret_cast<T *>(hy_shared_memory + bytes);
    }
    __device__ __forceinline__ T &operator[](size_t i) const
    {
        return data[i];
    }
    /* Adds to an element that other threads add to at the same time, and tells what it was. T is
     * an unsigned number of 4 or 8 bytes. */
    __device__ __forceinline__ T add(size_t i, T value) const
    {
        static_assert(sizeof(T) == 4 || sizeof(T) == 8, "what can be added to");
        typedef typename hy_atomic<sizeof(T)>::type word;
        return (T)atomicAdd(reinterpret_cast<word *>(data + i), (word)value);
    }
    /* Begins to copy an element of 16 bytes out of global memory, or zeros if it is not valid, and
     * then `from` is not read. It is there behind hy_wait_copies, and after a barrier for others;
     * until then nobody touches the element. */
    __device__ __forceinline__ void copy_async(size_t i, const T *from, bool valid) const
    {
        static_assert(sizeof(T) == 16, "what is copied at once");
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         (unsigned)__cvta_generic_to_shared(data + i)),
                     "l"(from), "r"(valid ? 16 : 0)
                     : "memory");
    }

    /*
     * Four 8 x 8 matrices of 16-bit numbers, whose rows are elements of 16 bytes: lane l names the
     * row l % 8 of matrix l / 8. In words[m] it gets two numbers of matrix m: those of row l / 4,
     * columns 2 (l % 4) and the next one, or, TRANSPOSED, of rows 2 (l % 4) and the next one,
     * column l / 4. All lanes of the warp.
     */
    template <bool TRANSPOSED>
    __device__ __forceinline__ void load_matrices(size_t i, uint32_t (&words)[4]) const
    {
        static_assert(sizeof(T) == 16, "a row of a matrix");
        const unsigned row = (unsigned)__cvta_generic_to_shared(data + i);
        if (TRANSPOSED)
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                         : "r"(row)
                         : "memory");
        else
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                         : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                         : "r"(row)
                         : "memory");
    }

private:
    T *data;
};

/* The copies that the thread began since it last called this are a group. Needs sm_80. */
HY_DEVICE void hy_group_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits for the thread's groups but the latest so many. */
template <int GROUPS> HY_DEVICE void hy_wait_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

/* ----------------------------------------------------------------- threads */

HY_DEVICE unsigned hy_thread()
{
    return threadIdx.x;
}

HY_DEVICE unsigned hy_block_threads()
{
    return blockDim.x;
}

HY_DEVICE dim3 hy_block()
{
    return dim3(blockIdx.x, blockIdx.y, blockIdx.z);
}

HY_DEVICE dim3 hy_grid()
{
    return gridDim;
}

HY_DEVICE void hy_sync()
{
    __syncthreads();
}

/* Orders the accesses of a warp's lanes to memory, which a shuffle does not. */
HY_DEVICE void hy_sync_warp()
{
    __syncwarp();
}

/* The value of the lane whose number differs in the bits of mask; of the lane so many further up;
 * of that lane. T has 4 bytes. */
template <typename T> HY_DEVICE T hy_shuffle_xor(T value, unsigned mask)
{
    return __shfl_xor_sync(0xffffffffu, value, mask);
}

template <typename T> HY_DEVICE T hy_shuffle_down(T value, unsigned distance)
{
    return __shfl_down_sync(0xffffffffu, value, distance);
}

template <typename T> HY_DEVICE T hy_shuffle(T value, unsigned lane)
{
    return __shfl_sync(0xffffffffu, value, lane);
}

HY_DEVICE unsigned hy_ballot(bool predicate)
{
    return __ballot_sync(0xffffffffu, predicate);
}

/* -------------------------------------------------------------- arithmetic */

HY_DEVICE float hy_exp(float x)
{
    return expf(x);
}

/* 2^x, to some 2^-22 of itself; 0 where that is below the normal numbers. */
HY_DEVICE float hy_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

HY_DEVICE float hy_fma(float a, float b, float c)
{
    return fmaf(a, b, c);
}

/* The greater number; a NaN is none. */
HY_DEVICE float hy_greater(float a, float b)
{
    return fmaxf(a, b);
}

HY_DEVICE float hy_ceil(float x)
{
    return ceilf(x);
}

/* A product that is rounded, whatever it is added to afterwards: the same bits as on the CPU. */
HY_DEVICE double hy_multiply(double a, double b)
{
    return __dmul_rn(a, b);
}

/* The same in f32; no overload, which would take products of mixed types away from double. */
HY_DEVICE float hy_multiply_f32(float a, float b)
{
    return __fmul_rn(a, b);
}

/* f16 numbers as their bits; the nearest one, ties to even, NaN stays NaN. */
HY_DEVICE float hy_from_f16(uint16_t bits)
{
    return __half2float(__ushort_as_half(bits));
}

HY_DEVICE uint16_t hy_to_f16(float value)
{
    return __half_as_ushort(__float2half_rn(value));
}

/* ------------------------------------------------------------ tensor cores */

/*
 * d += a b for a 16 x 16 of bf16 (row-major fragments), b 16 x 8 (column-major fragments), d 16 x 8
 * of f32, in the register layout of mma.sync.m16n8k16: lane l holds of
 *   d: rows l / 4 and l / 4 + 8, columns 2 (l % 4) and the next one: d[0], d[1]; d[2], d[3];
 *   a: a[0] row l / 4, a[1] row l / 4 + 8, of columns 2 (l % 4) and the next one; a[2], a[3] the
 *      same of columns 8 further;
 *   b: b[0] rows 2 (l % 4) and the next one, b[1] rows 8 further, of column l / 4.
 * The first of two bf16 lies in the low half. Needs sm_80.
 */
HY_DEVICE void hy_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same for f16. */
HY_DEVICE void hy_mma_f16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* ---------------------------------------------------------------- launches */

/* An error, too large a grid say, is what cudaGetLastError tells. */
template <typename... Parameters, typename... Arguments>
static inline void hy_launch(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid,
                             unsigned threads, size_t shared_bytes, Arguments... arguments)
{
    kernel<<<grid, threads, shared_bytes, stream>>>(Parameters(arguments)...);
}

#endif /* HYMBA_HARNESS */

/* ----------------------------------------------------------- numbers as bits */

HY_DEVICE float hy_from_bits(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } number = {bits};
    return number.value;
}

HY_DEVICE uint32_t hy_to_bits(float value)
{
    union {
        float value;
        uint32_t bits;
    } number = {value};
    return number.bits;
}

HY_DEVICE double hy_double_from_bits(uint64_t bits)
{
    union {
        uint64_t bits;
        double value;
    } number = {bits};
    return number.value;
}

HY_DEVICE uint64_t hy_double_to_bits(double value)
{
    union {
        double value;
        uint64_t bits;
    } number = {value};
    return number.bits;
}

/* bf16 and f16 numbers as their bits, so that one source serves both sides. */
HY_DEVICE float hy_from_bf16(uint16_t bits)
{
    return hy_from_bits((uint32_t)bits << 16);
}

/* Rounds to nearest even like hy_f32_to_bf16; NaN stays NaN. */
HY_DEVICE uint16_t hy_to_bf16(float value)
{
    const uint32_t bits = hy_to_bits(value);
    if (value != value)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Two numbers as bf16 or f16, the first in the low half: what tensor cores take. */
HY_DEVICE uint32_t hy_pair_bf16(float first, float second)
{
#ifdef HYMBA_HARNESS
    return hy_to_bf16(first) | (uint32_t)hy_to_bf16(second) << 16;
#else
    __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return __bfloat16_as_ushort(pair.x) | (uint32_t)__bfloat16_as_ushort(pair.y) << 16;
#endif
}

/* a b + c of two pairs of bf16, rounded to nearest even; subnormal numbers count. Needs sm_80. The
 * harness rounds to f32 on the way, which changes nothing where f32 holds the sum. */
HY_DEVICE uint32_t hy_fma_pair_bf16(uint32_t a, uint32_t b, uint32_t c)
{
#ifdef HYMBA_HARNESS
    uint32_t d = 0;
    for (unsigned shift = 0; shift < 32; shift += 16)
        d |= (uint32_t)hy_to_bf16(fmaf(hy_from_bf16((uint16_t)(a >> shift)),
                                       hy_from_bf16((uint16_t)(b >> shift)),
                                       hy_from_bf16((uint16_t)(c >> shift))))
             << shift;
    return d;
#else
    uint32_t d;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
    return d;
#endif
}

HY_DEVICE uint32_t hy_pair_f16(float first, float second)
{
#ifdef HYMBA_HARNESS
    return hy_to_f16(first) | (uint32_t)hy_to_f16(second) << 16;
#else
    __half2 pair = __floats2half2_rn(first, second);
    return __half_as_ushort(pair.x) | (uint32_t)__half_as_ushort(pair.y) << 16;
#endif
}

/*
 * Two fp8 numbers, the first in the low byte, as f16, which holds them all. Without an instruction
 * for it: the bits of one, moved to where f16 has exponent and mantissa, are the number times
 * 2^-8, since the exponents' biases are 7 and 15; subnormal ones too. What is NaN would be finite,
 * but the carry out of adding to its mantissa fills the exponent.
 */
HY_DEVICE uint32_t hy_pair_from_fp8(uint32_t pair)
{
#if !defined(HYMBA_HARNESS) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    uint32_t halves;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"((uint16_t)pair));
    return halves;
#else
    const uint32_t spread = (pair & 0xff) << 8 | (pair & 0xff00) << 16;
    const uint32_t magnitudes = (spread & 0x7f007f00) >> 1;
    const uint32_t nan = (magnitudes + 0x00800080) & 0x40004000;
    const uint32_t scaled = (spread & 0x80008000) | magnitudes | nan;
#ifdef HYMBA_HARNESS
    return hy_pair_f16(hy_from_f16((uint16_t)scaled) * 256.0f,
                       hy_from_f16((uint16_t)(scaled >> 16)) * 256.0f);
#else
    uint32_t halves;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(halves) : "r"(scaled), "r"(0x5c005c00u)); /* 256 */
    return halves;
#endif
#endif
}

HY_DEVICE float hy_from_fp8(uint8_t bits)
{
    return hy_from_f16((uint16_t)hy_pair_from_fp8(bits));
}

/* Like hy_f32_to_fp8: nearest even, at most 448; NaN stays NaN. */
HY_DEVICE uint8_t hy_to_fp8(float value)
{
    const uint32_t bits = hy_to_bits(value), magnitude = bits & 0x7fffffff;
    const uint32_t sign = bits >> 24 & 0x80;
    if (value != value)
        return (uint8_t)(sign | 0x7f);
    if (magnitude >= 0x43e00000) /* 448 */
        return (uint8_t)(sign | 0x7e);
    if (magnitude >= 0x3c800000) /* 2^-6, the smallest normal number */
        return (uint8_t)(sign | (magnitude + 0x7ffff + (magnitude >> 20 & 1) - (120u << 23)) >> 20);
    /* the sum's last place is 2^-9, the unit of subnormal numbers */
    return (uint8_t)(sign | (hy_to_bits(hy_from_bits(magnitude) + 16384.0f) - 0x46800000));
}

#endif
