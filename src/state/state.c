#include "state/state.h"

#include <string.h>

#include "base/checked.h"

hymba_status hy_meta_state_create(struct hy_memory *memory, struct hy_plugin *plugin,
                                  const struct hy_state_layout *layout,
                                  struct hy_meta_state **out, hymba_error *error)
{
    *out = NULL;
    struct hy_meta_state *meta = hy_alloc_zero(memory, 1, sizeof *meta);
    if (!meta)
        return hy_no_memory(error, sizeof *meta, "the meta tokens' state");
    atomic_init(&meta->references, 1);
    meta->memory = memory;
    meta->plugin = plugin;
    meta->layout = layout;
    meta->data = hy_store_alloc_zero(memory, plugin, layout->meta_bytes);
    if (!meta->data) {
        hy_free(memory, meta);
        return hy_no_memory(error, layout->meta_bytes, "the meta tokens' state");
    }
    *out = meta;
    return HYMBA_OK;
}

struct hy_meta_state *hy_meta_state_retain(struct hy_meta_state *meta)
{
    atomic_fetch_add(&meta->references, 1);
    return meta;
}

void hy_meta_state_release(struct hy_meta_state *meta)
{
    if (!meta || atomic_fetch_sub(&meta->references, 1) != 1)
        return;
    hy_store_free(meta->memory, meta->plugin, meta->data, meta->layout->meta_bytes);
    hy_free(meta->memory, meta);
}

void hy_state_begin_meta(struct hy_state *state, struct hy_meta_state *meta)
{
    *state = (struct hy_state){
        .layout = meta->layout,
        .meta = meta,
        .is_meta = true,
        .fixed = meta->data,
        .recurrent = meta->data + meta->layout->meta_kv_bytes,
        .full_window = UINT64_MAX,
    };
    hy_store_fill(meta->plugin, meta->data, 0, meta->layout->meta_bytes);
}

/* Bytes of the block at state->fixed. */
static size_t fixed_block_bytes(const struct hy_state_layout *layout)
{
    return layout->ring_bytes + layout->history_bytes;
}

static void forget_kept(struct hy_state *state)
{
    for (size_t i = 0; i < state->layout->rewind_tokens; i++)
        state->kept[i] = UINT64_MAX;
}

/* -------------------------------------------------------------- lifetimes */

static hymba_status create_fixed(struct hy_memory *memory, struct hy_memory *block_memory,
                                 struct hy_meta_state *meta, struct hy_state *state,
                                 hymba_error *error)
{
    const struct hy_state_layout *layout = meta->layout;
    *state = (struct hy_state){
        .layout = layout,
        .memory = memory,
        .block_memory = block_memory,
        .meta = hy_meta_state_retain(meta),
        .full_window = UINT64_MAX,
        .position = layout->n_meta,
        .ring_first = layout->n_meta,
        /* zero: they may be saved half used */
        .fixed = hy_store_alloc_zero(memory, meta->plugin, fixed_block_bytes(layout)),
        .recurrent = hy_store_alloc_zero(memory, meta->plugin, layout->recurrent_bytes),
        .kept = hy_alloc_array(memory, layout->rewind_tokens + 1, sizeof *state->kept),
    };
    if (!state->fixed || !state->recurrent || !state->kept) {
        hy_state_free(state);
        return hy_no_memory(error, layout->fixed_bytes, "a session's state");
    }
    forget_kept(state);
    return HYMBA_OK;
}

hymba_status hy_state_create(struct hy_memory *memory, struct hy_memory *block_memory,
                             struct hy_meta_state *meta, struct hy_state *state,
                             hymba_error *error)
{
    hymba_status status = create_fixed(memory, block_memory, meta, state, error);
    if (status == HYMBA_OK)
        hy_state_reset(state);
    return status;
}

void hy_state_free(struct hy_state *state)
{
    for (size_t i = 0; i < state->n_blocks; i++)
        hy_block_release(state->blocks[i]);
    if (state->memory) {
        hy_free(state->memory, state->blocks);
        hy_store_free(state->memory, state->meta->plugin, state->fixed,
                      fixed_block_bytes(state->layout));
        hy_store_free(state->memory, state->meta->plugin, state->recurrent,
                      state->layout->recurrent_bytes);
        hy_free(state->memory, state->kept);
    }
    hy_meta_state_release(state->meta);
    memset(state, 0, sizeof *state);
}

/* --------------------------------------------------------------- blocks */

