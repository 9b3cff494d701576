/*
 * Chat templates: an interpreter for the part of Jinja that chat templates of this model family
 * use. A construct it does not know is refused, with its name and place, never rendered wrongly.
 */
#ifndef HY_TEXT_CHAT_TEMPLATE_H
#define HY_TEXT_CHAT_TEMPLATE_H

#include "base/json.h"
#include "text/growing_text.h"

/*
 * Renders source with the members of variables (an object: messages, tools, contexts,
 * add_generation_prompt, ...) as its variables, appending to *text. The output is limited to
 * HY_TEMPLATE_MAX_OUTPUT bytes.
 */
enum { HY_TEMPLATE_MAX_OUTPUT = 64 << 20 };
hymba_status hy_chat_template_render(const char *source, size_t length, const hy_json *variables,
                                     struct hy_text *text, hymba_error *error);

#endif
