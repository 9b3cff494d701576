/* What tests of one context over several guarded devices share. */
#ifndef TEST_GROUP_WORLD_H
#define TEST_GROUP_WORLD_H

#include "guarded_world.h"

/* Of a checked fixture: four guarded devices, and a model of random weights. */
extern hymba_model *group_model;
void group_begin(const char *config);
void group_end(void);

/* A context on "cuda:0,1" or the like, whose ranks wait as long as they must. */
hymba_context *group_context(const char *device, hymba_context_params params);

hymba_session *group_session(hymba_context *context, hymba_session_params params);

/* Each rank's session has what rank 0's has. */
void group_compare_peers(const hymba_session *session);

#endif