static hymba_status grow_block_list(struct hy_state *state, size_t n_blocks, hymba_error *error)
{
    if (n_blocks <= state->block_capacity)
        return HYMBA_OK;
    size_t capacity = hy_max_size(n_blocks, 2 * state->block_capacity), bytes;
    struct hy_block **blocks = NULL;
    if (!hy_mul_size(capacity, sizeof *blocks, &bytes) ||
        !(blocks = hy_realloc(state->memory, state->blocks, bytes)))
        return hy_no_memory(error, capacity * sizeof *blocks, "a session's block list");
    state->blocks = blocks;
    state->block_capacity = capacity;
    return HYMBA_OK;
}

hymba_status hy_state_adopt_blocks(struct hy_state *state, size_t n, hymba_error *error)
{
    return grow_block_list(state, n, error);
}

/* Blocks that hold tokens [first_block * HY_BLOCK_TOKENS, length). */
static size_t used_blocks(const struct hy_state *state, uint64_t length)
{
    if (state->layout->block_bytes == 0 || length == 0)
        return 0;
    return (size_t)((length - 1) / HY_BLOCK_TOKENS + 1 - state->first_block);
}

/* Lets go of the blocks behind the first n that others hold too; its own stay as reserve. */
static void release_shared_tail(struct hy_state *state, size_t n)
{
    size_t kept = n;
    if (n >= state->n_blocks)
        return;
    for (size_t i = n; i < state->n_blocks; i++) {
        struct hy_block *block = state->blocks[i];
        if (hy_block_is_shared(block))
            hy_block_release(block);
        else
            state->blocks[kept++] = block;
    }
    state->n_blocks = kept;
}

hymba_status hy_state_reserve(struct hy_state *state, uint64_t n_tokens, hymba_error *error)
{
    size_t block_bytes = state->layout->block_bytes;
    if (block_bytes == 0 || n_tokens == 0)
        return HYMBA_OK;
    uint64_t last = (n_tokens - 1) / HY_BLOCK_TOKENS;
    if (last < state->first_block)
        return HYMBA_OK;
    uint64_t n_blocks = last + 1 - state->first_block;
    if (n_blocks > SIZE_MAX / block_bytes)
        return hy_fail(error, HYMBA_ERROR_LIMIT,
                       "the caches of %llu tokens do not fit the address space",
                       (unsigned long long)n_tokens);
    size_t n_before = state->n_blocks;
    hymba_status status = grow_block_list(state, (size_t)n_blocks, error);
    while (status == HYMBA_OK && state->n_blocks < n_blocks) {
        struct hy_block *block =
            hy_block_create(state->block_memory, state->meta->plugin, block_bytes);
        if (block)
            state->blocks[state->n_blocks++] = block;
        else
            status = hy_no_memory(error, block_bytes, "a block of keys and values");
    }
    while (status != HYMBA_OK && state->n_blocks > n_before)
        hy_block_release(state->blocks[--state->n_blocks]);
    return status;
}

/* The block the next token goes to, made this sequence's own if somebody else has gone on in it. */
static hymba_status own_current_block(struct hy_state *state, hymba_error *error)
{
    uint64_t length = hy_state_length(state);
    struct hy_block **place = &state->blocks[length / HY_BLOCK_TOKENS - state->first_block];
    size_t row = (size_t)(length % HY_BLOCK_TOKENS);
    if (!hy_block_is_shared(*place) || (*place)->filled <= row)
        return HYMBA_OK;
    size_t bytes = state->layout->block_bytes;
    struct hy_block *own = hy_block_create(state->block_memory, state->meta->plugin, bytes);
    if (!own)
        return hy_no_memory(error, bytes, "a block of keys and values");
    hy_store_copy(state->meta->plugin, own->data, (*place)->data, bytes);
    own->filled = row;
    hy_block_release(*place);
    *place = own;
    return HYMBA_OK;
}

hymba_status hy_state_claim(struct hy_state *state, uint64_t n_rows, hymba_error *error)
{
    uint64_t begin = hy_state_length(state), end;
    if (!hy_add_u64(begin, n_rows, &end))
        return hy_fail(error, HYMBA_ERROR_LIMIT, "the session's length does not fit 64 bits");
    hymba_status status = hy_state_reserve(state, end, error);
    if (state->layout->block_bytes == 0 || n_rows == 0)
        return status;
    if (status == HYMBA_OK)
        status = own_current_block(state, error);
    if (status != HYMBA_OK)
        return status;
    /* From now on others must not write these rows; a failed call leaves the mark, which at worst
     * makes somebody copy a block. */
    for (uint64_t i = begin / HY_BLOCK_TOKENS; i * HY_BLOCK_TOKENS < end; i++) {
        uint64_t rows = end - i * HY_BLOCK_TOKENS;
        state->blocks[i - state->first_block]->filled =
            rows < HY_BLOCK_TOKENS ? (size_t)rows : HY_BLOCK_TOKENS;
    }
    return HYMBA_OK;
}

