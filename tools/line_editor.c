#include "line_editor.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "characters.h"
#include "interrupt.h"
#include "output.h"
#include "terminal.h"

enum { HISTORY_MOST = 500, INPUT_SIZE = 4096, SEQUENCE_SIZE = 16 };

#define CONTROL(letter) ((letter) & 0x1F)

static const char paste_end[] = "\033[201~";

struct text {
    char *data; /* from malloc; NUL-terminated */
    size_t size, capacity;
};

struct place {
    size_t row, column;
};

struct line_editor {
    struct text line;
    size_t cursor;
    const char *prompt;
    struct text shown;   /* what the next refresh writes */
    struct place at;     /* while drawing */
    size_t cursor_row;   /* where the last refresh left the cursor, below the prompt's row */
    size_t columns;
    struct text *history;
    size_t n_history, recalled; /* recalled == n_history: the line being typed */
    struct text draft;
    char input[INPUT_SIZE]; /* read, but not yet looked at */
    size_t input_next, input_size;
    char sequence[SEQUENCE_SIZE]; /* an escape sequence that is not complete */
    size_t sequence_size;
    bool pasting;
    size_t paste_begin;
    bool done;
    enum line_result result;
};

/* -------------------------------------------------------------------- text */

static void text_insert(struct text *text, size_t at, const char *bytes, size_t size)
{
    if (size >= text->capacity - text->size) {
        text->capacity = 2 * (text->size + size) + 64;
        text->data = grow_memory(text->data, text->capacity, 1);
    }
    memmove(text->data + at + size, text->data + at, text->size - at);
    memcpy(text->data + at, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
}

static void text_remove(struct text *text, size_t begin, size_t end)
{
    if (begin == end)
        return;
    memmove(text->data + begin, text->data + end, text->size - end);
    text->size -= end - begin;
    text->data[text->size] = '\0';
}

static void text_copy(struct text *text, const struct text *from)
{
    text_remove(text, 0, text->size);
    text_insert(text, 0, from->data ? from->data : "", from->size);
}

/* ----------------------------------------------------------------- drawing */

static void show(struct line_editor *editor, const char *bytes, size_t size)
{
    text_insert(&editor->shown, editor->shown.size, bytes, size);
}

static void show_text(struct line_editor *editor, const char *text)
{
    show(editor, text, strlen(text));
}

static void show_move(struct line_editor *editor, size_t count, char direction)
{
    char sequence[32];
    if (count == 0)
        return;
    snprintf(sequence, sizeof sequence, "\033[%zu%c", count, direction);
    show_text(editor, sequence);
}

static void next_row(struct line_editor *editor)
{
    show_text(editor, "\r\n");
    editor->at.row++;
    editor->at.column = 0;
}

/* Rows are broken here and not by the terminal, so that it is known where the cursor stands. */
static void show_wide(struct line_editor *editor, const char *bytes, size_t size, size_t width)
{
    if (editor->at.column + width > editor->columns)
        next_row(editor);
    show(editor, bytes, size);
    editor->at.column += width;
    if (editor->at.column >= editor->columns)
        next_row(editor);
}

/* Shows one character of the line: control characters as ^X, malformed bytes as U+FFFD. */
static size_t show_character(struct line_editor *editor, const char *bytes, size_t left)
{
    uint32_t character;
    size_t size = character_read(bytes, left, &character);
    if (character == '\n') {
        next_row(editor);
    } else if (character < 0x20 || character == 0x7F) {
        const char caret[2] = {'^', (char)(character ^ 0x40)};
        show_wide(editor, caret, 2, 2);
    } else if (character >= 0x80 && character < 0xA0) {
        show_wide(editor, "?", 1, 1);
    } else if (character == 0xFFFD) {
        show_wide(editor, "\xef\xbf\xbd", 3, 1);
    } else {
        show_wide(editor, bytes, size, (size_t)character_width(character));
    }
    return size;
}

static void refresh(struct line_editor *editor)
{
    struct place cursor = {0, 0};
    editor->columns = terminal_columns();
    editor->shown.size = 0;
    show_move(editor, editor->cursor_row, 'A');
    show_text(editor, "\r\033[J");
    editor->at = cursor;
    show_wide(editor, editor->prompt, strlen(editor->prompt), strlen(editor->prompt));
    for (size_t i = 0; i < editor->line.size;) {
        if (i == editor->cursor)
            cursor = editor->at;
        i += show_character(editor, editor->line.data + i, editor->line.size - i);
    }
    if (editor->cursor == editor->line.size)
        cursor = editor->at;
    show_move(editor, editor->at.row - cursor.row, 'A');
    show_text(editor, "\r");
    show_move(editor, cursor.column, 'C');
    editor->cursor_row = cursor.row;
    terminal_write(editor->shown.data, editor->shown.size);
}

/* Leaves the line as it stands and goes below it. */
static void leave_line(struct line_editor *editor, const char *mark)
{
    editor->cursor = editor->line.size;
    refresh(editor);
    terminal_write(mark, strlen(mark));
    terminal_write("\r\n", 2);
    editor->cursor_row = 0;
}

/* ----------------------------------------------------------------- history */

static void remember(struct line_editor *editor)
{
    const struct text *last = editor->n_history ? &editor->history[editor->n_history - 1] : NULL;
    if (editor->line.size == 0 || (last && last->size == editor->line.size &&
                                   memcmp(last->data, editor->line.data, last->size) == 0))
        return;
    if (editor->n_history == HISTORY_MOST) {
        free(editor->history[0].data);
        editor->n_history--;
        memmove(editor->history, editor->history + 1,
                editor->n_history * sizeof *editor->history);
    }
    memset(&editor->history[editor->n_history], 0, sizeof *editor->history);
    text_copy(&editor->history[editor->n_history++], &editor->line);
}

static void recall(struct line_editor *editor, size_t index)
{
    if (index > editor->n_history)
        return;
    if (editor->recalled == editor->n_history)
        text_copy(&editor->draft, &editor->line);
    editor->recalled = index;
    text_copy(&editor->line, index == editor->n_history ? &editor->draft
                                                        : &editor->history[index]);
    editor->cursor = editor->line.size;
}

/* ----------------------------------------------------------------- editing */

static void clear(struct line_editor *editor)
{
    text_remove(&editor->line, 0, editor->line.size);
    editor->cursor = 0;
    editor->recalled = editor->n_history;
    editor->pasting = false;
    editor->sequence_size = 0;
}

static void begin_again(struct line_editor *editor)
{
    leave_line(editor, "^C");
    clear(editor);
}

static void insert(struct line_editor *editor, char byte)
{
    text_insert(&editor->line, editor->cursor, &byte, 1);
    editor->cursor++;
}

static void delete_from(struct line_editor *editor, size_t begin)
{
    text_remove(&editor->line, begin, editor->cursor);
    editor->cursor = begin;
}

static size_t before(const struct line_editor *editor)
{
    return character_begin(editor->line.data, editor->line.size, editor->cursor);
}

static size_t behind(const struct line_editor *editor)
{
    return character_end(editor->line.data, editor->line.size, editor->cursor);
}

static bool is_blank(char byte)
{
    return byte == ' ' || byte == '\n' || byte == '\t';
}

static size_t word_begin(const struct line_editor *editor)
{
    const char *line = editor->line.data;
    size_t i = editor->cursor;
    while (i > 0 && is_blank(line[i - 1]))
        i--;
    while (i > 0 && !is_blank(line[i - 1]))
        i--;
    return i;
}

static size_t word_end(const struct line_editor *editor)
{
    const char *line = editor->line.data;
    size_t i = editor->cursor;
    while (i < editor->line.size && is_blank(line[i]))
        i++;
    while (i < editor->line.size && !is_blank(line[i]))
        i++;
    return i;
}

static void finish(struct line_editor *editor, enum line_result result)
{
    leave_line(editor, "");
    if (result == LINE_TEXT)
        remember(editor);
    editor->done = true;
    editor->result = result;
}

/* -------------------------------------------------------------------- keys */

static void take_control(struct line_editor *editor, char byte)
{
    switch (byte) {
    case '\r':
    case '\n':
        finish(editor, LINE_TEXT);
        break;
    case CONTROL('A'):
        editor->cursor = 0;
        break;
    case CONTROL('E'):
        editor->cursor = editor->line.size;
        break;
    case CONTROL('B'):
        editor->cursor = before(editor);
        break;
    case CONTROL('F'):
        editor->cursor = behind(editor);
        break;
    case CONTROL('C'):
        begin_again(editor);
        break;
    case CONTROL('D'):
        if (editor->line.size == 0)
            finish(editor, LINE_END);
        else
            text_remove(&editor->line, editor->cursor, behind(editor));
        break;
    case CONTROL('H'):
    case 0x7F:
        delete_from(editor, before(editor));
        break;
    case CONTROL('K'):
        text_remove(&editor->line, editor->cursor, editor->line.size);
        break;
    case CONTROL('L'):
        terminal_write("\033[H\033[2J", 7);
        editor->cursor_row = 0;
        break;
    case CONTROL('N'):
        recall(editor, editor->recalled + 1);
        break;
    case CONTROL('P'):
        recall(editor, editor->recalled - 1);
        break;
    case CONTROL('U'):
        delete_from(editor, 0);
        break;
    case CONTROL('W'):
        delete_from(editor, word_begin(editor));
        break;
    case CONTROL('Z'):
        leave_line(editor, "");
        terminal_suspend();
        break;
    case '\t':
        insert(editor, byte);
        break;
    default:
        break;
    }
}

/* A cursor key; the letter is what ends its sequence. */
static void take_cursor_key(struct line_editor *editor, char letter, bool by_word)
{
    switch (letter) {
    case 'A':
        recall(editor, editor->recalled - 1);
        break;
    case 'B':
        recall(editor, editor->recalled + 1);
        break;
    case 'C':
        editor->cursor = by_word ? word_end(editor) : behind(editor);
        break;
    case 'D':
        editor->cursor = by_word ? word_begin(editor) : before(editor);
        break;
    case 'F':
        editor->cursor = editor->line.size;
        break;
    case 'H':
        editor->cursor = 0;
        break;
    default:
        break;
    }
}

static void take_numbered_key(struct line_editor *editor, int number)
{
    if (number == 1 || number == 7)
        editor->cursor = 0;
    else if (number == 4 || number == 8)
        editor->cursor = editor->line.size;
    else if (number == 3)
        text_remove(&editor->line, editor->cursor, behind(editor));
    else if (number == 200) {
        editor->pasting = true;
        editor->paste_begin = editor->cursor;
    }
}

static void take_alt_key(struct line_editor *editor, char key)
{
    if (key == '\r' || key == '\n')
        insert(editor, '\n');
    else if (key == 'b')
        editor->cursor = word_begin(editor);
    else if (key == 'f')
        editor->cursor = word_end(editor);
    else if (key == 0x7F || key == CONTROL('H'))
        delete_from(editor, word_begin(editor));
    else if (key == CONTROL('C'))
        begin_again(editor);
}

/* Adds a byte to the escape sequence and obeys it once it is complete. */
static void take_sequence(struct line_editor *editor, char byte)
{
    char *sequence = editor->sequence;
    if (editor->sequence_size < SEQUENCE_SIZE - 1)
        sequence[editor->sequence_size++] = byte;
    sequence[editor->sequence_size] = '\0';
    if (editor->sequence_size == 2) {
        if (byte == '[' || byte == 'O')
            return;
        editor->sequence_size = byte == '\033' ? 1 : 0;
        if (byte != '\033')
            take_alt_key(editor, byte);
        return;
    }
    if (sequence[1] == '[' && byte >= 0x20 && byte < 0x40)
        return; /* a parameter */
    editor->sequence_size = 0;
    if (byte == '~')
        take_numbered_key(editor, atoi(sequence + 2));
    else
        take_cursor_key(editor, byte, strchr(sequence, ';') != NULL);
}

/* Line ends of pasted text come as the Enter key would send them. */
static void end_paste(struct line_editor *editor)
{
    char *data = editor->line.data;
    size_t to = editor->paste_begin;
    for (size_t i = editor->paste_begin; i < editor->cursor; i++) {
        if (data[i] == '\n' && i > editor->paste_begin && data[i - 1] == '\r')
            continue;
        data[to++] = data[i];
    }
    text_remove(&editor->line, to, editor->cursor);
    editor->cursor = to;
    for (size_t i = editor->paste_begin; i < to; i++)
        if (data[i] == '\r')
            data[i] = '\n';
    editor->pasting = false;
}

static void take_pasted(struct line_editor *editor, char byte)
{
    size_t mark = sizeof paste_end - 1;
    insert(editor, byte);
    if (editor->cursor - editor->paste_begin < mark ||
        memcmp(editor->line.data + editor->cursor - mark, paste_end, mark) != 0)
        return;
    delete_from(editor, editor->cursor - mark);
    end_paste(editor);
}

static void take_byte(struct line_editor *editor, char byte)
{
    if (editor->pasting)
        take_pasted(editor, byte);
    else if (editor->sequence_size > 0)
        take_sequence(editor, byte);
    else if (byte == '\033')
        editor->sequence[editor->sequence_size++] = byte;
    else if ((unsigned char)byte < 0x20 || byte == 0x7F)
        take_control(editor, byte);
    else
        insert(editor, byte);
}

/* ----------------------------------------------------------------- reading */

static void read_keys(struct line_editor *editor)
{
    ssize_t got = terminal_read(editor->input, sizeof editor->input);
    editor->input_next = 0;
    editor->input_size = got > 0 ? (size_t)got : 0;
    if (got > 0)
        return;
    if (got < 0 && errno == EINTR) {
        if (interrupt_take()) /* a SIGINT that no key sent */
            begin_again(editor);
        return;
    }
    editor->done = true;
    editor->result = LINE_END;
}

struct line_editor *line_editor_create(void)
{
    struct line_editor *editor = take_memory(1, sizeof *editor);
    memset(editor, 0, sizeof *editor);
    editor->history = take_memory(HISTORY_MOST, sizeof *editor->history);
    return editor;
}

void line_editor_free(struct line_editor *editor)
{
    if (!editor)
        return;
    for (size_t i = 0; i < editor->n_history; i++)
        free(editor->history[i].data);
    free(editor->history);
    free(editor->line.data);
    free(editor->draft.data);
    free(editor->shown.data);
    free(editor);
}

enum line_result line_editor_read(struct line_editor *editor, const char *prompt,
                                  const char **text, size_t *size)
{
    if (!terminal_begin())
        return LINE_FAILED;
    text_insert(&editor->line, 0, "", 0); /* an empty line is text too */
    clear(editor);
    editor->prompt = prompt;
    editor->cursor_row = 0;
    editor->done = false;
    while (!editor->done) {
        if (editor->input_next == editor->input_size) {
            refresh(editor);
            read_keys(editor);
        } else {
            take_byte(editor, editor->input[editor->input_next++]);
        }
    }
    terminal_end();
    *text = editor->line.data;
    *size = editor->line.size;
    return editor->result;
}
