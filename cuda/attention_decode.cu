#include "attention_decode.h"

#include "attention_rows.h"

/*
 * A block computes one part of one row's keys for the query heads of one key head: each row of keys
 * and values is read once for all of them. What it leaves in the workspace, the greatest score, the
 * sum of exp(score - greatest) and the sum of values weighted so, a second kernel puts together in
 * the order of the parts.
 *
 * Every thread has one slot (a position of the part) whose addresses it finds. Rows of keys are
 * then read by LANE_ELEMENTS elements a lane, by as many lanes as a row takes; so are values. Sums
 * over lanes and warps run in an order that sizes alone decide.
 */
enum {
    PARTS_THREADS = HY_ATTENTION_PART,
    WARPS = PARTS_THREADS / HY_WARP,
    LANE_ELEMENTS = 8,
    BATCH = 4, /* rows that a lane asks for before it uses the first */
    GREATEST_HEADS = 8
};

/* Shared memory behind that of hy_find_slot; a slot whose key is not visible has addresses 0. */
enum {
    K_ROWS = HY_SHARED_WORK_END,
    V_ROWS = K_ROWS + HY_ATTENTION_PART * 8,
    V_SCALES = V_ROWS + HY_ATTENTION_PART * 8,
    WEIGHTS = V_SCALES + HY_ATTENTION_PART * 4 /* [heads][HY_ATTENTION_PART], scores first */
};

struct parts_args {
    struct hy_attention_args attention;
    struct hy_attention_lists lists;
    float *greatest, *sums; /* [items][n_heads] */
    float *values;          /* [items][n_heads][v_stride] */
    size_t v_stride;
    unsigned k_lanes, v_lanes; /* of a row: powers of two */
    unsigned q_padded;         /* qk_size up to a multiple of what k_lanes hold */
    unsigned q_offset, partial_offset; /* bytes into shared memory */
};

/* The heads that a block looks at together: head .. head + n of all. */
struct head_tile {
    size_t head;
    unsigned n;
};

/* To the type of the cache, or to bf16 where that has bytes. */
template <typename Element> HY_DEVICE float rounded_query(float value)
{
    if (hy_is_scaled<Element>::value)
        return hy_from_bf16(hy_to_bf16(value));
    return Element::widen(Element::narrow(value));
}

/* q of these heads as [HEADS][q_padded], 0 where there is none. */
template <typename Element, int HEADS>
HY_DEVICE void stage_queries(const struct parts_args &parts, size_t row,
                             const struct head_tile &tile)
{
    const struct hy_attention_args &args = parts.attention;
    hy_shared<float> queries(parts.q_offset, HEADS * parts.q_padded);
    const float *q = args.q + row * args.q_stride + tile.head * args.qk_size;
    for (unsigned i = hy_thread(); i < HEADS * parts.q_padded; i += PARTS_THREADS) {
        unsigned head = i / parts.q_padded, element = i % parts.q_padded;
        float value = 0.0f;
        if (head < tile.n && element < args.qk_size)
            value = hy_load(q + head * args.qk_size + element);
        queries[i] = args.bf16 ? rounded_query<Element>(value) : value;
    }
}

/* Scores of the heads whose q is staged: sums over elements from i on, added to what stands there
 * unless i is 0. */
