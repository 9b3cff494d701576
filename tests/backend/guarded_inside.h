/* What the files of the guarded device share: its memory, and the ops that compute. */
#ifndef TEST_GUARDED_INSIDE_H
#define TEST_GUARDED_INSIDE_H

#include "backend/device.h"

enum { POISON = 0xff /* not a number, in all types */ };

/* Counts a fault of the core. */
void blame(const char *what);

/* Where the bytes at a device's address are. There is no going on without them. */
void *find(const void *data, size_t bytes, const char *what);

/* Scales of a matrix; as they are if it has none. */
const void *find_scales(const void *scales, size_t rows, size_t columns, size_t group,
                        const char *what);

/* Bytes from the first row to the end of the last one. */
size_t extent(size_t stride, size_t width, size_t n_rows);

/* What a device need not write is nothing that anybody may read. */
void poison_rows(float *x, size_t rows, size_t stride, size_t n);

/* An op that may stand in a step begins; with these kernels. */
const struct hy_kernels *begin_op(const struct hy_device *device);

/* guarded_ops.c */
void device_rms_norm(struct hy_device *device, const struct hy_rms_norm_args *args, size_t rows);
void device_norm_parts(struct hy_device *device, const struct hy_norm_parts_args *args,
                       size_t rows);
void device_matmul(struct hy_device *device, const struct hy_matmul_args *args);
void device_round(struct hy_device *device, const struct hy_round_args *args, size_t rows);
void device_rope_store(struct hy_device *device, const struct hy_rope_store_args *args,
                       size_t rows);
void device_attention(struct hy_device *device, const struct hy_attention_args *args, size_t rows);
void device_conv(struct hy_device *device, const struct hy_conv_args *args);
void device_scan(struct hy_device *device, const struct hy_scan_args *args);
void device_fuse(struct hy_device *device, const struct hy_fuse_args *args, size_t rows);
void device_swiglu(struct hy_device *device, const struct hy_swiglu_args *args, size_t rows);
void device_square_sums(struct hy_device *device, const struct hy_square_sums_args *args,
                        size_t rows);

#endif
