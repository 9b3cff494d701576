#!/usr/bin/env python3
"""Writes tests/data/variants: tiny random models of the variants, and what each must compute.

  make_variant_goldens.py OUT [NAME...]

Same layout as tests/data/goldens; the truth comes from spec_ref.py in float64. Every prompt is
computed twice, whole and step by step, and both must agree to 1e-9. Prompts are chosen so that
along the greedy continuation the best logit leads by at least MARGIN (a right f32 program then
continues identically), no EOS token occurs, and the continuation is not one token repeated.
"""
import hashlib
import json
import os
import struct
import sys

import numpy as np

from make_model import Stream, full_config, write_model
from spec_ref import Hymba

MARGIN = 5e-3
AGREEMENT = 1e-9
N_GREEDY = 32
MIN_DISTINCT = 6

# Lengths lie around each window W: shorter, W-1, W, W+1 (the last at which every key is seen),
# W+2, many times W. detail: the prompt whose streams are stored.
VARIANTS = {
    "non_adjacent_groups": dict(
        dtype="bf16", seed=101, lengths=[1, 7, 8, 9, 10, 30, 90], detail=30,
        config=dict(num_hidden_layers=6, hidden_size=40, num_attention_heads=4,
                    num_key_value_heads=2, intermediate_size=49, vocab_size=97, sliding_window=8,
                    num_memory_tokens=4, global_attn_idx=[0, 5], kv_reuse_group=[[1, 3], [2, 4]],
                    mamba_d_state=8, mamba_d_conv=3, mamba_dt_rank="auto")),
    "mixed_group": dict(
        dtype="f32", seed=102, lengths=[2, 6, 7, 8, 9, 28, 60], detail=28,
        config=dict(num_hidden_layers=6, hidden_size=24, num_attention_heads=4,
                    num_key_value_heads=4, intermediate_size=33, vocab_size=61, sliding_window=7,
                    num_memory_tokens=3, global_attn_idx=[0, 3],
                    kv_reuse_group=[[0, 1], [2, 3, 4]], mamba_dt_rank=2, rope_type="default",
                    tie_word_embeddings=False)),
    "every_i_layer": dict(
        dtype="f16", seed=103, lengths=[1, 4, 5, 6, 7, 33, 71], detail=33,
        config=dict(num_hidden_layers=5, hidden_size=28, num_attention_heads=2,
                    num_key_value_heads=1, intermediate_size=31, vocab_size=83, sliding_window=5,
                    num_memory_tokens=6, global_attn_idx=[2], kv_reuse_group=None,
                    kv_reuse_every_i_layer=2, mamba_d_state=8, mamba_d_conv=2, mamba_expand=3,
                    mamba_dt_rank="auto", rope_type=None)),
    "attention_only": dict(
        dtype="bf16", seed=104, lengths=[1, 8, 9, 10, 11, 40, 100], detail=40,
        config=dict(num_hidden_layers=5, hidden_size=30, num_attention_heads=3,
                    num_key_value_heads=3, intermediate_size=45, vocab_size=101,
                    sliding_window=9, num_memory_tokens=4, global_attn_idx=[1],
                    kv_reuse_group=[[2, 3]], mamba_expand=1, layer_plan={"mixer": "attention"})),
    "mamba_only": dict(
        dtype="f32", seed=205, lengths=[1, 2, 3, 4, 5, 17, 65, 130], detail=17,
        config=dict(num_hidden_layers=4, hidden_size=28, num_attention_heads=2,
                    num_key_value_heads=1, intermediate_size=41, vocab_size=73,
                    sliding_window=None, num_memory_tokens=5, global_attn_idx=[],
                    kv_reuse_group=None, tie_word_embeddings=False,
                    layer_plan={"mixer": "mamba"})),
    "sequence": dict(
        dtype="bf16", seed=106, lengths=[1, 11, 12, 13, 14, 45, 120], detail=45,
        config=dict(num_hidden_layers=6, hidden_size=24, num_attention_heads=4,
                    num_key_value_heads=2, intermediate_size=47, vocab_size=89,
                    sliding_window=12, num_memory_tokens=0, global_attn_idx=[],
                    kv_reuse_group=None, rope_type="default", tie_word_embeddings=False,
                    layer_plan=[{"mixer": "mamba", "ffn": "none"},
                                {"mixer": "attention", "ffn": "swiglu"}] * 3)),
    "concat": dict(
        dtype="f16", seed=107, lengths=[3, 31, 32, 33, 34, 110], detail=34,
        config=dict(num_hidden_layers=4, hidden_size=36, num_attention_heads=6,
                    num_key_value_heads=2, intermediate_size=43, vocab_size=79,
                    sliding_window=32, num_memory_tokens=2, global_attn_idx=[0, 3],
                    kv_reuse_group=[[1, 2]], mamba_d_conv=5, mamba_d_state=8,
                    layer_plan={"fusion": "concat"})),
    "mixed_plan": dict(
        dtype="mixed", seed=208, lengths=[1, 5, 6, 7, 8, 29, 70], detail=29,
        config=dict(num_hidden_layers=8, hidden_size=24, num_attention_heads=4,
                    num_key_value_heads=2, intermediate_size=35, vocab_size=71, sliding_window=6,
                    num_memory_tokens=3, global_attn_idx=[2], kv_reuse_group=[[0, 4], [2, 5, 7]],
                    mamba_d_conv=3, mamba_d_state=8, tie_word_embeddings=False,
                    layer_plan=[{}, {"mixer": "none"}, {"mixer": "attention", "ffn": "none"},
                                {"mixer": "mamba"}, {"fusion": "concat"},
                                {"mixer": "attention"}, {"mixer": "mamba", "ffn": "none"},
                                {"mixer": "hybrid", "fusion": "concat", "ffn": "none"}])),
    "no_rope": dict(
        dtype="mixed", seed=209, lengths=[1, 5, 6, 7, 8, 36, 80], detail=36,
        config=dict(num_hidden_layers=4, hidden_size=30, num_attention_heads=3,
                    num_key_value_heads=1, intermediate_size=37, vocab_size=67, sliding_window=6,
                    num_memory_tokens=2, global_attn_idx=[0], kv_reuse_group=[[1, 2]],
                    mamba_expand=1, mamba_d_conv=3, mamba_d_state=5, mamba_dt_rank="auto",
                    rope=False)),
    "odd_heads": dict(
        # Some f32 tensors lie at odd multiples of two bytes.
        dtype="mixed", aligned=False, seed=110, lengths=[1, 9, 10, 11, 12, 37], detail=37,
        config=dict(num_hidden_layers=3, hidden_size=35, num_attention_heads=5,
                    num_key_value_heads=5, intermediate_size=51, vocab_size=53,
                    sliding_window=10, num_memory_tokens=1, global_attn_idx=[1],
                    kv_reuse_group=None, mamba_expand=3, mamba_d_state=7, rope=False,
                    tie_word_embeddings=False)),
    "no_meta_window": dict(
        dtype="bf16", seed=111, lengths=[1, 15, 16, 17, 18, 50, 300], detail=50,
        config=dict(num_hidden_layers=4, hidden_size=32, num_attention_heads=2,
                    num_key_value_heads=1, intermediate_size=53, vocab_size=59,
                    sliding_window=16, num_memory_tokens=0, global_attn_idx=[2],
                    kv_reuse_group=[[0, 1]])),
    "window_one": dict(
        dtype="f32", seed=112, lengths=[1, 2, 3, 4, 40], detail=40,
        config=dict(num_hidden_layers=4, hidden_size=24, num_attention_heads=2,
                    num_key_value_heads=2, intermediate_size=29, vocab_size=63, sliding_window=1,
                    num_memory_tokens=7, global_attn_idx=[], kv_reuse_group=[[0, 1], [2, 3]],
                    mamba_d_state=8, mamba_d_conv=2)),
}

