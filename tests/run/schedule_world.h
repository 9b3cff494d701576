/*
 * Requests for a scheduler, and what comes of them: told as text, event by event, so that what a
 * request gives among others can be compared with what a generation gives alone.
 */
#ifndef TEST_SCHEDULE_WORLD_H
#define TEST_SCHEDULE_WORLD_H

#include "hymba.h"
#include "support.h"

enum { WISH_MAX_PROMPT = 600 };

/* What is asked of a request. */
struct wish {
    int32_t tokens[WISH_MAX_PROMPT]; /* first those that the session has before */
    size_t n_before, n_prompt;
    bool prompt_only;
    uint64_t max_tokens;
    uint32_t flags, n_top;
    float temperature;
    uint64_t seed;
    hymba_tokenizer *tokenizer;
    const char *stop_string;         /* NULL: none */
    hymba_session_params session;    /* struct_size is set */
    hymba_process_logits process;    /* NULL: none */
    void *process_user;
};

/* What came of it. */
struct record {
    char *text; /* from malloc */
    size_t length, capacity;
};

/* One that is on its way. */
struct scheduled {
    const struct wish *wish;
    hymba_session *session;
    hymba_sampler *sampler;
    uint64_t request; /* 0: not added yet, or ended */
    struct record record;
    size_t n_events;
    bool ended;
    int32_t stop;
    hymba_status status; /* of FAILED */
};

/* Random tokens below vocabulary; temperature 1, HYMBA_GENERATION_IGNORE_EOS. */
struct wish wish_random(size_t vocabulary, size_t n_before, size_t n_prompt, uint64_t max_tokens);

/* The record of a generation that has the context to itself. */
void record_alone(hymba_context *context, const struct wish *wish, struct record *record);
void record_free(struct record *record);

/* Session and sampler, with what the session has before. */
void scheduled_open(struct scheduled *scheduled, hymba_context *context, const struct wish *wish);
void scheduled_close(struct scheduled *scheduled);

hymba_status scheduled_add(struct scheduled *scheduled, hymba_scheduler *scheduler,
                           hymba_error *error);

/* One step; events go to the n requests whose they are. */
hymba_status schedule_step(hymba_scheduler *scheduler, struct scheduled *list, size_t n,
                           hymba_error *error);

/* Steps until no request is left; each must succeed. */
void schedule_finish(hymba_scheduler *scheduler, struct scheduled *list, size_t n);

/* Asserts that a request that ended gave what it gives alone. */
void schedule_compare(hymba_context *context, const struct scheduled *scheduled);

/* Counts the rows that go through the model from now on. */
struct row_count {
    size_t rows, passes;
};
void count_rows(hymba_context *context, struct row_count *count);

#endif
