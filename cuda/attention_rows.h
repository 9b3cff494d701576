/* What attention's kernels share: finding their work and their rows of keys and values. */
#ifndef HYMBA_CUDA_ATTENTION_ROWS_H
#define HYMBA_CUDA_ATTENTION_ROWS_H

#include "attention_lists.h"
#include "element.h"

/* A signed byte or an fp8 number; the row's scale stands behind its n bytes (kernel.h,
 * hy_cache_row_bytes). */
struct hy_element_int8 {
    typedef uint8_t bits;
    HY_DEVICE float widen(bits value)
    {
        return (float)(int8_t)value;
    }
    HY_DEVICE bits narrow(float value)
    {
        return (bits)(int)value; /* q is not rounded to such: never called with other than 0 */
    }
};

struct hy_element_fp8 {
    typedef uint8_t bits;
    HY_DEVICE float widen(bits value)
    {
        return hy_from_fp8(value);
    }
    HY_DEVICE bits narrow(float value)
    {
        return hy_to_fp8(value); /* never called, like that of int8 */
    }
};

template <typename Element> struct hy_is_scaled {
    static const bool value = false;
};
template <> struct hy_is_scaled<hy_element_int8> {
    static const bool value = true;
};
template <> struct hy_is_scaled<hy_element_fp8> {
    static const bool value = true;
};

template <typename Element> struct hy_is_fp8 {
    static const bool value = false;
};
template <> struct hy_is_fp8<hy_element_fp8> {
    static const bool value = true;
};

template <typename Element> HY_DEVICE size_t hy_row_size(size_t n)
{
    return n * sizeof(typename Element::bits)
           + (hy_is_scaled<Element>::value ? sizeof(float) : 0);
}

/* The scale behind a row's n bytes; rows need not be aligned. */
HY_DEVICE float hy_row_scale(uint64_t row, size_t n)
{
    const uint8_t *scale = (const uint8_t *)(row + n);
    uint32_t bits = 0;
    if ((row + n) % sizeof bits == 0)
        return hy_from_bits(hy_load((const uint32_t *)scale));
    for (unsigned i = 0; i < 4; i++)
        bits |= (uint32_t)hy_load(scale + i) << 8 * i;
    return hy_from_bits(bits);
}

/* ------------------------------------------------------ elements of a row */

/* COUNT elements as they lie in memory, 4 bytes a word. */
template <typename Element, int COUNT> struct hy_packed {
    static const int PER_WORD = 4 / sizeof(typename Element::bits);
    static const int WORDS = COUNT / PER_WORD;
    uint32_t words[WORDS];
};

HY_DEVICE void hy_load_words(const uint8_t *data, uint32_t (&words)[1])
{
    words[0] = hy_load((const uint32_t *)data);
}

HY_DEVICE void hy_load_words(const uint8_t *data, uint32_t (&words)[2])
{
    uint2 value = hy_load((const uint2 *)data);
    words[0] = value.x;
    words[1] = value.y;
}

HY_DEVICE void hy_load_words(const uint8_t *data, uint32_t (&words)[4])
{
    uint4 value = hy_load((const uint4 *)data);
    words[0] = value.x;
    words[1] = value.y;
    words[2] = value.z;
    words[3] = value.w;
}

HY_DEVICE void hy_load_words(const uint8_t *data, uint32_t (&words)[8])
{
    for (unsigned half = 0; half < 2; half++) {
        uint4 value = hy_load((const uint4 *)data + half);
        words[4 * half] = value.x;
        words[4 * half + 1] = value.y;
        words[4 * half + 2] = value.z;
        words[4 * half + 3] = value.w;
    }
}

/*
 * Elements i .. i + COUNT of the row of n at this address, 0 where there are none, and all 0 if the
 * address is 0. Each element is loaded once, several at a time where they are aligned: rows of
 * bytes with their scale often to 4 bytes alone.
 */
