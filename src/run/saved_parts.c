#include "run/saved_parts.h"

#include <string.h>

#include "base/checked.h"

/* --------------------------------------------------------------- the whole */

hymba_status hy_saved_check_ranks(const hymba_context *context, hymba_error *error)
{
    const struct hy_ranks *ranks = &context->ranks;
    if (ranks->world_size == 1 || context->group)
        return HYMBA_OK;
    return hy_fail(error, HYMBA_ERROR_UNSUPPORTED,
                   "sessions cannot be saved or loaded by this version in a context that is rank "
                   "%u of %u by itself: it has a part of each",
                   (unsigned)ranks->rank, (unsigned)ranks->world_size);
}

/* What one device would have of the model. */
static hymba_status lay_out_whole(struct hy_saved_parts *parts, hymba_error *error)
{
    const struct hy_state_layout *own = &parts->context->layout;
    struct hy_layout_params params = {
        .cache_type = own->cache_type,
        .state_type = own->state_type,
        .step_rows = own->step_rows,
        .rewind_tokens = own->rewind_tokens,
    };
    parts->layout = &parts->whole;
    return hy_layout_create(parts->memory, &parts->context->model->plan, &params, &parts->whole,
                            error);
}

hymba_status hy_saved_parts_create(hymba_context *context, struct hy_memory *memory,
                                   size_t n_pieces, struct hy_saved_parts *parts,
                                   hymba_error *error)
{
    *parts = (struct hy_saved_parts){
        .context = context,
        .memory = memory,
        .n_ranks = hy_group_size(context),
        .layout = &context->layout,
    };
    hymba_status status = hy_saved_check_ranks(context, error);
    if (status == HYMBA_OK && parts->n_ranks > 1)
        status = lay_out_whole(parts, error);
    if (status != HYMBA_OK || !context->backend.plugin)
        return status;
    parts->staging = hy_alloc_array(memory, n_pieces, HY_SAVED_PIECE);
    return parts->staging ? HYMBA_OK
                          : hy_no_memory(error, n_pieces * HY_SAVED_PIECE, "copying a session");
}

void hy_saved_parts_free(struct hy_saved_parts *parts)
{
    if (parts->whole.caches)
        hy_layout_free(parts->memory, &parts->whole);
    if (parts->staging)
        hy_free(parts->memory, parts->staging);
    parts->staging = NULL;
}

static unsigned char *place_of(const struct hy_state *state, enum hy_state_place place)
{
    switch (place) {
    case HY_PLACE_RINGS:
        return state->fixed;
    case HY_PLACE_HISTORY:
        return state->fixed + state->layout->ring_bytes;
    case HY_PLACE_RECURRENT:
        return state->recurrent;
    default:
        return state->meta->data;
    }
}

struct hy_rank_places hy_saved_places(const struct hy_saved_parts *parts,
                                      const struct hy_rank_states *states,
                                      enum hy_state_place place)
{
    struct hy_rank_places places;
    for (uint32_t rank = 0; rank < parts->n_ranks; rank++)
        places.data[rank] = place_of(states->list[rank], place);
    return places;
}

/* ----------------------------------------------------------------- windows */

/* A window on its way between the host and a rank. */
struct transfer {
    struct hy_saved_window window;
    unsigned char *host;
    bool to_host;
};

/* A rank's part of a band: columns of its rows. */
struct share {
    struct hy_plugin *plugin;
    unsigned char *data; /* its first row */
    size_t first, width; /* columns of the whole rows */
};

/* Columns begin to end of n_rows rows of the band, from row on, as far as the rank has them. host
 * has the first of them. */
