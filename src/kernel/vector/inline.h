/*
 * The vectorised kernels are written once, in *_body.h, over the small vector layers vec_*.h of the
 * instruction sets. Sizes of register blocks and the element type are parameters that the compiler
 * must see as constants: hence these two.
 */
#ifndef HY_KERNEL_VECTOR_INLINE_H
#define HY_KERNEL_VECTOR_INLINE_H

#include "tensor/dtype.h"

#define HY_INLINE static inline __attribute__((always_inline))

/* Before a loop of a constant, small number of passes. */
#ifdef __clang__
#define HY_UNROLL _Pragma("clang loop unroll(full)")
#else
#define HY_UNROLL _Pragma("GCC unroll 16")
#endif

/* Keeps the compiler from giving every row of a block an address register of its own: there are not
 * enough. */
#define HY_KEEP(pointer) __asm__("" : "+r"(pointer))

/* hy_dtype_size as a constant, for types whose elements have an address. */
HY_INLINE size_t element_bytes(const hymba_dtype dtype)
{
    if (dtype == HYMBA_DTYPE_INT8 || dtype == HYMBA_DTYPE_FP8)
        return 1;
    return dtype == HYMBA_DTYPE_F32 ? 4 : 2;
}

#endif
