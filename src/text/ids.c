#include "text/ids.h"

#include "base/checked.h"

static hymba_status grow(struct hy_ids *ids, hymba_error *error)
{
    size_t capacity, bytes;
    if (!hy_mul_size(ids->capacity ? ids->capacity : 32, 2, &capacity) ||
        !hy_mul_size(capacity, sizeof *ids->data, &bytes))
        return hy_no_memory(error, SIZE_MAX, "token ids");
    int32_t *data = hy_realloc(ids->memory, ids->data, bytes);
    if (!data)
        return hy_no_memory(error, bytes, "token ids");
    ids->data = data;
    ids->capacity = capacity;
    return HYMBA_OK;
}

hymba_status hy_ids_append(struct hy_ids *ids, int32_t id, hymba_error *error)
{
    if (ids->count == ids->capacity) {
        hymba_status status = grow(ids, error);
        if (status != HYMBA_OK)
            return status;
    }
    ids->data[ids->count++] = id;
    return HYMBA_OK;
}
