/*
 * Typed fields of a JSON object: each function checks the kind and the range, and its sentence
 * names document and field, what was found and what was expected. A field that is absent and not
 * required leaves *value as it was; null counts as a value.
 */
#ifndef HY_FORMAT_FIELD_H
#define HY_FORMAT_FIELD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"

/* An object and what to call it: "DIR/config.json", "DIR/config.json, layer_plan[3]". */
struct hy_fields {
    const hy_json *object;
    const char *name;
    hymba_error *error;
};

enum { HY_DESCRIPTION_SIZE = 64 };

/* The value itself if it is short ("3", "true", "\"ntk\""), else its kind ("an array"). */
const char *hy_field_describe(const hy_json *value, char description[HY_DESCRIPTION_SIZE]);

/* Fails with "NAME: KEY is FOUND, expected EXPECTED". */
hymba_status hy_field_refuse(const struct hy_fields *fields, hymba_status status, const char *key,
                             const hy_json *found, const char *expected);

hymba_status hy_field_integer(const struct hy_fields *fields, const char *key, bool required,
                              int64_t minimum, int64_t maximum, int64_t *value);

/* An integer or a number with a fraction; minimum < value <= maximum. */
hymba_status hy_field_real(const struct hy_fields *fields, const char *key, bool required,
                           double minimum, double maximum, double *value);

hymba_status hy_field_bool(const struct hy_fields *fields, const char *key, bool required,
                           bool *value);

/* One of the n_names names; *value is its index. */
hymba_status hy_field_choice(const struct hy_fields *fields, const char *key, bool required,
                             const char *const *names, int n_names, int *value);

/* Element index of the array that is the field key, as an integer from minimum to maximum. */
hymba_status hy_field_element(const struct hy_fields *fields, const char *key,
                              const hy_json *array, size_t index, int64_t minimum,
                              int64_t maximum, int64_t *value);

#endif