template <typename Element, int HEADS>
HY_DEVICE void add_scores(const struct parts_args &parts, size_t i)
{
    const struct hy_attention_args &args = parts.attention;
    hy_shared<uint64_t> k_rows(K_ROWS, HY_ATTENTION_PART);
    hy_shared<float> scores(WEIGHTS, HEADS * HY_ATTENTION_PART);
    hy_shared<float4> queries(parts.q_offset, HEADS * parts.q_padded / 4);
    unsigned lane = hy_thread() % HY_WARP, warp = hy_thread() / HY_WARP;
    unsigned lanes = parts.k_lanes, rows = HY_WARP / lanes;
    unsigned first = warp * HY_WARP + lane / lanes;
    i += lane % lanes * LANE_ELEMENTS;
    float q[HEADS][LANE_ELEMENTS];
#pragma unroll
    for (unsigned head = 0; head < HEADS; head++) {
        float4 low = queries[(head * parts.q_padded + i) / 4];
        float4 high = queries[(head * parts.q_padded + i) / 4 + 1];
        q[head][0] = low.x, q[head][1] = low.y, q[head][2] = low.z, q[head][3] = low.w;
        q[head][4] = high.x, q[head][5] = high.y, q[head][6] = high.z, q[head][7] = high.w;
    }
    for (unsigned step = 0; step < lanes; step += BATCH) {
        struct hy_packed<Element, LANE_ELEMENTS> keys[BATCH];
        uint64_t visible[BATCH];
#pragma unroll
        for (unsigned b = 0; b < BATCH; b++) {
            visible[b] = step + b < lanes ? (uint64_t)k_rows[first + (step + b) * rows] : 0;
            hy_load_packed<Element, LANE_ELEMENTS>(visible[b], i, args.qk_size, keys[b]);
        }
#pragma unroll
        for (unsigned b = 0; b < BATCH; b++) {
            if (step + b >= lanes)
                break;
            float sums[HEADS];
#pragma unroll
            for (unsigned head = 0; head < HEADS; head++) {
                sums[head] = 0.0f;
#pragma unroll
                for (unsigned j = 0; j < LANE_ELEMENTS; j++)
                    sums[head] = hy_fma(q[head][j],
                                        hy_unpack<Element, LANE_ELEMENTS>(keys[b], j),
                                        sums[head]);
            }
            for (unsigned mask = lanes / 2; mask > 0; mask /= 2) {
#pragma unroll
                for (unsigned head = 0; head < HEADS; head++)
                    sums[head] += hy_shuffle_xor(sums[head], mask);
            }
            if (lane % lanes != 0 || visible[b] == 0)
                continue;
#pragma unroll
            for (unsigned head = 0; head < HEADS; head++) {
                unsigned place = head * HY_ATTENTION_PART + first + (step + b) * rows;
                if (i < LANE_ELEMENTS)
                    scores[place] = sums[head];
                else
                    scores[place] += sums[head];
            }
        }
    }
}

/* A warp for each head: scores become weights exp(score - greatest), which are 0 where no key is
 * visible, times the scales of values. */
template <typename Element, int HEADS>
HY_DEVICE void weigh(const struct parts_args &parts, const struct head_tile &tile, size_t item)
{
    enum { SLOTS = HY_ATTENTION_PART / HY_WARP };
    hy_shared<uint64_t> k_rows(K_ROWS, HY_ATTENTION_PART);
    hy_shared<float> v_scales(V_SCALES, HY_ATTENTION_PART);
    hy_shared<float> weights(WEIGHTS, HEADS * HY_ATTENTION_PART);
    unsigned lane = hy_thread() % HY_WARP, head = hy_thread() / HY_WARP;
    if (head >= tile.n)
        return;
    float scores[SLOTS], greatest = -INFINITY, sum = 0.0f;
    uint32_t visible = 0;
#pragma unroll
    for (unsigned i = 0; i < SLOTS; i++) {
        unsigned slot = i * HY_WARP + lane;
        scores[i] = -INFINITY;
        if (k_rows[slot] == 0)
            continue;
        visible |= 1u << i;
        scores[i] = weights[head * HY_ATTENTION_PART + slot] * parts.attention.scale;
        if (scores[i] > greatest)
            greatest = scores[i];
    }
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2) {
        float other = hy_shuffle_xor(greatest, mask);
        greatest = other > greatest ? other : greatest;
    }
    /* scores that are all -infinity have weight 0 beside parts with others */
    float base = greatest == -INFINITY ? 0.0f : greatest;
#pragma unroll
    for (unsigned i = 0; i < SLOTS; i++) {
        unsigned slot = i * HY_WARP + lane;
        float weight = visible >> i & 1 ? hy_exp(scores[i] - base) : 0.0f;
        sum += weight;
        if (hy_is_scaled<Element>::value && (visible >> i & 1))
            weight *= v_scales[slot];
        weights[head * HY_ATTENTION_PART + slot] = weight;
    }
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2)
        sum += hy_shuffle_xor(sum, mask);
    if (lane == 0) {
        size_t place = item * parts.attention.n_heads + tile.head + head;
        hy_store(parts.greatest + place, greatest);
        hy_store(parts.sums + place, sum);
    }
}

