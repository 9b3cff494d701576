/* json.dumps(value, ensure_ascii=False) of Python. */
#ifndef HY_TEXT_PYTHON_JSON_H
#define HY_TEXT_PYTHON_JSON_H

#include "text/growing_text.h"
#include "text/template_value.h"

/* Appends the value's JSON text. Refuses undefined values and loop. */
hymba_status hy_python_json(struct hy_template *template, const struct hy_value *value,
                            size_t position, struct hy_text *text);

#endif
