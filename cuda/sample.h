/* The tokens of rows of logits. */
#ifndef HYMBA_CUDA_SAMPLE_H
#define HYMBA_CUDA_SAMPLE_H

#include "portable.h"

extern "C" {
#include "text/sample_row.h"
}

/*
 * The rows and their changes lie on the device, the changes of all rows in one array that begins at
 * `changes`; `changed` has room for as many logits.
 */
void hy_cuda_sample(cudaStream_t stream, const struct hy_sample_args *args,
                    const struct hy_sample_change *changes, double *changed);

#endif