/* What each warp's rows add to elements i .. i + v_lanes * LANE_ELEMENTS, [WARPS][HEADS][these]. */
template <typename Element, int HEADS>
HY_DEVICE void sum_values(const struct parts_args &parts, const struct head_tile &tile, size_t i)
{
    const struct hy_attention_args &args = parts.attention;
    hy_shared<uint64_t> v_rows(V_ROWS, HY_ATTENTION_PART);
    hy_shared<float> weights(WEIGHTS, HEADS * HY_ATTENTION_PART);
    unsigned lane = hy_thread() % HY_WARP, warp = hy_thread() / HY_WARP;
    unsigned lanes = parts.v_lanes, rows = HY_WARP / lanes;
    unsigned first = warp * HY_WARP + lane / lanes;
    hy_shared<float4> partial(parts.partial_offset, WARPS * HEADS * lanes * LANE_ELEMENTS / 4);
    i += lane % lanes * LANE_ELEMENTS;
    float sums[HEADS][LANE_ELEMENTS];
#pragma unroll
    for (unsigned head = 0; head < HEADS; head++) {
#pragma unroll
        for (unsigned j = 0; j < LANE_ELEMENTS; j++)
            sums[head][j] = 0.0f;
    }
    for (unsigned step = 0; step < lanes; step += BATCH) {
        struct hy_packed<Element, LANE_ELEMENTS> values[BATCH];
        uint64_t visible[BATCH];
#pragma unroll
        for (unsigned b = 0; b < BATCH; b++) {
            visible[b] = step + b < lanes ? (uint64_t)v_rows[first + (step + b) * rows] : 0;
            hy_load_packed<Element, LANE_ELEMENTS>(visible[b], i, args.v_size, values[b]);
        }
#pragma unroll
        for (unsigned b = 0; b < BATCH; b++) {
            if (visible[b] == 0)
                continue;
#pragma unroll
            for (unsigned head = 0; head < HEADS; head++) {
                if (head >= tile.n)
                    continue;
                float weight = weights[head * HY_ATTENTION_PART + first + (step + b) * rows];
#pragma unroll
                for (unsigned j = 0; j < LANE_ELEMENTS; j++)
                    sums[head][j] = hy_fma(weight,
                                           hy_unpack<Element, LANE_ELEMENTS>(values[b], j),
                                           sums[head][j]);
            }
        }
    }
#pragma unroll
    for (unsigned head = 0; head < HEADS; head++) {
        for (unsigned mask = lanes; mask < HY_WARP; mask *= 2) {
#pragma unroll
            for (unsigned j = 0; j < LANE_ELEMENTS; j++)
                sums[head][j] += hy_shuffle_xor(sums[head][j], mask);
        }
        if (lane >= lanes)
            continue;
        float4 low = {sums[head][0], sums[head][1], sums[head][2], sums[head][3]};
        float4 high = {sums[head][4], sums[head][5], sums[head][6], sums[head][7]};
        unsigned place = ((warp * HEADS + head) * lanes + lane) * (LANE_ELEMENTS / 4);
        partial[place] = low;
        partial[place + 1] = high;
    }
}

/* The warps' sums, added up, to the workspace. */
template <int HEADS>
HY_DEVICE void store_values(const struct parts_args &parts, const struct head_tile &tile,
                            size_t item, size_t i)
{
    unsigned width = parts.v_lanes * LANE_ELEMENTS;
    hy_shared<float> partial(parts.partial_offset, WARPS * HEADS * width);
    for (unsigned k = hy_thread(); k < tile.n * width; k += PARTS_THREADS) {
        unsigned head = k / width, element = k % width;
        if (i + element >= parts.v_stride) /* zeros stand behind v_size elements */
            continue;
        float sum = 0.0f;
#pragma unroll
        for (unsigned warp = 0; warp < WARPS; warp++)
            sum += partial[(warp * HEADS + head) * width + element];
        hy_store(parts.values
                     + (item * parts.attention.n_heads + tile.head + head) * parts.v_stride + i
                     + element,
                 sum);
    }
}