LAYOUT = {
    "pN.input_ids": "[N] int32, the prompt without meta tokens, first id = BOS",
    "pN.logits": "[N, vocab] float32 rounded from float64, one row per prompt token",
    "pN.greedy_ids": "[32] int32, argmax continuation; the last one is not fed",
    "pN.layerI.hidden": "[meta+N, hidden] residual stream after layer I, meta tokens first",
    "pN.layerI.attn_norm / ssm_norm": "[meta+N, d_inner] the stream as fusion reads it: normed by "
                                      "pre_avg_layernorm1 / 2 in a hybrid layer, as it is in a "
                                      "layer with one stream; absent where the stream is",
    "pN.layerI.k_rope": "[meta+N, kv_heads, qk_head_dim] keys after RoPE, producers only",
    "pN.layerI.v": "[meta+N, kv_heads, v_head_dim], producers only",
    "pN.layerI.conv_state": "[d_inner, conv width] last raw SSM inputs, newest last, after the "
                            "prompt; layers with an SSM only",
    "pN.layerI.ssm_state": "[d_inner, d_state] after the last prompt token",
    "pN.final_norm": "[meta+N, hidden]",
}


def write_safetensors(path, tensors):
    codes, header, offset = {"<f4": "F32", "<i4": "I32"}, {}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": codes[value.dtype.str], "shape": list(value.shape),
                        "data_offsets": [offset, offset + value.nbytes]}
        offset += value.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value).tobytes())


