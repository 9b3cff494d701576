#include "kernel/kernel.h"

#ifdef __x86_64__

#include "kernel/x86/vec_avx2.h"

#include "kernel/x86/matmul_body.h"
#include "kernel/x86/matmul_f32_body.h"
#include "kernel/x86/quantised_body.h"

#include "kernel/x86/attention_body.h"
#include "kernel/x86/conv_scan_body.h"
#include "kernel/x86/rows_body.h"
#include "kernel/x86/table_body.h"

void hy_kernels_avx2(struct hy_kernels *kernels)
{
    fill_table(kernels, "avx2");
}

#endif
