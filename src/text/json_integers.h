/*
 * Integers that fit no machine integer. Configurations written by Python hold some (the published
 * model_max_length is 1000000000000000019884624838656), and the JSON reader refuses them.
 */
#ifndef HY_TEXT_JSON_INTEGERS_H
#define HY_TEXT_JSON_INTEGERS_H

#include "base/memory.h"

/*
 * A copy of a JSON text in which every integer of 19 digits or more has an exponent of zero, which
 * makes it a real number. The copy is the caller's; all else in it is unchanged.
 */
hymba_status hy_json_widen_integers(struct hy_memory *memory, const char *text, size_t length,
                                    char **copy, size_t *copy_length, hymba_error *error);

#endif