def random_prompt(name, length, attempt, vocabulary):
    """BOS, then ids that are none of the special 0, 1, 2."""
    raw = Stream(attempt, f"{name} prompt {length}").generator.random_raw(length)
    ids = (raw % np.uint64(vocabulary - 3) + np.uint64(3)).astype("<i4")
    ids[0] = 1
    return ids


def continue_greedily(model, prompt):
    """Step by step: logits of the prompt, continuation, smallest lead of a best logit."""
    stepper = model.stepper()
    logits = np.array([stepper.feed(token) for token in prompt])
    row, ids, margin = logits[-1], [], np.inf
    while True:
        second, first = np.sort(row)[-2:]
        margin = min(margin, first - second)
        ids.append(int(row.argmax()))
        if len(ids) == N_GREEDY:
            return logits, np.array(ids, "<i4"), margin
        row = stepper.feed(ids[-1])


def find_prompt(model, name, length):
    # There is but one prompt of one token: only its lead can be asked for.
    attempts, distinct = (1, 1) if length == 1 else (1000, MIN_DISTINCT)
    for attempt in range(attempts):
        prompt = random_prompt(name, length, attempt, model.V)
        logits, greedy, margin = continue_greedily(model, prompt)
        if (margin >= MARGIN and model.config["eos_token_id"] not in greedy
                and len(set(greedy.tolist())) >= distinct):
            return attempt, prompt, logits, greedy, margin
    return None


def make_prompt(model, name, length, detail, tensors):
    found = find_prompt(model, name, length)
    if found is None:
        raise SystemExit(f"{name}: no prompt of length {length} is decided enough; change the seed")
    attempt, prompt, stepped, greedy, margin = found
    trace = {}
    logits = model.forward(prompt, trace)
    whole = model.forward(np.concatenate([prompt, greedy[:-1]]))
    difference = max(np.abs(logits - stepped).max(), np.abs(whole[:length] - stepped).max())
    if difference > AGREEMENT:
        raise SystemExit(f"{name}, length {length}: forward and stepper differ by {difference}")
    if not np.array_equal(whole[length - 1:].argmax(-1), greedy):
        raise SystemExit(f"{name}, length {length}: forward and stepper continue differently")
    p = f"p{length}."
    tensors[p + "input_ids"], tensors[p + "greedy_ids"] = prompt, greedy
    tensors[p + "logits"] = logits.astype("<f4")
    if detail:
        for i, record in enumerate(trace["layers"]):
            for key, value in sorted(record.items()):
                tensors[f"{p}layer{i}.{key}"] = value.astype("<f4")
        tensors[p + "final_norm"] = trace["final_norm"].astype("<f4")
    return {"length": length, "attempt": attempt, "greedy_ids": greedy.tolist(),
            "min_top1_top2_margin": float(margin),
            "max_abs_diff_forward_vs_stepper": float(difference),
            "logits_std": float(logits.std())}


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def make_variant(out, name):
    variant = VARIANTS[name]
    config = full_config(max_position_embeddings=1024, orig_max_position_embeddings=256,
                         seq_length=1024, **variant["config"])
    directory = os.path.join(out, name)
    write_model(directory, config, variant["seed"], variant["dtype"],
                aligned=variant.get("aligned", True))
    model, tensors = Hymba(directory), {}
    prompts = [make_prompt(model, name, length, length == variant["detail"], tensors)
               for length in variant["lengths"]]
    path = os.path.join(out, name + ".safetensors")
    write_safetensors(path, tensors)
    files = {n: os.path.join(directory, n) for n in sorted(os.listdir(directory))}
    files[name + ".safetensors"] = path
    manifest = {
        "model_dir": name, "tensors": name + ".safetensors", "weight_dtype": variant["dtype"],
        "weight_seed": variant["seed"], "shards": 1,
        "source": "tests/reference/make_variant_goldens.py: spec_ref.py in float64 on the stored "
                  "weights, rounded to float32",
        "prompts": prompts, "detail_prompt_length": variant["detail"], "layout": LAYOUT,
        "config": model.config, "sha256": {n: sha256(p) for n, p in files.items()},
    }
    with open(os.path.join(out, name + ".json"), "w") as file:
        json.dump(manifest, file, indent=1)
        file.write("\n")
    size = sum(os.path.getsize(p) for p in files.values())
    print(f"{name}: {size:,} bytes, attempts {[p['attempt'] for p in prompts]}, smallest lead "
          f"{min(p['min_top1_top2_margin'] for p in prompts):.4f}, forward against stepper "
          f"{max(p['max_abs_diff_forward_vs_stepper'] for p in prompts):.1e}", flush=True)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    os.makedirs(sys.argv[1], exist_ok=True)
    for name in sys.argv[2:] or VARIANTS:
        make_variant(sys.argv[1], name)


if __name__ == "__main__":
    main()
