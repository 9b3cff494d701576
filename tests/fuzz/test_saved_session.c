/*
 * A saved session, loaded into a context of a tiny model and used if it loads. The first byte says
 * what the rest is: a file as it stands; a file whose checksums are made right first; or a list of
 * changes to a session that was saved just now, which gets behind compression and checksums and
 * does not age with the format.
 */
#include <stdlib.h>
#include <string.h>

#include "fuzz_container.h"

enum { AS_IT_STANDS, CHECKSUMS_FIXED, CHANGES, N_KINDS };
enum { N_BASES = 2, MAX_CHANGES = 64 };

static struct fuzz_host host;
static hymba_context *context;
static struct fuzz_container bases[N_BASES];

/* ------------------------------------------------------------------ bases */

static void append(hymba_session *session, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int32_t token = (int32_t)((i * 31 + 7) % 67);
        fuzz_require(hymba_session_append(session, &token, 1, HYMBA_LOGITS_LAST, NULL) ==
                         HYMBA_OK,
                     "a token cannot be appended");
    }
}

/* The first: short, with snapshots and a sampler. The second: has slid over its first block. */
static void make_base(size_t index)
{
    hymba_session_params params = {.struct_size = sizeof params, .max_tokens = index ? 300 : 0};
    hymba_sampler_params choice = {
        .struct_size = sizeof choice, .seed = 1, .temperature = 1, .repeat_penalty = 1.5f};
    struct fuzz_file file = {0};
    hymba_session *session;
    hymba_sampler *sampler;
    params.limit_policy = index ? HYMBA_LIMIT_SLIDE : HYMBA_LIMIT_STOP;
    hymba_status status = hymba_session_create(context, &params, &session, NULL);
    fuzz_require(status == HYMBA_OK, "no session");
    status = hymba_sampler_create(&choice, &host.host, &sampler, NULL);
    for (int32_t i = 0; status == HYMBA_OK && i < 5; i++)
        status = hymba_sampler_accept(sampler, i, NULL);
    append(session, index ? 570 : 9);
    if (status == HYMBA_OK)
        status = hymba_session_snapshot(session, "mark", NULL, NULL);
    append(session, 8);
    if (status == HYMBA_OK)
        status = hymba_session_save_to(session, index ? NULL : sampler, fuzz_write, &file, NULL,
                                       NULL);
    fuzz_require(status == HYMBA_OK, "no saved session");
    fuzz_container_unpack(file.data, file.size, &bases[index]);
    fuzz_require(bases[index].n >= 5, "a saved session of too few chunks");
    fuzz_file_free(&file);
    hymba_sampler_release(sampler);
    hymba_session_release(session);
}

static void set_up(void)
{
    hymba_context_params params = {.struct_size = sizeof params,
                                   .n_threads = 1,
                                   .max_step_tokens = 16,
                                   .rewind_tokens = 4,
                                   .memory_limit = 256 << 20};
    if (context)
        return;
    fuzz_host_init(&host);
    hymba_model *model = fuzz_open_model("variants/no_rope", &host.host);
    fuzz_require(hymba_context_create(model, &params, &context, NULL) == HYMBA_OK, "no context");
    hymba_model_release(model);
    for (size_t i = 0; i < N_BASES; i++)
        make_base(i);
}

/* ---------------------------------------------------------------- changes */

enum { SET, ADD, CUT, GROW, CLAIM, DROP, REPEAT, EXCHANGE, RETAG, N_CHANGES };

static void set_bytes(struct fuzz_input *input, struct fuzz_chunk *chunk, bool add)
{
    unsigned width = 1u << fuzz_byte(input) % 4;
    size_t place = fuzz_number(input, 2);
    uint64_t value = fuzz_number(input, width), old = 0;
    if (chunk->bytes.size < width)
        return;
    place %= chunk->bytes.size - width + 1;
    memcpy(&old, chunk->bytes.data + place, width);
    value = add ? old + value : value;
    memcpy(chunk->bytes.data + place, &value, width);
}

static void drop_chunk(struct fuzz_container *container, size_t index)
{
    fuzz_file_free(&container->chunks[index].bytes);
    memmove(&container->chunks[index], &container->chunks[index + 1],
            (container->n - index - 1) * sizeof container->chunks[0]);
    container->n--;
}

static void repeat_chunk(struct fuzz_container *container, size_t index)
{
    struct fuzz_chunk copy = container->chunks[index];
    if (container->n == FUZZ_MAX_CHUNKS)
        return;
    memset(&copy.bytes, 0, sizeof copy.bytes);
    fuzz_write(&copy.bytes, container->chunks[index].bytes.data,
               container->chunks[index].bytes.size);
    memmove(&container->chunks[index + 1], &container->chunks[index],
            (container->n - index) * sizeof container->chunks[0]);
    container->chunks[index + 1] = copy;
    container->n++;
}

/* The size a chunk claims stays what it holds, unless the change is that it does not. */
static void change(struct fuzz_input *input, struct fuzz_container *container)
{
    uint8_t kind = fuzz_byte(input) % N_CHANGES;
    size_t index = fuzz_byte(input) % container->n;
    struct fuzz_chunk *chunk = &container->chunks[index];
    if (kind == SET || kind == ADD) {
        set_bytes(input, chunk, kind == ADD);
    } else if (kind == CUT) {
        size_t cut = fuzz_number(input, 2);
        chunk->bytes.size -= cut < chunk->bytes.size ? cut : chunk->bytes.size;
        chunk->claimed = chunk->bytes.size;
    } else if (kind == GROW) {
        static const uint8_t zeros[512];
        fuzz_write(&chunk->bytes, zeros, 1 + fuzz_number(input, 2) % sizeof zeros);
        chunk->claimed = chunk->bytes.size;
    } else if (kind == CLAIM) {
        chunk->claimed = fuzz_number(input, 8);
    } else if (kind == DROP && container->n > 1) {
        drop_chunk(container, index);
    } else if (kind == REPEAT) {
        repeat_chunk(container, index);
    } else if (kind == EXCHANGE) {
        struct fuzz_chunk *other = &container->chunks[fuzz_byte(input) % container->n];
        struct fuzz_chunk kept = *chunk;
        *chunk = *other;
        *other = kept;
    } else if (kind == RETAG) {
        chunk->tag = container->chunks[fuzz_byte(input) % container->n].tag;
    }
}

