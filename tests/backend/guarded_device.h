/*
 * The plug-in that tests have: a device whose memory can be reached by its own ops alone, which are
 * the generic kernels. Whatever else reads or writes it is stopped by the system, and so is an op
 * with memory that is not the device's. What else the core does against the interface is counted;
 * where a test wants it to, it fails.
 */
#ifndef TEST_GUARDED_DEVICE_H
#define TEST_GUARDED_DEVICE_H

#include "backend/device.h"

struct guarded_control {
    uint32_t interface_version; /* of the table it gives; 0: it gives none */
    int n_devices;              /* open fails for indices from this on */
    int has_bf16;
    int fails_on;               /* the device whose allocations, ends of work and embeddings alone
                                   are counted and fail; negative: all */
    long fail_open;             /* number of the open without memory, from 0; negative: none */
    long fail_allocation;       /* likewise of the allocation that fails */
    long fail_finish;           /* likewise of finish */
    hymba_status finish_status; /* with which */
    long fail_embedding;        /* likewise of an embedding: MEMORY, and until a finish tells of it
                                   no work is taken */
    /* counted, on several threads where devices have joined */
    _Atomic long n_opens, n_allocations, n_finishes, n_embeddings;
    _Atomic long n_open, n_blocks;      /* devices and blocks that are there */
    _Atomic long n_steps;               /* between begin_step and end_step */
    _Atomic long n_uploaded;            /* bytes that came from the host */
    _Atomic long n_downloaded;          /* bytes that went there */
    _Atomic long n_sampled;             /* tokens */
    _Atomic long n_copies, n_lists;     /* single copies within the device, and lists of them */
    _Atomic long n_converts;
    _Atomic long n_sums;        /* over ranks */
    _Atomic long n_faults;              /* of the core, the first one told in fault */
    char fault[128];
};

/* What the plug-in exports under GUARDED_CONTROL. */
typedef struct guarded_control *(*guarded_control_function)(void);
#define GUARDED_CONTROL "guarded_device_control"

#endif
