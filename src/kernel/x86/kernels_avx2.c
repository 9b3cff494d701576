#include "kernel/kernel.h"

#ifdef __x86_64__

#include "kernel/x86/vec_avx2.h"

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/matmul_f32_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/vector/attention_body.h"
#include "kernel/vector/conv_scan_body.h"
#include "kernel/vector/rows_body.h"
#include "kernel/vector/table_body.h"

void hy_kernels_avx2(struct hy_kernels *kernels)
{
    fill_table(kernels, "avx2");
}

#endif
