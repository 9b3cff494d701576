#include "fault_world.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

hymba_error fault_error = {.struct_size = sizeof fault_error};
hymba_model *fault_model, *fault_text_model;
hymba_tokenizer *fault_text_tokenizer;
int32_t fault_tokens[FAULT_TOKENS];

void fault_open_shared(void)
{
    for (size_t i = 0; i < FAULT_TOKENS; i++)
        fault_tokens[i] = (int32_t)(i * 13 % 71);
    fault_install();
    test_status(hymba_model_open(test_data("variants/mixed_plan"), NULL, &fault_model,
                                 &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_model_open(test_data("goldens/a_all_features"), NULL, &fault_text_model,
                                 &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_tokenizer_open("examples/demo", NULL, &fault_text_tokenizer, &fault_error),
                HYMBA_OK, fault_error);
}

void fault_release_shared(void)
{
    hymba_tokenizer_release(fault_text_tokenizer);
    hymba_model_release(fault_text_model);
    hymba_model_release(fault_model);
}

hymba_session *world_new_session(struct world *world, uint64_t interval)
{
    hymba_session *session;
    hymba_session_params params = {.struct_size = sizeof params, .snapshot_interval = interval};
    test_status(hymba_session_create(world->context, &params, &session, &fault_error), HYMBA_OK,
                fault_error);
    return session;
}

void world_append(hymba_session *session, size_t begin, size_t end)
{
    test_status(hymba_session_append(session, fault_tokens + begin, end - begin,
                                     HYMBA_LOGITS_LAST, &fault_error),
                HYMBA_OK, fault_error);
}

void world_open(struct world *world, const struct scenario *scenario)
{
    hymba_context_params params = {
        .struct_size = sizeof params,
        .n_threads = 1,
        .max_step_tokens = 16,
        .rewind_tokens = 4,
        .host = &world->host.host,
    };
    hymba_sampler_params sampling = {.struct_size = sizeof sampling, .seed = 3, .temperature = 1};
    memset(world, 0, sizeof *world);
    world->scenario = scenario;
    world->balance = fault_balance();
    test_host_init(&world->host);
    snprintf(world->path, sizeof world->path, "%s/written", test_directory());
    test_status(hymba_context_create(fault_model, &params, &world->context, &fault_error),
                HYMBA_OK, fault_error);
    test_status(hymba_sampler_create(&sampling, &world->host.host, &world->sampler, &fault_error),
                HYMBA_OK, fault_error);
    world->bystander = world_new_session(world, 0);
    world_append(world->bystander, 10, 19);
    world->subject = world_new_session(world, 16);
    if (scenario->prepare)
        scenario->prepare(world);
    world->length = hymba_session_length(world->subject);
}

void world_release_made(struct world *world)
{
    hymba_session_release(world->made);
    hymba_context_release(world->new_context);
    hymba_model_release(world->model);
    hymba_sampler_release(world->made_sampler);
    hymba_tokenizer_release(world->tokenizer);
    world->made = NULL;
    world->new_context = NULL;
    world->model = NULL;
    world->made_sampler = NULL;
    world->tokenizer = NULL;
}

void world_release_all(struct world *world)
{
    world_release_made(world);
    hymba_generation_release(world->generation);
    hymba_sampler_release(world->text_sampler);
    hymba_session_release(world->text_session);
    hymba_context_release(world->text_context);
    hymba_session_release(world->third);
    hymba_session_release(world->other);
    hymba_session_release(world->subject);
    hymba_session_release(world->bystander);
    hymba_sampler_release(world->sampler);
    hymba_context_release(world->context);
    world->generation = NULL;
    world->text_session = world->third = world->other = NULL;
    world->subject = world->bystander = NULL;
    world->text_sampler = world->sampler = NULL;
    world->text_context = world->context = NULL;
}

size_t fault_count_entries(const char *path, const char *part)
{
    size_t count = 0;
    DIR *directory = opendir(path);
    if (!directory)
        return 0;
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        count += strstr(entry->d_name, part) != NULL;
    closedir(directory);
    return count;
}

void world_close(struct world *world)
{
    world_release_all(world);
    test_host_check(&world->host);
    pthread_mutex_destroy(&world->host.mutex);
    free(world->saved);
    struct fault_balance now = fault_balance();
    ck_assert_int_eq(now.json_blocks, world->balance.json_blocks);
    ck_assert_int_eq(now.threads, world->balance.threads);
    ck_assert_int_eq(now.mappings, world->balance.mappings);
    ck_assert_uint_eq(fault_count_entries(test_directory(), ".part"), 0);
}

hymba_session *world_sessions(struct world *world, size_t number)
{
    hymba_session *const sessions[] = {world->subject, world->other, world->third,
                                       world->text_session, world->made};
    for (size_t i = 0; i < sizeof sessions / sizeof sessions[0]; i++)
        if (sessions[i] && number-- == 0)
            return sessions[i];
    return NULL;
}

const hymba_model *world_model_of(const struct world *world, const hymba_session *session)
{
    if (session == world->text_session)
        return fault_text_model;
    return session == world->made && world->model ? world->model : fault_model;
}
