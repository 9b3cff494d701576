/* Element types as template arguments: how one is kept, and its way to f32 and back. */
#ifndef HYMBA_CUDA_ELEMENT_H
#define HYMBA_CUDA_ELEMENT_H

#include "portable.h"

struct hy_element_f32 {
    typedef float bits;
    HY_DEVICE float widen(bits value)
    {
        return value;
    }
    HY_DEVICE bits narrow(float value)
    {
        return value;
    }
};

struct hy_element_f16 {
    typedef uint16_t bits;
    HY_DEVICE float widen(bits value)
    {
        return hy_from_f16(value);
    }
    HY_DEVICE bits narrow(float value)
    {
        return hy_to_f16(value);
    }
};

struct hy_element_bf16 {
    typedef uint16_t bits;
    HY_DEVICE float widen(bits value)
    {
        return hy_from_bf16(value);
    }
    HY_DEVICE bits narrow(float value)
    {
        return hy_to_bf16(value);
    }
};

/* v / (1 + exp(-v)), section 3 of docs/semantics.md. */
HY_DEVICE float hy_silu(float v)
{
    return v / (1.0f + hy_exp(-v));
}

#endif
