/*
 * Scenarios in which everything that can fail does, call by call: each allocation, each call on a
 * file, each thread. After each fault the status is the right one; every session is where it was,
 * and what is there can be released at once; or the same call then succeeds with the result it
 * would have had. A session next to it has not changed by a bit, and in the end nothing is left:
 * no byte, no descriptor, no mapping, no thread, no temporary file.
 *
 * HYMBA_LONG=1 tries every single fault. Otherwise steps grow with a fault's number.
 */
#include "fault_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_VOCABULARY = 512, MAX_PROBES = 5 };

/* In the short form: all faults up to the first number, then steps of this part of the number. */
enum { ALL_BELOW = 24, STRIDE = 6 };

/* Faults that struck, of all tests: each may run in a process of its own. */
static long *faults_injected;

/* What a world looks like to a caller: its sessions, with the logits after one more token each,
 * and a tokenizer's output. */
struct outcome {
    size_t n_probes;
    uint64_t lengths[MAX_PROBES], snapshots[MAX_PROBES];
    float probes[MAX_PROBES][MAX_VOCABULARY];
    float bystander[MAX_VOCABULARY];
    int32_t ids[FAULT_MAX_IDS];
    char texts[FAULT_MAX_TEXT];
    size_t n_ids, text_length;
};

/* What is expected of a scenario, and of its world before the call. */
struct expectation {
    struct outcome before, after;
    size_t descriptors;
};

/* ------------------------------------------------------------------- faults */