uint64_t hy_state_block_bytes(const struct hy_state *state, uint64_t *shared)
{
    *shared = 0;
    if (state->n_blocks == 0)
        return 0; /* perhaps not created yet */
    for (size_t i = 0; i < state->n_blocks; i++)
        if (hy_block_is_shared(state->blocks[i]))
            *shared += state->layout->block_bytes;
    return (uint64_t)state->n_blocks * state->layout->block_bytes;
}

uint64_t hy_state_lone_block_bytes(const struct hy_state *state, const struct hy_state *later)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < state->n_blocks; i++) {
        uint64_t place = state->first_block + i - later->first_block; /* wraps if dropped there */
        if (place >= later->n_blocks || later->blocks[place] != state->blocks[i])
            bytes += state->layout->block_bytes;
    }
    return bytes;
}

void hy_state_drop_unseen(struct hy_state *state)
{
    uint64_t length = hy_state_length(state);
    if (state->layout->block_bytes == 0 || length <= state->full_window)
        return;
    uint64_t first = (length - state->full_window) / HY_BLOCK_TOKENS;
    if (first <= state->first_block)
        return;
    size_t n = (size_t)(first - state->first_block);
    for (size_t i = 0; i < n; i++)
        hy_block_release(state->blocks[i]);
    memmove(state->blocks, state->blocks + n, (state->n_blocks - n) * sizeof *state->blocks);
    state->n_blocks -= n;
    state->first_block = first;
}

/* ------------------------------------------------------ copies and returns */

/* What a sequence has besides its fixed part. */
static void copy_marks(struct hy_state *to, const struct hy_state *from)
{
    to->first_block = from->first_block;
    to->full_window = from->full_window;
    to->position = from->position;
    to->ring_first = from->ring_first;
}

static void copy_contents(struct hy_state *to, const struct hy_state *from, bool kept)
{
    const struct hy_state_layout *layout = from->layout;
    hy_store_copy(from->meta->plugin, to->fixed, from->fixed,
                  kept ? fixed_block_bytes(layout) : layout->ring_bytes);
    hy_store_copy(from->meta->plugin, to->recurrent, from->recurrent, layout->recurrent_bytes);
}

hymba_status hy_state_copy(const struct hy_state *from, struct hy_memory *memory, bool kept,
                           struct hy_state *to, hymba_error *error)
{
    size_t n = used_blocks(from, hy_state_length(from));
    hymba_status status = create_fixed(memory, from->block_memory, from->meta, to, error);
    if (status != HYMBA_OK)
        return status;
    status = grow_block_list(to, n, error);
    if (status != HYMBA_OK) {
        hy_state_free(to);
        return status;
    }
    for (size_t i = 0; i < n; i++)
        to->blocks[i] = hy_block_retain(from->blocks[i]);
    to->n_blocks = n;
    copy_marks(to, from);
    copy_contents(to, from, kept);
    if (kept)
        memcpy(to->kept, from->kept, from->layout->rewind_tokens * sizeof *to->kept);
    return HYMBA_OK;
}

hymba_status hy_state_reserve_return(struct hy_state *state, const struct hy_state *saved,
                                     hymba_error *error)
{
    return grow_block_list(state, used_blocks(saved, hy_state_length(saved)), error);
}

hymba_status hy_state_return_to(struct hy_state *state, const struct hy_state *saved,
                                hymba_error *error)
{
    size_t n = used_blocks(saved, hy_state_length(saved));
    hymba_status status = hy_state_reserve_return(state, saved, error);
    if (status != HYMBA_OK)
        return status;
    for (size_t i = 0; i < n; i++)
        hy_block_retain(saved->blocks[i]);
    release_shared_tail(state, 0);
    /* What is left is nobody else's: it goes behind the saved blocks as far as there is room. */
    size_t spare = hy_min_size(state->n_blocks, state->block_capacity - n);
    for (size_t i = spare; i < state->n_blocks; i++)
        hy_block_release(state->blocks[i]);
    if (spare > 0) /* without any there may be no list */
        memmove(state->blocks + n, state->blocks, spare * sizeof *state->blocks);
    for (size_t i = 0; i < n; i++)
        state->blocks[i] = saved->blocks[i];
    state->n_blocks = n + spare;
    copy_marks(state, saved);
    copy_contents(state, saved, false);
    forget_kept(state);
    return HYMBA_OK;
}

void hy_state_reset(struct hy_state *state)
{
    const struct hy_state_layout *layout = state->layout;
    hy_store_copy(state->meta->plugin, state->recurrent,
                  state->meta->data + layout->meta_kv_bytes, layout->recurrent_bytes);
    release_shared_tail(state, 0);
    state->first_block = 0;
    state->position = layout->n_meta;
    state->ring_first = layout->n_meta;
    forget_kept(state);
}

