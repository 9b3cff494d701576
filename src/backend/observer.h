/* Who watches a backend's ops while speed is measured. Off, it costs one branch an op. */
#ifndef HY_BACKEND_OBSERVER_H
#define HY_BACKEND_OBSERVER_H

#include <stddef.h>

/* The argument structs are those of kernel.h with these names, and hy_sample_args. */
enum hy_op {
    HY_OP_EMBED,
    HY_OP_RMS_NORM,
    HY_OP_NORM_PARTS,
    HY_OP_MATMUL,
    HY_OP_ROUND,
    HY_OP_ROPE_STORE,
    HY_OP_ATTENTION,
    HY_OP_CONV,
    HY_OP_SCAN,
    HY_OP_FUSE,
    HY_OP_SWIGLU,
    HY_OP_SAMPLE,
    HY_OP_SQUARE_SUMS,
    HY_OP_ALL_SUM,
    HY_N_OPS
};

/* begin is called before an op, end behind it with its arguments; rows is 0 for ops whose
 * arguments tell them. */
struct hy_observer {
    void (*begin)(void *user);
    void (*end)(void *user, enum hy_op op, const void *args, size_t rows);
    void *user;
};

#endif
