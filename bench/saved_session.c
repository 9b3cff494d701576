/*
 * What a saved session saves: the time of a process that opens the model, computes a long prompt
 * and one more token (cold), against that of a process that opens the model, loads the session
 * which the first has saved, and computes that token (saved). Compares their logits bit by bit and
 * prints the ratio of the times. Not a test: run it on a quiet machine.
 *
 * Usage: saved_session MODEL FILE [TOKENS [THREADS [CACHE_TYPE]]]
 */
#include <hymba.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_LOGITS = 1 << 18 };

struct settings {
    const char *model, *file;
    size_t n_tokens;
    uint32_t n_threads;
    hymba_dtype cache_type;
};

/* What a process tells its parent. */
struct report {
    double open_seconds;     /* model and context */
    double state_seconds;    /* prompt computed, or session loaded; with the meta tokens */
    double token_seconds;    /* one more token */
    double save_seconds;
    uint64_t reused, computed;
    size_t n_logits;
    float logits[MOST_LOGITS];
};

static hymba_error error = {.struct_size = sizeof error};

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void need(hymba_status status)
{
    if (status == HYMBA_OK)
        return;
    fprintf(stderr, "saved_session: %s: %s\n", hymba_status_name(status), error.message);
    exit(1);
}

static int32_t token_at(size_t position, uint32_t vocabulary)
{
    return (int32_t)((position * 7919 + position / 97) % vocabulary);
}

static void compute_prompt(hymba_session *session, const struct settings *settings,
                           uint32_t vocabulary)
{
    int32_t *tokens = calloc(settings->n_tokens, sizeof *tokens);
    if (!tokens)
        exit(1);
    for (size_t i = 0; i < settings->n_tokens; i++)
        tokens[i] = token_at(i, vocabulary);
    need(hymba_session_append(session, tokens, settings->n_tokens, HYMBA_LOGITS_LAST, &error));
    free(tokens);
}

static void run(const struct settings *settings, int is_saved, struct report *report)
{
    hymba_model *model;
    hymba_context *context;
    hymba_session *session;
    hymba_model_info model_info = {.struct_size = sizeof model_info};
    hymba_reuse_info reuse = {.struct_size = sizeof reuse};
    hymba_context_params params = {
        .struct_size = sizeof params,
        .n_threads = settings->n_threads,
        .cache_type = settings->cache_type,
    };
    double start = seconds();
    need(hymba_model_open(settings->model, NULL, &model, &error));
    need(hymba_context_create(model, &params, &context, &error));
    need(hymba_model_get_info(model, &model_info, &error));
    double opened = seconds();
    if (is_saved) {
        need(hymba_session_load(context, settings->file, NULL, &session, NULL, &reuse, &error));
    } else {
        need(hymba_session_create(context, NULL, &session, &error));
        compute_prompt(session, settings, model_info.vocabulary_size);
    }
    double ready = seconds();
    if (!is_saved)
        need(hymba_session_save(session, NULL, settings->file, NULL, &error));
    double before_token = seconds();
    int32_t next = token_at(settings->n_tokens, model_info.vocabulary_size);
    need(hymba_session_append(session, &next, 1, HYMBA_LOGITS_LAST, &error));
    double end = seconds();

    const float *logits;
    need(hymba_session_logits(session, &logits, &report->n_logits, &error));
    if (report->n_logits > MOST_LOGITS)
        exit(1);
    memcpy(report->logits, logits, report->n_logits * sizeof *logits);
    report->open_seconds = opened - start;
    report->state_seconds = ready - opened;
    report->save_seconds = before_token - ready;
    report->token_seconds = end - before_token;
    report->reused = reuse.reused_tokens;
    report->computed = reuse.computed_tokens;
    hymba_session_release(session);
    hymba_context_release(context);
    hymba_model_release(model);
}

/* In a process of its own, so that nothing is left from the one before. */
static int run_apart(const struct settings *settings, int is_saved, struct report *report)
{
    int ends[2], status;
    if (pipe(ends) != 0)
        return -1;
    pid_t child = fork();
    if (child < 0)
        return -1;
    if (child == 0) {
        close(ends[0]);
        run(settings, is_saved, report);
        FILE *pipe_end = fdopen(ends[1], "wb");
        size_t written = pipe_end ? fwrite(report, sizeof *report, 1, pipe_end) : 0;
        exit(written == 1 && fclose(pipe_end) == 0 ? 0 : 1);
    }
    close(ends[1]);
    FILE *pipe_end = fdopen(ends[0], "rb");
    size_t read = pipe_end ? fread(report, sizeof *report, 1, pipe_end) : 0;
    if (pipe_end)
        fclose(pipe_end);
    if (waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return -1;
    return read == 1 ? 0 : -1;
}

static double total(const struct report *report)
{
    return report->open_seconds + report->state_seconds + report->token_seconds;
}

static void print(const char *name, const struct report *report)
{
    printf("%-6s open %.3f s, state %.3f s, one token %.3f s: %.3f s\n", name,
           report->open_seconds, report->state_seconds, report->token_seconds, total(report));
}

int main(int argc, char **argv)
{
    static struct report cold, saved;
    if (argc < 3) {
        fprintf(stderr, "usage: saved_session MODEL FILE [TOKENS [THREADS [CACHE_TYPE]]]\n");
        return 2;
    }
    struct settings settings = {
        .model = argv[1],
        .file = argv[2],
        .n_tokens = argc > 3 ? strtoul(argv[3], NULL, 10) : 8000,
        .n_threads = argc > 4 ? (uint32_t)strtoul(argv[4], NULL, 10) : 0,
        .cache_type = argc > 5 && strcmp(argv[5], "f16") == 0 ? HYMBA_DTYPE_F16 : HYMBA_DTYPE_F32,
    };
    struct stat file;
    if (settings.n_tokens == 0 || run_apart(&settings, 0, &cold) != 0 ||
        run_apart(&settings, 1, &saved) != 0 || stat(settings.file, &file) != 0)
        return 1;
    print("cold:", &cold);
    print("saved:", &saved);
    printf("saving: %.3f s, %.1f MB\n", cold.save_seconds, (double)file.st_size / 1e6);
    printf("tokens reused: %" PRIu64 ", computed again: %" PRIu64 "; logits bitwise %s\n",
           saved.reused, saved.computed,
           saved.n_logits == cold.n_logits &&
                   memcmp(saved.logits, cold.logits, cold.n_logits * sizeof *cold.logits) == 0
               ? "equal"
               : "NOT equal");
    printf("saved / cold: %.2f %%\n", 100 * total(&saved) / total(&cold));
    return 0;
}
