/* What the processor and the operating system allow. */
#ifndef HY_KERNEL_CPU_H
#define HY_KERNEL_CPU_H

#include <stdbool.h>

struct hy_cpu {
    bool avx2;   /* AVX2, FMA and F16C */
    bool avx512; /* all of avx2, and AVX-512 F, BW, DQ and VL */
};

struct hy_cpu hy_cpu_detect(void);

#endif
