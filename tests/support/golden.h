/* Golden models: their prompts, logits, streams and states, as the reference program made them. */
#ifndef TEST_GOLDEN_H
#define TEST_GOLDEN_H

#include "format/safetensors.h"
#include "run/session.h"
#include "support.h"

enum { GOLDEN_MAX_PROMPTS = 16 };

struct golden {
    const char *name;      /* folder under tests/data, e.g. "goldens/a_all_features" */
    hymba_model *model;
    struct hy_memory memory;
    struct hy_file file;
    struct hy_safetensors tensors;
    size_t n_prompts;
    size_t lengths[GOLDEN_MAX_PROMPTS];
    size_t detail;         /* length of the prompt whose streams are there; 0: none */
};

/* Names of all golden models, NULL-terminated. */
extern const char *const golden_names[];
int golden_count(void);

void golden_open(struct golden *golden, const char *name);
void golden_close(struct golden *golden);

/* A tensor of the prompt of that length, "pLENGTH.REST"; NULL if there is none. */
const struct hy_tensor *golden_find(const struct golden *golden, size_t length, const char *rest);

/* Its ids, from malloc. */
int32_t *golden_ids(const struct golden *golden, size_t length, const char *rest, size_t *count);

/* A context with these parameters (0, NULL: defaults) on the golden's model. */
hymba_context *golden_context(const struct golden *golden, const char *cpu, uint32_t n_threads,
                              uint32_t max_step_tokens);

/* Largest absolute difference; NaN counts as infinite. */
double golden_difference(const float *found, const float *expected, size_t count);

#endif
