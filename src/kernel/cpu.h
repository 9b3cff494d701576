/* What the processor and the operating system allow. */
#ifndef HY_KERNEL_CPU_H
#define HY_KERNEL_CPU_H

#include <stdbool.h>

struct hy_cpu {
    bool avx2;   /* AVX2, FMA and F16C */
    bool avx512; /* all of avx2, and AVX-512 F, BW, DQ and VL */
    bool avx512_vnni; /* all of avx512, and int8 dot products */
    bool avx512_bf16; /* all of avx512_vnni, and bf16 dot products */
    bool amx; /* all of avx512_bf16, and AMX tiles of bf16 and int8; see hy_cpu_ask_for_tiles */
    bool neon;
    bool neon_dot;  /* int8 dot products */
    bool neon_bf16; /* all of neon_dot, and bf16 dot products */
};

struct hy_cpu hy_cpu_detect(void);

/* Asks the operating system to let this process use tiles, which it does only on request; again
 * asking costs a system call. False if it refuses. */
bool hy_cpu_ask_for_tiles(void);

#endif
