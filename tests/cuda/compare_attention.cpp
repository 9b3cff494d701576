#include "compare_parts.h"

extern "C" {
#include "base/checked.h"
#include "kernel/ref.h"
}

struct cached {
    std::vector<struct hy_span> spans;
    std::vector<bytes> data; /* of keys and values, in turn */
};

/* Keys [0, n_keys) in spans of random lengths, the first of meta tokens. */
static struct cached some_keys(bench &b, const struct hy_attention_args *args, size_t n_keys)
{
    struct cached cached;
    for (size_t position = 0; position < n_keys;) {
        struct hy_span span = {};
        span.position = position;
        span.count = 1 + b.below(hy_min_size(n_keys - position, 40));
        span.pinned = position == 0;
        for (size_t size : {args->qk_size, args->v_size}) {
            floats numbers = b.some(args->n_kv_heads * span.count * size);
            bytes rows(args->n_kv_heads * span.count
                       * hy_cache_row_bytes(args->cache_type, size));
            struct hy_cache_rows_args store = {
                numbers.data(), args->n_kv_heads * size, args->n_kv_heads, size, args->cache_type,
                rows.data(), span.count * hy_cache_row_bytes(args->cache_type, size)};
            hy_ref_cache_rows(&store, 0, span.count);
            cached.data.push_back(rows);
        }
        span.k_head_stride = span.count * hy_cache_row_bytes(args->cache_type, args->qk_size);
        span.v_head_stride = span.count * hy_cache_row_bytes(args->cache_type, args->v_size);
        position += span.count;
        cached.spans.push_back(span);
    }
    return cached;
}

static void compare_attention_of(bench &b, hymba_dtype cache_type, bool bf16, size_t n_sequences,
                                 size_t longest)
{
    struct hy_attention_args args = {};
    args.n_kv_heads = 1 + b.below(2);
    args.n_heads = args.n_kv_heads * (1 + b.below(5));
    args.qk_size = 16 * (1 + b.below(4));
    args.v_size = 2 * args.qk_size;
    args.scale = 0.2f;
    args.cache_type = cache_type;
    args.bf16 = bf16;
    std::vector<struct hy_attention_sequence> sequences(n_sequences);
    std::vector<struct cached> caches;
    size_t rows = 0;
    for (struct hy_attention_sequence &sequence : sequences) {
        sequence.segment.row = rows;
        sequence.segment.n_rows = 1 + b.below(longest);
        rows += sequence.segment.n_rows;
        sequence.position = b.below(100);
        sequence.window = b.coin() ? UINT64_MAX : b.below(40);
        size_t n_keys = sequence.position + sequence.segment.n_rows;
        args.max_keys = hy_max_size(args.max_keys, n_keys);
        caches.push_back(some_keys(b, &args, n_keys));
    }
    for (size_t i = 0; i < n_sequences; i++) {
        sequences[i].spans = caches[i].spans.data();
        sequences[i].n_spans = caches[i].spans.size();
        for (size_t s = 0; s < caches[i].spans.size(); s++) {
            caches[i].spans[s].k = caches[i].data[2 * s].data();
            caches[i].spans[s].v = caches[i].data[2 * s + 1].data();
        }
    }
    args.q_stride = args.n_heads * args.qk_size;
    args.out_stride = args.n_heads * args.v_size;
    floats q = b.some(rows * args.q_stride), out(rows * args.out_stride);
    floats scratch(hy_attention_scratch(&args));
    args.q = q.data();
    args.out = out.data();
    args.sequences = sequences.data();
    args.n_sequences = n_sequences;
    hy_ref_attention(&args, 0, rows * args.n_heads, scratch.data());
    for (struct cached &cached : caches)
        for (size_t s = 0; s < cached.spans.size(); s++) {
            cached.spans[s].k = b.put(cached.data[2 * s]);
            cached.spans[s].v = b.put(cached.data[2 * s + 1]);
        }
    args.q = b.put(q);
    args.out = (float *)b.take(out.size() * sizeof(float));
    b.ops->attention(b.device, &args, rows);
    for (struct cached &cached : caches)
        cached.spans.assign(cached.spans.size(), {});
    b.agree("attention", b.get(args.out, out.size()), out, bf16 ? 1e-2f : 1e-4f);
}

