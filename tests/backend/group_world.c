#include "group_world.h"

#include "../cuda/random_model.h"
#include "run/session.h"
#include "support.h"

hymba_model *group_model;

void group_begin(const char *config)
{
    guarded_begin();
    guarded->n_devices = 4;
    group_model = random_model_open(config);
}

void group_end(void)
{
    hymba_model_release(group_model);
    guarded_end();
}

hymba_context *group_context(const char *device, hymba_context_params params)
{
    hymba_ranks patient = {.struct_size = sizeof patient, .timeout_ms = 20000};
    params.ranks = &patient;
    return guarded_context(group_model, params, device);
}

hymba_session *group_session(hymba_context *context, hymba_session_params params)
{
    hymba_error error = {.struct_size = sizeof error};
    hymba_session *session;
    params.struct_size = sizeof params;
    test_status(hymba_session_create(context, &params, &session, &error), HYMBA_OK, error);
    return session;
}

void group_compare_peers(const hymba_session *session)
{
    for (uint32_t i = 0; i < session->n_peers; i++) {
        const hymba_session *peer = session->peers[i];
        ck_assert_uint_eq(peer->n_tokens, session->n_tokens);
        ck_assert_uint_eq(peer->state.position, session->state.position);
        ck_assert_uint_eq(peer->state.ring_first, session->state.ring_first);
        ck_assert_uint_eq(peer->state.first_block, session->state.first_block);
        ck_assert_uint_eq(peer->snapshots.count, session->snapshots.count);
        for (size_t j = 0; j < session->snapshots.count; j++)
            ck_assert_uint_eq(peer->snapshots.items[j]->length,
                              session->snapshots.items[j]->length);
        ck_assert_uint_eq(peer->logits_rows, 0);
    }
}
