#include "chat.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "hymba.h"

/* Sessions fit contexts that keep as many states as the chat's. */
enum { REWIND_TOKENS = 8 };

struct figures figures_of(const struct result *result, int index)
{
    struct figures figures;
    const char *line = result->err;
    for (;; line++) {
        line = strstr(line, "turn ");
        ck_assert_msg(line != NULL, "no figures %d in: %s", index, result->err);
        if (sscanf(line,
                   "turn %u: %" SCNu64 " tokens reused, %" SCNu64 " computed (message %" SCNu64
                   ", answer %" SCNu64 ", again %" SCNu64 "); session: %" SCNu64
                   " tokens, %" SCNu64,
                   &figures.turn, &figures.reused, &figures.computed, &figures.message,
                   &figures.answer, &figures.again, &figures.length, &figures.snapshots) == 8 &&
            index-- == 0)
            break;
    }
    ck_assert_uint_eq(figures.computed, figures.message + figures.answer + figures.again);
    return figures;
}

const char *nth_line(const char *text, int index)
{
    static char line[4096];
    while (index-- > 0) {
        text = strchr(text, '\n');
        ck_assert_ptr_nonnull(text);
        text++;
    }
    snprintf(line, sizeof line, "%.*s", (int)strcspn(text, "\n"), text);
    return line;
}

void load_saved(const char *model_path, const char *path, struct saved *saved)
{
    char name[512];
    size_t size = 0;
    hymba_error error;
    hymba_model *model = NULL;
    hymba_context *context = NULL;
    hymba_session *session = NULL;
    hymba_context_params params = {.struct_size = sizeof params, .rewind_tokens = REWIND_TOKENS,
                                   .n_threads = 1};
    hymba_error_init(&error, sizeof error);
    snprintf(name, sizeof name, "%s.json", path);
    saved->transcript = load_json(name);
    test_status(hymba_model_open(model_path, NULL, &model, &error), HYMBA_OK, error);
    test_status(hymba_context_create(model, &params, &context, &error), HYMBA_OK, error);
    test_status(hymba_session_load(context, path, NULL, &session, NULL, NULL, &error), HYMBA_OK,
                error);
    saved->n_tokens = (size_t)hymba_session_length(session);
    ck_assert_uint_le(saved->n_tokens, TOKENS_MOST);
    if (saved->n_tokens)
        memcpy(saved->tokens, hymba_session_tokens(session),
               saved->n_tokens * sizeof saved->tokens[0]);
    test_status(hymba_tokenizer_decode(hymba_model_tokenizer(model), saved->tokens,
                                       saved->n_tokens, HYMBA_DECODE_SPECIAL, saved->text,
                                       sizeof saved->text - 1, &size, &error),
                HYMBA_OK, error);
    saved->text[size] = '\0';
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}

size_t count_token(const struct saved *saved, int32_t token)
{
    size_t count = 0;
    for (size_t i = 0; i < saved->n_tokens; i++)
        count += saved->tokens[i] == token;
    return count;
}

void check_line_ends(const struct saved *saved)
{
    size_t count = 0;
    for (const char *c = text_of(saved); *c; c++)
        count += *c == '\n';
    ck_assert_uint_eq(count_token(saved, 13), count);
}

const char *text_of(const struct saved *saved)
{
    return string_of(saved->transcript, "text");
}

void check_same_words(const char *left, const char *right)
{
    const char *a = left;
    const char *b = right;
    for (;;) {
        a += strspn(a, " \n");
        b += strspn(b, " \n");
        ck_assert_msg(*a == *b, "'%s' and '%s' differ", left, right);
        if (!*a)
            return;
        a++;
        b++;
    }
}
