/* What kernels over sequences with states (conv, scan) have of one of them. */
#ifndef HYMBA_CUDA_SEQUENCE_H
#define HYMBA_CUDA_SEQUENCE_H

#include <stddef.h>

#include "element.h"
#include "kernel/kernel.h"

struct hy_sequence {
    size_t row, n_rows;
    const void *before; /* the state that the kernel updates */
    void *after;
    hymba_dtype state_type;
};

/* With the state that the kernel updates. Reads HY_SEQUENCE_BYTES. */
template <const void *hy_state_sequence::*BEFORE, void *hy_state_sequence::*AFTER>
HY_DEVICE struct hy_sequence hy_load_sequence(const struct hy_state_sequence *sequence)
{
    struct hy_sequence loaded;
    loaded.row = hy_load(&sequence->segment.row);
    loaded.n_rows = hy_load(&sequence->segment.n_rows);
    loaded.before = hy_load(&(sequence->*BEFORE));
    loaded.after = hy_load(&(sequence->*AFTER));
    loaded.state_type = hy_load(&sequence->state_type);
    return loaded;
}

enum { HY_SEQUENCE_BYTES = 36 };

/* Elements first, first + stride, ... of a state, count of them; the rest of values is 0. */
template <typename ELEMENT, int MOST>
HY_DEVICE void hy_load_elements(const void *state, size_t first, size_t stride, size_t count,
                                float values[MOST])
{
    const typename ELEMENT::bits *from = (const typename ELEMENT::bits *)state + first;
#pragma unroll
    for (int j = 0; j < MOST; j++)
        values[j] = (size_t)j < count ? ELEMENT::widen(hy_load(from + j * stride)) : 0.0f;
}

template <typename ELEMENT, int MOST>
HY_DEVICE void hy_store_elements(void *state, size_t first, size_t stride, size_t count,
                                 const float values[MOST])
{
    typename ELEMENT::bits *to = (typename ELEMENT::bits *)state + first;
#pragma unroll
    for (int j = 0; j < MOST; j++)
        if ((size_t)j < count)
            hy_store(to + j * stride, ELEMENT::narrow(values[j]));
}

/* The same of a type known only here: one branch for all of them, so that a thread's loads still
 * go out together. */
template <int MOST>
HY_DEVICE void hy_load_state(hymba_dtype dtype, const void *state, size_t first, size_t stride,
                             size_t count, float values[MOST])
{
    if (dtype == HYMBA_DTYPE_BF16)
        hy_load_elements<hy_element_bf16, MOST>(state, first, stride, count, values);
    else if (dtype == HYMBA_DTYPE_F16)
        hy_load_elements<hy_element_f16, MOST>(state, first, stride, count, values);
    else
        hy_load_elements<hy_element_f32, MOST>(state, first, stride, count, values);
}

template <int MOST>
HY_DEVICE void hy_store_state(hymba_dtype dtype, void *state, size_t first, size_t stride,
                              size_t count, const float values[MOST])
{
    if (dtype == HYMBA_DTYPE_BF16)
        hy_store_elements<hy_element_bf16, MOST>(state, first, stride, count, values);
    else if (dtype == HYMBA_DTYPE_F16)
        hy_store_elements<hy_element_f16, MOST>(state, first, stride, count, values);
    else
        hy_store_elements<hy_element_f32, MOST>(state, first, stride, count, values);
}

#endif
