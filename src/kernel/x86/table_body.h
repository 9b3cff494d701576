/* Replaces every entry of the table by the vectorised kernels included above. */
#include "kernel/kernel.h"

static void fill_table(struct hy_kernels *kernels, const char *name)
{
    *kernels = (struct hy_kernels){
        .name = name,
        .embed = embed,
        .rms_norm = rms_norm,
        .matmul = matmul,
        .rope = rope,
        .cache_rows = cache_rows,
        .attention = attention,
        .conv = conv,
        .scan = scan,
        .fuse = fuse,
        .swiglu = swiglu,
    };
}
