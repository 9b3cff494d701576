#include "kernel/cpu.h"

#include <stdint.h>

#ifdef __AVX__
#error "flags like -mavx belong to *_avx2.c and *_avx512.c: this code also runs without AVX"
#endif

#ifdef __x86_64__

#include <cpuid.h>

struct registers {
    unsigned eax, ebx, ecx, edx;
};

/* A leaf that the processor does not have reads as all zeros. */
static struct registers cpuid(unsigned leaf)
{
    struct registers result = {0};
    if (!__get_cpuid_count(leaf, 0, &result.eax, &result.ebx, &result.ecx, &result.edx))
        return (struct registers){0};
    return result;
}

/* XCR0: the register states that the operating system saves. Needs OSXSAVE. */
static uint32_t saved_states(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static bool has_all(uint32_t value, uint32_t bits)
{
    return (value & bits) == bits;
}

struct hy_cpu hy_cpu_detect(void)
{
    enum { SSE_AVX = 0x6, AVX512 = 0xe0 }; /* bits of XCR0 */
    struct hy_cpu cpu = {false, false};
    struct registers basic = cpuid(1), extended = cpuid(7);
    if (!has_all(basic.ecx, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return cpu;
    uint32_t saved = saved_states();
    cpu.avx2 = has_all(saved, SSE_AVX) && has_all(extended.ebx, bit_AVX2);
    cpu.avx512 = cpu.avx2 && has_all(saved, AVX512)
                 && has_all(extended.ebx,
                            bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    return cpu;
}

#else

struct hy_cpu hy_cpu_detect(void)
{
    return (struct hy_cpu){false, false};
}

#endif
