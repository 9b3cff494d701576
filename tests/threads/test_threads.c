/*
 * Many sessions in several contexts on one model, each lived by a thread of its own, against
 * recomputing from nothing. Meant for the thread sanitizer, which must have nothing to say.
 */
#include "golden.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_ROOMS = 4, PER_ROOM = 4, N_LIVES = N_ROOMS * PER_ROOM, MAX_TOKENS = 96 };

/* ------------------------------------------------------------------ people */

/* A session and what it should hold. */
struct subject {
    pthread_mutex_t mutex; /* several are locked by ascending index */
    hymba_session *session;
    int32_t tokens[MAX_TOKENS + 1]; /* one more for a comparison */
    size_t n;
    bool fresh; /* the logits of its last token are there */
};

struct room {
    hymba_context *context;
    pthread_mutex_t turn; /* of those that call the context one after another; locked last */
    struct subject subjects[PER_ROOM];
};

struct life {
    struct room *room;
    size_t own; /* its session's index in the room */
    size_t vocabulary;
    hymba_context *reference;
    hymba_error error;
    uint64_t random;
    bool queued;
    size_t n_operations, n_refused, n_compared;
    size_t wanted;
    char path[256];
    char fault[700]; /* what went wrong first; Check's own assertions are for the main thread */
};

static size_t random_below(struct life *life, size_t n)
{
    life->random = life->random * 6364136223846793005u + 1442695040888963407u;
    return (size_t)((life->random >> 33) % n);
}

static void expect(struct life *life, bool good, const char *format, ...)
{
    va_list arguments;
    if (good || life->fault[0])
        return;
    va_start(arguments, format);
    vsnprintf(life->fault, sizeof life->fault, format, arguments);
    va_end(arguments);
}

static bool succeeded(struct life *life, hymba_status status, const char *what)
{
    expect(life, status == HYMBA_OK, "%s: %s (%s)", what, hymba_status_name(status),
           life->error.message);
    return status == HYMBA_OK;
}

/*
 * Most calls wait for their turn, the others just try: every call is made in
 * { knock(life); do status = call; while (refused(life, status)); }
 */
static void knock(struct life *life)
{
    life->queued = random_below(life, 4) > 0;
    if (life->queued)
        pthread_mutex_lock(&life->room->turn);
}

static bool refused(struct life *life, hymba_status status)
{
    if (status == HYMBA_ERROR_BUSY) {
        life->n_refused++;
        if (!life->queued)
            pthread_mutex_lock(&life->room->turn);
        life->queued = true;
        sched_yield();
        return true;
    }
    if (life->queued)
        pthread_mutex_unlock(&life->room->turn);
    life->queued = false;
    return false;
}

static struct subject *own_subject(const struct life *life)
{
    return &life->room->subjects[life->own];
}

/* ------------------------------------------------------------- comparison */

static void note_logits(struct subject *subject)
{
    const float *logits;
    size_t rows;
    subject->fresh = hymba_session_logits(subject->session, &logits, &rows, NULL) == HYMBA_OK;
}

static bool append_tokens(struct life *life, struct subject *subject, size_t n, int32_t logits)
{
    hymba_status status;
    knock(life);
    do
        status = hymba_session_append(subject->session, subject->tokens + subject->n, n, logits,
                                      &life->error);
    while (refused(life, status));
    if (!succeeded(life, status, "append"))
        return false;
    subject->n += n;
    subject->fresh = logits != HYMBA_LOGITS_NONE;
    return true;
}

static const float *last_logits(const struct life *life, const hymba_session *session)
{
    const float *logits = NULL;
    size_t rows = 0;
    hymba_session_logits(session, &logits, &rows, NULL);
    return logits ? logits + (rows - 1) * life->vocabulary : NULL;
}

