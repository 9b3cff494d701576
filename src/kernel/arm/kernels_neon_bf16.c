/* Products and attention of the NEON kernels with int8 and bf16 dot products. */
#include "kernel/kernel.h"

#ifdef __aarch64__

#include "kernel/arm/vec_neon.h"

static void matmul_f32(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    hy_matmul_f32_neon(args, begin, end);
}

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/vector/attention_body.h"

void hy_kernels_neon_bf16(struct hy_kernels *kernels)
{
    hy_kernels_neon_base(kernels);
    kernels->has_bf16 = HAS_BF16;
    kernels->matmul = matmul;
    kernels->round = round_rows;
    kernels->attention = attention;
}

#endif