/* The rows of this thread's slot, if the query sees its key. */
template <typename Element>
HY_DEVICE void find_rows(const struct parts_args &parts, const struct hy_attention_work &work,
                         size_t kv_head)
{
    const struct hy_attention_args &args = parts.attention;
    hy_shared<uint64_t> k_rows(K_ROWS, HY_ATTENTION_PART), v_rows(V_ROWS, HY_ATTENTION_PART);
    hy_shared<float> v_scales(V_SCALES, HY_ATTENTION_PART);
    unsigned slot_number = hy_thread();
    uint64_t first = (work.part + work.item) * HY_ATTENTION_PART;
    uint64_t position = first + slot_number;
    struct hy_attention_slot slot =
        hy_find_slot(work, first, HY_ATTENTION_PART, kv_head, hy_row_size<Element>(args.qk_size),
                     hy_row_size<Element>(args.v_size));
    bool visible = slot.k != 0 && position <= work.position
                   && (slot.pinned || work.position - position <= work.window);
    k_rows[slot_number] = visible ? slot.k : 0;
    v_rows[slot_number] = visible ? slot.v : 0;
    if (hy_is_scaled<Element>::value && visible)
        v_scales[slot_number] = hy_row_scale(slot.v, args.v_size);
}

/* Scores of keys with scales so far are those of their bytes. */
template <int HEADS>
HY_DEVICE void scale_scores(const struct parts_args &parts, const struct head_tile &tile)
{
    hy_shared<uint64_t> k_rows(K_ROWS, HY_ATTENTION_PART);
    hy_shared<float> scores(WEIGHTS, HEADS * HY_ATTENTION_PART);
    uint64_t k = k_rows[hy_thread()];
    if (k == 0)
        return;
    float scale = hy_row_scale(k, parts.attention.qk_size);
    for (unsigned head = 0; head < tile.n; head++)
        scores[head * HY_ATTENTION_PART + hy_thread()] *= scale;
}

/*
 * Grid: items, key heads. Global memory of one block, which has n visible keys for G query heads,
 * qk and v elements a row, of R records and S spans, s of which lie in the part, t = ceil(G / 8):
 *   reads:  t n (key row + value row) bytes of the caches (the scales of values once),
 *           4 G qk of q, and of lists 8 R + 56 + 16 S + 33 s
 *   writes: 4 G (v up to a multiple of 4, + 2)
 */
template <typename Element, int HEADS> HY_KERNEL attention_parts(struct parts_args parts)
{
    const struct hy_attention_args &args = parts.attention;
    size_t item = hy_block().x, kv_head = hy_block().y;
    size_t group = args.n_heads / args.n_kv_heads;
    struct hy_attention_work work = hy_find_work(parts.lists, hy_block().x);
    if (work.n_rows == 0)
        return;
    find_rows<Element>(parts, work, kv_head);
    for (size_t done = 0; done < group; done += HEADS) {
        struct head_tile tile = {kv_head * group + done,
                                 (unsigned)(group - done < HEADS ? group - done : HEADS)};
        stage_queries<Element, HEADS>(parts, work.row, tile);
        hy_sync();
        for (size_t i = 0; i < parts.q_padded; i += parts.k_lanes * LANE_ELEMENTS)
            add_scores<Element, HEADS>(parts, i);
        hy_sync();
        if (hy_is_scaled<Element>::value) {
            scale_scores<HEADS>(parts, tile);
            hy_sync();
        }
        weigh<Element, HEADS>(parts, tile, item);
        hy_sync();
        for (size_t i = 0; i < args.v_size; i += parts.v_lanes * LANE_ELEMENTS) {
            sum_values<Element, HEADS>(parts, tile, i);
            hy_sync();
            store_values<HEADS>(parts, tile, item, i);
            hy_sync();
        }
    }
}

/* ------------------------------------------------------ parts put together */

enum {
    MERGE_THREADS = 256,
    MERGE_WARPS = MERGE_THREADS / HY_WARP,
    MERGE_PARTS = 8, /* that a warp takes at a time */
    MERGE_WIDTH = HY_WARP * 4
};

/* Shared memory of a merge. */
enum {
    MERGE_GREATEST = 0, /* float[MERGE_WARPS] */
    MERGE_SUMS = MERGE_GREATEST + MERGE_WARPS * 4,
    MERGE_VALUES = MERGE_SUMS + MERGE_WARPS * 4, /* float4[MERGE_WARPS][HY_WARP] */
    MERGE_BYTES = MERGE_VALUES + MERGE_WARPS * MERGE_WIDTH * 4
};

