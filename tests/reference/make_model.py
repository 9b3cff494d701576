#!/usr/bin/env python3
"""Writes a Hymba model directory in the published layout with repeatable random weights.

Needs numpy only. For one configuration, seed and dtype every tensor is the same to the bit,
however the model is sharded: a tensor draws from its own Philox stream, keyed by the SHA-256 of
seed and name; the raw words become a sum of four uniform 16-bit integers (no libm), which is then
scaled in float32 and rounded to nearest even.

  make_model.py OUT --preset 1.5b --dtype bf16 --seed 1
  make_model.py OUT --preset tiny --dtype f32 --shards 3 --set num_hidden_layers=8
  make_model.py OUT --set 'layer_plan={"mixer": "attention"}'

--dtype mixed stores matrices as bf16, embeddings as f16 and everything else as f32.
"""
import argparse
import hashlib
import json
import math
import os
import shutil
import struct

import numpy as np

from layer_plan import dt_rank, inner_size, read_plan

PRESETS = {
    "tiny": dict(vocab_size=512, hidden_size=128, num_hidden_layers=8, num_attention_heads=2,
                 num_key_value_heads=1, intermediate_size=192, sliding_window=32,
                 num_memory_tokens=8, max_position_embeddings=1024,
                 orig_max_position_embeddings=256, seq_length=1024, global_attn_idx=[0, 3, 7]),
    "125m": dict(hidden_size=512, num_hidden_layers=24, num_attention_heads=8,
                 num_key_value_heads=4, intermediate_size=1664),
    "350m": dict(hidden_size=768, num_hidden_layers=32, num_attention_heads=12,
                 num_key_value_heads=4, intermediate_size=2432),
    "1.5b": dict(hidden_size=1600, num_hidden_layers=32, num_attention_heads=25,
                 num_key_value_heads=5, intermediate_size=5504),
}