/* What fails how, and what the call must say. tolerated: it may also do without. */
static const struct {
    struct fault fault;
    hymba_status status;
    bool tolerated;
} kinds[] = {
    {{FAULT_HOST, FAULT_ONCE, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_HOST, FAULT_EVER_AFTER, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_JSON, FAULT_ONCE, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_JSON, FAULT_EVER_AFTER, 0, 0}, HYMBA_ERROR_MEMORY, false},
    {{FAULT_PROGRESS, FAULT_ONCE, 0, 0}, HYMBA_ERROR_CANCELLED, false},
    {{FAULT_SINK, FAULT_ONCE, 0, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_ACCESS, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, true},
    {{FAULT_ACCESS, FAULT_EVER_AFTER, EACCES, 0}, HYMBA_ERROR_FILE, true},
    {{FAULT_STAT, FAULT_EVER_AFTER, EACCES, 0}, HYMBA_OK, false},
    {{FAULT_MKDIR, FAULT_ONCE, EACCES, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_OPEN, FAULT_ONCE, EMFILE, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_OPEN, FAULT_EVER_AFTER, EACCES, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_OPEN, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_FSTAT, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSTAT, FAULT_EVER_AFTER, EOVERFLOW, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_READ, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_READ, FAULT_EVER_AFTER, EISDIR, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_READ, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_READ, FAULT_SHORT, 0, 0}, HYMBA_OK, false},
    {{FAULT_READ, FAULT_NOTHING, 0, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_MMAP, FAULT_ONCE, ENOMEM, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_MMAP, FAULT_EVER_AFTER, ENODEV, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_WRITE, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_WRITE, FAULT_EVER_AFTER, ENOSPC, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_WRITE, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_WRITE, FAULT_SHORT, 0, 0}, HYMBA_OK, false},
    {{FAULT_WRITE, FAULT_NOTHING, 0, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSYNC, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSYNC, FAULT_EVER_AFTER, ENOSPC, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_FSYNC, FAULT_EVERY_OTHER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_RENAME, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_RENAME, FAULT_EVER_AFTER, EACCES, 0}, HYMBA_ERROR_FILE, false},
    {{FAULT_CLOSE, FAULT_ONCE, EIO, 0}, HYMBA_ERROR_FILE, true},
    {{FAULT_CLOSE, FAULT_EVER_AFTER, EINTR, 0}, HYMBA_OK, false},
    {{FAULT_FOPEN, FAULT_EVER_AFTER, EMFILE, 0}, HYMBA_OK, false},
    {{FAULT_THREAD, FAULT_ONCE, EAGAIN, 0}, HYMBA_ERROR_THREAD, false},
    {{FAULT_THREAD, FAULT_EVER_AFTER, EAGAIN, 0}, HYMBA_ERROR_THREAD, false},
    {{FAULT_LOCK, FAULT_ONCE, ENOMEM, 0}, HYMBA_ERROR_THREAD, false},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static void arm(struct world *world, const struct fault *fault)
{
    if (fault->call == FAULT_HOST) {
        test_host_fail_at(&world->host, fault->at, fault->manner == FAULT_EVER_AFTER);
    } else if (fault->call == FAULT_PROGRESS) {
        world->host.n_progress = 0;
        world->host.cancel_at = fault->at;
    } else {
        fault_arm(fault);
    }
}

/* How often the fault struck. */
static long disarm(struct world *world, const struct fault *fault)
{
    struct test_host *host = &world->host;
    if (fault->call != FAULT_HOST && fault->call != FAULT_PROGRESS)
        return fault_disarm();
    long calls = fault->call == FAULT_HOST ? host->n_allocations : host->n_progress;
    test_host_fail_at(host, -1, false);
    host->cancel_at = -1;
    if (calls <= fault->at)
        return 0;
    return fault->manner == FAULT_ONCE ? 1 : calls - fault->at;
}

static size_t occurrences(const char *long_text, const char *part)
{
    size_t count = 0;
    for (; (long_text = strstr(long_text, part)) != NULL; long_text++)
        count++;
    return count;
}

/* Faults that a call may get over, besides those of its kind. */
static bool gets_over(const struct scenario *scenario, size_t kind)
{
    enum fault_call call = kinds[kind].fault.call;
    if (kinds[kind].tolerated)
        return true;
    /* What cannot be compressed is stored as it is; a directory that cannot be opened is not
     * synced. */
    if (scenario->saves && call == FAULT_HOST)
        return true;
    return scenario->check && call == FAULT_OPEN && kinds[kind].status == HYMBA_ERROR_FILE;
}

static void check_status(const struct scenario *scenario, size_t kind, const struct fault *fault,
                         hymba_status status, long hits)
{
    hymba_status expected = hits > 0 ? kinds[kind].status : HYMBA_OK;
    if (status == HYMBA_OK && (expected == HYMBA_OK || gets_over(scenario, kind)))
        return;
    ck_assert_msg(status == expected, "%s, %s %ld, manner %d, errno %d: got %s (%s), expected %s",
                  scenario->name, fault_call_name(fault->call), fault->at, (int)fault->manner,
                  fault->code, hymba_status_name(status), fault_error.message,
                  hymba_status_name(expected));
    ck_assert_int_eq(fault_error.status, status);
    ck_assert_uint_gt(strlen(fault_error.message), 0);
    if (fault->code && fault->call != FAULT_ACCESS) {
        ck_assert_int_eq(fault_error.system_code, fault->code);
        ck_assert_msg(occurrences(fault_error.message, strerror(fault->code)) == 1, "%s",
                      fault_error.message);
    }
}

/* --------------------------------------------------------------- comparison */

static void probe(const hymba_model *model, hymba_session *session, float *logits)
{
    static const int32_t next_token = 7;
    const float *found;
    size_t rows;
    hymba_model_info info = {.struct_size = sizeof info};
    test_status(hymba_session_append(session, &next_token, 1, HYMBA_LOGITS_LAST, &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_session_logits(session, &found, &rows, &fault_error), HYMBA_OK,
                fault_error);
    test_status(hymba_model_get_info(model, &info, &fault_error), HYMBA_OK, fault_error);
    memcpy(logits, found, info.vocabulary_size * sizeof *logits);
}

static void look(struct world *world, hymba_session *(*next)(struct world *, size_t),
                 struct outcome *outcome)
{
    hymba_session *session;
    size_t n = 0;
    memset(outcome, 0, sizeof *outcome);
    for (; (session = next(world, n)) != NULL; n++) {
        ck_assert_uint_lt(n, MAX_PROBES);
        outcome->lengths[n] = hymba_session_length(session);
        outcome->snapshots[n] = hymba_session_snapshot_count(session);
        probe(world_model_of(world, session), session, outcome->probes[n]);
    }
    outcome->n_probes = n;
    probe(fault_model, world->bystander, outcome->bystander);
    memcpy(outcome->ids, world->ids, world->n_ids * sizeof *outcome->ids);
    memcpy(outcome->texts, world->texts, world->text_length);
    outcome->n_ids = world->n_ids;
    outcome->text_length = world->text_length;
}

static void compare(const struct world *world, const struct fault *fault,
                    const struct outcome *found, const struct outcome *expected, const char *what)
{
    ck_assert_msg(memcmp(found, expected, sizeof *found) == 0, "%s, %s %ld: %s",
                  world->scenario->name, fault_call_name(fault->call), fault->at, what);
}

static size_t count_descriptors(void)
{
    return fault_count_entries("/proc/self/fd", "");
}

static void close_world(struct world *world, size_t descriptors)
{
    world_close(world);
    ck_assert_uint_eq(count_descriptors(), descriptors);
}

static void expect(const struct scenario *scenario, struct expectation *expected)
{
    struct world world;
    expected->descriptors = count_descriptors();
    world_open(&world, scenario);
    look(&world, world_sessions, &expected->before);
    close_world(&world, expected->descriptors);
    world_open(&world, scenario);
    test_status(scenario->run(&world), HYMBA_OK, fault_error);
    look(&world, scenario->probe, &expected->after);
    close_world(&world, expected->descriptors);
}

/* ------------------------------------------------------------------ one fault */

/* Makes the call with the fault; returns its status. */
static hymba_status suffer(struct world *world, size_t kind, const struct fault *fault, long *hits)
{
    const struct scenario *scenario = world->scenario;
    world_open(world, scenario);
    arm(world, fault);
    hymba_status status = scenario->run(world);
    *hits = disarm(world, fault);
    check_status(scenario, kind, fault, status, *hits);
    if (scenario->check)
        scenario->check(world, status, fault);
    if (status != HYMBA_OK) {
        ck_assert_ptr_null(world->made);
        ck_assert_ptr_null(world->made_sampler);
    }
    return status;
}

/* After a failure everything is as before, and can be released. */
static void give_up(const struct scenario *scenario, size_t kind, const struct fault *fault,
                    const struct expectation *expected)
{
    struct world world = {.scenario = scenario};
    static struct outcome found;
    long hits;
    suffer(&world, kind, fault, &hits);
    if (!scenario->resumes) {
        world.n_ids = world.text_length = 0; /* what a failed call writes is left open */
        look(&world, world_sessions, &found);
        compare(&world, fault, &found, &expected->before, "the failed call left a change");
    }
    close_world(&world, expected->descriptors);
}

/* One fault; returns how often it struck. */
static long inject(const struct scenario *scenario, size_t kind, long at,
                   const struct expectation *expected)
{
    struct world world = {.scenario = scenario};
    static struct outcome found;
    struct fault fault = kinds[kind].fault;
    long hits;
    fault.at = at;
    hymba_status status = suffer(&world, kind, &fault, &hits);
    if (status != HYMBA_OK) {
        world_release_made(&world);
        test_status(scenario->run(&world), HYMBA_OK, fault_error);
    }
    look(&world, scenario->probe, &found);
    compare(&world, &fault, &found, &expected->after, "the result is not that without a fault");
    close_world(&world, expected->descriptors);
    if (status != HYMBA_OK)
        give_up(scenario, kind, &fault, expected);
    return hits;
}

static long following(long at)
{
    if (test_looks_for_races())
        return 2 * at + 1;
    return getenv("HYMBA_LONG") || at < ALL_BELOW ? at + 1 : at + at / STRIDE;
}

/* Every call of a kind in turn; returns the number of faults that struck. */
static long inject_all(const struct scenario *scenario, size_t kind,
                       const struct expectation *expected)
{
    long total = 0, hits = 1;
    for (long at = 0; hits > 0; at = following(at)) {
        hits = inject(scenario, kind, at, expected);
        total += hits > 0;
    }
    return total;
}

/* -------------------------------------------------------------------- tests */

/* _i: number of the scenario. */
START_TEST(everything_fails_in_turn)
{
    const struct scenario *scenario = &fault_scenarios[_i];
    static struct expectation expected;
    long by_call[FAULT_CALLS] = {0}, total = 0;
    expect(scenario, &expected);
    for (size_t kind = 0; kind < N_KINDS; kind++)
        by_call[kinds[kind].fault.call] += inject_all(scenario, kind, &expected);
    printf("%s:", scenario->name);
    for (size_t call = 0; call < FAULT_CALLS; call++) {
        total += by_call[call];
        if (by_call[call] > 0)
            printf(" %s %ld,", fault_call_name((enum fault_call)call), by_call[call]);
    }
    printf(" together %ld\n", total);
    *faults_injected += total;
    /* going back to what is kept asks for nothing, if the logits have a place */
    ck_assert(total > 0 || strcmp(scenario->name, "rewind to a snapshot") == 0 ||
              strcmp(scenario->name, "rewind by steps") == 0);
}
END_TEST

/* Giving back asks for nothing, so that nothing can fail. */
START_TEST(releasing_needs_nothing)
{
    size_t descriptors = count_descriptors();
    for (size_t kind = 0; kind < N_KINDS; kind++) {
        struct world world;
        struct fault fault = kinds[kind].fault;
        if (fault.manner != FAULT_EVER_AFTER)
            continue;
        world_open(&world, &fault_release_scenario);
        arm(&world, &fault);
        test_status(fault_release_scenario.run(&world), HYMBA_OK, fault_error);
        long seen = fault.call == FAULT_HOST ? world.host.n_allocations : fault_seen();
        disarm(&world, &fault);
        ck_assert_msg(seen == 0, "releasing calls %s", fault_call_name(fault.call));
        close_world(&world, descriptors);
    }
    printf("free: nothing to fail: no allocation, file or thread is asked for\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("faults");
    TCase *tests = tcase_create("faults");
    faults_injected = fault_shared_counter();
    if (!faults_injected)
        return EXIT_FAILURE;
    tcase_set_timeout(tests, 1800);
    tcase_add_checked_fixture(tests, fault_open_shared, fault_release_shared);
    tcase_add_loop_test(tests, everything_fails_in_turn, 0, (int)n_fault_scenarios);
    tcase_add_test(tests, releasing_needs_nothing);
    suite_add_tcase(suite, tests);
    int result = test_main(suite);
    printf("faults injected: %ld\n", *faults_injected);
    return result;
}
