/*
 * Matrix products: those of matmul_quantised.h, all others through cuBLASLt. A row's result does
 * not depend on how many rows are multiplied with it, nor on which of them it is, bit by bit;
 * matmul.cu and matmul_quantised.cu say why.
 */
#ifndef HYMBA_CUDA_MATMUL_H
#define HYMBA_CUDA_MATMUL_H

#include "device.h"

/* The op. Activations: f32, with weights of any type, which are multiplied as f32; BF16 with BF16
 * weights, or with quantised ones, which are multiplied as BF16; F16 with F16 weights; INT8 and FP8
 * with weights of that type by rows. Sums are in f32, of INT8 exact. */
void hy_cuda_matmul(struct hy_device *device, const struct hy_matmul_args *args);

#endif
