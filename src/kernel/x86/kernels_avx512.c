#include "kernel/cpu.h"
#include "kernel/kernel.h"

#ifdef __x86_64__

#include "kernel/x86/vec_avx512.h"

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/matmul_f32_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/vector/attention_body.h"
#include "kernel/vector/conv_scan_body.h"
#include "kernel/vector/rows_body.h"
#include "kernel/vector/table_body.h"

void hy_matmul_f32_avx512(const struct hy_matmul_args *args, size_t begin, size_t end)
{
    matmul_f32(args, begin, end);
}

void hy_kernels_avx512_base(struct hy_kernels *kernels)
{
    fill_table(kernels, "avx512");
}

/* The same kernels with more instructions, where the processor has them. */
void hy_kernels_avx512(struct hy_kernels *kernels)
{
    struct hy_cpu cpu = hy_cpu_detect();
    if (cpu.avx512_bf16)
        hy_kernels_avx512_bf16(kernels);
    else if (cpu.avx512_vnni)
        hy_kernels_avx512_vnni(kernels);
    else
        hy_kernels_avx512_base(kernels);
}

#endif
