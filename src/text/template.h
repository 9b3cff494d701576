/*
 * What all parts of the template interpreter share while one template is parsed and rendered: the
 * source, the memory, the count of steps and the place of errors. Everything a rendering needs is
 * allocated here and freed at once at its end.
 */
#ifndef HY_TEXT_TEMPLATE_H
#define HY_TEXT_TEMPLATE_H

#include "base/memory.h"
#include "text/python_text.h"

/* Far above what a chat needs; a template is data that somebody else wrote. */
enum {
    HY_TEMPLATE_MAX_DEPTH = 64,         /* blocks and parentheses within one another */
    HY_TEMPLATE_MAX_HEIGHT = 200,       /* operations one on the other in an expression */
    HY_TEMPLATE_MAX_VALUE_DEPTH = 200,  /* arrays and objects within one another */
    HY_TEMPLATE_MAX_STEPS = 10000000,   /* nodes evaluated; HY_TEMPLATE_STEP_BYTES bytes are one */
    HY_TEMPLATE_STEP_BYTES = 32,
    HY_TEMPLATE_MAX_MEMORY = 256 << 20
};

struct hy_template_chunk;

struct hy_template {
    const char *source; /* with all line ends "\n" and the last one dropped, as Jinja does */
    size_t length;
    struct hy_string original;
    struct hy_memory *memory;
    struct hy_template_chunk *chunks;
    size_t memory_used;
    uint64_t steps;
    hymba_status status; /* of the last failure */
    hymba_error *error;
};

/* Checks that the text is UTF-8 and makes its source. Free after failure too. */
hymba_status hy_template_init(struct hy_template *template, struct hy_string original,
                              struct hy_memory *memory, hymba_error *error);
void hy_template_free(struct hy_template *template);

/* Memory that lives as long as the template; NULL after a failure, recorded for this place of the
 * source, with its status in template->status. */
void *hy_template_alloc(struct hy_template *template, size_t size, size_t position);

/* Counts one step and the bytes it handles. */
hymba_status hy_template_charge(struct hy_template *template, uint64_t bytes, size_t position);

/* Records an error at a place of the source; the message begins with "chat template: ". */
hymba_status hy_template_fail(struct hy_template *template, hymba_status status, size_t position,
                              const char *format, ...) HY_PRINTF(4, 5);

/* A prefix short enough for a message that ends between characters; print it with "%.*s". */
struct hy_string hy_template_excerpt(struct hy_string string, size_t most);

#endif
