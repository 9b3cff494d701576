/* Many copies within the device by one launch. */
#ifndef HYMBA_CUDA_COPY_LIST_H
#define HYMBA_CUDA_COPY_LIST_H

#include "portable.h"

/* Bytes that a warp copies. */
struct hy_copy_piece {
    unsigned char *to;
    const unsigned char *from;
    size_t bytes;
};

/* The list is the device's. No piece writes what another one reads or writes. */
void hy_cuda_copy_pieces(cudaStream_t stream, const struct hy_copy_piece *pieces, size_t n);

#endif
