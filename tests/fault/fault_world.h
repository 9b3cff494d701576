/*
 * What faults are let loose on: a world is a host with a context, sessions and a sampler; a
 * scenario prepares one and then makes the call that is to fail. In each world a session stands by
 * that no scenario touches.
 */
#ifndef TEST_FAULT_WORLD_H
#define TEST_FAULT_WORLD_H

#include "fault_injection.h"
#include "host.h"

enum { FAULT_TOKENS = 64, FAULT_MAX_IDS = 256, FAULT_MAX_TEXT = 1024 };

struct world {
    const struct scenario *scenario;
    struct test_host host;
    struct fault_balance balance; /* before */
    hymba_context *context;
    hymba_session *bystander, *subject, *other, *third;
    hymba_sampler *sampler;
    char path[512];  /* of the saved session, or of the model that is written */
    uint64_t length; /* of the subject, before */
    /* of text generation, which needs a larger vocabulary */
    hymba_context *text_context;
    hymba_session *text_session;
    hymba_sampler *text_sampler;
    hymba_generation *generation;
    /* what a scenario makes */
    hymba_model *model;
    hymba_context *new_context;
    hymba_session *made;
    hymba_sampler *made_sampler;
    hymba_tokenizer *tokenizer;
    int32_t ids[FAULT_MAX_IDS];
    char texts[FAULT_MAX_TEXT];
    size_t n_ids, text_length;
    unsigned char *saved; /* from malloc */
    size_t saved_size;
};

struct scenario {
    const char *name;
    void (*prepare)(struct world *world);
    hymba_status (*run)(struct world *world);
    /* The session to look at afterwards, by number; NULL: no more. */
    hymba_session *(*probe)(struct world *world, size_t number);
    const char *directory; /* of a model, or a tokenizer's file in examples/demo */
    uint32_t flags;
    hymba_dtype quantize;
    bool saves;   /* to world->path: without memory it stores what it cannot compress */
    bool resumes; /* a call that failed on the way goes on from there when it is repeated */
    /* What must hold besides; NULL: nothing. */
    void (*check)(struct world *world, hymba_status status, const struct fault *fault);
};

extern const struct scenario fault_scenarios[];
extern const size_t n_fault_scenarios;
extern const struct scenario fault_release_scenario;

/* The record of all calls on worlds. */
extern hymba_error fault_error;

/* Of all worlds; opened before the first and released after the last. */
extern hymba_model *fault_model, *fault_text_model;
extern hymba_tokenizer *fault_text_tokenizer;
extern int32_t fault_tokens[FAULT_TOKENS];

void fault_open_shared(void);
void fault_release_shared(void);

/* Its context has one thread, so that a process that is forked off can use it. */
void world_open(struct world *world, const struct scenario *scenario);

/* Releases everything and asserts that nothing is left: no byte, mapping, thread or file. */
void world_close(struct world *world);

/* What the scenario made, and everything. */
void world_release_made(struct world *world);
void world_release_all(struct world *world);

hymba_session *world_new_session(struct world *world, uint64_t interval);
void world_append(hymba_session *session, size_t begin, size_t end);

/* All sessions of a world but the bystander, by number; NULL: no more. */
hymba_session *world_sessions(struct world *world, size_t number);

/* The model a session of the world runs. */
const hymba_model *world_model_of(const struct world *world, const hymba_session *session);

/* Entries of a directory with part in their names; 0 if there is no such directory. */
size_t fault_count_entries(const char *directory, const char *part);

#endif
