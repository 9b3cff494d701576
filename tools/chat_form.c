#include "chat_form.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "characters.h"
#include "output.h"

/* Stands for a message in a rendering that shows what the template itself writes: characters of
 * the private use area around the message's number. */
static const char place_begin[] = "\xee\x80\x80";
static const char place_end[] = "\xee\x80\x81";
enum { PLACE_MARK = 3 };

/* Where a message's words stand in the text. */
struct words {
    size_t begin, end;
};

struct builder {
    char *data;
    size_t size, capacity;
};

static void add(struct builder *builder, const char *text, size_t size)
{
    if (size >= builder->capacity - builder->size) {
        builder->capacity = 2 * (builder->size + size) + 256;
        builder->data = grow_memory(builder->data, builder->capacity, 1);
    }
    memcpy(builder->data + builder->size, text, size);
    builder->size += size;
    builder->data[builder->size] = '\0';
}

static void add_text(struct builder *builder, const char *text)
{
    add(builder, text, strlen(text));
}

static char *copy_text(const char *text, size_t size)
{
    struct builder builder = {0};
    add(&builder, text, size);
    return builder.data;
}

static const char *role_of(const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    return role ? role : "";
}

/* ---------------------------------------------------------------- encoding */

static bool begins_with(const struct ids *ids, const struct ids *beginning)
{
    return ids->count >= beginning->count &&
           (beginning->count == 0 || memcmp(ids->items, beginning->items,
                                            beginning->count * sizeof *ids->items) == 0);
}

/*
 * Tokens of text that stands behind other text. A tokenizer puts a space before what it encodes;
 * so the piece is encoded behind a line end, whose tokens are then left out.
 */
static int encode_inside(const hymba_tokenizer *tokenizer, const char *text, size_t size,
                         uint32_t flags, struct ids *ids)
{
    struct ids line = {0};
    struct ids whole = {0};
    struct builder builder = {0};
    size_t skipped = 0;
    if (size == 0)
        return STATUS_OK;
    add_text(&builder, "\n");
    add(&builder, text, size);
    int status = ids_encode(tokenizer, "\n", 1, 0, NULL, &line);
    if (status == STATUS_OK)
        status = ids_encode(tokenizer, builder.data, builder.size, flags, "the message", &whole);
    if (status == STATUS_OK && begins_with(&whole, &line)) {
        skipped = line.count;
    } else if (status == STATUS_OK) { /* a line end that is one token with what follows it */
        ids_free(&whole);
        status = ids_encode(tokenizer, text, size, flags, "the message", &whole);
    }
    for (size_t i = skipped; i < whole.count; i++)
        ids_add(ids, whole.items[i]);
    ids_free(&line);
    ids_free(&whole);
    free(builder.data);
    return status;
}

static bool same_ids(const struct ids *left, const struct ids *right)
{
    return left->count == right->count && begins_with(left, right);
}

int chat_form_encode(const struct chat_form *form, const struct chat_text *text, size_t offset,
                     struct ids *ids)
{
    int status = STATUS_OK;
    size_t begin = 0;
    memset(ids, 0, sizeof *ids);
    for (size_t i = 0; i < text->n_spans && status == STATUS_OK; i++) {
        const struct chat_span *span = &text->spans[i];
        size_t from = offset > begin ? offset : begin;
        uint32_t flags = span->special ? HYMBA_ENCODE_SPECIAL : 0;
        begin = span->end;
        if (from >= span->end)
            continue;
        if (from > 0) {
            status = encode_inside(form->tokenizer, text->data + from, span->end - from, flags,
                                   ids);
            continue;
        }
        /* The template writes its own BOS token if it wants one. */
        if (!form->has_template && hymba_tokenizer_adds_bos(form->tokenizer))
            flags |= HYMBA_ENCODE_BOS;
        status = ids_encode(form->tokenizer, text->data, span->end, flags, "the message", ids);
    }
    if (status != STATUS_OK)
        ids_free(ids);
    return status;
}

