#include "kernel/cpu.h"
#include "kernel/ref.h"

void hy_kernels_generic(struct hy_kernels *kernels)
{
    *kernels = (struct hy_kernels){
        .name = "generic",
        .embed = hy_ref_embed,
        .rms_norm = hy_ref_rms_norm,
        .matmul = hy_ref_matmul,
        .rope = hy_ref_rope,
        .cache_rows = hy_ref_cache_rows,
        .attention = hy_ref_attention,
        .conv = hy_ref_conv,
        .scan = hy_ref_scan,
        .fuse = hy_ref_fuse,
        .swiglu = hy_ref_swiglu,
    };
}

#ifdef __x86_64__
static void fill(struct hy_kernels *kernels, bool avx2, bool avx512)
{
    hy_kernels_generic(kernels);
    if (avx2)
        hy_kernels_avx2(kernels);
    if (avx512)
        hy_kernels_avx512(kernels);
}
#else
static void fill(struct hy_kernels *kernels, bool avx2, bool avx512)
{
    (void)avx2;
    (void)avx512;
    hy_kernels_generic(kernels);
}
#endif

hymba_status hy_kernels_init(struct hy_kernels *kernels, const char *instruction_set,
                             hymba_error *error)
{
    const char *name = instruction_set ? instruction_set : "best";
    struct hy_cpu cpu = hy_cpu_detect();
    bool best = strcmp(name, "best") == 0;
    bool avx2 = strcmp(name, "avx2") == 0, avx512 = strcmp(name, "avx512") == 0;
    if (!best && !avx2 && !avx512 && strcmp(name, "generic") != 0)
        return hy_fail(error, HYMBA_ERROR_ARGUMENT,
                       "instruction set \"%s\" is unknown: expected best, generic, avx2 or avx512",
                       name);
    if ((avx2 && !cpu.avx2) || (avx512 && !cpu.avx512))
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "instruction set %s: this processor or its operating system lacks it", name);
    fill(kernels, avx2 || avx512 || (best && cpu.avx2), avx512 || (best && cpu.avx512));
    return HYMBA_OK;
}