/* -------------------------------------------------------- recurrent states */

void hy_state_load_recurrent(const struct hy_state *state, float *working)
{
    const struct hy_state_layout *layout = state->layout;
    size_t conv = layout->n_ssm_layers * layout->conv_elements;
    size_t ssm = layout->n_ssm_layers * layout->ssm_elements;
    hy_store_to_f32(state->meta->plugin, state->recurrent, layout->state_type, working, conv);
    hy_store_to_f32(state->meta->plugin, state->recurrent + layout->ssm_offset,
                    layout->state_type, working + conv, ssm);
}

static void store_recurrent(const struct hy_state *state, const float *working,
                            unsigned char *recurrent)
{
    const struct hy_state_layout *layout = state->layout;
    size_t conv = layout->n_ssm_layers * layout->conv_elements;
    size_t ssm = layout->n_ssm_layers * layout->ssm_elements;
    hy_store_from_f32(state->meta->plugin, working, layout->state_type, recurrent, conv);
    hy_store_from_f32(state->meta->plugin, working + conv, layout->state_type,
                      recurrent + layout->ssm_offset, ssm);
}

void hy_state_store_recurrent(struct hy_state *state, const float *working)
{
    store_recurrent(state, working, state->recurrent);
}

unsigned char *hy_state_exchange_recurrent(struct hy_state *state, unsigned char *recurrent)
{
    unsigned char *former = state->recurrent;
    state->recurrent = recurrent;
    return former;
}

/* The slot of a position among the kept states, marked as its. */
static unsigned char *kept_slot(struct hy_state *state, uint64_t position)
{
    size_t slot = (size_t)(position % state->layout->rewind_tokens);
    state->kept[slot] = position;
    return state->fixed + state->layout->ring_bytes + slot * state->layout->recurrent_bytes;
}

void hy_state_keep(struct hy_state *state, uint64_t position, const float *working)
{
    store_recurrent(state, working, kept_slot(state, position));
}

void hy_state_keep_present(struct hy_state *state, uint64_t position)
{
    hy_store_copy(state->meta->plugin, kept_slot(state, position), state->recurrent,
                  state->layout->recurrent_bytes);
}

bool hy_state_can_step_back(const struct hy_state *state, uint64_t position)
{
    const struct hy_state_layout *layout = state->layout;
    if (layout->rewind_tokens == 0 || position >= state->position || position < layout->n_meta ||
        state->kept[position % layout->rewind_tokens] != position)
        return false;
    uint64_t length = position - layout->n_meta;
    uint64_t seen = length < layout->window ? length : layout->window;
    if (layout->ring_bytes > 0 && seen > 0 && position - seen < state->ring_first)
        return false;
    uint64_t full = length < state->full_window ? length : state->full_window;
    return layout->block_bytes == 0 || full == 0 ||
           (length - full) / HY_BLOCK_TOKENS >= state->first_block;
}

void hy_state_step_back(struct hy_state *state, uint64_t position)
{
    const struct hy_state_layout *layout = state->layout;
    size_t slot = (size_t)(position % layout->rewind_tokens);
    hy_store_copy(state->meta->plugin, state->recurrent,
                  state->fixed + layout->ring_bytes + slot * layout->recurrent_bytes,
                  layout->recurrent_bytes);
    for (size_t i = 0; i < layout->rewind_tokens; i++)
        if (state->kept[i] >= position)
            state->kept[i] = UINT64_MAX;
    state->position = position;
    if (state->ring_first > position) /* behind the meta tokens, where no row is needed */
        state->ring_first = position;
    release_shared_tail(state, used_blocks(state, hy_state_length(state)));
}

/* -------------------------------------------------------------------- undo */

size_t hy_state_undo_bytes(const struct hy_state *state)
{
    /* A ring nothing has been written to holds nothing worth keeping. */
    return state->is_meta || state->position <= state->layout->n_meta ? 0
                                                                      : state->layout->ring_bytes;
}

void hy_state_save_undo(const struct hy_state *state, unsigned char *undo)
{
    hy_store_copy(state->meta->plugin, undo, state->fixed, hy_state_undo_bytes(state));
}

void hy_state_restore_undo(struct hy_state *state, const unsigned char *undo, uint64_t position,
                           uint64_t ring_first)
{
    state->position = position;
    state->ring_first = ring_first;
    hy_store_copy(state->meta->plugin, state->fixed, undo, hy_state_undo_bytes(state));
    for (size_t i = 0; state->kept && i < state->layout->rewind_tokens; i++)
        if (state->kept[i] > position) /* the failed call's: other tokens may come to stand there */
            state->kept[i] = UINT64_MAX;
}
