#include "kernel/cpu.h"
#include "kernel/kernel.h"

#ifdef __aarch64__

#include "kernel/arm/vec_neon.h"

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/matmul_f32_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/vector/attention_body.h"
#include "kernel/vector/conv_scan_body.h"
#include "kernel/vector/rows_body.h"
#include "kernel/vector/table_body.h"

void hy_matmul_f32_neon(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    matmul_f32(args, begin, end);
}

void hy_kernels_neon_base(struct hy_kernels *kernels)
{
    fill_table(kernels, "neon");
}

/* The same kernels with more instructions, where the processor has them. */
void hy_kernels_neon(struct hy_kernels *kernels)
{
    struct hy_cpu cpu = hy_cpu_detect();
    if (cpu.neon_bf16)
        hy_kernels_neon_bf16(kernels);
    else if (cpu.neon_dot)
        hy_kernels_neon_dot(kernels);
    else
        hy_kernels_neon_base(kernels);
}

#endif
