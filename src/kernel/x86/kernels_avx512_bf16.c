/* Products and attention of the AVX-512 kernels with int8 and bf16 dot products. */
#include "kernel/kernel.h"

#ifdef __x86_64__

#include "kernel/x86/vec_avx512.h"

static void matmul_f32(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    hy_matmul_f32_avx512(args, begin, end);
}

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/vector/attention_body.h"

void hy_kernels_avx512_bf16(struct hy_kernels *kernels)
{
    hy_kernels_avx512_base(kernels);
    kernels->has_bf16 = HAS_BF16;
    kernels->matmul = matmul;
    kernels->round = round_rows;
    kernels->attention = attention;
}

#endif