void compare_attention(bench &b)
{
    for (hymba_dtype type : {HYMBA_DTYPE_F32, HYMBA_DTYPE_F16, HYMBA_DTYPE_BF16,
                             HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8}) {
        compare_attention_of(b, type, false, 1 + b.below(3), 3);
        compare_attention_of(b, type, false, 1 + b.below(3), 60);
    }
    for (hymba_dtype type : {HYMBA_DTYPE_BF16, HYMBA_DTYPE_INT8, HYMBA_DTYPE_FP8}) {
        compare_attention_of(b, type, true, 2, 60);
        compare_attention_of(b, type, true, 40, 2);
    }
}

/*
 * Enough rows for large tiles on tensor cores, of sequences that share their keys: near generic C,
 * and bit by bit what a sequence alone gives, in small tiles.
 */
void compare_attention_tiles(bench &b)
{
    enum { SEQUENCES = 140, HEADS = 10, KV_HEADS = 2, QK = 64, V = 128, KEYS = 60 };
    std::vector<uint16_t> k(KV_HEADS * KEYS * QK), v(KV_HEADS * KEYS * V);
    hy_row_from_f32(b.some(k.size()).data(), HYMBA_DTYPE_BF16, k.data(), k.size());
    hy_row_from_f32(b.some(v.size()).data(), HYMBA_DTYPE_BF16, v.data(), v.size());
    struct hy_span span = {k.data(), v.data(), KEYS * QK * 2, KEYS * V * 2, 0, KEYS, false};
    std::vector<struct hy_attention_sequence> sequences(SEQUENCES);
    size_t rows = 0;
    for (size_t i = 0; i < SEQUENCES; i++) {
        sequences[i] = {{rows, 9 + b.below(6)}, b.below(45), b.coin() ? UINT64_MAX : 20, &span, 1};
        rows += sequences[i].segment.n_rows;
    }
    floats q = b.some(rows * HEADS * QK), out(rows * HEADS * V);
    struct hy_attention_args args = {};
    args.q = q.data();
    args.q_stride = HEADS * QK;
    args.out = out.data();
    args.out_stride = HEADS * V;
    args.n_heads = HEADS;
    args.n_kv_heads = KV_HEADS;
    args.qk_size = QK;
    args.v_size = V;
    args.scale = 0.125f;
    args.cache_type = HYMBA_DTYPE_BF16;
    args.bf16 = true;
    args.sequences = sequences.data();
    args.n_sequences = SEQUENCES;
    args.max_keys = KEYS;
    floats scratch(hy_attention_scratch(&args));
    hy_ref_attention(&args, 0, rows * HEADS, scratch.data());
    const float *q_on_device = b.put(q);
    span.k = b.put(k);
    span.v = b.put(v);
    args.q = q_on_device;
    args.out = (float *)b.take(out.size() * sizeof(float));
    b.ops->attention(b.device, &args, rows);
    const floats together = b.get(args.out, out.size());
    b.agree("attention in large tiles", together, out, 1e-2f);
    for (size_t i : {(size_t)0, b.below(SEQUENCES), (size_t)SEQUENCES - 1}) {
        struct hy_attention_sequence alone = sequences[i];
        alone.segment.row = 0;
        args.q = q_on_device + sequences[i].segment.row * HEADS * QK;
        args.sequences = &alone;
        args.n_sequences = 1;
        b.ops->attention(b.device, &args, alone.segment.n_rows);
        const floats apart = b.get(args.out, alone.segment.n_rows * HEADS * V);
        if (memcmp(apart.data(), &together[sequences[i].segment.row * HEADS * V],
                   apart.size() * sizeof(float)) != 0)
            b.fail("attention of sequence %zu has other bits alone than among %u others", i,
                   SEQUENCES - 1u);
    }
}
