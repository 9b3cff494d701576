/* How long each kind of kernel takes in real steps, while a context is asked to measure that. */
#ifndef HY_RUN_KERNEL_TIMES_H
#define HY_RUN_KERNEL_TIMES_H

#include <stdbool.h>

#include "backend/observer.h"
#include "base/status.h"

/* The whole step, then kinds of ops in the order in which a step runs them. */
enum hy_kernel_kind {
    HY_KERNEL_STEP,
    HY_KERNEL_EMBED,
    HY_KERNEL_NORM,
    HY_KERNEL_ROUND,
    HY_KERNEL_IN_PROJ,
    HY_KERNEL_ROPE_CACHE,
    HY_KERNEL_ATTENTION_WINDOW,
    HY_KERNEL_ATTENTION_FULL,
    HY_KERNEL_CONV,
    HY_KERNEL_X_PROJ,
    HY_KERNEL_DT_PROJ,
    HY_KERNEL_SCAN,
    HY_KERNEL_FUSE,
    HY_KERNEL_OUT_PROJ,
    HY_KERNEL_GATE_UP,
    HY_KERNEL_SWIGLU,
    HY_KERNEL_DOWN,
    HY_KERNEL_HEAD,
    HY_KERNEL_SAMPLE,
    HY_KERNEL_ALL_SUM, /* waiting for other ranks, too */
    HY_N_KERNELS
};

struct hy_kernel_times {
    bool on;
    struct hy_observer observer;
    hymba_kernel_time kinds[HY_N_KERNELS]; /* since measuring began */
    double begun;                          /* the op that runs */
    double step_begun;
    double spent;                          /* seconds of counting, which are not the step's */
    hymba_status status;                   /* of a device, told by hy_kernel_times_check */
    hymba_error failure;
};

/* Begins anew, or stops. */
void hy_kernel_times_set(hymba_context *context, bool on);

/* Around a call that computes tokens. */
void hy_kernel_times_begin(hymba_context *context);
void hy_kernel_times_end(hymba_context *context);

/* A failure of the device that was met while an op was waited for. */
hymba_status hy_kernel_times_check(hymba_context *context, hymba_error *error);

#endif
