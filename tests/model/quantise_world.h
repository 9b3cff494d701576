/*
 * What the tests of quantising and of loading quantised weights share: a small model, the
 * parameters to quantise it with, and where the quantised one goes; made anew for each test.
 */
#ifndef TEST_QUANTISE_WORLD_H
#define TEST_QUANTISE_WORLD_H

#include "host.h"
#include "model/model.h"

enum { WORLD_TOKENS = 1500 };

struct quantise_world {
    struct test_host host;
    hymba_error error;
    hymba_quantize_params params;
    char input[256], output[256]; /* directories; output does not exist yet */
    int32_t tokens[WORLD_TOKENS]; /* to calibrate with */
};

extern struct quantise_world world;

/* The fixture. */
void world_begin(void);
void world_end(void);

/* A name for another output. */
void new_output(void);

/* Rows of 32, 64 and 96 elements: 64 divides some. */
extern const char model_config[];

/* Makes another model, which becomes the input. */
void make_model(const char *config, hymba_dtype dtype);

hymba_status quantise(void);

/* A file in a directory. Static ring of buffers: valid until a few more calls. */
const char *path_in(const char *directory, const char *name);

/* Opens a model, quantising it while loading; HYMBA_DTYPE_DEFAULT: as it is. */
hymba_model *open_with(const char *directory, hymba_dtype dtype);

const struct hy_tensor *tensor_of(const hymba_model *model, const char *name);

/* Changes bytes of a tensor's data, `skip` behind its begin. */
void patch_data(const char *directory, const char *tensor, size_t skip, const void *bytes,
                size_t n);

/* Asserts that the last error's sentence holds all of these. */
void check_words(const char *const *parts);
#define WORDS(...) check_words((const char *const[]){__VA_ARGS__, NULL})

#endif
