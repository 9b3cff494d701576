#include "run/step_lists.h"

#include <string.h>

#include "base/checked.h"
#include "run/decode.h"
#include "run/forward.h"

hymba_status hy_step_lists_reserve_sequences(struct hy_memory *memory, struct hy_step_lists *lists,
                                             size_t n, hymba_error *error)
{
    if (n <= lists->capacity)
        return HYMBA_OK;
    struct hy_step_lists grown = {
        .attention = hy_alloc_array(memory, n, sizeof *grown.attention),
        .states = hy_alloc_array(memory, n, sizeof *grown.states),
        .sequences = hy_alloc_array(memory, n, sizeof *grown.sequences),
        .progress = hy_alloc_array(memory, n, sizeof *grown.progress),
    };
    bool complete = grown.attention && grown.states && grown.sequences && grown.progress;
    struct hy_step_lists *unwanted = complete ? lists : &grown;
    hy_free(memory, unwanted->attention);
    hy_free(memory, unwanted->states);
    hy_free(memory, unwanted->sequences);
    hy_free(memory, unwanted->progress);
    if (!complete)
        return hy_no_memory(error, n * sizeof *grown.attention, "the lists of a batch");
    lists->attention = grown.attention;
    lists->states = grown.states;
    lists->sequences = grown.sequences;
    lists->progress = grown.progress;
    lists->capacity = n;
    return HYMBA_OK;
}

/* A buffer that only grows; its content is not kept. One of nothing is a block too, not NULL, so
 * that offsets may be added to it. */
static hymba_status reserve_buffer(struct hy_memory *memory, struct hy_plugin *plugin,
                                   void **buffer, size_t *capacity, size_t count, size_t size,
                                   const char *what, hymba_error *error)
{
    size_t bytes;
    if (*buffer && count <= *capacity)
        return HYMBA_OK;
    void *grown = hy_mul_size(count, size, &bytes) ? hy_store_alloc(memory, plugin, bytes) : NULL;
    if (!grown)
        return hy_no_memory(error, count * size, what);
    hy_store_free(memory, plugin, *buffer, *capacity * size);
    *buffer = grown;
    *capacity = count;
    return HYMBA_OK;
}

hymba_status hy_step_lists_reserve_items(struct hy_memory *memory, struct hy_step_lists *lists,
                                         size_t n, hymba_error *error)
{
    void *buffer = lists->items;
    hymba_status status = reserve_buffer(memory, NULL, &buffer, &lists->item_capacity, n,
                                         sizeof *lists->items, "the items of a batch", error);
    lists->items = buffer;
    return status;
}

hymba_status hy_step_lists_reserve_spans(struct hy_memory *memory, struct hy_step_lists *lists,
                                         size_t n, hymba_error *error)
{
    void *buffer = lists->spans;
    hymba_status status = reserve_buffer(memory, NULL, &buffer, &lists->span_capacity, n,
                                         sizeof *lists->spans, "the list of key spans", error);
    lists->spans = buffer;
    return status;
}

/* n states of so many floats each. */
static hymba_status reserve_states(struct hy_memory *memory, struct hy_plugin *plugin,
                                   float **states, size_t *capacity, size_t n, size_t floats,
                                   const char *what, hymba_error *error)
{
    size_t total;
    void *buffer = *states;
    if (!hy_mul_size(n, floats, &total))
        return hy_no_memory(error, SIZE_MAX, what);
    hymba_status status =
        reserve_buffer(memory, plugin, &buffer, capacity, total, sizeof(float), what, error);
    *states = buffer;
    return status;
}

hymba_status hy_step_lists_reserve_recurrent(struct hy_memory *memory, struct hy_step_lists *lists,
                                             size_t n, size_t floats, hymba_error *error)
{
    return reserve_states(memory, lists->plugin, &lists->recurrent, &lists->recurrent_capacity, n,
                          floats, "the working copies of recurrent states", error);
}

hymba_status hy_step_lists_reserve_kept(struct hy_memory *memory, struct hy_step_lists *lists,
                                        size_t n, size_t floats, hymba_error *error)
{
    return reserve_states(memory, lists->plugin, &lists->kept, &lists->kept_capacity, n, floats,
                          "the states kept for going back", error);
}

hymba_status hy_step_lists_reserve_undo(struct hy_memory *memory, struct hy_step_lists *lists,
                                        size_t bytes, hymba_error *error)
{
    void *buffer = lists->undo;
    hymba_status status = reserve_buffer(memory, lists->plugin, &buffer, &lists->undo_capacity,
                                         bytes, 1, "the undo copy of a batch", error);
    lists->undo = buffer;
    return status;
}

hymba_status hy_step_lists_reserve_spares(struct hy_memory *memory, struct hy_step_lists *lists,
                                          size_t n, size_t bytes, hymba_error *error)
{
    size_t list_bytes;
    lists->spare_bytes = bytes;
    if (n > lists->spare_capacity) {
        unsigned char **grown = NULL;
        if (!hy_mul_size(n, sizeof *grown, &list_bytes) ||
            !(grown = hy_realloc(memory, lists->spares, list_bytes)))
            return hy_no_memory(error, n * sizeof *grown, "the list of spare states");
        lists->spares = grown;
        lists->spare_capacity = n;
    }
    while (lists->n_spares < n) {
        /* zero: a state is saved with the bytes between its parts */
        unsigned char *spare = hy_store_alloc_zero(memory, lists->plugin, bytes);
        if (!spare)
            return hy_no_memory(error, bytes, "a spare recurrent state");
        lists->spares[lists->n_spares++] = spare;
    }
    return HYMBA_OK;
}

void hy_step_lists_free(struct hy_memory *memory, struct hy_step_lists *lists)
{
    while (lists->n_spares > 0)
        hy_store_free(memory, lists->plugin, lists->spares[--lists->n_spares],
                      lists->spare_bytes);
    hy_free(memory, lists->spares);
    hy_free(memory, lists->attention);
    hy_free(memory, lists->states);
    hy_free(memory, lists->sequences);
    hy_free(memory, lists->progress);
    hy_free(memory, lists->items);
    hy_free(memory, lists->spans);
    hy_store_free(memory, lists->plugin, lists->recurrent,
                  lists->recurrent_capacity * sizeof(float));
    hy_store_free(memory, lists->plugin, lists->kept, lists->kept_capacity * sizeof(float));
    hy_store_free(memory, lists->plugin, lists->undo, lists->undo_capacity);
    memset(lists, 0, sizeof *lists);
}
