#include "abi.h"

#include <string.h>

#include "backend/launcher.h"
#include "backend/meeting.h"
#include "backend/plugin.h"
#include "base/checked.h"

_Static_assert((int)HY_UNIQUE_ID_BYTES == (int)HYMBA_UNIQUE_ID_BYTES,
               "plug-ins make ids of the size that callers have room for");

void hymba_ranks_init(hymba_ranks *ranks, size_t size)
{
    hy_init_struct(ranks, size);
}

hymba_status hymba_ranks_from_environment(hymba_ranks *ranks, char *buffer, size_t capacity,
                                          size_t *needed, hymba_error *error)
{
    struct hy_launch launch;
    hymba_ranks complete;
    hymba_status status = hy_require(ranks, "ranks", error);
    if (status == HYMBA_OK)
        status = hy_require(needed, "needed", error);
    if (status != HYMBA_OK)
        return status;
    *needed = 0;
    status = hy_check_count(capacity, 1, "capacity", error);
    if (status == HYMBA_OK && capacity > 0)
        status = hy_require(buffer, "buffer", error);
    if (status == HYMBA_OK)
        status = hy_read_struct(&complete, sizeof complete, ranks, "ranks", error);
    if (status == HYMBA_OK)
        status = hy_launcher_read(&launch, !complete.meeting, error);
    if (status != HYMBA_OK)
        return status;
    if (launch.place[0] != '\0')
        *needed = strlen(launch.place) + 1;
    status = hy_check_buffer(buffer, capacity, *needed, error);
    if (status != HYMBA_OK || *needed > capacity)
        return status; /* too small, or only the size was asked for */
    if (*needed > 0) {
        memcpy(buffer, launch.place, *needed);
        complete.meeting = buffer;
    }
    complete.rank = launch.rank;
    complete.world_size = launch.world_size;
    complete.local_rank = launch.local_rank;
    return hy_write_struct(ranks, &complete, sizeof complete, "ranks", error);
}

hymba_status hymba_unique_id(unsigned char *id, hymba_error *error)
{
    struct hy_memory memory;
    hymba_status status = hy_require(id, "id", error);
    if (status == HYMBA_OK)
        status = hy_memory_init(&memory, NULL, error);
    return status == HYMBA_OK ? hy_plugin_make_id(&memory, id, error) : status;
}
