/*
 * Tiles: pairs of a row and a query head, all of one key head, against blocks of keys. Pair i of a
 * segment is row i / group, head i % group. Blocks of keys begin at multiples of
 * their size in positions, so a row meets the same blocks in whatever tile it lies; one of which it
 * sees nothing leaves its sums as they are.
 */
#ifndef HYMBA_CUDA_ATTENTION_TILE_H
#define HYMBA_CUDA_ATTENTION_TILE_H

#include "attention_rows.h"

enum { HY_GREATEST_BLOCK = 64 /* keys */ };

/* Shared memory behind that of hy_find_slot. */
enum {
    HY_TILE_K_ROWS = HY_SHARED_WORK_END,
    HY_TILE_V_ROWS = HY_TILE_K_ROWS + HY_GREATEST_BLOCK * 8,
    HY_TILE_MASKS = HY_TILE_V_ROWS + HY_GREATEST_BLOCK * 8, /* uint32_t: visible[2], pinned[2] */
    HY_TILE_END = HY_TILE_MASKS + 16
};

struct hy_tile {
    struct hy_attention_work work;
    size_t kv_head, group;
    size_t first_pair, n_pairs; /* the tile's first one; those of the whole segment */
    uint64_t first_position, last_position; /* of its rows */
};

/*
 * The tile, of so many pairs, of this block of the grid. The last ones, which have the most keys to
 * see, are begun first. All threads; contains a barrier.
 */
HY_DEVICE struct hy_tile hy_find_tile(const struct hy_attention_args &args,
                                      const struct hy_attention_lists &lists,
                                      unsigned pairs = HY_ATTENTION_TILE)
{
    struct hy_tile tile;
    tile.work = hy_find_work(lists, hy_grid().x - 1 - hy_block().x);
    tile.kv_head = hy_block().y;
    tile.group = args.n_heads / args.n_kv_heads;
    tile.first_pair = tile.work.item * pairs;
    tile.n_pairs = tile.work.n_rows * tile.group;
    size_t last = tile.first_pair + pairs - 1;
    last = last < tile.n_pairs ? last : tile.n_pairs - 1;
    tile.first_position = tile.work.position + tile.first_pair / tile.group;
    tile.last_position = tile.work.position + last / tile.group;
    return tile;
}

/* Where a pair's row of heads begins in [rows][n_heads][size], the pair being one of the tile. */
HY_DEVICE size_t hy_pair_place(const struct hy_tile &tile, size_t pair, size_t stride, size_t size)
{
    return (tile.work.row + pair / tile.group) * stride
           + (tile.kv_head * tile.group + pair % tile.group) * size;
}

/* The first block of n_keys positions, from number `block` on, of which a row of the tile sees
 * something; UINT64_MAX: none. */
HY_DEVICE uint64_t hy_next_block(const struct hy_tile &tile, uint64_t block, unsigned n_keys)
{
    for (size_t s = 0; s < tile.work.n_spans; s++) {
        const struct hy_span *span = tile.work.spans + s;
        uint64_t begin = hy_load(&span->position), end = begin + hy_load(&span->count);
        uint64_t first = tile.first_position, window = tile.work.window;
        if (!hy_load(&span->pinned) && first > window && begin < first - window)
            begin = first - window;
        if (end > tile.last_position + 1)
            end = tile.last_position + 1;
        if (begin >= end)
            continue;
        uint64_t candidate = begin / n_keys > block ? begin / n_keys : block;
        if (candidate <= (end - 1) / n_keys)
            return candidate;
    }
    return UINT64_MAX;
}

/*
 * Finds the block's rows of keys and values, 0 where no row of the tile sees one, and which of them
 * exist and are pinned. All threads; begins with a barrier, and one must follow.
 */
template <typename Element>
HY_DEVICE void hy_find_block(const struct hy_attention_args &args, const struct hy_tile &tile,
                             uint64_t block, unsigned n_keys)
{
    hy_shared<uint64_t> k_rows(HY_TILE_K_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint64_t> v_rows(HY_TILE_V_ROWS, HY_GREATEST_BLOCK);
    hy_shared<uint32_t> masks(HY_TILE_MASKS, 4);
    unsigned thread = hy_thread();
    uint64_t position = block * n_keys + thread;
    struct hy_attention_slot slot =
        hy_find_slot(tile.work, block * n_keys, n_keys, tile.kv_head,
                     hy_row_size<Element>(args.qk_size), hy_row_size<Element>(args.v_size));
    bool visible = slot.k != 0 && position <= tile.last_position
                   && (slot.pinned || position >= tile.first_position
                       || tile.first_position - position <= tile.work.window);
    unsigned all_visible = hy_ballot(visible), all_pinned = hy_ballot(visible && slot.pinned);
    if (thread >= HY_GREATEST_BLOCK)
        return;
    k_rows[thread] = visible ? slot.k : 0;
    v_rows[thread] = visible ? slot.v : 0;
    if (thread % HY_WARP == 0) {
        masks[thread / HY_WARP] = all_visible;
        masks[2 + thread / HY_WARP] = all_pinned;
    }
}

/* Bit i: a query at this position sees key i of the block (section 6). */
HY_DEVICE uint64_t hy_visible_bits(const struct hy_tile &tile, uint64_t position, uint64_t block,
                                   unsigned n_keys)
{
    hy_shared<uint32_t> masks(HY_TILE_MASKS, 4);
    uint64_t first = block * n_keys, window = tile.work.window;
    if (position < first)
        return 0;
    uint64_t visible = (uint64_t)masks[0] | (uint64_t)masks[1] << 32;
    uint64_t pinned = (uint64_t)masks[2] | (uint64_t)masks[3] << 32;
    uint64_t distance = position - first; /* of key 0; key i is i nearer */
    if (distance < 63)
        visible &= ((uint64_t)2 << distance) - 1;
    if (distance > window) {
        uint64_t hidden = distance - window;
        uint64_t near = hidden < 64 ? ~(uint64_t)0 << hidden : 0;
        visible &= near | pinned;
    }
    return visible;
}

/* Sums of a row up to now: greatest score, and weights exp(score - greatest) added up. */
struct hy_softmax {
    float greatest, sum;
};

/* What scores are counted from: of scores that are all -infinity nothing is left, as beside others
 * that are not. */
HY_DEVICE float hy_softmax_base(float greatest)
{
    return greatest == -INFINITY ? 0.0f : greatest;
}

#endif
