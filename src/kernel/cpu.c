/* For syscall, which POSIX does not have. */
#define _DEFAULT_SOURCE

#include "kernel/cpu.h"

#include <stdint.h>

#ifdef __AVX__
#error "flags like -mavx belong to *_avx2.c and *_avx512.c: this code also runs without AVX"
#endif

#ifdef __x86_64__

#include <cpuid.h>

#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif

struct registers {
    unsigned eax, ebx, ecx, edx;
};

/* A leaf that the processor does not have reads as all zeros. */
static struct registers cpuid(unsigned leaf, unsigned part)
{
    struct registers result = {0};
    if (!__get_cpuid_count(leaf, part, &result.eax, &result.ebx, &result.ecx, &result.edx))
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
    enum { SSE_AVX = 0x6, AVX512 = 0xe0, TILES = 0x60000 }; /* bits of XCR0 */
    enum { TILE = 1 << 24, TILE_BF16 = 1 << 22, TILE_INT8 = 1 << 25 };
    struct hy_cpu cpu = {0};
    struct registers basic = cpuid(1, 0), extended = cpuid(7, 0), further = cpuid(7, 1);
    if (!has_all(basic.ecx, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return cpu;
    uint32_t saved = saved_states();
    cpu.avx2 = has_all(saved, SSE_AVX) && has_all(extended.ebx, bit_AVX2);
    cpu.avx512 = cpu.avx2 && has_all(saved, AVX512)
                 && has_all(extended.ebx,
                            bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL);
    cpu.avx512_vnni = cpu.avx512 && has_all(extended.ecx, bit_AVX512VNNI);
    cpu.avx512_bf16 = cpu.avx512_vnni && has_all(further.eax, bit_AVX512BF16);
    cpu.amx = cpu.avx512_bf16 && has_all(saved, TILES)
              && has_all(extended.edx, TILE | TILE_BF16 | TILE_INT8);
    return cpu;
}

bool hy_cpu_ask_for_tiles(void)
{
#if defined(__linux__) && defined(SYS_arch_prctl)
    /* arch/x86/include/uapi/asm/prctl.h; the number of the state is the processor's */
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, TILE_DATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0;
#else
    return false;
#endif
}

#elif defined(__aarch64__)

#ifdef __linux__
#include <sys/auxv.h>

/* Bits of the system's words AT_HWCAP and AT_HWCAP2; older headers lack the second. */
enum { HAS_DOT = 1 << 20, HAS_BF16 = 1 << 14 };

static bool system_reports(unsigned long word, unsigned long bit)
{
    return (getauxval(word) & bit) != 0;
}
#else
enum { AT_HWCAP, AT_HWCAP2, HAS_DOT, HAS_BF16 };

static bool system_reports(unsigned long word, unsigned long bit)
{
    (void)word, (void)bit;
    return false;
}
#endif

struct hy_cpu hy_cpu_detect(void)
{
    struct hy_cpu cpu = {.neon = true}; /* every processor of this kind has it */
    cpu.neon_dot = system_reports(AT_HWCAP, HAS_DOT);
    cpu.neon_bf16 = cpu.neon_dot && system_reports(AT_HWCAP2, HAS_BF16);
    return cpu;
}

bool hy_cpu_ask_for_tiles(void)
{
    return false;
}

#else

struct hy_cpu hy_cpu_detect(void)
{
    return (struct hy_cpu){0};
}

bool hy_cpu_ask_for_tiles(void)
{
    return false;
}

#endif