template <typename Element, int COUNT>
HY_DEVICE void hy_load_packed(uint64_t row, size_t i, size_t n,
                              struct hy_packed<Element, COUNT> &packed)
{
    typedef typename Element::bits bits;
    const unsigned per_word = hy_packed<Element, COUNT>::PER_WORD;
    const unsigned n_words = hy_packed<Element, COUNT>::WORDS;
    const uint64_t alignment = n_words < 4 ? 4 * n_words : 16;
    uint64_t address = row + i * sizeof(bits);
    if (row != 0 && i + COUNT <= n && address % alignment == 0) {
        hy_load_words((const uint8_t *)address, packed.words);
        return;
    }
    if (sizeof(bits) == 1 && row != 0 && i + COUNT <= n && address % 4 == 0) {
#pragma unroll
        for (unsigned word = 0; word < n_words; word++)
            packed.words[word] = hy_load((const uint32_t *)address + word);
        return;
    }
#pragma unroll
    for (unsigned word = 0; word < n_words; word++) {
        packed.words[word] = 0;
#pragma unroll
        for (unsigned j = 0; j < per_word; j++) {
            unsigned offset = word * per_word + j;
            if (row == 0 || i + offset >= n)
                continue;
            bits value = hy_load((const bits *)address + offset);
            if (sizeof(bits) == 4)
                packed.words[word] = hy_to_bits((float)value);
            else
                packed.words[word] |= (uint32_t)value << 8 * sizeof(bits) * j;
        }
    }
}

/* Element j of those, as f32. */
template <typename Element, int COUNT>
HY_DEVICE float hy_unpack(const struct hy_packed<Element, COUNT> &packed, unsigned j)
{
    typedef typename Element::bits bits;
    const unsigned per_word = hy_packed<Element, COUNT>::PER_WORD;
    uint32_t word = packed.words[j / per_word];
    if (sizeof(bits) == 4)
        return hy_from_bits(word);
    if (hy_is_fp8<Element>::value) { /* neighbours share what the first line computes */
        uint32_t pair = hy_pair_from_fp8(word >> 16 * (j / 2 % 2) & 0xffff);
        return hy_from_f16((uint16_t)(pair >> 16 * (j % 2)));
    }
    return Element::widen((bits)(word >> 8 * (sizeof(bits) % 4) * (j % per_word)));
}

/* ------------------------------------------------------------ finding work */

/* Shared memory of what follows, from byte 0 of a block's. */
enum {
    HY_STAGED_SPANS = 32, /* spans that are looked at together */
    HY_SHARED_RECORD = 0, /* uint64_t[HY_ATTENTION_RECORD_WORDS + 1] */
    HY_SHARED_STAGED_K = 64,
    HY_SHARED_STAGED_V = HY_SHARED_STAGED_K + HY_STAGED_SPANS * 8,
    HY_SHARED_STAGED_RANGE = HY_SHARED_STAGED_V + HY_STAGED_SPANS * 8,
    HY_SHARED_WORK_END = HY_SHARED_STAGED_RANGE + HY_STAGED_SPANS * 4,
};

struct hy_attention_work {
    uint64_t position, window;
    const struct hy_span *spans;
    size_t n_spans, row, n_rows;
    uint64_t part;
    size_t item; /* how many of the record's items stand before it */
};

/*
 * The work of an item. All threads of the block; contains a barrier.
 * Reads 8 bytes for each record, and 56 bytes.
 */
