/*
 * A conversation in two files: the session as the library saves it, and FILE.json with the
 * messages and where they stand among the tokens. The second names the first by a number of its
 * tokens, so that files which do not belong together are told.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "conversation.h"
#include "input.h"
#include "interrupt.h"
#include "output.h"

enum { FORMAT_VERSION = 1 };

/* FNV-1a over the tokens' bytes, lowest first. */
static void name_tokens(const hymba_session *session, char name[17])
{
    const int32_t *tokens = hymba_session_tokens(session);
    uint64_t count = hymba_session_length(session);
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (uint64_t i = 0; i < count; i++)
        for (int shift = 0; shift < 32; shift += 8) {
            hash ^= (uint32_t)tokens[i] >> shift & 0xFF;
            hash *= UINT64_C(0x100000001b3);
        }
    snprintf(name, 17, "%016" PRIx64, hash);
}

static char *name_beside(const char *path, const char *ending)
{
    size_t size = strlen(path) + strlen(ending) + 1;
    char *name = take_memory(size, 1);
    snprintf(name, size, "%s%s", path, ending);
    return name;
}

/* ------------------------------------------------------------------ saving */

static json_t *point_to_json(struct point point)
{
    return json_pack("[I, I]", (json_int_t)point.tokens, (json_int_t)point.text);
}

/* How many points are saved. An answer that was cut inside a character leaves bytes that are not
 * UTF-8: they are left out, and their tokens with them. */
static size_t count_points(const struct conversation *conversation)
{
    size_t count = conversation->n_points;
    for (; count > 1; count--) {
        json_t *text = json_stringn(conversation->text, conversation->points[count - 1].text);
        if (text) {
            json_decref(text);
            break;
        }
    }
    return count;
}

static json_t *points_to_json(const struct conversation *conversation, size_t count)
{
    json_t *points = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(points, point_to_json(conversation->points[i]));
    return points;
}

static json_t *turns_to_json(const struct conversation *conversation)
{
    json_t *turns = json_array();
    for (size_t i = 0; i < conversation->n_turns; i++) {
        const struct turn *turn = &conversation->turns[i];
        json_array_append_new(turns, turn->known ? point_to_json(turn->begin) : json_null());
    }
    return turns;
}

static json_t *transcript_of(const struct conversation *conversation)
{
    char name[17];
    size_t count = count_points(conversation);
    size_t size = conversation->points[count - 1].text;
    size_t end = conversation->answer_end < size ? conversation->answer_end : size;
    name_tokens(conversation->session, name);
    json_t *object = json_pack(
        "{s:s, s:i, s:s, s:O, s:o, s:o, s:o, s:I}", "format", "hymba chat", "version",
        FORMAT_VERSION, "tokens", name, "messages", conversation->messages, "text",
        json_stringn(size ? conversation->text : "", size), "points",
        points_to_json(conversation, count), "turns", turns_to_json(conversation), "answer_end",
        (json_int_t)end);
    if (object && conversation->form.tools)
        json_object_set_new(object, "tools", json_string(conversation->form.tools));
    return object;
}

static int fail_write(const char *path)
{
    return fail("%s: %s", path, strerror(errno));
}

static int write_transcript(const json_t *object, const char *path)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return fail_write(path);
    errno = 0;
    bool good = json_dumpf(object, file, JSON_INDENT(1) | JSON_ENSURE_ASCII) == 0;
    good = good && fputc('\n', file) != EOF && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int code = errno;
    good = fclose(file) == 0 && good;
    errno = code ? code : errno;
    if (good)
        return STATUS_OK;
    int status = fail_write(path);
    remove(path);
    return status;
}

