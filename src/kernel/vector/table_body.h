/* Replaces every entry of the table by the vectorised kernels included above. */
#include "kernel/kernel.h"

static void fill_table(struct hy_kernels *kernels, const char *name)
{
    *kernels = (struct hy_kernels){
        .name = name,
        .has_bf16 = HAS_BF16,
        .has_int8 = true,
        .embed = embed,
        .rms_norm = rms_norm,
        .matmul = matmul,
        .round = round_rows,
        .rope = rope,
        .cache_rows = cache_rows,
        .attention = attention,
        .conv = conv,
        .scan = scan,
        .fuse = fuse,
        .square_sums = square_sums,
        .swiglu = swiglu,
    };
}
