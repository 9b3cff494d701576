/* Products of one shape each through cuBLASLt: y[m][n] = x[m][k] w[n][k]'. */
#ifndef HYMBA_CUDA_PRODUCT_H
#define HYMBA_CUDA_PRODUCT_H

#include "device.h"

/* Rows of activations and results begin at multiples of so many bytes, and w, x and y do. */
enum { HY_PRODUCT_ALIGNMENT = 16 };

static inline bool hy_is_product_of_8_bits(cudaDataType_t type)
{
    return type == CUDA_R_8I || type == CUDA_R_8F_E4M3;
}

/* Of an element of x and w. */
static inline size_t hy_product_element_bytes(cudaDataType_t type)
{
    return hy_is_product_of_8_bits(type) ? 1 : type == CUDA_R_32F ? 4 : 2;
}

/* All that the choice of an algorithm hangs on. The sums, and so y, are f32; int32 for int8.
 * Products of 8 bits have no bias, are not added to y, and have multiples of 16 as m, n and k. */
struct hy_product_key {
    cudaDataType_t type;  /* of activations and weights */
    size_t m, n, k, w_stride;
    size_t x_stride, y_stride;
    size_t w_alignment;   /* bytes that w and its rows are multiples of */
    bool bias, accumulate;
};

/* The product of a key, made when it is first asked for and valid until the next call; NULL after a
 * failure, which is kept. */
struct hy_product *hy_cuda_find_product(struct hy_device *device,
                                        const struct hy_product_key *key);

/* Queues it; false after a failure, which is kept. The bias is not read unless the key has it.
 * n_panels of m rows each lie one behind the other in x and y; each is computed as if alone. */
bool hy_cuda_multiply(struct hy_device *device, struct hy_product *product, const void *w,
                      const void *x, const float *bias, void *y, size_t n_panels = 1);

void hy_cuda_free_products(struct hy_device *device);

#endif
