/* What kernels over sequences with states (conv, scan) have of one of them. */
#ifndef HYMBA_CUDA_SEQUENCE_H
#define HYMBA_CUDA_SEQUENCE_H

#include <stddef.h>

#include "kernel/kernel.h"
#include "portable.h"

struct hy_sequence {
    size_t row, n_rows;
    float *state;
};

/* With the state that the kernel updates. Reads 24 bytes. */
template <float *hy_state_sequence::*STATE>
HY_DEVICE struct hy_sequence hy_load_sequence(const struct hy_state_sequence *sequence)
{
    struct hy_sequence loaded;
    loaded.row = hy_load(&sequence->segment.row);
    loaded.n_rows = hy_load(&sequence->segment.n_rows);
    loaded.state = hy_load(&(sequence->*STATE));
    return loaded;
}

#endif
