"""What config.json says about each layer: its streams, its feed-forward part, whose keys it reads.

Shared by spec_ref.py (computes) and make_model.py (writes random weights). The published fields
and the extension "layer_plan" are described in docs/semantics.md, sections 7 and 13.
"""
import dataclasses
import math

MIXERS = {"hybrid": (True, True), "attention": (True, False), "mamba": (False, True),
          "none": (False, False)}


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    attention: bool
    ssm: bool
    concat: bool   # both streams side by side instead of their mean
    ffn: bool
    full: bool     # no window
    kv_layer: int  # the layer that makes this one's keys and values; -1 without attention


def inner_size(config):
    return int(config.get("mamba_expand", 2) * config["hidden_size"])


def dt_rank(config):
    rank = config["mamba_dt_rank"]
    return math.ceil(config["hidden_size"] / 16) if rank == "auto" else rank


def _entries(config):
    n_layers = config["num_hidden_layers"]
    plan = config.get("layer_plan", {})
    if isinstance(plan, dict):
        plan = [plan] * n_layers
    if len(plan) != n_layers:
        raise ValueError(f"layer_plan has {len(plan)} entries, expected {n_layers}")
    for i, entry in enumerate(plan):
        unknown = set(entry) - {"mixer", "fusion", "ffn"}
        if unknown:
            raise ValueError(f"layer_plan[{i}]: unknown field {sorted(unknown)[0]}")
        if entry.get("mixer", "hybrid") not in MIXERS:
            raise ValueError(f"layer_plan[{i}]: mixer {entry['mixer']}")
        if entry.get("fusion", "mean") not in ("mean", "concat"):
            raise ValueError(f"layer_plan[{i}]: fusion {entry['fusion']}")
        if entry.get("ffn", "swiglu") not in ("swiglu", "none"):
            raise ValueError(f"layer_plan[{i}]: ffn {entry['ffn']}")
    return plan


def _kv_layers(config, attention):
    n_layers = config["num_hidden_layers"]
    kv_layer = [i if attention[i] else -1 for i in range(n_layers)]
    groups = config.get("kv_reuse_group")
    every = config.get("kv_reuse_every_i_layer", -1)
    if groups is not None:
        for group in groups:
            for i in group:
                if not attention[i]:
                    raise ValueError(f"kv_reuse_group {group}: layer {i} has no attention")
                if i < group[0]:
                    raise ValueError(f"kv_reuse_group {group}: layer {i} precedes its producer")
                kv_layer[i] = group[0]
    elif every > 0:
        for i in range(n_layers):
            if attention[i] and not attention[i - i % every]:
                raise ValueError(f"kv_reuse_every_i_layer: layer {i - i % every} has no attention")
            if attention[i]:
                kv_layer[i] = i - i % every
    return kv_layer


def read_plan(config):
    entries = _entries(config)
    n_layers = config["num_hidden_layers"]
    window = config.get("sliding_window")
    full = range(n_layers) if window is None else config["global_attn_idx"]
    attention = [MIXERS[e.get("mixer", "hybrid")][0] for e in entries]
    kv_layer = _kv_layers(config, attention)
    plan = []
    for i, entry in enumerate(entries):
        ssm = MIXERS[entry.get("mixer", "hybrid")][1]
        plan.append(LayerPlan(attention=attention[i], ssm=ssm,
                              concat=attention[i] and ssm and entry.get("fusion") == "concat",
                              ffn=entry.get("ffn", "swiglu") == "swiglu",
                              full=i in full, kv_layer=kv_layer[i]))
    return plan
