/*
 * A line that is typed on a terminal, with its history. Keys: cursor keys, Home and End, Backspace
 * and Delete; Ctrl-A, E, B, F: to the begin, to the end, back, forward; Alt-B, F: by words;
 * Ctrl-U, K, W: delete to the begin, to the end, the word before; Up and Down: earlier lines;
 * Ctrl-L: clear the screen; Alt-Enter: a new line in the text; Ctrl-C: begin again; Ctrl-D: end.
 * Pasted text may have several lines.
 */
#ifndef TOOLS_LINE_EDITOR_H
#define TOOLS_LINE_EDITOR_H

#include <stddef.h>

struct line_editor;

enum line_result {
    LINE_TEXT,  /* a line was typed */
    LINE_END,   /* Ctrl-D, or the terminal is gone */
    LINE_FAILED /* the terminal does not allow editing */
};

struct line_editor *line_editor_create(void);
void line_editor_free(struct line_editor *editor);

/* Reads a line; *text, NUL-terminated and *size bytes long, lives until the next call. The
 * terminal is in its usual mode before and after. */
enum line_result line_editor_read(struct line_editor *editor, const char *prompt,
                                  const char **text, size_t *size);

#endif
