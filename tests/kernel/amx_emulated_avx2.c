/* The AMX kernels with emulated tiles, over the vectors of AVX2. */
#include "amx_kernels.h"

#ifdef __x86_64__

#include "amx_emulated.h"
#include "kernel/x86/vec_avx2.h"

#include "kernel/vector/matmul_body.h"
#include "kernel/vector/matmul_f32_body.h"
#include "kernel/vector/quantised_body.h"

#include "kernel/x86/amx_body.h"

static void matmul_and_release(const struct hy_matmul_args *args, size_t begin, size_t end,
                               void *scratch)
{
    matmul_tiles(args, begin, end, scratch);
    ck_assert_msg(emulated_tiles_are_released(), "tiles are in use after a product");
}

bool amx_emulated_avx2(struct hy_kernels *kernels)
{
    if (!hy_cpu_detect().avx2)
        return false;
    hy_kernels_avx2(kernels);
    use_tiles(kernels);
    kernels->matmul = matmul_and_release;
    return true;
}

#else

bool amx_emulated_avx2(struct hy_kernels *kernels)
{
    (void)kernels;
    return false;
}

#endif
