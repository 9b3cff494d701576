#include <string.h>

#include "base/checked.h"
#include "run/loader.h"

/* ------------------------------------------------------------------ places */

/* Whether the bytes of a window on the ranks' devices are those of the first staged piece. */
static hymba_status compare_window(struct hy_loader *loader, struct hy_saved_window window,
                                   const struct hy_rank_places *equal, bool *same,
                                   hymba_error *error)
{
    unsigned char *other = loader->parts.staging + HY_SAVED_PIECE;
    hymba_status status = hy_saved_get(&loader->parts, window, equal, other, error);
    if (status == HYMBA_OK && memcmp(loader->parts.staging, other, window.size) != 0)
        *same = false;
    return status;
}

/* Piece by piece through the host's memory. */
static hymba_status take_to_devices(struct hy_loader *loader, enum hy_state_place place,
                                    const struct hy_rank_places *places,
                                    const struct hy_rank_places *equal, bool *same,
                                    hymba_error *error)
{
    const struct hy_saved_parts *parts = &loader->parts;
    size_t size = hy_layout_place_bytes(parts->layout, place);
    hymba_status status = HYMBA_OK;
    for (size_t done = 0, piece; status == HYMBA_OK && done < size; done += piece) {
        piece = hy_min_size(size - done, HY_SAVED_PIECE);
        struct hy_saved_window window = {place, done, piece};
        status = hy_loader_take(loader, parts->staging, piece, error);
        if (status == HYMBA_OK)
            status = hy_saved_put(parts, window, places, parts->staging, error);
        if (status == HYMBA_OK && equal)
            status = compare_window(loader, window, equal, same, error);
    }
    return status;
}

/* A place that lies where the context computes. equal: NULL, or places there that are compared with
 * it; *same becomes false if they differ. */
static hymba_status take_place(struct hy_loader *loader, enum hy_state_place place,
                               const struct hy_rank_places *places,
                               const struct hy_rank_places *equal, bool *same, hymba_error *error)
{
    size_t size = hy_layout_place_bytes(loader->parts.layout, place);
    if (loader->parts.staging)
        return take_to_devices(loader, place, places, equal, same, error);
    hymba_status status = hy_loader_take(loader, places->data[0], size, error);
    if (status == HYMBA_OK && equal && memcmp(places->data[0], equal->data[0], size) != 0)
        *same = false;
    return status;
}

/* -------------------------------------------------------- meta part, blocks */

static hymba_status create_metas(struct hy_loader *loader, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        struct hy_loader_rank *rank = &loader->ranks[i];
        status = hy_meta_state_create(&rank->context->memory, rank->context->backend.plugin,
                                      &rank->context->layout, &rank->meta, error);
        status = hy_loader_name(loader, i, status, error);
    }
    return status;
}

/* The meta tokens' state as the file has it: shared if it is the context's own on all ranks, else
 * private to this session, so that a file can touch nobody else. */
hymba_status hy_load_meta(struct hy_loader *loader, hymba_error *error)
{
    struct hy_rank_places places, own;
    bool ready = true;
    hymba_status status = create_metas(loader, error);
    if (status == HYMBA_OK)
        status = hy_loader_expect(loader, HY_TAG_META, loader->parts.layout->meta_bytes, error);
    if (status != HYMBA_OK)
        return status;
    for (uint32_t i = 0; i < loader->n_ranks; i++) {
        places.data[i] = loader->ranks[i].meta->data;
        own.data[i] = loader->ranks[i].context->meta->data;
        ready = ready && loader->ranks[i].context->meta_ready;
    }
    bool same = ready;
    status = take_place(loader, HY_PLACE_META, &places, ready ? &own : NULL, &same, error);
    for (uint32_t i = 0; status == HYMBA_OK && same && i < loader->n_ranks; i++) {
        struct hy_loader_rank *rank = &loader->ranks[i];
        hy_meta_state_release(rank->meta);
        rank->meta = hy_meta_state_retain(rank->context->meta);
    }
    return status;
}

/* One more in the table, on all ranks or on none. */
static hymba_status add_block(struct hy_loader *loader, hymba_error *error)
{
    struct hy_saved_blocks *table = &loader->table;
    struct hy_block **blocks = table->blocks + table->count * table->n_ranks;
    hymba_status status = HYMBA_OK;
    uint32_t made = 0;
    for (; status == HYMBA_OK && made < loader->n_ranks; made++) {
        hymba_context *context = loader->ranks[made].context;
        size_t bytes = context->layout.block_bytes;
        blocks[made] = hy_block_create(&context->memory, context->backend.plugin, bytes);
        if (!blocks[made])
            status = hy_loader_name(loader, made,
                                    hy_no_memory(error, bytes, "a block of keys and values"),
                                    error);
    }
    while (status != HYMBA_OK && made > 0)
        hy_block_release(blocks[--made]); /* the last of them is NULL */
    table->count += status == HYMBA_OK;
    return status;
}

