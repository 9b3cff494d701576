#include "fibre.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#define FIBRE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBRE_ASAN 1
#endif
#endif
#ifdef FIBRE_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__) && !defined(__aarch64__)
#include <ucontext.h>
#define FIBRE_UCONTEXT 1
#endif

namespace {

enum { STACK_BYTES = 256 * 1024, GUARD_BYTES = 64 * 1024 };

struct context {
#ifdef FIBRE_UCONTEXT
    ucontext_t machine;
#else
    void *stack_pointer;
#endif
};

struct fibre {
    char *stack;
    struct context context;
};

fibre fibres[FIBRES_MAX];
size_t n_fibres;
struct context outside;
fibre *running;
void (*run)();
#ifdef FIBRE_ASAN
const void *outside_stack;
size_t outside_bytes;
bool from_outside;
#endif

} // namespace

#ifndef FIBRE_UCONTEXT

/* Saves what a call must keep on the stack, its pointer at *save, and goes on from `resume`. */
extern "C" void harness_switch_stacks(void **save, void *resume);

#if defined(__x86_64__)
__asm__(".text\n"
        ".p2align 4\n"
        ".type harness_switch_stacks, @function\n"
        "harness_switch_stacks:\n"
        "    pushq %rbp\n"
        "    pushq %rbx\n"
        "    pushq %r12\n"
        "    pushq %r13\n"
        "    pushq %r14\n"
        "    pushq %r15\n"
        "    movq %rsp, (%rdi)\n"
        "    movq %rsi, %rsp\n"
        "    popq %r15\n"
        "    popq %r14\n"
        "    popq %r13\n"
        "    popq %r12\n"
        "    popq %rbx\n"
        "    popq %rbp\n"
        "    ret\n"
        ".size harness_switch_stacks, .-harness_switch_stacks\n");
enum { ENTRY_WORD = 6, FRAME_WORDS = 8 };
#else
__asm__(".text\n"
        ".p2align 4\n"
        ".type harness_switch_stacks, %function\n"
        "harness_switch_stacks:\n"
        "    sub sp, sp, #160\n"
        "    stp x19, x20, [sp, #0]\n"
        "    stp x21, x22, [sp, #16]\n"
        "    stp x23, x24, [sp, #32]\n"
        "    stp x25, x26, [sp, #48]\n"
        "    stp x27, x28, [sp, #64]\n"
        "    stp x29, x30, [sp, #80]\n"
        "    stp d8, d9, [sp, #96]\n"
        "    stp d10, d11, [sp, #112]\n"
        "    stp d12, d13, [sp, #128]\n"
        "    stp d14, d15, [sp, #144]\n"
        "    mov x9, sp\n"
        "    str x9, [x0]\n"
        "    mov sp, x1\n"
        "    ldp x19, x20, [sp, #0]\n"
        "    ldp x21, x22, [sp, #16]\n"
        "    ldp x23, x24, [sp, #32]\n"
        "    ldp x25, x26, [sp, #48]\n"
        "    ldp x27, x28, [sp, #64]\n"
        "    ldp x29, x30, [sp, #80]\n"
        "    ldp d8, d9, [sp, #96]\n"
        "    ldp d10, d11, [sp, #112]\n"
        "    ldp d12, d13, [sp, #128]\n"
        "    ldp d14, d15, [sp, #144]\n"
        "    add sp, sp, #160\n"
        "    ret\n"
        ".size harness_switch_stacks, .-harness_switch_stacks\n");
enum { ENTRY_WORD = 11, FRAME_WORDS = 20 };
#endif

#endif

#ifdef FIBRE_ASAN
/* On a stack again: what is left behind is the outside's, if the turn came from there. */
static void arrive(void *fake)
{
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(fake, &stack, &bytes);
    if (from_outside) {
        outside_stack = stack;
        outside_bytes = bytes;
    }
}
#endif

/* A fibre never ends, so entries need no way back. */
static void fibre_main()
{
#ifdef FIBRE_ASAN
    arrive(nullptr);
#endif
    for (;;)
        run();
}

static void begin(fibre *f, size_t i)
{
    /* Fibres' frames at one offset of their pages would all fall into the same sets of a cache. */
    char *top = f->stack + STACK_BYTES - i % 32 * 128;
#ifdef FIBRE_ASAN
    __asan_unpoison_memory_region(f->stack, STACK_BYTES);
#endif
#ifdef FIBRE_UCONTEXT
    getcontext(&f->context.machine);
    f->context.machine.uc_stack.ss_sp = f->stack;
    f->context.machine.uc_stack.ss_size = (size_t)(top - f->stack);
    f->context.machine.uc_link = nullptr;
    makecontext(&f->context.machine, fibre_main, 0);
#else
    void **frame = reinterpret_cast<void **>(top) - FRAME_WORDS;
    memset(frame, 0, FRAME_WORDS * sizeof *frame);
    frame[ENTRY_WORD] = reinterpret_cast<void *>(fibre_main);
    f->context.stack_pointer = frame;
#endif
}

void fibre_prepare(size_t n, void (*entry)())
{
    run = entry;
    while (n_fibres < n) {
        void *memory = mmap(nullptr, GUARD_BYTES + STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, GUARD_BYTES, PROT_NONE) != 0) {
            perror("stacks of fibres");
            exit(1);
        }
        fibre *f = &fibres[n_fibres];
        f->stack = static_cast<char *>(memory) + GUARD_BYTES;
        begin(f, n_fibres++);
    }
}

static void change(struct context *from, struct context *to)
{
#ifdef FIBRE_UCONTEXT
    swapcontext(&from->machine, &to->machine);
#else
    harness_switch_stacks(&from->stack_pointer, to->stack_pointer);
#endif
}

/* To a fibre, or outside of fibres. All turns change here, so that a processor foresees where the
 * change returns to: fibres mostly do what the one before did. */
static void turn_to(fibre *to)
{
    fibre *from = running;
    running = to;
#ifdef FIBRE_ASAN
    void *fake;
    from_outside = !from;
    __sanitizer_start_switch_fiber(&fake, to ? to->stack : outside_stack,
                                   to ? (size_t)STACK_BYTES : outside_bytes);
#endif
    change(from ? &from->context : &outside, to ? &to->context : &outside);
#ifdef FIBRE_ASAN
    arrive(fake);
#endif
}

void fibre_resume(size_t i)
{
    turn_to(&fibres[i]);
}

void fibre_yield()
{
    turn_to(nullptr);
}

void fibre_abandon(size_t i)
{
    begin(&fibres[i], i);
}
