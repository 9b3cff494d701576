/*
 * What several verbs do with the library: the options of a context, opening models and
 * tokenizers. Functions that give int give an exit status and have printed the error.
 */
#ifndef TOOLS_LIBRARY_H
#define TOOLS_LIBRARY_H

#include <stdbool.h>
#include <stdint.h>

#include "hymba.h"
#include "options.h"
#include "ranks.h"

/* How a context is to be made. */
struct compute_options {
    uint64_t threads; /* 0: the library's choice */
    const char *device;
    const char *cpu;
    const char *compute;
    const char *cache_type;
    const char *state_type;
    const char *quantize;
    uint64_t memory_limit; /* 0: none */
    struct rank_options ranks;
};

/* Adds --threads alone, for verbs that make no context. */
void add_threads_option(struct option_set *set, struct compute_options *compute);

/* Adds --quantize, --threads, --device, --cpu, --compute, --cache-type, --state-type and
 * --memory-limit. */
void add_compute_options(struct option_set *set, struct compute_options *compute);

/* The options as the library's parameters, which point to compute's. */
void fill_context_params(const struct compute_options *compute, hymba_context_params *params);

/* Opens a model directory, or the demo model for NULL; flags are HYMBA_MODEL_... quantize is the
 * name of a type, or NULL. */
int open_model(const char *directory, uint32_t flags, const char *quantize, hymba_model **model);

/* Opens a configuration without weights; about names it in messages. */
int open_configuration(const char *text, size_t length, const char *about, hymba_model **model);

/* "q8" and "int8", "q4" and "int4" as an element type; DEFAULT for NULL. */
hymba_dtype quantized_type(const char *name);

/* The text of a preset's config.json, from malloc. */
int read_preset(const char *name, char **text, size_t *length);

/* "tiny|125m|..." of the library's presets, for option_choice; static storage. */
const char *preset_choices(void);

int create_context(hymba_model *model, const struct compute_options *compute,
                   hymba_context **context);

int get_model_info(const hymba_model *model, hymba_model_info *info);

int get_context_info(const hymba_context *context, hymba_context_info *info);

/* The memory of a session of n_tokens tokens. */
int get_memory_info(const hymba_model *model, const struct compute_options *compute,
                    uint64_t n_tokens, hymba_memory_info *info);

/* The model's tokenizer; where (a directory, or NULL) names the model in the message. */
int require_tokenizer(hymba_model *model, const char *where, hymba_tokenizer **tokenizer);

#endif