struct merge_args {
    const struct hy_attention_merge *merges;
    size_t n_heads, v_size, v_stride;
    const float *greatest, *sums, *values;
    float *out;
    size_t out_stride;
};

/* The greatest score of a head's n parts, n_heads numbers apart. */
HY_DEVICE float merged_greatest(const float *greatest, size_t n_heads, uint32_t n)
{
    hy_shared<float> of_warps(MERGE_GREATEST, MERGE_WARPS);
    float most = -INFINITY;
    for (size_t part = hy_thread(); part < n; part += MERGE_THREADS) {
        float value = hy_load(greatest + part * n_heads);
        most = value > most ? value : most;
    }
    for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2) {
        float other = hy_shuffle_xor(most, mask);
        most = other > most ? other : most;
    }
    if (hy_thread() % HY_WARP == 0)
        of_warps[hy_thread() / HY_WARP] = most;
    hy_sync();
    for (unsigned warp = 0; warp < MERGE_WARPS; warp++) {
        float other = of_warps[warp];
        most = other > most ? other : most;
    }
    return most;
}

/*
 * Grid: decoded rows, query heads. Warps take MERGE_PARTS parts in turn, so many parts that the
 * row has decide the order of all sums. Global memory of one block with P parts of v elements:
 *   reads:  P (4 v with v up to a multiple of 4, + 4 + 8 ceil(v / 128)), of lists 12 a thread
 *   writes: 4 v
 */
HY_KERNEL attention_merge(struct merge_args args)
{
    hy_shared<float> sums(MERGE_SUMS, MERGE_WARPS);
    hy_shared<float4> values(MERGE_VALUES, MERGE_WARPS * HY_WARP);
    hy_shared<float> elements(MERGE_VALUES, MERGE_WARPS * MERGE_WIDTH);
    unsigned lane = hy_thread() % HY_WARP, warp = hy_thread() / HY_WARP;
    const struct hy_attention_merge *merge = args.merges + hy_block().x;
    size_t row = hy_load(&merge->row), head = hy_block().y;
    uint32_t n = hy_load(&merge->n_items);
    size_t first = hy_load(&merge->first_item) * args.n_heads + head;
    const float *part_greatest = args.greatest + first, *part_sums = args.sums + first;
    const float *part_values = args.values + first * args.v_stride;
    float greatest = merged_greatest(part_greatest, args.n_heads, n);
    for (size_t i = 0; i < args.v_size; i += MERGE_WIDTH) {
        float4 sum = {0.0f, 0.0f, 0.0f, 0.0f};
        float total = 0.0f;
        size_t element = i + lane * 4;
        for (size_t part = warp * MERGE_PARTS; part < n; part += MERGE_WARPS * MERGE_PARTS) {
            float factor = 0.0f;
            if (lane < MERGE_PARTS && part + lane < n) {
                factor = hy_exp(hy_load(part_greatest + (part + lane) * args.n_heads) - greatest);
                total += factor * hy_load(part_sums + (part + lane) * args.n_heads);
            }
#pragma unroll
            for (unsigned j = 0; j < MERGE_PARTS; j++) {
                float weight = hy_shuffle(factor, j);
                if (part + j >= n || element >= args.v_size)
                    continue;
                float4 value = hy_load((const float4 *)(part_values
                                                        + (part + j) * args.n_heads * args.v_stride
                                                        + element));
                sum.x = hy_fma(weight, value.x, sum.x);
                sum.y = hy_fma(weight, value.y, sum.y);
                sum.z = hy_fma(weight, value.z, sum.z);
                sum.w = hy_fma(weight, value.w, sum.w);
            }
        }
        for (unsigned mask = HY_WARP / 2; mask > 0; mask /= 2)
            total += hy_shuffle_xor(total, mask);
        values[warp * HY_WARP + lane] = sum;
        if (lane == 0)
            sums[warp] = total;
        hy_sync();
        if (hy_thread() < MERGE_WIDTH && i + hy_thread() < args.v_size) {
            float whole = 0.0f, result = 0.0f;
            for (unsigned w = 0; w < MERGE_WARPS; w++) {
                whole += sums[w];
                result += elements[w * MERGE_WIDTH + hy_thread()];
            }
            hy_store(args.out + row * args.out_stride + head * args.v_size + i + hy_thread(),
                     n > 0 ? result / whole : 0.0f);
        }
        hy_sync();
    }
}