hymba_status hy_load_blocks(struct hy_loader *loader, hymba_error *error)
{
    struct hy_saved_blocks *table = &loader->table;
    size_t bytes = loader->parts.layout->block_bytes, n = (size_t)loader->parameters.n_blocks;
    size_t entry = loader->n_ranks * sizeof *table->blocks;
    uint64_t size;
    hymba_status status = hy_container_expect(&loader->reader, HY_TAG_BLOCKS, &size, error);
    if (status == HYMBA_OK && size != (uint64_t)n * bytes)
        status = hy_loader_wrong(loader, "the size of the blocks", size, error);
    if (status != HYMBA_OK)
        return status;
    table->n_ranks = loader->n_ranks;
    table->blocks = hy_alloc_array(&loader->context->memory, n + 1, entry);
    if (!table->blocks)
        return hy_no_memory(error, n * entry, "the list of blocks");
    while (status == HYMBA_OK && table->count < n) {
        status = add_block(loader, error);
        if (status != HYMBA_OK)
            break;
        struct hy_rank_places places = hy_saved_block_places(table, table->count - 1);
        status = take_place(loader, HY_PLACE_BLOCK, &places, NULL, NULL, error);
    }
    return status;
}

/* ------------------------------------------------------------------ states */

/* Whether the marks of a saved state can be those of a sequence of its length. */
static hymba_status check_state(const struct hy_loader *loader, const struct hy_saved_state *saved,
                                hymba_error *error)
{
    const struct hy_state_layout *layout = loader->parts.layout;
    const struct hy_state *state = &loader->ranks[0].session->state;
    uint64_t position = saved->length + layout->n_meta;
    uint64_t seen = saved->length < layout->window ? saved->length : layout->window;
    if (saved->length > loader->parameters.n_tokens)
        return hy_loader_wrong(loader, "a state's length", saved->length, error);
    if (layout->ring_rows > 0 &&
        (saved->ring_first < layout->n_meta || saved->ring_first > position - seen ||
         position - saved->ring_first > layout->ring_rows))
        return hy_loader_wrong(loader, "the oldest key of a ring", saved->ring_first, error);
    uint64_t dropped;
    if (!hy_mul_u64(saved->first_block, HY_BLOCK_TOKENS, &dropped) ||
        (dropped > 0 && (layout->block_bytes == 0 || dropped > saved->length)))
        return hy_loader_wrong(loader, "the number of dropped blocks", saved->first_block, error);
    if (saved->n_blocks != hy_saved_block_count(layout, saved->length, saved->first_block))
        return hy_loader_wrong(loader, "a state's number of blocks", saved->n_blocks, error);
    if (dropped > 0 && state->full_window > saved->length - dropped)
        return hy_fail(error, HYMBA_ERROR_STATE,
                       "%s: was saved while sliding and lacks its first %llu tokens: it needs "
                       "HYMBA_LIMIT_SLIDE with at most %llu max_tokens",
                       loader->reader.name, (unsigned long long)dropped,
                       (unsigned long long)(saved->length - dropped + 1));
    return HYMBA_OK;
}

/* Puts a block of the table, of which a sequence fills so many rows, at the end of its list. */
static void adopt_block(struct hy_loader *loader, const struct hy_rank_states *states,
                        uint64_t number, uint64_t rows)
{
    const struct hy_saved_blocks *table = &loader->table;
    size_t filled = rows < HY_BLOCK_TOKENS ? (size_t)rows : HY_BLOCK_TOKENS;
    for (uint32_t i = 0; i < loader->n_ranks; i++) {
        struct hy_block *block = table->blocks[number * table->n_ranks + i];
        struct hy_state *state = states->list[i];
        block->filled = hy_max_size(block->filled, filled);
        state->blocks[state->n_blocks++] = hy_block_retain(block);
    }
}