size_t chat_form_token_bytes(const struct chat_form *form, int32_t token, char *bytes)
{
    hymba_error error;
    struct ids pair = {0};
    char buffer[CHAT_TOKEN_BYTES + 64];
    size_t line = 0;
    size_t both = 0;
    hymba_error_init(&error, sizeof error);
    if (ids_encode(form->tokenizer, "\n", 1, 0, NULL, &pair) != STATUS_OK)
        return 0;
    hymba_status status = hymba_tokenizer_decode(form->tokenizer, pair.items, pair.count, 0,
                                                 buffer, sizeof buffer, &line, &error);
    ids_add(&pair, token);
    if (status == HYMBA_OK)
        status = hymba_tokenizer_decode(form->tokenizer, pair.items, pair.count, 0, buffer,
                                        sizeof buffer, &both, &error);
    ids_free(&pair);
    if (status != HYMBA_OK || both < line || both - line > CHAT_TOKEN_BYTES)
        return 0;
    memcpy(bytes, buffer + line, both - line);
    return both - line;
}

/* ------------------------------------------------------------------- marks */

/* Where to cut a mark so that its halves are other tokens than the whole; 0: nowhere. */
static int find_cut(const struct chat_form *form, struct turn_mark *mark)
{
    struct ids whole = {0};
    int status = encode_inside(form->tokenizer, mark->text, mark->size, 0, &whole);
    for (size_t cut = mark->size - 1; cut > 0 && status == STATUS_OK && !mark->cut; cut--) {
        struct ids halves = {0};
        if ((mark->text[cut] & 0xC0) == 0x80)
            continue;
        status = encode_inside(form->tokenizer, mark->text, cut, 0, &halves);
        if (status == STATUS_OK)
            status = encode_inside(form->tokenizer, mark->text + cut, mark->size - cut, 0,
                                   &halves);
        if (status == STATUS_OK && !same_ids(&halves, &whole))
            mark->cut = cut;
        ids_free(&halves);
    }
    ids_free(&whole);
    return status;
}

static int add_mark(struct chat_form *form, const char *text, size_t size)
{
    struct turn_mark *mark = &form->marks[form->n_marks];
    strip_space(&text, &size);
    if (size == 0)
        return STATUS_OK;
    *mark = (struct turn_mark){.text = copy_text(text, size), .size = size};
    form->n_marks++;
    return find_cut(form, mark);
}

/* The first mark in the text; its position, or size if there is none. */
static size_t find_mark(const struct chat_form *form, const char *text, size_t size,
                        const struct turn_mark **mark)
{
    for (size_t i = 0; i < size; i++)
        for (size_t k = 0; k < form->n_marks; k++) {
            const struct turn_mark *candidate = &form->marks[k];
            if (candidate->cut && candidate->size <= size - i &&
                memcmp(text + i, candidate->text, candidate->size) == 0) {
                *mark = candidate;
                return i;
            }
        }
    return size;
}

/* ------------------------------------------------------------------- spans */

static void add_span(struct chat_text *text, size_t end, bool special)
{
    text->spans = grow_memory(text->spans, text->n_spans + 1, sizeof *text->spans);
    text->spans[text->n_spans++] = (struct chat_span){end, special};
}

/* Goes on to end; no cut is made between plain pieces, which together are encoded as the whole
 * text would be. */
static void extend(struct chat_text *text, size_t end, bool special)
{
    size_t begin = text->n_spans ? text->spans[text->n_spans - 1].end : 0;
    if (end == begin)
        return;
    if (text->n_spans && text->spans[text->n_spans - 1].special == special)
        text->spans[text->n_spans - 1].end = end;
    else
        add_span(text, end, special);
}

static void cut_words(const struct chat_form *form, struct chat_text *text, struct words words)
{
    const struct turn_mark *mark = NULL;
    size_t begin = words.begin;
    for (;;) {
        size_t at = begin + find_mark(form, text->data + begin, words.end - begin, &mark);
        if (at == words.end)
            break;
        extend(text, at + mark->cut, false);
        add_span(text, at + mark->size, false);
        begin = at + mark->size;
    }
    extend(text, words.end, false);
}

