/*
 * The arguments of ops, field by field, as the key of a step's log has them: two structs are the
 * same if their fields are, whatever stands between these. Lists are left out, and so is how many
 * sequences and keys they have: what a launch needs to know of those the op itself says. A struct
 * that gets another field does not compile here until it is told of it.
 */
#ifndef HYMBA_CUDA_OP_KEY_H
#define HYMBA_CUDA_OP_KEY_H

#include <type_traits>

#include "attention.h"
#include "step.h"

struct hy_key_writer {
    struct hy_device *device;

    template <typename... Fields> void operator()(const Fields &...fields) const
    {
        (put(fields), ...);
    }

private:
    template <typename Field> void put(const Field &field) const
    {
        if constexpr (std::is_array<Field>::value)
            for (const auto &element : field)
                put(element);
        else if constexpr (std::is_class<Field>::value)
            hy_write_key(*this, field);
        else
            hy_cuda_record_key(device, &field, sizeof field);
    }
};

static inline void hy_write_key(const hy_key_writer &key, const struct hy_matrix &args)
{
    const auto &[data, dtype, rows, columns, scales, group, by_rows] = args;
    key(data, dtype, rows, columns, scales, group, by_rows);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_rounded &args)
{
    const auto &[dtype, data, stride, scales, sums, group, split, block] = args;
    key(dtype, data, stride, scales, sums, group, split, block);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_embed_args &args)
{
    const auto &[ids, table, y] = args;
    key(ids, table, y);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_round_args &args)
{
    const auto &[x, x_stride, n, y] = args;
    key(x, x_stride, n, y);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_rms_norm_args &args)
{
    const auto &[x, x_stride, weight, n, epsilon, y, y_stride, rounded] = args;
    key(x, x_stride, weight, n, epsilon, y, y_stride, rounded);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_norm_part &args)
{
    const auto &[weight, n] = args;
    key(weight, n);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_norm_parts_args &args)
{
    const auto &[x, x_stride, parts, epsilon, rounded] = args;
    key(x, x_stride, parts, epsilon, rounded);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_matmul_args &args)
{
    const auto &[x, x_stride, rounded, m, n, k, w, dtype, w_stride, w_scales, group, bias,
                 accumulate, y, y_stride, room, by_rows] = args;
    key(x, x_stride, rounded != NULL, m, n, k, w, dtype, w_stride, w_scales, group, bias,
        accumulate, y, y_stride, room, by_rows);
    if (rounded)
        key(*rounded);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_rope_store_args &args)
{
    const auto &[q, k, v, stride, n_heads, n_kv_heads, qk_size, v_size, cosine, sine, dtype,
                 k_rows, v_rows, k_head_stride, v_head_stride] = args;
    key(q, k, v, stride, n_heads, n_kv_heads, qk_size, v_size, cosine, sine, dtype, k_rows, v_rows,
        k_head_stride, v_head_stride);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_attention_args &args)
{
    const auto &[q, q_stride, out, out_stride, n_heads, n_kv_heads, qk_size, v_size, scale,
                 cache_type, bf16, sequences, n_sequences, max_keys, repeated] = args;
    (void)sequences;
    (void)n_sequences;
    (void)max_keys;
    (void)repeated;
    key(q, q_stride, out, out_stride, n_heads, n_kv_heads, qk_size, v_size, scale, cache_type,
        bf16);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_attention_lists &lists)
{
    const auto &[records, first_items, n_records, n_items] = lists;
    key(records, first_items, n_records, n_items);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_attention_plan &plan)
{
    const auto &[list_bytes, spans_at, workspace_bytes, parts, merges, n_merges, tiles,
                 tile_pairs] = plan;
    (void)list_bytes;
    (void)spans_at;
    key(workspace_bytes, parts, merges, n_merges, tiles, tile_pairs);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_conv_args &args)
{
    const auto &[x, x_stride, weight, bias, n, width, y, y_stride, sequences, n_sequences,
                 rounded] = args;
    (void)sequences;
    (void)n_sequences;
    key(x, x_stride, weight, bias, n, width, y, y_stride, rounded);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_scan_args &args)
{
    const auto &[dt, dt_stride, x, x_stride, z, z_stride, b, c, bc_stride, a, d, n, state_size, y,
                 y_stride, sequences, n_sequences] = args;
    (void)sequences;
    (void)n_sequences;
    key(dt, dt_stride, x, x_stride, z, z_stride, b, c, bc_stride, a, d, n, state_size, y, y_stride);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_fuse_args &args)
{
    const auto &[attention, attention_stride, ssm, ssm_stride, weight_attention, weight_ssm, n,
                 epsilon, concat, y, y_stride, rounded, sums, total] = args;
    key(attention, attention_stride, ssm, ssm_stride, weight_attention, weight_ssm, n, epsilon,
        concat, y, y_stride, rounded, sums, total);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_square_sums_args &args)
{
    const auto &[attention, attention_stride, ssm, ssm_stride, n, sums] = args;
    key(attention, attention_stride, ssm, ssm_stride, n, sums);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_all_sum_args &args)
{
    const auto &[x, x_stride, n, accumulate, y, y_stride] = args;
    key(x, x_stride, n, accumulate, y, y_stride);
}

static inline void hy_write_key(const hy_key_writer &key, const struct hy_swiglu_args &args)
{
    const auto &[gate, gate_stride, up, up_stride, n, y, y_stride, rounded] = args;
    key(gate, gate_stride, up, up_stride, n, y, y_stride, rounded);
}

#endif
