/*
 * A process is killed while it saves two sessions over one file, again and again: the file that
 * lies there is always one of the two, whole, and continues as the session did. What was left of a
 * file that was being written is in nobody's way.
 *
 * HYMBA_LONG=1: 200 kills at random moments. Otherwise fewer.
 */
#include "fault_world.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N_SESSIONS = 2, MAX_TOKENS = 700, MAX_VOCABULARY = 512, MOST_LEFTOVERS = 16 };

/* Saved in turn, and what must come back. */
struct subject {
    hymba_session *session;
    size_t n_tokens;
    int32_t token;                /* that its sampler draws next */
    float logits[MAX_VOCABULARY]; /* after one more token */
};

static const size_t lengths[N_SESSIONS] = {40, MAX_TOKENS};
static const int32_t next_token = 7;
static int32_t tokens[MAX_TOKENS];
static size_t vocabulary;
static hymba_context *context;
static hymba_sampler *sampler;
static struct subject subjects[N_SESSIONS];
static char path[512];
static long *kills_survived; /* of all tests: each may run in a process of its own */

/* ------------------------------------------------------------------ sessions */

/* Continues a session by one token. */
static void step(hymba_session *session, float *logits)
{
    const float *found;
    size_t rows;
    test_status(hymba_session_append(session, &next_token, 1, HYMBA_LOGITS_LAST, &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_session_logits(session, &found, &rows, &fault_error), HYMBA_OK,
                fault_error);
    memcpy(logits, found, vocabulary * sizeof *logits);
}

static hymba_status save(struct subject *subject)
{
    return hymba_session_save(subject->session, sampler, path, NULL, &fault_error);
}

static void make_subject(struct subject *subject, size_t n_tokens)
{
    hymba_session *ahead;
    hymba_session_params params = {.struct_size = sizeof params, .snapshot_interval = 64};
    subject->n_tokens = n_tokens;
    test_status(hymba_session_create(context, &params, &subject->session, &fault_error), HYMBA_OK,
                fault_error);
    test_status(hymba_session_append(subject->session, tokens, n_tokens, HYMBA_LOGITS_LAST,
                                     &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_session_fork(subject->session, &ahead, NULL, &fault_error), HYMBA_OK,
                fault_error);
    step(ahead, subject->logits);
    hymba_session_release(ahead);
}

/* A context without threads: the children that save are copies of this process. */
static void make_subjects(void)
{
    hymba_context_params params = {
        .struct_size = sizeof params, .n_threads = 1, .rewind_tokens = 4};
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .seed = 3, .temperature = 1};
    hymba_model_info info = {.struct_size = sizeof info};
    fault_open_shared();
    test_status(hymba_model_get_info(fault_text_model, &info, &fault_error), HYMBA_OK,
                fault_error);
    vocabulary = info.vocabulary_size;
    for (size_t i = 0; i < MAX_TOKENS; i++)
        tokens[i] = (int32_t)(i * i % vocabulary);
    test_status(hymba_context_create(fault_text_model, &params, &context, &fault_error), HYMBA_OK,
                fault_error);
    test_status(hymba_sampler_create(&sampling, NULL, &sampler, &fault_error), HYMBA_OK,
                fault_error);
    for (size_t i = 0; i < N_SESSIONS; i++)
        make_subject(&subjects[i], lengths[i]);
    snprintf(path, sizeof path, "%s/session", test_directory());
    test_status(save(&subjects[0]), HYMBA_OK, fault_error);
}

static void release_subjects(void)
{
    for (size_t i = 0; i < N_SESSIONS; i++)
        hymba_session_release(subjects[i].session);
    hymba_sampler_release(sampler);
    hymba_context_release(context);
    fault_release_shared();
}

/* One of the sessions lies there; returns which. */
static size_t check_file(void)
{
    static float logits[MAX_VOCABULARY];
    hymba_session *session;
    hymba_sampler *loaded;
    size_t i = 0;
    test_status(hymba_session_load(context, path, NULL, &session, &loaded, NULL, &fault_error),
                HYMBA_OK, fault_error);
    while (i < N_SESSIONS && subjects[i].n_tokens != hymba_session_length(session))
        i++;
    ck_assert_msg(i < N_SESSIONS, "a session of %llu tokens was loaded, which nobody saved",
                  (unsigned long long)hymba_session_length(session));
    ck_assert_mem_eq(hymba_session_tokens(session), tokens, lengths[i] * sizeof *tokens);
    ck_assert_ptr_nonnull(loaded);
    step(session, logits);
    ck_assert_mem_eq(logits, subjects[i].logits, vocabulary * sizeof *logits);
    hymba_sampler_release(loaded);
    hymba_session_release(session);
    return i;
}

static size_t count_leftovers(void)
{
    return fault_count_entries(test_directory(), ".part");
}

/* So that a long run does not fill the disk. */
static void remove_leftovers(void)
{
    char command[1024];
    snprintf(command, sizeof command, "rm -f '%s'/*.part", test_directory());
    ck_assert_int_eq(system(command), 0);
    ck_assert_uint_eq(count_leftovers(), 0);
}

/* ----------------------------------------------------------------- processes */

static void expect_killed(pid_t child)
{
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
                  "the process that saves ended by itself, status %d", status);
    ++*kills_survived;
}

