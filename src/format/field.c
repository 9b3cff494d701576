#include "format/field.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *hy_field_describe(const hy_json *value, char description[HY_DESCRIPTION_SIZE])
{
    enum { LONGEST = 40 };
    enum hy_json_kind kind = hy_json_kind(value);
    size_t length;
    const char *string = hy_json_string(value, &length);
    if (kind == HY_JSON_INTEGER)
        snprintf(description, HY_DESCRIPTION_SIZE, "%" PRId64, hy_json_integer(value));
    else if (kind == HY_JSON_BOOL)
        snprintf(description, HY_DESCRIPTION_SIZE, "%s", hy_json_bool(value) ? "true" : "false");
    else if (kind == HY_JSON_STRING && length <= LONGEST)
        snprintf(description, HY_DESCRIPTION_SIZE, "\"%s\"", string);
    else
        snprintf(description, HY_DESCRIPTION_SIZE, "%s", hy_json_kind_name(kind));
    return description;
}

hymba_status hy_field_refuse(const struct hy_fields *fields, hymba_status status, const char *key,
                             const hy_json *found, const char *expected)
{
    char description[HY_DESCRIPTION_SIZE];
    return hy_fail(fields->error, status, "%s: %s is %s, expected %s", fields->name, key,
                   hy_field_describe(found, description), expected);
}

/* Whether there is nothing more to do: *status says if that is a failure. */
static bool is_absent(const struct hy_fields *fields, const char *key, bool required,
                      const hy_json *found, const char *expected, hymba_status *status)
{
    *status = HYMBA_OK;
    if (hy_json_kind(found) != HY_JSON_ABSENT)
        return false;
    if (required)
        *status = hy_field_refuse(fields, HYMBA_ERROR_FORMAT, key, found, expected);
    return true;
}

hymba_status hy_field_integer(const struct hy_fields *fields, const char *key, bool required,
                              int64_t minimum, int64_t maximum, int64_t *value)
{
    char expected[80];
    hymba_status status;
    const hy_json *found = hy_json_object_get(fields->object, key);
    snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, minimum,
             maximum);
    if (is_absent(fields, key, required, found, expected, &status))
        return status;
    if (hy_json_kind(found) != HY_JSON_INTEGER || hy_json_integer(found) < minimum ||
        hy_json_integer(found) > maximum)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, key, found, expected);
    *value = hy_json_integer(found);
    return HYMBA_OK;
}

hymba_status hy_field_real(const struct hy_fields *fields, const char *key, bool required,
                           double minimum, double maximum, double *value)
{
    char expected[80];
    hymba_status status;
    const hy_json *found = hy_json_object_get(fields->object, key);
    enum hy_json_kind kind = hy_json_kind(found);
    /* Whole numbers only: a fraction would be printed as the host's locale wants it. */
    snprintf(expected, sizeof expected, "a number above %" PRId64 ", at most %" PRId64,
             (int64_t)minimum, (int64_t)maximum);
    if (is_absent(fields, key, required, found, expected, &status))
        return status;
    double number = hy_json_real(found);
    if ((kind != HY_JSON_INTEGER && kind != HY_JSON_REAL) ||
        !(number > minimum && number <= maximum))
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, key, found, expected);
    *value = number;
    return HYMBA_OK;
}

hymba_status hy_field_bool(const struct hy_fields *fields, const char *key, bool required,
                           bool *value)
{
    hymba_status status;
    const hy_json *found = hy_json_object_get(fields->object, key);
    if (is_absent(fields, key, required, found, "true or false", &status))
        return status;
    if (hy_json_kind(found) != HY_JSON_BOOL)
        return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, key, found, "true or false");
    *value = hy_json_bool(found);
    return HYMBA_OK;
}

/* "\"a\", \"b\" or \"c\"", cut off if it should not fit. */
static void list_names(const char *const *names, int n_names, char *list, size_t size)
{
    size_t used = 0;
    list[0] = '\0';
    for (int i = 0; i < n_names && used < size; i++) {
        const char *separator = i == 0 ? "" : i == n_names - 1 ? " or " : ", ";
        int length = snprintf(list + used, size - used, "%s\"%s\"", separator, names[i]);
        used += length > 0 ? (size_t)length : 0;
    }
}

hymba_status hy_field_choice(const struct hy_fields *fields, const char *key, bool required,
                             const char *const *names, int n_names, int *value)
{
    char expected[120];
    hymba_status status;
    const hy_json *found = hy_json_object_get(fields->object, key);
    const char *string = hy_json_string(found, NULL);
    list_names(names, n_names, expected, sizeof expected);
    if (is_absent(fields, key, required, found, expected, &status))
        return status;
    for (int i = 0; string && i < n_names; i++)
        if (strcmp(string, names[i]) == 0) {
            *value = i;
            return HYMBA_OK;
        }
    status = string ? HYMBA_ERROR_UNSUPPORTED : HYMBA_ERROR_FORMAT;
    return hy_field_refuse(fields, status, key, found, expected);
}

hymba_status hy_field_element(const struct hy_fields *fields, const char *key,
                              const hy_json *array, size_t index, int64_t minimum,
                              int64_t maximum, int64_t *value)
{
    char place[120], expected[80];
    const hy_json *found = hy_json_array_get(array, index);
    if (hy_json_kind(found) == HY_JSON_INTEGER && hy_json_integer(found) >= minimum &&
        hy_json_integer(found) <= maximum) {
        *value = hy_json_integer(found);
        return HYMBA_OK;
    }
    snprintf(place, sizeof place, "%s[%zu]", key, index);
    snprintf(expected, sizeof expected, "an integer from %" PRId64 " to %" PRId64, minimum,
             maximum);
    return hy_field_refuse(fields, HYMBA_ERROR_FORMAT, place, found, expected);
}