HY_DEVICE struct hy_attention_work hy_find_work(const struct hy_attention_lists &lists,
                                                uint32_t item)
{
    hy_shared<uint64_t> words(HY_SHARED_RECORD, HY_ATTENTION_RECORD_WORDS + 1);
    for (size_t r = hy_thread(); r < lists.n_records; r += hy_block_threads()) {
        uint32_t first = hy_load(lists.first_items + r), end = hy_load(lists.first_items + r + 1);
        if (item < first || item >= end)
            continue;
        const uint64_t *record = (const uint64_t *)(lists.records + r);
#pragma unroll
        for (unsigned i = 0; i < HY_ATTENTION_RECORD_WORDS; i++)
            words[i] = hy_load(record + i);
        words[HY_ATTENTION_RECORD_WORDS] = item - first;
    }
    hy_sync();
    struct hy_attention_work work;
    work.position = words[0];
    work.window = words[1];
    work.spans = (const struct hy_span *)((uint64_t)lists.records + words[2]);
    work.n_spans = words[3];
    work.row = words[4];
    work.n_rows = words[5];
    work.part = words[6];
    work.item = words[7];
    return work;
}

/* The key and value at a position: addresses of their rows, 0 if they are in no span. */
struct hy_attention_slot {
    uint64_t k, v;
    bool pinned;
};

/* Which of positions first .. first + n_slots a span has, as slot numbers [begin, end), and where
 * the first of them lies. */
HY_DEVICE void hy_stage_span(const struct hy_span *span, uint64_t first, unsigned n_slots,
                             size_t kv_head, size_t k_row, size_t v_row, unsigned place)
{
    hy_shared<uint64_t> staged_k(HY_SHARED_STAGED_K, HY_STAGED_SPANS);
    hy_shared<uint64_t> staged_v(HY_SHARED_STAGED_V, HY_STAGED_SPANS);
    hy_shared<uint32_t> ranges(HY_SHARED_STAGED_RANGE, HY_STAGED_SPANS);
    uint64_t position = hy_load(&span->position), count = hy_load(&span->count);
    uint64_t end = position + count, last = first + n_slots;
    uint32_t range = 0;
    uint64_t begin = position > first ? position : first;
    end = end < last ? end : last;
    if (begin < end) {
        range = (uint32_t)(begin - first) | (uint32_t)(end - first) << 10
                | (uint32_t)hy_load(&span->pinned) << 20;
        staged_k[place] = (uint64_t)hy_load(&span->k) + kv_head * hy_load(&span->k_head_stride)
                          + (begin - position) * k_row;
        staged_v[place] = (uint64_t)hy_load(&span->v) + kv_head * hy_load(&span->v_head_stride)
                          + (begin - position) * v_row;
    }
    ranges[place] = range;
}

/*
 * The slot of position first + the thread's number, for threads below n_slots, of which there are
 * at most 512. All threads of the block; begins with a barrier unless there are no spans.
 * Reads 16 bytes of each span, and 33 more of each that has some of the positions.
 */
HY_DEVICE struct hy_attention_slot hy_find_slot(const struct hy_attention_work &work,
                                                uint64_t first, unsigned n_slots, size_t kv_head,
                                                size_t k_row, size_t v_row)
{
    hy_shared<uint64_t> staged_k(HY_SHARED_STAGED_K, HY_STAGED_SPANS);
    hy_shared<uint64_t> staged_v(HY_SHARED_STAGED_V, HY_STAGED_SPANS);
    hy_shared<uint32_t> ranges(HY_SHARED_STAGED_RANGE, HY_STAGED_SPANS);
    struct hy_attention_slot slot = {0, 0, false};
    unsigned thread = hy_thread();
    for (size_t s = 0; s < work.n_spans; s += HY_STAGED_SPANS) {
        hy_sync();
        if (thread < HY_STAGED_SPANS && s + thread < work.n_spans)
            hy_stage_span(work.spans + s + thread, first, n_slots, kv_head, k_row, v_row, thread);
        hy_sync();
        for (unsigned i = 0; i < HY_STAGED_SPANS && s + i < work.n_spans; i++) {
            uint32_t range = ranges[i], begin = range & 1023, end = range >> 10 & 1023;
            if (thread < begin || thread >= end)
                continue;
            slot.k = (uint64_t)staged_k[i] + (thread - begin) * k_row;
            slot.v = (uint64_t)staged_v[i] + (thread - begin) * v_row;
            slot.pinned = range >> 20;
        }
    }
    return slot;
}

#endif