/* Saves until somebody kills it, or is no longer there to do so; a byte tells of each save that
 * begins. */
static void save_for_ever(size_t first, pid_t parent, int begun)
{
    char byte = 0;
    for (size_t i = first; getppid() == parent; i++)
        if (write(begun, &byte, 1) != 1 || save(&subjects[i % N_SESSIONS]) != HYMBA_OK)
            _exit(2);
    _exit(1);
}

/* Until the first to fourth save begins, and then between a hundred thousandth and a tenth of a
 * second, evenly over the orders of magnitude: a save takes some hundredths, its steps take
 * anything down to the shortest. */
static void wait_a_moment(int begun)
{
    char byte;
    for (size_t n = 1 + test_random_below(4); n > 0; n--)
        ck_assert_int_eq(read(begun, &byte, 1), 1);
    struct timespec delay = {.tv_nsec = (long)(1e4 * pow(1e4, test_random()))};
    nanosleep(&delay, NULL);
}

static void kill_at_a_random_moment(void)
{
    int ends[2];
    size_t first = test_random_below(N_SESSIONS);
    pid_t parent = getpid();
    ck_assert_int_eq(pipe(ends), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0)
        save_for_ever(first, parent, ends[1]);
    close(ends[1]);
    wait_a_moment(ends[0]);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    expect_killed(child);
    close(ends[0]);
}

/* -------------------------------------------------------------------- tests */

START_TEST(killed_at_random_moments)
{
    int n = getenv("HYMBA_LONG") ? 200 : 20;
    size_t found[N_SESSIONS] = {0}, interrupted = 0;
    for (int i = 0; i < n; i++) {
        size_t before = count_leftovers();
        kill_at_a_random_moment();
        interrupted += count_leftovers() > before;
        found[check_file()]++;
        if (count_leftovers() > MOST_LEFTOVERS)
            remove_leftovers();
    }
    ck_assert_uint_gt(interrupted, 0);
    printf("kills at random moments: %d, %zu of them in the middle of a file; then the one "
           "session was found %zu times, the other %zu times\n",
           n, interrupted, found[0], found[1]);
}
END_TEST

/* What is left of killed processes is in nobody's way. */
START_TEST(saves_among_leftovers)
{
    for (int i = 0; count_leftovers() == 0 && i < 50; i++)
        kill_at_a_random_moment();
    ck_assert_uint_gt(count_leftovers(), 0);
    size_t before = count_leftovers();
    for (size_t i = 0; i < N_SESSIONS; i++) {
        test_status(save(&subjects[i]), HYMBA_OK, fault_error);
        ck_assert_uint_eq(check_file(), i);
    }
    ck_assert_uint_eq(count_leftovers(), before);
    remove_leftovers();
}
END_TEST

/* Calls of a kind that saving makes. */
static long count_calls(enum fault_call call)
{
    struct fault none = {.call = call, .manner = FAULT_ONCE, .at = -1};
    fault_arm(&none);
    hymba_status status = save(&subjects[1]);
    fault_disarm();
    test_status(status, HYMBA_OK, fault_error);
    return fault_seen();
}

/* Before the file is renamed it is the old one, and afterwards the new one. */
static void kill_at_call(enum fault_call call, long at)
{
    struct fault fault = {.call = call, .manner = FAULT_KILL, .at = at};
    test_status(save(&subjects[0]), HYMBA_OK, fault_error);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        fault_arm(&fault);
        save(&subjects[1]);
        _exit(1);
    }
    expect_killed(child);
    /* of these the second is the directory's */
    bool renamed = at == 1 && (call == FAULT_OPEN || call == FAULT_FSYNC || call == FAULT_CLOSE);
    ck_assert_msg(check_file() == (renamed ? 1 : 0), "killed at %s %ld", fault_call_name(call),
                  at);
}

START_TEST(killed_at_each_call)
{
    static const enum fault_call calls[] = {FAULT_STAT,  FAULT_OPEN,   FAULT_WRITE,
                                            FAULT_FSYNC, FAULT_RENAME, FAULT_CLOSE};
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++) {
        long n = count_calls(calls[i]);
        ck_assert_int_gt(n, 0);
        for (long at = 0; at < n; at++)
            kill_at_call(calls[i], at);
    }
    remove_leftovers();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kill");
    TCase *tests = tcase_create("kill");
    kills_survived = fault_shared_counter();
    if (!kills_survived)
        return EXIT_FAILURE;
    tcase_set_timeout(tests, 1800);
    tcase_add_checked_fixture(tests, make_subjects, release_subjects);
    tcase_add_test(tests, killed_at_random_moments);
    tcase_add_test(tests, saves_among_leftovers);
    tcase_add_test(tests, killed_at_each_call);
    suite_add_tcase(suite, tests);
    int result = test_main(suite);
    printf("kills survived: %ld\n", *kills_survived);
    return result;
}