/* ---------------------------------------------------------------- launches */

static size_t value_stride(const struct hy_attention_args *args)
{
    return (args->v_size + 3) / 4 * 4;
}

size_t hy_cuda_attention_part_bytes(const struct hy_attention_args *args)
{
    return args->n_heads * (value_stride(args) + 2) * sizeof(float);
}

/* Lanes that hold n elements, or all. */
static unsigned row_lanes(size_t n)
{
    unsigned lanes = 1;
    while (lanes < HY_WARP && lanes * LANE_ELEMENTS < n)
        lanes *= 2;
    return lanes;
}

template <typename Element, int HEADS>
static void launch_parts(cudaStream_t stream, struct parts_args parts)
{
    unsigned k_width = parts.k_lanes * LANE_ELEMENTS;
    parts.q_padded = (unsigned)((parts.attention.qk_size + k_width - 1) / k_width * k_width);
    parts.q_offset = WEIGHTS + HEADS * HY_ATTENTION_PART * sizeof(float);
    parts.partial_offset = parts.q_offset + HEADS * parts.q_padded * (unsigned)sizeof(float);
    size_t bytes = parts.partial_offset
                   + WARPS * HEADS * parts.v_lanes * LANE_ELEMENTS * sizeof(float);
    if (bytes > 48 * 1024
        && cudaFuncSetAttribute(attention_parts<Element, HEADS>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes)
               != cudaSuccess)
        return; /* cudaGetLastError tells */
    hy_launch(stream, attention_parts<Element, HEADS>,
              dim3((unsigned)parts.lists.n_items, (unsigned)parts.attention.n_kv_heads),
              PARTS_THREADS, bytes, parts);
}

/* The fewest heads that hold all which share a key head. */
template <typename Element>
static void launch_parts_of(cudaStream_t stream, const struct parts_args &parts)
{
    size_t group = parts.attention.n_heads / parts.attention.n_kv_heads;
    if (group == 1)
        launch_parts<Element, 1>(stream, parts);
    else if (group == 2)
        launch_parts<Element, 2>(stream, parts);
    else if (group <= 4)
        launch_parts<Element, 4>(stream, parts);
    else if (group == 5)
        launch_parts<Element, 5>(stream, parts);
    else
        launch_parts<Element, GREATEST_HEADS>(stream, parts);
}

void hy_cuda_attention_decode(cudaStream_t stream, const struct hy_attention_args *args,
                              const struct hy_attention_plan *plan, void *workspace)
{
    struct parts_args parts = {};
    parts.attention = *args;
    parts.lists = plan->parts;
    parts.v_stride = value_stride(args);
    parts.values = (float *)workspace;
    parts.greatest = parts.values + plan->parts.n_items * args->n_heads * parts.v_stride;
    parts.sums = parts.greatest + plan->parts.n_items * args->n_heads;
    parts.k_lanes = row_lanes(args->qk_size);
    parts.v_lanes = row_lanes(args->v_size);
    if (plan->parts.n_items > 0) {
        if (args->cache_type == HYMBA_DTYPE_F32)
            launch_parts_of<hy_element_f32>(stream, parts);
        else if (args->cache_type == HYMBA_DTYPE_F16)
            launch_parts_of<hy_element_f16>(stream, parts);
        else if (args->cache_type == HYMBA_DTYPE_BF16)
            launch_parts_of<hy_element_bf16>(stream, parts);
        else if (args->cache_type == HYMBA_DTYPE_FP8)
            launch_parts_of<hy_element_fp8>(stream, parts);
        else
            launch_parts_of<hy_element_int8>(stream, parts);
    }
    struct merge_args merge = {};
    merge.merges = plan->merges;
    merge.n_heads = args->n_heads;
    merge.v_size = args->v_size;
    merge.v_stride = parts.v_stride;
    merge.greatest = parts.greatest;
    merge.sums = parts.sums;
    merge.values = parts.values;
    merge.out = args->out;
    merge.out_stride = args->out_stride;
    if (plan->n_merges > 0)
        hy_launch(stream, attention_merge, dim3((unsigned)plan->n_merges, (unsigned)args->n_heads),
                  MERGE_THREADS, MERGE_BYTES, merge);
}
