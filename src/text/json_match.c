#include "text/json_match.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"

enum { MAX_PATH = 160, MAX_SHOWN = 48 };

static hymba_status match(const hy_json *found, const hy_json *expected, const char *path,
                          hymba_error *error);

static hymba_status match_object(const hy_json *found, const hy_json *expected, const char *path,
                                 hymba_error *error)
{
    char below[MAX_PATH];
    size_t length;
    for (hy_json_member *m = NULL; (m = hy_json_next_member(expected, m)) != NULL;) {
        const char *key = hy_json_member_key(m, &length);
        snprintf(below, sizeof below, "%s.%s", path, key);
        hymba_status status =
            match(hy_json_object_get(found, key), hy_json_member_value(m), below, error);
        if (status != HYMBA_OK)
            return status;
    }
    for (hy_json_member *m = NULL; (m = hy_json_next_member(found, m)) != NULL;) {
        const char *key = hy_json_member_key(m, &length);
        if (!hy_json_object_get(expected, key))
            return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s.%.*s is not supported", path,
                           (int)hy_min_size(length, MAX_SHOWN), key);
    }
    return HYMBA_OK;
}

static hymba_status match_array(const hy_json *found, const hy_json *expected, const char *path,
                                hymba_error *error)
{
    char below[MAX_PATH];
    size_t count = hy_json_array_size(expected);
    hymba_status status = HYMBA_OK;
    if (hy_json_array_size(found) != count)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                       "%s has %zu elements, only a list of %zu is supported", path,
                       hy_json_array_size(found), count);
    for (size_t i = 0; i < count && status == HYMBA_OK; i++) {
        snprintf(below, sizeof below, "%s[%zu]", path, i);
        status = match(hy_json_array_get(found, i), hy_json_array_get(expected, i), below, error);
    }
    return status;
}

static hymba_status match_string(const hy_json *found, const hy_json *expected, const char *path,
                                 hymba_error *error)
{
    size_t found_length, expected_length;
    const char *found_text = hy_json_string(found, &found_length);
    const char *expected_text = hy_json_string(expected, &expected_length);
    if (found_length == expected_length && memcmp(found_text, expected_text, found_length) == 0)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s is \"%.*s\", only \"%s\" is supported", path,
                   (int)hy_min_size(found_length, MAX_SHOWN), found_text, expected_text);
}

/* Goes no deeper than expected, which is ours. */
static hymba_status match(const hy_json *found, const hy_json *expected, const char *path,
                          hymba_error *error)
{
    enum hy_json_kind kind = hy_json_kind(expected);
    if (hy_json_kind(found) != kind)
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s is %s, only %s is supported", path,
                       hy_json_kind_name(hy_json_kind(found)), hy_json_kind_name(kind));
    switch (kind) {
    case HY_JSON_OBJECT:
        return match_object(found, expected, path, error);
    case HY_JSON_ARRAY:
        return match_array(found, expected, path, error);
    case HY_JSON_STRING:
        return match_string(found, expected, path, error);
    case HY_JSON_INTEGER:
        if (hy_json_integer(found) == hy_json_integer(expected))
            return HYMBA_OK;
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s is %lld, only %lld is supported", path,
                       (long long)hy_json_integer(found), (long long)hy_json_integer(expected));
    case HY_JSON_BOOL:
        if (hy_json_bool(found) == hy_json_bool(expected))
            return HYMBA_OK;
        return hy_fail(error, HYMBA_ERROR_UNSUPPORTED, "%s is %s, only %s is supported", path,
                       hy_json_bool(found) ? "true" : "false",
                       hy_json_bool(expected) ? "true" : "false");
    default:
        return HYMBA_OK;
    }
}

hymba_status hy_json_match(const hy_json *found, const char *expected, const char *name,
                           hymba_error *error)
{
    hy_json *document = NULL;
    hymba_status status =
        hy_json_parse(expected, strlen(expected), "the supported form", &document, error);
    if (status == HYMBA_OK)
        status = match(found, document, name, error);
    hy_json_free(document);
    return status;
}
