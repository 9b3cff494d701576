/*
 * A conversation on one session. Each turn renders the whole chat and compares it with the text
 * that the session holds already: only what is new is computed. Where the two differ, the session
 * goes back to the last token before the difference.
 */
#ifndef TOOLS_CONVERSATION_H
#define TOOLS_CONVERSATION_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "chat_form.h"
#include "hymba.h"
#include "library.h"
#include "sampling.h"

struct conversation_options {
    const char *model; /* NULL: the demo model */
    const char *system;
    uint64_t answer_tokens;
    uint64_t context_tokens; /* 0: no limit */
    uint64_t snapshots;
    bool slide;
    struct option_texts stop;
    struct compute_options compute;
    struct sampling_options sampling;
};

/* Where a token ends in the text. */
struct point {
    uint64_t tokens;
    size_t text;
};

/* Where a turn begins: known unless the text before it was computed again. */
struct turn {
    struct point begin;
    bool known;
};

/* What the last turn, or /rewind or /load after it, took over and computed. */
struct turn_figures {
    uint64_t reused;
    uint64_t message; /* computed tokens: of the message and what the template puts around it */
    uint64_t answer;
    uint64_t again;   /* of earlier text */
};

struct conversation {
    const struct conversation_options *options;
    hymba_model *model;
    hymba_context *context;
    hymba_session *session;
    hymba_sampler *sampler;
    struct chat_form form;
    json_t *messages;
    char *text; /* that the session's tokens stand for */
    size_t text_size, text_capacity;
    struct point *points; /* ascending; the first is the beginning */
    size_t n_points, points_capacity;
    struct turn *turns; /* one for each of the user's messages */
    size_t n_turns, turns_capacity;
    size_t answer_end; /* of the last answer, in the text, without white space behind it */
    uint64_t n_rewinds;
    bool has_told; /* that the template changes earlier text */
    struct turn_figures figures;
};

/* Takes pieces of an answer; a status other than STATUS_OK ends it. */
typedef int (*answer_taker)(void *user, const char *text, size_t size);

/* Functions that give int give an exit status and have printed the error; after one the
 * conversation is as it was. */

/* tools: a JSON array as text from malloc, which the conversation takes, or NULL. */
int conversation_open(struct conversation *conversation,
                      const struct conversation_options *options, char *tools);
void conversation_close(struct conversation *conversation);

/* One turn. *stop is why the answer ended (HYMBA_STOP_...): HYMBA_STOP_NONE if the user stopped
 * the turn before there was an answer, and the message is not part of the conversation. */
int conversation_say(struct conversation *conversation, const char *words, size_t size,
                     answer_taker take, void *user, int32_t *stop);

/* Forgets all but the system message. */
int conversation_reset(struct conversation *conversation);

/* Forgets the last turns. info tells what was reused and computed. */
int conversation_rewind(struct conversation *conversation, uint64_t turns,
                        hymba_reuse_info *info);

/* Another system message, "" for none; it counts from the next turn on. */
int conversation_set_system(struct conversation *conversation, const char *text, size_t size);

/* The session in a file, and beside it FILE.json with what was said. */
int conversation_save(struct conversation *conversation, const char *path);
int conversation_load(struct conversation *conversation, const char *path,
                      hymba_reuse_info *info);

/* For conversation_load: the sampler knows the session's tokens. */
int conversation_renew_sampler(struct conversation *conversation);

/* What a session of this conversation is made with. */
void conversation_session_params(const struct conversation *conversation,
                                 hymba_session_params *params);

int conversation_info(const struct conversation *conversation, hymba_session_info *info);

#endif