static hymba_status take_block_numbers(struct hy_loader *loader,
                                       const struct hy_rank_states *states,
                                       const struct hy_saved_state *saved, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        status = hy_state_adopt_blocks(states->list[i], (size_t)saved->n_blocks, error);
        status = hy_loader_name(loader, i, status, error);
    }
    for (size_t i = 0; status == HYMBA_OK && i < saved->n_blocks; i++) {
        uint64_t number;
        status = hy_loader_take(loader, &number, sizeof number, error);
        if (status == HYMBA_OK && number >= loader->table.count)
            status = hy_loader_wrong(loader, "a block's number", number, error);
        if (status == HYMBA_OK)
            adopt_block(loader, states, number,
                        saved->length - (saved->first_block + i) * HY_BLOCK_TOKENS);
    }
    return status;
}

static hymba_status take_kept(struct hy_loader *loader, const struct hy_rank_states *states,
                              hymba_error *error)
{
    const struct hy_state *first = states->list[0];
    size_t n = loader->parts.layout->rewind_tokens;
    hymba_status status = hy_loader_take(loader, first->kept, n * sizeof *first->kept, error);
    for (size_t i = 0; status == HYMBA_OK && i < n; i++)
        if (first->kept[i] != UINT64_MAX &&
            (first->kept[i] >= first->position || first->kept[i] % n != i))
            status = hy_loader_wrong(loader, "the position of a kept state", first->kept[i], error);
    for (uint32_t i = 1; status == HYMBA_OK && i < loader->n_ranks; i++)
        memcpy(states->list[i]->kept, first->kept, n * sizeof *first->kept);
    return status;
}

static hymba_status take_place_of(struct hy_loader *loader, enum hy_state_place place,
                                  const struct hy_rank_states *states, hymba_error *error)
{
    struct hy_rank_places places = hy_saved_places(&loader->parts, states, place);
    return take_place(loader, place, &places, NULL, NULL, error);
}

static hymba_status take_fixed(struct hy_loader *loader, const struct hy_rank_states *states,
                               bool snapshot, hymba_error *error)
{
    hymba_status status = take_place_of(loader, HY_PLACE_RINGS, states, error);
    if (status == HYMBA_OK)
        status = take_place_of(loader, HY_PLACE_RECURRENT, states, error);
    if (status == HYMBA_OK && !snapshot)
        status = take_place_of(loader, HY_PLACE_HISTORY, states, error);
    return status;
}

/* A state chunk into states, whose fixed parts exist already. */
static hymba_status take_state(struct hy_loader *loader, const struct hy_rank_states *states,
                               bool snapshot, struct hy_saved_state *saved, hymba_error *error)
{
    const struct hy_state_layout *layout = loader->parts.layout;
    uint64_t size;
    hymba_status status = hy_container_expect(
        &loader->reader, snapshot ? HY_TAG_SNAPSHOT : HY_TAG_STATE, &size, error);
    if (status == HYMBA_OK)
        status = hy_loader_take(loader, saved, sizeof *saved, error);
    if (status == HYMBA_OK)
        status = check_state(loader, saved, error);
    if (status != HYMBA_OK)
        return status;
    for (uint32_t i = 0; i < loader->n_ranks; i++) {
        states->list[i]->position = saved->length + layout->n_meta;
        states->list[i]->ring_first = saved->ring_first;
        states->list[i]->first_block = saved->first_block;
    }
    status = take_block_numbers(loader, states, saved, error);
    if (status == HYMBA_OK && !snapshot && layout->rewind_tokens > 0)
        status = take_kept(loader, states, error);
    if (status == HYMBA_OK)
        status = take_fixed(loader, states, snapshot, error);
    return status;
}

/* An empty state for the session of each rank. */
static hymba_status create_states(struct hy_loader *loader, struct hy_rank_states *states,
                                  hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        const struct hy_loader_rank *rank = &loader->ranks[i];
        hymba_session *session = rank->session;
        states->list[i] = &session->state;
        status = hy_state_create(session->memory, &rank->context->memory, rank->meta,
                                 &session->state, error);
        status = hy_loader_name(loader, i, status, error);
        if (session->limit_policy == HYMBA_LIMIT_SLIDE && session->max_tokens > 0)
            session->state.full_window = session->max_tokens - 1;
    }
    return status;
}