static void move_columns(const struct transfer *transfer, const struct hy_band *band,
                         const struct share *share, size_t row, size_t n_rows, size_t begin,
                         size_t end, unsigned char *host)
{
    size_t first = hy_max_size(begin, share->first);
    size_t last = hy_min_size(end, share->first + share->width);
    if (first >= last)
        return;
    unsigned char *there = share->data + row * share->width + (first - share->first);
    unsigned char *here = host + (first - begin);
    if (transfer->to_host)
        hy_store_get_rows(share->plugin, here, band->row_bytes, there, share->width, last - first,
                          n_rows);
    else
        hy_store_put_rows(share->plugin, there, share->width, here, band->row_bytes, last - first,
                          n_rows);
}

/* The band as far as it lies in the window: whole rows together, and what is there of the first
 * and of the last. */
static void move_band(const struct transfer *transfer, const struct hy_band *band,
                      const struct share *share)
{
    const struct hy_saved_window *window = &transfer->window;
    size_t at = hy_max_size(window->begin, band->offset);
    size_t end = hy_min_size(window->begin + window->size,
                             band->offset + band->n_rows * band->row_bytes);
    while (at < end) {
        size_t row = (at - band->offset) / band->row_bytes;
        size_t column = (at - band->offset) % band->row_bytes;
        size_t n_rows = column == 0 ? (end - at) / band->row_bytes : 0;
        size_t last = n_rows > 0 ? band->row_bytes
                                 : hy_min_size(band->row_bytes, column + (end - at));
        n_rows = hy_max_size(n_rows, 1);
        move_columns(transfer, band, share, row, n_rows, column, last,
                     transfer->host + (at - window->begin));
        at += n_rows * (last - column);
    }
}

static void move_bands(const struct hy_saved_parts *parts, const struct transfer *transfer,
                       const struct hy_rank_places *places)
{
    enum hy_state_place place = transfer->window.place;
    for (size_t i = 0; i < hy_layout_n_bands(parts->layout, place); i++) {
        struct hy_band band = hy_layout_band(parts->layout, place, i);
        struct share share = {.first = 0};
        for (uint32_t rank = 0; rank < parts->n_ranks; rank++) {
            const hymba_context *context = hy_group_context(parts->context, rank);
            struct hy_band part = hy_layout_band(&context->layout, place, i);
            share.plugin = context->backend.plugin;
            share.data = places->data[rank] + part.offset;
            share.width = part.row_bytes;
            move_band(transfer, &band, &share);
            share.first += share.width;
        }
    }
}

/* Waits for all ranks, since none may write to the host's memory later. */
static hymba_status finish_all(const struct hy_saved_parts *parts, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t rank = 0; rank < parts->n_ranks; rank++) {
        hymba_error failure = {.struct_size = sizeof failure};
        struct hy_plugin *plugin = hy_group_context(parts->context, rank)->backend.plugin;
        if (hy_store_finish(plugin, &failure) == HYMBA_OK || status != HYMBA_OK)
            continue;
        status = hy_group_name(parts->context, rank, hy_fail_again(error, &failure), error);
    }
    return status;
}

hymba_status hy_saved_get(const struct hy_saved_parts *parts, struct hy_saved_window window,
                          const struct hy_rank_places *places, unsigned char *host,
                          hymba_error *error)
{
    struct transfer transfer = {.window = window, .host = host, .to_host = true};
    if (parts->n_ranks == 1) {
        hy_store_get(parts->context->backend.plugin, host, places->data[0] + window.begin,
                     window.size);
    } else {
        memset(host, 0, window.size);
        move_bands(parts, &transfer, places);
    }
    return finish_all(parts, error);
}

hymba_status hy_saved_put(const struct hy_saved_parts *parts, struct hy_saved_window window,
                          const struct hy_rank_places *places, unsigned char *host,
                          hymba_error *error)
{
    struct transfer transfer = {.window = window, .host = host};
    if (parts->n_ranks == 1)
        hy_store_put(parts->context->backend.plugin, places->data[0] + window.begin, host,
                     window.size);
    else
        move_bands(parts, &transfer, places);
    return finish_all(parts, error);
}