static void make_spans(const struct chat_form *form, struct chat_text *text,
                       const struct words *words, size_t n_words)
{
    for (size_t i = 0; i < n_words; i++) {
        extend(text, words[i].begin, form->has_special);
        cut_words(form, text, words[i]);
    }
    extend(text, text->size, form->has_special);
}

/* -------------------------------------------------------------- built-in form */

static void add_words(struct builder *builder, const char *words, size_t size,
                      struct words *where)
{
    where->begin = builder->size;
    add(builder, words, size);
    where->end = builder->size;
}

static void render_built_in(const struct chat_form *form, const json_t *messages,
                            struct chat_text *text)
{
    struct builder builder = {0};
    size_t count = json_array_size(messages);
    struct words *words = take_memory(count, sizeof *words);
    for (size_t i = 0; i < count; i++) {
        const json_t *message = json_array_get(messages, i);
        const json_t *content = json_object_get(message, "content");
        const char *said = json_string_value(content);
        size_t size = json_string_length(content);
        bool by_model = strcmp(role_of(message), "assistant") == 0;
        bool by_user = strcmp(role_of(message), "user") == 0;
        if (!by_model) /* an answer stays as the model wrote it, with its first space */
            strip_space(&said, &size);
        add_text(&builder, by_model ? "Assistant:" : by_user ? "User: " : "");
        add_words(&builder, said, size, &words[i]);
        add_text(&builder, by_model || by_user ? "\n" : "\n\n");
    }
    add_text(&builder, "Assistant:");
    text->data = builder.data;
    text->size = builder.size;
    make_spans(form, text, words, count);
    free(words);
}

/* ---------------------------------------------------------------- template */

/* The chat as the library takes it. The tools' text stays as it was written. */
static char *chat_json(const struct chat_form *form, const json_t *messages, bool generate)
{
    struct builder builder = {0};
    char *array = json_dumps(messages, JSON_COMPACT | JSON_ENSURE_ASCII);
    if (!array)
        exit(fail("out of memory"));
    add_text(&builder, "{\"messages\":");
    add_text(&builder, array);
    if (form->tools) {
        add_text(&builder, ",\"tools\":");
        add_text(&builder, form->tools);
    }
    add_text(&builder, generate ? ",\"add_generation_prompt\":true}" : "}");
    free(array);
    return builder.data;
}

static hymba_status render(const struct chat_form *form, const json_t *messages, bool generate,
                           char **text, size_t *size, hymba_error *error)
{
    char *json = chat_json(form, messages, generate);
    size_t length = strlen(json);
    size_t capacity = 0;
    size_t needed = 2 * length + 1024;
    hymba_status status;
    *text = NULL;
    hymba_error_init(error, sizeof *error);
    do {
        capacity = needed + 1;
        *text = grow_memory(*text, capacity, 1);
        status = hymba_tokenizer_render_chat(form->tokenizer, json, length, *text, capacity,
                                             &needed, error);
    } while (status == HYMBA_ERROR_BUFFER && needed > capacity);
    free(json);
    *size = needed;
    if (status == HYMBA_OK) {
        *text = grow_memory(*text, needed + 1, 1);
        (*text)[needed] = '\0';
        return HYMBA_OK;
    }
    free(*text);
    *text = NULL;
    return status;
}

/* The messages with numbered places instead of what they say. */
static json_t *with_places(const json_t *messages)
{
    json_t *result = need_json(json_array());
    for (size_t i = 0; i < json_array_size(messages); i++) {
        char place[64];
        json_t *copy = need_json(json_deep_copy(json_array_get(messages, i)));
        snprintf(place, sizeof place, "%s%zu%s", place_begin, i, place_end);
        json_object_set_new(copy, "content", need_json(json_string(place)));
        json_array_append_new(result, copy);
    }
    return result;
}

/* The next place at or behind *cursor: what comes before it is [*cursor, *begin), and *cursor
 * moves behind it. False if there is none. */