hymba_status hy_load_state(struct hy_loader *loader, hymba_error *error)
{
    hymba_session *session = loader->ranks[0].session;
    struct hy_rank_states states;
    struct hy_saved_state saved;
    hymba_status status = create_states(loader, &states, error);
    if (status == HYMBA_OK)
        status = take_state(loader, &states, false, &saved, error);
    if (status == HYMBA_OK && saved.length != loader->parameters.n_tokens)
        status = hy_loader_wrong(loader, "the state's length", saved.length, error);
    if (status != HYMBA_OK || !loader->parameters.has_logits)
        return status;
    status = hy_session_reserve_logits(session, 1, error);
    if (status == HYMBA_OK)
        status = hy_loader_take_chunk(loader, HY_TAG_LOGITS, session->logits,
                                      (size_t)loader->parameters.vocabulary * sizeof(float), error);
    session->logits_rows = 1;
    session->logits_of_last = true;
    return status;
}

/* --------------------------------------------------------------- snapshots */

/* The snapshot that is being taken; NULL: not on that rank yet. */
struct taken {
    struct hy_snapshot *ranks[HY_MAX_DEVICES];
};

/* Empty ones, with room for them in the sessions' lists. */
static hymba_status create_snapshots(struct hy_loader *loader, struct taken *taken,
                                     struct hy_rank_states *states, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t i = 0; status == HYMBA_OK && i < loader->n_ranks; i++) {
        const struct hy_loader_rank *rank = &loader->ranks[i];
        struct hy_memory *memory = &rank->context->memory;
        struct hy_snapshot_list *list = &rank->session->snapshots;
        status = hy_snapshot_list_reserve(rank->session->memory, list, list->count + 1, error);
        if (status == HYMBA_OK)
            status = hy_snapshot_create_bare(memory, &taken->ranks[i], error);
        if (status == HYMBA_OK)
            status = hy_state_create(memory, memory, rank->meta, &taken->ranks[i]->state, error);
        status = hy_loader_name(loader, i, status, error);
        if (status != HYMBA_OK)
            return status;
        states->list[i] = &taken->ranks[i]->state;
        states->list[i]->full_window = rank->session->state.full_window;
    }
    return status;
}

/* Of the first rank alone. */
static hymba_status take_snapshot_logits(struct hy_loader *loader, struct hy_snapshot *snapshot,
                                         hymba_error *error)
{
    size_t bytes = (size_t)loader->parameters.vocabulary * sizeof(float);
    snapshot->logits = hy_alloc(&loader->context->memory, bytes);
    if (!snapshot->logits)
        return hy_no_memory(error, bytes, "a snapshot's logits");
    snapshot->bytes += bytes;
    return hy_loader_take_chunk(loader, HY_TAG_LOGITS, snapshot->logits, bytes, error);
}

static hymba_status fill_snapshots(struct hy_loader *loader, struct taken *taken,
                                   const struct hy_rank_states *states, hymba_error *error)
{
    const struct hy_snapshot_list *list = &loader->ranks[0].session->snapshots;
    struct hy_saved_state saved;
    hymba_status status = take_state(loader, states, true, &saved, error);
    if (status != HYMBA_OK)
        return status;
    if (!memchr(saved.name, '\0', sizeof saved.name))
        return hy_loader_wrong(loader, "the end of a snapshot's name", 0, error);
    for (uint32_t i = 0; i < loader->n_ranks; i++) {
        struct hy_snapshot *snapshot = taken->ranks[i];
        memcpy(snapshot->name, saved.name, sizeof saved.name);
        snapshot->automatic = saved.automatic != 0;
        snapshot->length = saved.length;
        snapshot->bytes = snapshot->state.layout->fixed_bytes;
    }
    if (saved.has_logits)
        status = take_snapshot_logits(loader, taken->ranks[0], error);
    if (status == HYMBA_OK && list->count > 0 &&
        list->items[list->count - 1]->length >= saved.length)
        status = hy_loader_wrong(loader, "a snapshot's length", saved.length, error);
    return status;
}

hymba_status hy_load_snapshots(struct hy_loader *loader, hymba_error *error)
{
    hymba_status status = HYMBA_OK;
    for (uint32_t n = 0; status == HYMBA_OK && n < loader->parameters.n_snapshots; n++) {
        struct taken taken = {{NULL}};
        struct hy_rank_states states;
        status = create_snapshots(loader, &taken, &states, error);
        if (status == HYMBA_OK)
            status = fill_snapshots(loader, &taken, &states, error);
        for (uint32_t i = 0; i < loader->n_ranks; i++) {
            if (status == HYMBA_OK)
                hy_snapshot_list_add(&loader->ranks[i].session->snapshots, taken.ranks[i]);
            else
                hy_snapshot_release(taken.ranks[i]);
        }
    }
    return status;
}
