/* Which matrices are quantised and how, and rounding them, a block of rows at a time. */
#ifndef HY_MODEL_QUANTISE_MATRIX_H
#define HY_MODEL_QUANTISE_MATRIX_H

#include "base/thread.h"
#include "kernel/kernel.h"
#include "model/encode.h"
#include "model/plan.h"

/* What is wanted. */
struct hy_recipe {
    hymba_dtype type;    /* INT8 or INT4; DEFAULT: nothing is quantised */
    uint32_t group_size; /* 32, 64, 128; 0: 64 for INT8 and 32 for INT4, or 32 where it must be */
};

/* ARGUMENT unless type and group size are among those above; type must not be DEFAULT. */
hymba_status hy_recipe_check(const struct hy_recipe *recipe, hymba_error *error);

/*
 * The scheme of a tensor: projections have the type, embedding and head int8, and what is small
 * or sensitive stays as it is (docs/quantisation.md). ARGUMENT, naming the tensor, if its rows
 * cannot be divided.
 */
hymba_status hy_recipe_scheme(const struct hy_recipe *recipe, enum hy_slot slot,
                              const struct hy_slot_info *info, struct hy_scheme *scheme,
                              hymba_error *error);

/* Tells the host's log if some rows cannot have the default group size and get a smaller one. */
void hy_recipe_log(struct hy_memory *memory, const struct hy_recipe *recipe,
                   const struct hy_plan *plan);

/* Bytes of rows quantised, and of their scales. */
size_t hy_packed_bytes(const struct hy_scheme *scheme, size_t rows, size_t columns);
size_t hy_scale_bytes(const struct hy_scheme *scheme, size_t rows, size_t columns);

/* Rows that an encoder is given at once, at most. */
enum { HY_ENCODED_ROWS = 16 };

/*
 * Encodes n rows of values, one behind the other, which it may overwrite. Called on several
 * threads; what it gives must not depend on how rows are divided into calls.
 */
struct hy_encoder {
    void (*encode)(void *user, float *values, size_t n, size_t columns,
                   const struct hy_scheme *scheme, unsigned char *bytes, uint16_t *scales);
    void *user;
};

/* Least squared error, whatever the inputs are like. */
extern const struct hy_encoder hy_plain_encoder;

/* Threads and their memory, for matrices of at most so many columns. */
struct hy_quantiser {
    struct hy_memory *memory;
    struct hy_pool *pool;
    float *scratch; /* [threads][HY_ENCODED_ROWS][columns] */
    size_t columns;
};

/* n_threads 0: as many as there are processors for this process. */
hymba_status hy_quantiser_create(struct hy_memory *memory, uint32_t n_threads, size_t columns,
                                 struct hy_quantiser *quantiser, hymba_error *error);
void hy_quantiser_free(struct hy_quantiser *quantiser);

/* Rows first to first + n of a matrix of floating-point numbers. FORMAT, naming the tensor and the
 * element, if one is infinite or not a number. */
hymba_status hy_quantise_rows(struct hy_quantiser *quantiser, const struct hy_encoder *encoder,
                              const char *name, const struct hy_matrix *matrix, size_t first,
                              size_t n, const struct hy_scheme *scheme, unsigned char *bytes,
                              uint16_t *scales, hymba_error *error);

/* The widest row of a matrix that is quantised at all. */
size_t hy_widest_quantised(const struct hy_plan *plan);

#endif
