/* Comparing a JSON value with the one form of it that is supported. */
#ifndef HY_TEXT_JSON_MATCH_H
#define HY_TEXT_JSON_MATCH_H

#include "base/json.h"

/*
 * Refuses found (UNSUPPORTED) unless it equals the document expected, a text of ours. name is
 * where it stands, e.g. "tokenizer.json: decoder"; the message names the first difference.
 */
hymba_status hy_json_match(const hy_json *found, const char *expected, const char *name,
                           hymba_error *error);

#endif