static bool next_place(const char **cursor, const char **begin, size_t *number)
{
    const char *place = strstr(*cursor, place_begin);
    char *end = NULL;
    if (!place)
        return false;
    *number = (size_t)strtoul(place + PLACE_MARK, &end, 10);
    if (strncmp(end, place_end, PLACE_MARK) != 0)
        return false;
    *begin = place;
    *cursor = end + PLACE_MARK;
    return true;
}

/* Finds the messages' words in the text by its skeleton. False if the template changes them in
 * another way than by stripping white space. */
static bool locate(const char *skeleton, const struct chat_text *text, const json_t *messages,
                   bool strip, struct words *words, size_t *n_words)
{
    const char *cursor = skeleton;
    const char *from = skeleton;
    const char *place;
    size_t at = 0;
    size_t number = 0;
    size_t count = json_array_size(messages);
    *n_words = 0;
    while (next_place(&cursor, &place, &number)) {
        size_t between = (size_t)(place - from);
        const json_t *content = json_object_get(json_array_get(messages, number), "content");
        const char *said = json_string_value(content);
        size_t size = json_string_length(content);
        if (number >= count || *n_words == count || between > text->size - at ||
            memcmp(text->data + at, from, between) != 0)
            return false;
        at += between;
        if (strip)
            strip_space(&said, &size);
        if (size > text->size - at || memcmp(text->data + at, said, size) != 0)
            return false;
        words[(*n_words)++] = (struct words){at, at + size};
        at += size;
        from = cursor;
    }
    return strlen(from) == text->size - at && memcmp(text->data + at, from, text->size - at) == 0;
}

static int render_template(struct chat_form *form, const json_t *messages,
                           struct chat_text *text)
{
    hymba_error error;
    char *skeleton = NULL;
    size_t skeleton_size = 0;
    size_t n_words = 0;
    hymba_status status = render(form, messages, true, &text->data, &text->size, &error);
    if (status != HYMBA_OK)
        return fail_library(NULL, status, &error);
    json_t *places = with_places(messages);
    struct words *words = take_memory(json_array_size(messages), sizeof *words);
    status = render(form, places, true, &skeleton, &skeleton_size, &error);
    if (status == HYMBA_OK && (locate(skeleton, text, messages, true, words, &n_words) ||
                               locate(skeleton, text, messages, false, words, &n_words))) {
        make_spans(form, text, words, n_words);
    } else {
        if (!form->has_told)
            fail("the chat template changes what messages say, so that its text cannot be told "
                 "from theirs: everything is read as plain text");
        form->has_told = true;
        add_span(text, text->size, false);
    }
    free(words);
    free(skeleton);
    json_decref(places);
    return STATUS_OK;
}

/* ----------------------------------------------------------------- opening */

/* What the template writes before each of four messages: system, user, answer, user. */
enum { SAMPLE_MESSAGES = 4 };
struct sample {
    char *skeleton;
    const char *before[SAMPLE_MESSAGES];
    size_t size[SAMPLE_MESSAGES];
    bool complete;
};

/* with_system 0: of the last three messages only. */
static void render_sample(const struct chat_form *form, size_t with_system, struct sample *sample)
{
    static const char *const roles[SAMPLE_MESSAGES] = {"system", "user", "assistant", "user"};
    hymba_error error;
    size_t size = 0;
    size_t number = 0;
    const char *place;
    json_t *messages = need_json(json_array());
    memset(sample, 0, sizeof *sample);
    for (size_t i = 1 - with_system; i < SAMPLE_MESSAGES; i++)
        json_array_append_new(messages, need_json(json_pack("{s:s, s:s}", "role", roles[i],
                                                          "content", "")));
    json_t *places = with_places(messages);
    if (render(form, places, false, &sample->skeleton, &size, &error) == HYMBA_OK) {
        const char *cursor = sample->skeleton;
        const char *from = cursor;
        size_t found = 1 - with_system;
        while (found < SAMPLE_MESSAGES && next_place(&cursor, &place, &number)) {
            sample->before[found] = from;
            sample->size[found++] = (size_t)(place - from);
            from = cursor;
        }
        sample->complete = found == SAMPLE_MESSAGES;
    }
    json_decref(messages);
    json_decref(places);
}

