#include "run/snapshot.h"

#include <string.h>

#include "base/checked.h"

hymba_status hy_snapshot_create_bare(struct hy_memory *memory, struct hy_snapshot **out,
                                     hymba_error *error)
{
    struct hy_snapshot *snapshot = hy_alloc_zero(memory, 1, sizeof *snapshot);
    *out = snapshot;
    if (!snapshot)
        return hy_no_memory(error, sizeof *snapshot, "a snapshot");
    atomic_init(&snapshot->references, 1);
    snapshot->memory = memory;
    return HYMBA_OK;
}

hymba_status hy_snapshot_create(struct hy_memory *memory, const struct hy_state *state,
                                const float *logits, size_t n_logits, struct hy_snapshot **out,
                                hymba_error *error)
{
    struct hy_snapshot *snapshot;
    *out = NULL;
    hymba_status status = hy_snapshot_create_bare(memory, &snapshot, error);
    if (status != HYMBA_OK)
        return status;
    snapshot->length = state->position - state->layout->n_meta;
    status = hy_state_copy(state, memory, false, &snapshot->state, error);
    if (status == HYMBA_OK && logits) {
        snapshot->logits = hy_alloc_array(memory, n_logits, sizeof *logits);
        if (snapshot->logits)
            memcpy(snapshot->logits, logits, n_logits * sizeof *logits);
        else
            status = hy_no_memory(error, n_logits * sizeof *logits, "a snapshot's logits");
    }
    if (status != HYMBA_OK) {
        hy_snapshot_release(snapshot);
        return status;
    }
    snapshot->bytes = state->layout->fixed_bytes + (logits ? n_logits * sizeof *logits : 0);
    *out = snapshot;
    return HYMBA_OK;
}

struct hy_snapshot *hy_snapshot_retain(struct hy_snapshot *snapshot)
{
    atomic_fetch_add(&snapshot->references, 1);
    return snapshot;
}

void hy_snapshot_release(struct hy_snapshot *snapshot)
{
    if (!snapshot || atomic_fetch_sub(&snapshot->references, 1) != 1)
        return;
    hy_state_free(&snapshot->state);
    hy_free(snapshot->memory, snapshot->logits);
    hy_free(snapshot->memory, snapshot);
}

hymba_status hy_snapshot_list_reserve(struct hy_memory *memory, struct hy_snapshot_list *list,
                                      size_t count, hymba_error *error)
{
    if (count <= list->capacity)
        return HYMBA_OK;
    size_t capacity = hy_max_size(count, 2 * list->capacity), bytes;
    struct hy_snapshot **items = NULL;
    if (!hy_mul_size(capacity, sizeof *items, &bytes) ||
        !(items = hy_realloc(memory, list->items, bytes)))
        return hy_no_memory(error, capacity * sizeof *items, "the list of snapshots");
    list->items = items;
    list->capacity = capacity;
    return HYMBA_OK;
}

/* Of the snapshots that nothing makes room for. */
static uint64_t lasting_bytes(const struct hy_snapshot_list *list)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < list->count; i++)
        if (!list->items[i]->automatic)
            bytes += list->items[i]->bytes;
    return bytes;
}

bool hy_snapshot_list_make_room(struct hy_snapshot_list *list, uint64_t bytes)
{
    if (list->budget == 0)
        return true;
    if (lasting_bytes(list) + bytes > list->budget)
        return false;
    for (size_t i = 0; i < list->count && list->bytes + bytes > list->budget;) {
        if (list->items[i]->automatic)
            hy_snapshot_list_remove(list, i);
        else
            i++;
    }
    return true;
}

void hy_snapshot_list_add(struct hy_snapshot_list *list, struct hy_snapshot *snapshot)
{
    size_t index = hy_snapshot_list_find(list, snapshot->length);
    if (index < list->count && list->items[index]->length == snapshot->length) {
        hy_snapshot_list_remove(list, index);
        index = hy_snapshot_list_find(list, snapshot->length);
    }
    size_t place = index < list->count ? index + 1 : 0;
    memmove(list->items + place + 1, list->items + place,
            (list->count - place) * sizeof *list->items);
    list->items[place] = snapshot;
    list->count++;
    list->bytes += snapshot->bytes;
}

size_t hy_snapshot_list_find(const struct hy_snapshot_list *list, uint64_t length)
{
    size_t index = list->count;
    for (size_t i = 0; i < list->count && list->items[i]->length <= length; i++)
        index = i;
    return index;
}

void hy_snapshot_list_remove(struct hy_snapshot_list *list, size_t index)
{
    struct hy_snapshot *snapshot = list->items[index];
    list->bytes -= snapshot->bytes;
    list->count--;
    memmove(list->items + index, list->items + index + 1,
            (list->count - index) * sizeof *list->items);
    hy_snapshot_release(snapshot);
}

void hy_snapshot_list_cut(struct hy_snapshot_list *list, uint64_t length)
{
    while (list->count > 0 && list->items[list->count - 1]->length > length)
        hy_snapshot_list_remove(list, list->count - 1);
}

void hy_snapshot_list_free(struct hy_memory *memory, struct hy_snapshot_list *list)
{
    while (list->count > 0)
        hy_snapshot_list_remove(list, list->count - 1);
    hy_free(memory, list->items);
    list->items = NULL;
    list->capacity = 0;
}