# ---------------------------------------------------------------------------------- configuration
def full_config(**over):
    """The published config.json field set; anything can be overridden by name."""
    c = dict(
        architectures=["HymbaForCausalLM"], attention_dropout=0.0, attn_hidden_size=-1,
        attn_implementation="flex", attn_implementation_new="flex",
        auto_map={"AutoConfig": "configuration_hymba.HymbaConfig",
                  "AutoModelForCausalLM": "modeling_hymba.HymbaForCausalLM"},
        bos_token_id=1, calc_logits_for_entire_prompt=False, eos_token_id=2,
        hidden_act="silu", hidden_size=1600, initializer_range=0.02, intermediate_size=5504,
        kq_head_dim=-1, kq_norm="none", kv_reuse_every_i_layer=-1, kv_weight_reuse=False,
        mamba_conv_bias=True, mamba_d_conv=4, mamba_d_state=16, mamba_expand=2,
        mamba_inner_layernorms=True, mamba_proj_bias=False, max_position_embeddings=8192,
        memory_tokens_interspersed_every=0, mlp_hidden_act="silu", model_type="hymba",
        num_attention_heads=25, num_experts=1, num_experts_per_tok=1, num_hidden_layers=32,
        num_key_value_heads=5, num_mamba=1, num_memory_tokens=128,
        orig_max_position_embeddings=2048, output_router_logits=False, pad_token_id=0,
        rms_norm_eps=1e-6, rope=True, rope_theta=10000.0, rope_type="ntk",
        router_aux_loss_coef=0.001, seq_length=8192, sliding_window=1024,
        tie_word_embeddings=True, torch_dtype="bfloat16", transformers_version="4.44.0",
        use_cache=False, use_mamba_kernels=True, vocab_size=32001)
    c.update(over)
    n = c["num_hidden_layers"]
    c.setdefault("global_attn_idx", sorted({0, max(n // 2 - 1, 0), n - 1}))
    if "kv_reuse_group" not in c:
        c["kv_reuse_group"] = default_groups(c)
    c.setdefault("mamba_dt_rank", math.ceil(c["hidden_size"] / 16))
    c.setdefault("v_head_dim", inner_size(c) // c["num_attention_heads"])
    c.setdefault("conv_dim", {str(i): inner_size(c) for i in range(n)})
    c.setdefault("layer_type", ["h"] * n)
    return dict(sorted(c.items()))


def default_groups(config):
    """Pairs of neighbouring sliding layers; a run of odd length starts with a triple. This gives
    the published 1.5B list for 32 layers of which 0, 15 and 31 are full."""
    if config["kv_reuse_every_i_layer"] > 0:
        return None
    plan = read_plan({**config, "kv_reuse_group": None})
    runs = [[]]
    for i, layer in enumerate(plan):
        if layer.attention and not layer.full:
            runs[-1].append(i)
        else:
            runs.append([])
    groups = []
    for run in runs:
        if len(run) >= 3 and len(run) % 2:
            groups.append(run[:3])
            run = run[3:]
        groups += [run[k:k + 2] for k in range(0, len(run) - 1, 2)]
    return groups


def tensor_list(c):
    """(name, shape, kind, scale) of every tensor, in a fixed order (docs/semantics.md, sections 2
    and 13)."""
    H, E, V = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    nq, nkv, L = c["num_attention_heads"], c["num_key_value_heads"], c["num_hidden_layers"]
    di = inner_size(c)
    hd, vd = H // nq, di // nq
    R, N, K = dt_rank(c), c["mamba_d_state"], c["mamba_d_conv"]
    embedding = 3.0 / math.sqrt(H)
    residual = 1.0 / math.sqrt(2 * L)
    out = [("model.embed_tokens.weight", (V, H), "normal", embedding)]
    if c["num_memory_tokens"] > 0:
        out.append(("model.memory_tokens", (c["num_memory_tokens"], H), "normal", embedding))
    for i, layer in enumerate(read_plan(c)):
        p, m, e = (f"model.layers.{i}{s}" for s in (".", ".mamba.", ".moe.experts.0."))
        rows = width = 0
        if layer.attention:
            rows += H + (nkv * (hd + vd) if layer.kv_layer == i else 0)
            width += di
        if layer.ssm:
            rows += 2 * di
            width = width + di if layer.concat else di
        if rows:
            out.append((p + "input_layernorm.weight", (H,), "near1", 0.1))
        if layer.ffn:
            out.append((p + "pre_moe_layernorm.weight", (H,), "near1", 0.1))
        if rows:
            out.append((m + "in_proj.weight", (rows, H), "normal", 1.2 / math.sqrt(H)))
        if layer.ssm:
            out += [
                (m + "conv1d.weight", (di, 1, K), "normal", 0.5),
                (m + "conv1d.bias", (di,), "normal", 0.1),
                (m + "x_proj.0.weight", (R + 2 * N, di), "normal", 1.0 / math.sqrt(di)),
                (m + "dt_layernorm.weight", (R,), "near1", 0.1),
                (m + "B_layernorm.weight", (N,), "near1", 0.1),
                (m + "C_layernorm.weight", (N,), "near1", 0.1),
                (m + "dt_proj.0.weight", (di, R), "normal", 0.6 / math.sqrt(R)),
                (m + "dt_proj.0.bias", (di,), "dtbias", 0.0),
                (m + "A_log.0", (di, N), "alog", 0.1),
                (m + "D.0", (di,), "near1", 0.2),
            ]
        if layer.attention and layer.ssm:
            out += [(m + "pre_avg_layernorm1.weight", (di,), "near1", 0.1),
                    (m + "pre_avg_layernorm2.weight", (di,), "near1", 0.1)]
        if rows:
            out.append((m + "out_proj.weight", (H, width), "normal",
                        1.5 * residual / math.sqrt(width)))
        if layer.ffn:
            out += [
                (e + "gate_proj.weight", (E, H), "normal", 1.0 / math.sqrt(H)),
                (e + "up_proj.weight", (E, H), "normal", 1.0 / math.sqrt(H)),
                (e + "down_proj.weight", (H, E), "normal", 2.0 * residual / math.sqrt(E)),
            ]
    out.append(("model.final_layernorm.weight", (H,), "near1", 0.1))
    if not c["tie_word_embeddings"]:
        out.append(("lm_head.weight", (V, H), "normal", embedding))
    return out


# ----------------------------------------------------------------------------------------- values
SQRT3 = np.float32(1.7320508)


class Stream:
    def __init__(self, seed, name):
        digest = hashlib.sha256(f"{seed}|{name}".encode()).digest()
        self.generator = np.random.Philox(key=int.from_bytes(digest[:16], "little"))

    def unit(self, n):
        """n float32 values of mean 0 and variance 1: sums of four uint16, exact integers."""
        raw = self.generator.random_raw(n)
        mask = np.uint64(0xFFFF)
        total = sum((raw >> np.uint64(shift)) & mask for shift in (0, 16, 32, 48))
        return (total.astype(np.float32) * np.float32(1 / 65536.0) - np.float32(2)) * SQRT3


def chunks(name, shape, kind, scale, seed, step=1 << 22):
    """The tensor's values as float32 arrays of at most step elements."""
    n = math.prod(shape)
    stream = Stream(seed, name)
    for begin in range(0, n, step):
        end = min(n, begin + step)
        u = stream.unit(end - begin)
        if kind == "normal":
            x = u * np.float32(scale)
        elif kind == "near1":
            x = np.float32(1) + u * np.float32(scale)
        elif kind == "alog":
            column = np.arange(begin, end) % shape[-1]
            x = np.log(1.0 + column).astype(np.float32) + u * np.float32(scale)
        elif kind == "dtbias":
            # The inverse of softplus at a time step spread evenly, on a log scale, over 1e-3..0.1.
            t = np.clip((u.astype(np.float64) / float(SQRT3) + 2) / 4, 0, 1)
            dt = np.exp(np.log(1e-3) + t * (np.log(0.1) - np.log(1e-3)))
            x = (dt + np.log(-np.expm1(-dt))).astype(np.float32)
        else:
            raise ValueError(kind)
        yield x.astype(np.float32)


# ------------------------------------------------------------------------------------------ files
WIDTH = {"f32": 4, "f16": 2, "bf16": 2}
CODE = {"f32": "F32", "f16": "F16", "bf16": "BF16"}
TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "mixed": "bfloat16"}


def encode(x, dtype):
    if dtype == "f32":
        return x.astype("<f4").tobytes()
    if dtype == "f16":
        return x.astype("<f2").tobytes()
    bits = x.astype("<f4").view("<u4")
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype("<u2").tobytes()


def tensor_dtype(tensor, dtype):
    name, _, kind, _ = tensor
    if dtype != "mixed":
        return dtype
    if name in ("model.embed_tokens.weight", "model.memory_tokens", "lm_head.weight"):
        return "f16"
    return "bf16" if name.endswith("_proj.weight") or name.endswith("_proj.0.weight") else "f32"


def tensor_bytes(tensor, dtype):
    return math.prod(tensor[1]) * WIDTH[tensor_dtype(tensor, dtype)]


def write_file(path, tensors, dtype, seed, aligned=True):
    if aligned:
        # Wide elements first: then each tensor lies aligned whatever the sizes before it.
        tensors = sorted(tensors, key=lambda t: -WIDTH[tensor_dtype(t, dtype)])
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        size = tensor_bytes(tensor, dtype)
        header[tensor[0]] = {"dtype": CODE[tensor_dtype(tensor, dtype)], "shape": list(tensor[1]),
                             "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors:
            for x in chunks(*tensor, seed):
                file.write(encode(x, tensor_dtype(tensor, dtype)))


def write_json(path, value):
    with open(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def shard(tensors, n_shards, dtype):
    total, done, parts = sum(tensor_bytes(t, dtype) for t in tensors), 0, [[]]
    for tensor in tensors:
        size = tensor_bytes(tensor, dtype)
        full = done + size / 2 > total * len(parts) / n_shards
        if parts[-1] and full and len(parts) < n_shards:
            parts.append([])
        parts[-1].append(tensor)
        done += size
    return parts


def write_model(out, config, seed=0, dtype="bf16", shards=1, tokenizer_from=None, aligned=True):
    os.makedirs(out, exist_ok=True)
    config = dict(config, torch_dtype=TORCH[dtype])
    write_json(os.path.join(out, "config.json"), config)
    write_json(os.path.join(out, "generation_config.json"),
               {"_from_model_config": True, "bos_token_id": config["bos_token_id"],
                "eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"],
                "transformers_version": "4.44.0", "use_cache": False})
    tensors = tensor_list(config)
    total = sum(tensor_bytes(t, dtype) for t in tensors)
    if shards <= 1:
        write_file(os.path.join(out, "model.safetensors"), tensors, dtype, seed, aligned)
    else:
        parts, weight_map = shard(tensors, shards, dtype), {}
        for k, part in enumerate(parts):
            name = f"model-{k + 1:05d}-of-{len(parts):05d}.safetensors"
            write_file(os.path.join(out, name), part, dtype, seed, aligned)
            weight_map.update({t[0]: name for t in part})
        write_json(os.path.join(out, "model.safetensors.index.json"),
                   {"metadata": {"total_size": total}, "weight_map": weight_map})
    if tokenizer_from:
        for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json",
                     "special_tokens_map.json", "added_tokens.json"):
            source = os.path.join(tokenizer_from, name)
            if os.path.exists(source):
                shutil.copyfile(source, os.path.join(out, name))
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--preset", choices=sorted(PRESETS), default="tiny")
    parser.add_argument("--dtype", choices=["bf16", "f16", "f32", "mixed"], default="bf16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--tokenizer-from", metavar="DIRECTORY")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON")
    arguments = parser.parse_args()
    over = dict(PRESETS[arguments.preset])
    for assignment in arguments.set:
        field, value = assignment.split("=", 1)
        over[field] = json.loads(value)
    config = full_config(**over)
    total = write_model(arguments.out, config, arguments.seed, arguments.dtype, arguments.shards,
                        arguments.tokenizer_from)
    n = sum(math.prod(t[1]) for t in tensor_list(config))
    print(f"{arguments.out}: {n:,} parameters, {total:,} bytes, dtype {arguments.dtype}, "
          f"seed {arguments.seed}")


if __name__ == "__main__":
    main()