/* What an answer's end and a question's end have in common is what begins a turn; where they have
 * nothing in common each is told by itself. */
static int take_marks(struct chat_form *form, const struct sample *sample)
{
    const char *question = sample->before[3];
    size_t common = 0;
    while (common < sample->size[3] && common < sample->size[2] &&
           question[common] == sample->before[2][common])
        common++;
    const char *text = question;
    size_t size = common;
    strip_space(&text, &size);
    int status = STATUS_OK;
    if (size == 0) {
        text = question;
        size = sample->size[3];
        strip_space(&text, &size);
        status = add_mark(form, sample->before[2], sample->size[2]);
    }
    if (size > 0)
        form->stop = copy_text(text, size);
    if (status == STATUS_OK)
        status = add_mark(form, text, size);
    if (status == STATUS_OK && sample->before[0])
        status = add_mark(form, sample->before[0], sample->size[0]);
    return status;
}

/* Whether encoding the text as the template's own gives other tokens than as plain text. */
static int finds_special(const struct chat_form *form, const char *text, size_t size,
                         bool *special, int32_t *first)
{
    struct ids plain = {0};
    struct ids own = {0};
    int status = encode_inside(form->tokenizer, text, size, 0, &plain);
    if (status == STATUS_OK)
        status = encode_inside(form->tokenizer, text, size, HYMBA_ENCODE_SPECIAL, &own);
    *special = status == STATUS_OK && !same_ids(&plain, &own);
    if (own.count > 0 && first)
        *first = own.items[0];
    ids_free(&plain);
    ids_free(&own);
    return status;
}

static int study_template(struct chat_form *form)
{
    struct sample sample;
    bool special = false;
    int32_t first = -1;
    render_sample(form, 1, &sample);
    if (!sample.complete) { /* some templates refuse system messages */
        free(sample.skeleton);
        render_sample(form, 0, &sample);
    }
    int status = STATUS_OK;
    if (sample.skeleton)
        status = finds_special(form, sample.skeleton, strlen(sample.skeleton),
                               &form->has_special, NULL);
    if (status == STATUS_OK && sample.complete)
        status = take_marks(form, &sample);
    if (status == STATUS_OK && form->stop)
        status = finds_special(form, form->stop, strlen(form->stop), &special, &first);
    if (status == STATUS_OK && special)
        form->stop_token = first;
    free(sample.skeleton);
    if (status == STATUS_OK && form->has_special && form->tools) {
        status = finds_special(form, form->tools, strlen(form->tools), &special, NULL);
        if (status == STATUS_OK && special)
            status = fail("the tools hold the text of a special token, which would be taken for "
                          "the chat template's own");
    }
    return status;
}

int chat_form_open(struct chat_form *form, hymba_tokenizer *tokenizer, char *tools)
{
    memset(form, 0, sizeof *form);
    form->tokenizer = tokenizer;
    form->tools = tools;
    form->stop_token = -1;
    form->has_template = hymba_tokenizer_has_chat_template(tokenizer);
    if (form->has_template)
        return study_template(form);
    form->stop = copy_text("\nUser:", 6);
    int status = add_mark(form, "User:", 5);
    return status == STATUS_OK ? add_mark(form, "Assistant:", 10) : status;
}

void chat_form_close(struct chat_form *form)
{
    for (size_t i = 0; i < form->n_marks; i++)
        free(form->marks[i].text);
    free(form->stop);
    free(form->tools);
    memset(form, 0, sizeof *form);
}

int chat_form_render(struct chat_form *form, json_t *messages, struct chat_text *text)
{
    memset(text, 0, sizeof *text);
    if (form->has_template)
        return render_template(form, messages, text);
    render_built_in(form, messages, text);
    return STATUS_OK;
}

void chat_text_free(struct chat_text *text)
{
    free(text->data);
    free(text->spans);
    memset(text, 0, sizeof *text);
}