static void make_changed(struct fuzz_input *input, struct fuzz_file *file)
{
    struct fuzz_container container;
    fuzz_container_copy(&bases[fuzz_byte(input) % N_BASES], &container);
    for (int i = 0; i < MAX_CHANGES && input->place < input->size; i++)
        change(input, &container);
    fuzz_container_pack(&container, file);
    fuzz_container_free(&container);
}

/* -------------------------------------------------------------------- use */

static void rewind_to(hymba_session *session, uint64_t length, int32_t mode)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_status status = hymba_session_rewind(session, length, mode, NULL, &error);
    fuzz_check(status, &error);
    fuzz_require(status != HYMBA_OK || hymba_session_length(session) == length,
                 "a rewind to another place");
}

static void append_some(hymba_session *session)
{
    static const int32_t tokens[] = {3, 66, 0, 12, 7};
    hymba_error error = {.struct_size = sizeof error};
    uint64_t before = hymba_session_length(session);
    hymba_status status = hymba_session_append(session, tokens, 5, HYMBA_LOGITS_LAST, &error);
    fuzz_check(status, &error);
    fuzz_require(hymba_session_length(session) == before + (status == HYMBA_OK ? 5 : 0),
                 "a session of another length");
}

static void use_sampler(hymba_sampler *sampler, hymba_session *session)
{
    hymba_error error = {.struct_size = sizeof error};
    const float *logits;
    size_t rows;
    int32_t token;
    if (sampler && hymba_session_logits(session, &logits, &rows, &error) == HYMBA_OK)
        for (int i = 0; i < 3; i++)
            fuzz_check(hymba_sampler_sample(sampler, logits, 67, &token, &error), &error);
}

static void use(hymba_session *session, hymba_sampler *sampler)
{
    struct fuzz_file file = {0};
    hymba_error error = {.struct_size = sizeof error};
    hymba_session_info info = {.struct_size = sizeof info};
    hymba_snapshot_info mark = {.struct_size = sizeof mark};
    hymba_session *fork;
    use_sampler(sampler, session);
    fuzz_check(hymba_session_get_info(session, &info, &error), &error);
    fuzz_check(hymba_session_fork(session, &fork, NULL, &error), &error);
    append_some(session);
    use_sampler(sampler, session);
    if (info.length > 0 && info.length < 2000) {
        rewind_to(session, info.length - 1, HYMBA_REWIND_KEPT);
        append_some(session);
        rewind_to(session, info.length / 2, HYMBA_REWIND_COMPUTE);
    }
    while (fork && hymba_session_snapshot_count(fork) > 0) {
        size_t last = hymba_session_snapshot_count(fork) - 1;
        fuzz_check(hymba_session_get_snapshot(fork, last, &mark, &error), &error);
        rewind_to(fork, mark.length, HYMBA_REWIND_KEPT);
        append_some(fork);
        fuzz_check(hymba_session_drop_snapshot(fork, mark.length, &error), &error);
        if (hymba_session_snapshot_count(fork) > last)
            break; /* an interval of the file's takes new ones */
    }
    append_some(session);
    fuzz_check(hymba_session_save_to(session, sampler, fuzz_write, &file, NULL, &error), &error);
    fuzz_file_free(&file);
    hymba_session_release(fork);
}

static void load(const uint8_t *data, size_t size, uint8_t manner)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_session_params params = {.struct_size = sizeof params,
                                   .max_tokens = 256,
                                   .limit_policy = HYMBA_LIMIT_SLIDE,
                                   .memory_limit = 1 << 20};
    hymba_session *session;
    hymba_sampler *sampler = NULL;
    hymba_status status =
        hymba_session_load_memory(context, data, size, manner & 1 ? &params : NULL, &session,
                                  manner & 2 ? NULL : &sampler, NULL, &error);
    fuzz_check(status, &error);
    fuzz_require((status == HYMBA_OK) == (session != NULL), "a handle that belies the status");
    if (status == HYMBA_OK)
        use(session, sampler);
    else
        fuzz_require(sampler == NULL, "a sampler of a session that did not load");
    hymba_sampler_release(sampler);
    hymba_session_release(session);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size, 0};
    struct fuzz_file file = {0};
    set_up();
    int64_t before = host.live;
    uint8_t head = fuzz_byte(&input);
    if (head % N_KINDS == CHANGES) {
        make_changed(&input, &file);
    } else {
        fuzz_write(&file, data + input.place, size - input.place);
        if (head % N_KINDS == CHECKSUMS_FIXED)
            fuzz_container_fix(file.data, file.size);
    }
    /* every eighth manner with one allocation refused */
    uint8_t manner = head / N_KINDS;
    fuzz_host_fail_at(&host, manner & 4 ? 1 + (uint64_t)(manner >> 3) * 3 + size % 3 : 0, false);
    load(file.data, file.size, manner);
    fuzz_host_fail_at(&host, 0, false);
    fuzz_file_free(&file);
    fuzz_require(host.live <= before + (1 << 20), "memory that did not come back");
    return 0;
}
