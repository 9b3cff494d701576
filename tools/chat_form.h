/*
 * How a chat is written for a model: by its template, or, for a model without one, as
 *
 *     SYSTEM
 *
 *     User: ...
 *     Assistant: ...
 *
 * What the messages say is told from what the template says: only the template's own text can
 * become special tokens, and a beginning of a turn that stands inside a message is encoded in
 * other tokens than a real one.
 */
#ifndef TOOLS_CHAT_FORM_H
#define TOOLS_CHAT_FORM_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hymba.h"
#include "ids.h"

enum { TURN_MARKS_MOST = 3 };

/* Text that begins a turn, and where it is cut in two when a message holds it. */
struct turn_mark {
    char *text;
    size_t size, cut;
};

struct chat_form {
    hymba_tokenizer *tokenizer;
    char *tools; /* a JSON array as text, or NULL */
    bool has_template;
    bool has_special; /* the template writes special tokens */
    bool has_told;    /* of a template that cannot be followed */
    struct turn_mark marks[TURN_MARKS_MOST];
    size_t n_marks;
    char *stop;         /* text at which an answer ends, or NULL */
    int32_t stop_token; /* special token at which an answer ends, or -1 */
};

/* A piece of the text that is encoded by itself. */
struct chat_span {
    size_t end;
    bool special;
};

struct chat_text {
    char *data; /* from malloc */
    size_t size;
    struct chat_span *spans;
    size_t n_spans;
};

/* Functions that give int give an exit status and have printed the error. */

/* Looks at the tokenizer's template. tools, from malloc or NULL, belongs to the form then, also
 * after a failure. */
int chat_form_open(struct chat_form *form, hymba_tokenizer *tokenizer, char *tools);
void chat_form_close(struct chat_form *form);

/* Writes the messages and the beginning of an answer. */
int chat_form_render(struct chat_form *form, json_t *messages, struct chat_text *text);
void chat_text_free(struct chat_text *text);

/* Tokens of the text from offset on, as they follow those of the text before it. */
int chat_form_encode(const struct chat_form *form, const struct chat_text *text, size_t offset,
                     struct ids *ids);

/* Appends the bytes of one token, as they stand inside a text, to a buffer that has room for
 * them: at most CHAT_TOKEN_BYTES. The result is how many. */
enum { CHAT_TOKEN_BYTES = 4096 };
size_t chat_form_token_bytes(const struct chat_form *form, int32_t token, char *bytes);

#endif