static int save_session(struct conversation *conversation, const char *path)
{
    hymba_error error;
    hymba_error_init(&error, sizeof error);
    interrupt_cancels_context(conversation->context);
    hymba_status status = hymba_session_save(conversation->session, NULL, path, NULL, &error);
    interrupt_cancels_context(NULL);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

/* Each file stays the old one until the new one is whole, and between the two there is nothing left
 * to do that takes time: they belong together but for a moment. */
int conversation_save(struct conversation *conversation, const char *path)
{
    json_t *object = need_json(transcript_of(conversation));
    char *beside = name_beside(path, ".json");
    char *part = name_beside(path, ".json.part");
    int status = write_transcript(object, part);
    if (status == STATUS_OK) {
        status = save_session(conversation, path);
        if (status == STATUS_OK && rename(part, beside) != 0)
            status = fail_write(beside);
        if (status != STATUS_OK)
            remove(part);
    }
    free(beside);
    free(part);
    json_decref(object);
    return status;
}

/* ----------------------------------------------------------------- loading */

/* A transcript that was read, checked against its session. */
struct loaded {
    hymba_session *session;
    json_t *object;
    const char *name; /* of its file */
};

static int fail_format(const struct loaded *loaded, const char *what)
{
    return fail("%s: %s", loaded->name, what);
}

static bool read_point(const json_t *value, struct point *point)
{
    json_int_t tokens = json_integer_value(json_array_get(value, 0));
    json_int_t text = json_integer_value(json_array_get(value, 1));
    if (!json_is_array(value) || json_array_size(value) != 2 || tokens < 0 || text < 0)
        return false;
    *point = (struct point){(uint64_t)tokens, (size_t)text};
    return true;
}

/* Points lie inside the text and the session, in order, the first at the beginning. */
static bool are_points(const struct loaded *loaded, const json_t *points, size_t text_size)
{
    struct point before = {0, 0};
    size_t count = json_array_size(points);
    for (size_t i = 0; i < count; i++) {
        struct point point;
        if (!read_point(json_array_get(points, i), &point) ||
            point.tokens > hymba_session_length(loaded->session) || point.text > text_size ||
            point.text < before.text || point.tokens < before.tokens + (i > 0) ||
            (i == 0 && (point.tokens || point.text)))
            return false;
        before = point;
    }
    return count > 0 && before.text == text_size;
}

static bool are_messages(const json_t *messages, size_t *n_turns)
{
    *n_turns = 0;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        const char *role = json_string_value(json_object_get(message, "role"));
        if (!role || !json_is_string(json_object_get(message, "content")) ||
            (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 &&
             strcmp(role, "assistant") != 0))
            return false;
        *n_turns += strcmp(role, "user") == 0;
    }
    return json_is_array(messages);
}

static bool is_point_of(const json_t *points, struct point wanted)
{
    struct point point;
    for (size_t i = 0; i < json_array_size(points); i++)
        if (read_point(json_array_get(points, i), &point) && point.tokens == wanted.tokens)
            return point.text == wanted.text;
    return false;
}

static bool are_turns(const json_t *turns, const json_t *points, size_t count)
{
    struct point before = {0, 0};
    for (size_t i = 0; i < json_array_size(turns); i++) {
        struct point point;
        const json_t *turn = json_array_get(turns, i);
        if (json_is_null(turn))
            continue;
        if (!read_point(turn, &point) || point.tokens < before.tokens ||
            !is_point_of(points, point))
            return false;
        before = point;
    }
    return json_is_array(turns) && json_array_size(turns) == count;
}

static int check_transcript(const struct loaded *loaded)
{
    char name[17];
    size_t n_turns = 0;
    const json_t *object = loaded->object;
    const char *format = json_string_value(json_object_get(object, "format"));
    const char *tokens = json_string_value(json_object_get(object, "tokens"));
    const json_t *text = json_object_get(object, "text");
    const json_t *tools = json_object_get(object, "tools");
    const json_t *points = json_object_get(object, "points");
    json_int_t end = json_integer_value(json_object_get(object, "answer_end"));
    if (!format || strcmp(format, "hymba chat") != 0)
        return fail_format(loaded, "not the transcript of a chat");
    if (json_integer_value(json_object_get(object, "version")) != FORMAT_VERSION)
        return fail_format(loaded, "written by another version of this command");
    name_tokens(loaded->session, name);
    if (!tokens || strcmp(tokens, name) != 0)
        return fail_format(loaded, "belongs to another session than the one beside it");
    if (!are_messages(json_object_get(object, "messages"), &n_turns) || !json_is_string(text) ||
        (tools && !json_is_string(tools)) || !json_is_array(points) ||
        !are_points(loaded, points, json_string_length(text)) ||
        !are_turns(json_object_get(object, "turns"), points, n_turns) || end < 0 ||
        (size_t)end > json_string_length(text))
        return fail_format(loaded, "damaged: its parts contradict each other");
    return STATUS_OK;
}