static size_t best_token(const struct life *life, const float *logits)
{
    size_t best = 0;
    for (size_t i = 1; i < life->vocabulary; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

static void compare_logits(struct life *life, const struct subject *subject,
                           const hymba_session *session)
{
    const float *expected = last_logits(life, session);
    const float *found = last_logits(life, subject->session);
    expect(life, expected && found, "logits are missing");
    if (life->fault[0])
        return;
    double difference = golden_difference(found, expected, life->vocabulary);
    expect(life, difference <= 1e-4, "after %zu operations logits differ by %g",
           life->n_operations, difference);
    expect(life, best_token(life, found) == best_token(life, expected), "greedy tokens differ");
}

/* Compares the life's own session with a new one that is given the same tokens in one call. */
static void compare(struct life *life)
{
    struct subject *subject = own_subject(life);
    hymba_session *session;
    expect(life, hymba_session_length(subject->session) == subject->n, "length is %llu, not %zu",
           (unsigned long long)hymba_session_length(subject->session), subject->n);
    if (life->fault[0] || subject->n == 0)
        return;
    expect(life,
           memcmp(hymba_session_tokens(subject->session), subject->tokens,
                  subject->n * sizeof subject->tokens[0]) == 0,
           "the tokens are not those appended");
    size_t length = subject->n;
    if (!subject->fresh) { /* one more token brings logits */
        subject->tokens[length] = 3;
        if (!append_tokens(life, subject, 1, HYMBA_LOGITS_LAST))
            return;
    }
    if (!succeeded(life, hymba_session_create(life->reference, NULL, &session, &life->error),
                   "create"))
        return;
    if (succeeded(life, hymba_session_append(session, subject->tokens, subject->n,
                                             HYMBA_LOGITS_LAST, &life->error), "recompute"))
        compare_logits(life, subject, session);
    hymba_session_release(session);
    life->n_compared++;
}

/* -------------------------------------------- operations; false: not possible now */

static size_t new_tokens(struct life *life, struct subject *subject, size_t most)
{
    size_t room = subject->n < MAX_TOKENS ? MAX_TOKENS - subject->n : 0;
    size_t n = 1 + random_below(life, most);
    n = n < room ? n : room;
    for (size_t i = 0; i < n; i++)
        subject->tokens[subject->n + i] = (int32_t)random_below(life, life->vocabulary);
    return n;
}

static bool append(struct life *life)
{
    struct subject *subject = own_subject(life);
    size_t n = new_tokens(life, subject, 30);
    return n > 0 && append_tokens(life, subject, n, (int32_t)random_below(life, 3));
}

static bool decode(struct life *life)
{
    struct subject *subject = own_subject(life);
    if (!subject->fresh || subject->n >= MAX_TOKENS)
        return false;
    subject->tokens[subject->n] =
        (int32_t)best_token(life, last_logits(life, subject->session));
    return append_tokens(life, subject, 1, HYMBA_LOGITS_LAST);
}

/* With those others whose bits are set. */
static bool decode_together(struct life *life, unsigned company)
{
    hymba_batch_item items[PER_ROOM];
    struct subject *members[PER_ROOM];
    size_t count = 0;
    hymba_status status;
    for (size_t i = 0; i < PER_ROOM; i++) {
        struct subject *subject = &life->room->subjects[i];
        size_t n = company >> i & 1 ? new_tokens(life, subject, 8) : 0;
        if (n == 0)
            continue;
        members[count] = subject;
        items[count++] = (hymba_batch_item){subject->session, subject->tokens + subject->n, n,
                                            HYMBA_LOGITS_LAST, 0, NULL, NULL};
    }
    if (count == 0)
        return false;
    knock(life);
    do
        status = hymba_context_decode(life->room->context, items, sizeof *items, count,
                                      &life->error);
    while (refused(life, status));
    for (size_t i = 0; succeeded(life, status, "decode") && i < count; i++) {
        members[i]->n += items[i].n_tokens;
        members[i]->fresh = true;
    }
    return true;
}

/* The fork takes the place of another one's session. */
static bool fork_session(struct life *life, size_t other)
{
    struct subject *from = own_subject(life), *to = &life->room->subjects[other];
    hymba_session *fork;
    hymba_status status;
    if (from == to)
        return false;
    knock(life);
    do
        status = hymba_session_fork(from->session, &fork, NULL, &life->error);
    while (refused(life, status));
    if (!succeeded(life, status, "fork"))
        return false;
    hymba_session_release(to->session); /* needs no turn */
    to->session = fork;
    to->n = from->n;
    to->fresh = from->fresh;
    memcpy(to->tokens, from->tokens, sizeof to->tokens);
    return true;
}

static bool snapshot(struct life *life)
{
    hymba_status status;
    knock(life);
    do
        status = hymba_session_snapshot(own_subject(life)->session, "here", NULL, &life->error);
    while (refused(life, status));
    return succeeded(life, status, "snapshot");
}

static bool rewind_to(struct life *life, size_t length, int32_t mode)
{
    struct subject *subject = own_subject(life);
    hymba_reuse_info info = {.struct_size = sizeof info};
    hymba_status status;
    knock(life);
    do
        status = hymba_session_rewind(subject->session, length, mode, &info, &life->error);
    while (refused(life, status));
    if (mode == HYMBA_REWIND_KEPT && status == HYMBA_ERROR_STATE)
        return true; /* refused by name: nothing has changed */
    if (!succeeded(life, status, "rewind"))
        return false;
    expect(life, info.reused_tokens + info.computed_tokens == length, "rewind did not reach %zu",
           length);
    if (length < subject->n) {
        subject->n = length;
        note_logits(subject);
    }
    return true;
}

static bool rewind_anywhere(struct life *life)
{
    size_t n = own_subject(life)->n;
    size_t length = random_below(life, 2) ? random_below(life, n + 1)
                                          : n - random_below(life, 4) % (n + 1);
    return rewind_to(life, length, (int32_t)random_below(life, 2));
}

static bool rewind_to_snapshot(struct life *life)
{
    const hymba_session *session = own_subject(life)->session;
    hymba_snapshot_info info = {.struct_size = sizeof info};
    size_t count = hymba_session_snapshot_count(session);
    return count > 0 &&
           succeeded(life, hymba_session_get_snapshot(session, random_below(life, count), &info,
                                                      &life->error), "snapshot") &&
           rewind_to(life, (size_t)info.length, HYMBA_REWIND_KEPT);
}

static bool save_and_load(struct life *life)
{
    struct subject *subject = own_subject(life);
    hymba_session *loaded;
    hymba_reuse_info info = {.struct_size = sizeof info};
    hymba_status status;
    knock(life);
    do
        status = hymba_session_save(subject->session, NULL, life->path, NULL, &life->error);
    while (refused(life, status));
    if (!succeeded(life, status, "save"))
        return false;
    knock(life);
    do
        status = hymba_session_load(life->room->context, life->path, NULL, &loaded, NULL, &info,
                                    &life->error);
    while (refused(life, status));
    if (!succeeded(life, status, "load"))
        return false;
    expect(life, info.reused_tokens == subject->n && info.computed_tokens == 0,
           "a load computed tokens");
    hymba_session_release(subject->session);
    subject->session = loaded;
    note_logits(subject);
    return true;
}

static bool reset(struct life *life)
{
    struct subject *subject = own_subject(life);
    hymba_status status;
    knock(life);
    do
        status = hymba_session_reset(subject->session, &life->error);
    while (refused(life, status));
    subject->n = 0;
    subject->fresh = false;
    return succeeded(life, status, "reset");
}

/* ------------------------------------------------------------------- lives */

enum operation { APPEND, DECODE, BATCH, FORK, SNAPSHOT, REWIND, TO_SNAPSHOT, SAVE, RESET };

static bool operate(struct life *life, enum operation operation, unsigned company, size_t other)
{
    switch (operation) {
    case APPEND:
        return append(life);
    case DECODE:
        return decode(life);
    case BATCH:
        return decode_together(life, company);
    case FORK:
        return fork_session(life, other);
    case SNAPSHOT:
        return snapshot(life);
    case REWIND:
        return rewind_anywhere(life);
    case TO_SNAPSHOT:
        return rewind_to_snapshot(life);
    case SAVE:
        return save_and_load(life);
    case RESET:
        return reset(life);
    }
    return false;
}

static void lock(struct life *life, unsigned company)
{
    for (size_t i = 0; i < PER_ROOM; i++)
        if (company >> i & 1)
            pthread_mutex_lock(&life->room->subjects[i].mutex);
}

static void unlock(struct life *life, unsigned company)
{
    for (size_t i = 0; i < PER_ROOM; i++)
        if (company >> i & 1)
            pthread_mutex_unlock(&life->room->subjects[i].mutex);
}

static void *live(void *argument)
{
    static const enum operation weights[] = {
        APPEND, APPEND,   APPEND, DECODE, DECODE, DECODE,      BATCH,       BATCH, FORK,
        FORK,   SNAPSHOT, REWIND, REWIND, REWIND, TO_SNAPSHOT, TO_SNAPSHOT, SAVE,  RESET};
    struct life *life = argument;
    const unsigned own = 1u << life->own;
    while (life->n_operations < life->wanted && !life->fault[0]) {
        enum operation operation =
            weights[random_below(life, sizeof weights / sizeof *weights)];
        size_t other = random_below(life, PER_ROOM);
        unsigned company = own;
        if (operation == BATCH)
            company |= (unsigned)random_below(life, 1u << PER_ROOM);
        if (operation == FORK)
            company |= 1u << other;
        lock(life, company);
        life->n_operations += operate(life, operation, company, other);
        if (random_below(life, 30) == 0)
            compare(life);
        if (own_subject(life)->n >= MAX_TOKENS) /* room for what comes */
            rewind_to(life, random_below(life, MAX_TOKENS / 2), HYMBA_REWIND_COMPUTE);
        unlock(life, company);
    }
    lock(life, own);
    compare(life);
    unlock(life, own);
    return NULL;
}

/* ------------------------------------------------------------------- tests */

static hymba_error error = {.struct_size = sizeof error};

static size_t operations(void)
{
    return getenv("HYMBA_LONG") ? 1000 : 100;
}

static hymba_context *make_context(const struct golden *golden, hymba_context_params params)
{
    hymba_context *context;
    params.struct_size = sizeof params;
    test_status(hymba_context_create(golden->model, &params, &context, &error), HYMBA_OK, error);
    return context;
}

static void open_room(struct room *room, const struct golden *golden, size_t index)
{
    static const uint32_t rewinds[N_ROOMS] = {0, 3, 8, 1}, steps[N_ROOMS] = {0, 6, 16, 0};
    room->context = make_context(golden, (hymba_context_params){
                                             .n_threads = 1 + index % 2,
                                             .rewind_tokens = rewinds[index],
                                             .max_step_tokens = steps[index],
                                         });
    pthread_mutex_init(&room->turn, NULL);
    for (size_t i = 0; i < PER_ROOM; i++) {
        hymba_session_params params = {.struct_size = sizeof params,
                                       .snapshot_interval = i % 2 ? 7 + i : 0};
        pthread_mutex_init(&room->subjects[i].mutex, NULL);
        test_status(hymba_session_create(room->context, &params, &room->subjects[i].session,
                                         &error),
                    HYMBA_OK, error);
    }
}

static void close_room(struct room *room)
{
    for (size_t i = 0; i < PER_ROOM; i++) {
        hymba_session_release(room->subjects[i].session);
        pthread_mutex_destroy(&room->subjects[i].mutex);
    }
    pthread_mutex_destroy(&room->turn);
    hymba_context_release(room->context);
}

static void begin_life(struct life *life, const struct golden *golden, struct room *room, size_t i)
{
    *life = (struct life){
        .room = room,
        .own = i % PER_ROOM,
        .vocabulary = golden->model->plan.config.vocabulary_size,
        .reference = make_context(golden, (hymba_context_params){.n_threads = 1}),
        .error = {.struct_size = sizeof life->error},
        .random = 1000 + i,
        .wanted = operations(),
    };
    snprintf(life->path, sizeof life->path, "%s/session-%zu", test_directory(), i);
}

START_TEST(sixteen_sessions_live_random_lives)
{
    static struct room rooms[N_ROOMS];
    static struct life lives[N_LIVES];
    pthread_t threads[N_LIVES];
    struct golden golden;
    size_t n_operations = 0, n_refused = 0, n_compared = 0;
    golden_open(&golden, "variants/mixed_group");
    for (size_t i = 0; i < N_ROOMS; i++)
        open_room(&rooms[i], &golden, i);
    for (size_t i = 0; i < N_LIVES; i++)
        begin_life(&lives[i], &golden, &rooms[i / PER_ROOM], i);
    for (size_t i = 0; i < N_LIVES; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, live, &lives[i]), 0);
    for (size_t i = 0; i < N_LIVES; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < N_LIVES; i++) {
        ck_assert_msg(!lives[i].fault[0], "session %zu: %s", i, lives[i].fault);
        ck_assert_uint_eq(lives[i].n_operations, operations());
        n_operations += lives[i].n_operations;
        n_refused += lives[i].n_refused;
        n_compared += lives[i].n_compared;
        hymba_context_release(lives[i].reference);
    }
    ck_assert_uint_gt(n_refused, 0);
    ck_assert_uint_gt(n_compared, N_LIVES);
    printf("threads: %d sessions in %d contexts, %zu operations, %zu calls refused as busy, "
           "%zu comparisons\n",
           N_LIVES, N_ROOMS, n_operations, n_refused, n_compared);
    for (size_t i = 0; i < N_ROOMS; i++)
        close_room(&rooms[i]);
    golden_close(&golden);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("threads");
    TCase *tests = tcase_create("threads");
    tcase_set_timeout(tests, 1800);
    tcase_add_test(tests, sixteen_sessions_live_random_lives);
    suite_add_tcase(suite, tests);
    return test_main(suite);
}
