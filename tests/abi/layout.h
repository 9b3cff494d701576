/*
 * The layout of every struct of hymba.h and the value of every constant, written down: what a
 * program compiled earlier has in it. A line is added for a new field, at the end of its struct;
 * after a release nothing is changed or removed but the size of a struct that grew.
 */
#ifndef TEST_LAYOUT_H
#define TEST_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

/* One line: a struct (name NULL), which its fields follow, or a field. */
struct layout {
    const char *structure, *name;
    size_t offset, size;               /* as promised, where pointers have 64 bits */
    size_t actual_offset, actual_size; /* as the compiler has it */
};

struct layout_constant {
    const char *name;
    int64_t value, actual;
};

extern const struct layout layouts[];
extern const size_t n_layouts;
extern const struct layout_constant layout_constants[];
extern const size_t n_layout_constants;

#endif