static int read_transcript(struct loaded *loaded)
{
    struct bytes bytes;
    json_error_t error;
    int status = read_bytes(loaded->name, &bytes);
    if (status != STATUS_OK)
        return status;
    loaded->object = json_loadb(bytes.data, bytes.size, JSON_ALLOW_NUL, &error);
    if (!loaded->object)
        status = fail("%s: %s (line %d)", loaded->name, error.text, error.line);
    free(bytes.data);
    return status;
}

/* The tools are text of the same kind as of --tools. */
static int take_form(struct conversation *conversation, const struct loaded *loaded)
{
    struct chat_form form;
    const char *tools = json_string_value(json_object_get(loaded->object, "tools"));
    json_t *array = tools ? json_loads(tools, 0, NULL) : NULL;
    bool good = !tools || (json_is_array(array) && conversation->form.has_template);
    json_decref(array);
    if (!good)
        return fail_format(loaded, "its tools are no JSON array, or nothing this model can use");
    int status = chat_form_open(&form, conversation->form.tokenizer,
                                tools ? name_beside(tools, "") : NULL);
    if (status != STATUS_OK) {
        chat_form_close(&form);
        return status;
    }
    chat_form_close(&conversation->form);
    conversation->form = form;
    return STATUS_OK;
}

/* From here on nothing fails. */
static void take_transcript(struct conversation *conversation, const struct loaded *loaded)
{
    const json_t *text = json_object_get(loaded->object, "text");
    const json_t *points = json_object_get(loaded->object, "points");
    const json_t *turns = json_object_get(loaded->object, "turns");
    size_t n_points = json_array_size(points);
    size_t n_turns = json_array_size(turns);
    json_decref(conversation->messages);
    conversation->messages = json_incref(json_object_get(loaded->object, "messages"));
    conversation->text_size = json_string_length(text);
    conversation->text_capacity = conversation->text_size + 1;
    conversation->text = grow_memory(conversation->text, conversation->text_capacity, 1);
    memcpy(conversation->text, json_string_value(text), conversation->text_size);
    conversation->points = grow_memory(conversation->points, n_points,
                                       sizeof *conversation->points);
    conversation->turns = grow_memory(conversation->turns, n_turns, sizeof *conversation->turns);
    for (size_t i = 0; i < n_points; i++)
        read_point(json_array_get(points, i), &conversation->points[i]);
    for (size_t i = 0; i < n_turns; i++) {
        struct turn turn = {{0, 0}, false};
        turn.known = read_point(json_array_get(turns, i), &turn.begin);
        conversation->turns[i] = turn;
    }
    conversation->n_points = conversation->points_capacity = n_points;
    conversation->n_turns = conversation->turns_capacity = n_turns;
    conversation->answer_end =
        (size_t)json_integer_value(json_object_get(loaded->object, "answer_end"));
    hymba_session_release(conversation->session);
    conversation->session = hymba_session_retain(loaded->session);
}

static int load_session(struct conversation *conversation, const char *path,
                        hymba_session **session, hymba_reuse_info *info)
{
    hymba_error error;
    hymba_session_params params;
    hymba_error_init(&error, sizeof error);
    conversation_session_params(conversation, &params);
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    interrupt_cancels_context(conversation->context);
    hymba_status status = hymba_session_load(conversation->context, path, &params, session, NULL,
                                             info, &error);
    interrupt_cancels_context(NULL);
    progress_end();
    return status == HYMBA_OK ? STATUS_OK : fail_library(NULL, status, &error);
}

int conversation_load(struct conversation *conversation, const char *path,
                      hymba_reuse_info *info)
{
    struct loaded loaded = {NULL, NULL, NULL};
    char *beside = name_beside(path, ".json");
    loaded.name = beside;
    int status = load_session(conversation, path, &loaded.session, info);
    if (status == STATUS_OK)
        status = read_transcript(&loaded);
    if (status == STATUS_OK)
        status = check_transcript(&loaded);
    if (status == STATUS_OK)
        status = take_form(conversation, &loaded);
    if (status == STATUS_OK) {
        take_transcript(conversation, &loaded);
        conversation->figures = (struct turn_figures){.reused = info->reused_tokens,
                                                      .again = info->computed_tokens};
        status = conversation_renew_sampler(conversation);
    }
    hymba_session_release(loaded.session);
    json_decref(loaded.object);
    free(beside);
    return status;
}
