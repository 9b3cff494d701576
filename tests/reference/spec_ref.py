#!/usr/bin/env python3
"""Float64 numpy program of docs/semantics.md (section numbers in the comments), variants included.

  model = Hymba(directory); model.forward(ids)        whole sequence at once, training mask
  steps = model.stepper();  steps.feed(id) -> logits  one position at a time, with state

  spec_ref.py check DIRECTORY    computes every stored truth DIRECTORY/NAME.json again and prints
                                 the largest differences; fails above 2e-4 (logits 2e-4, rest 1e-4)

Slow and plain on purpose; it shares no code with the library.
"""
import json
import math
import os
import struct
import sys

import numpy as np

from layer_plan import dt_rank, inner_size, read_plan

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8"}


# ------------------------------------------------------------------------------------------ files
def read_safetensors(path):
    """All tensors of a file; floating-point ones as float64."""
    tensors = {}
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            file.seek(8 + size + begin)
            raw = file.read(end - begin)
            if entry["dtype"] == "BF16":
                values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                values = np.frombuffer(raw, DTYPES[entry["dtype"]])
            if values.dtype.kind == "f":
                values = values.astype(np.float64)
            tensors[name] = values.reshape(entry["shape"])
    return tensors


def read_weights(directory):
    index = os.path.join(directory, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index) as file:
            names = sorted(set(json.load(file)["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    weights = {}
    for name in names:
        weights.update(read_safetensors(os.path.join(directory, name)))
    return weights


# ------------------------------------------------------------------------------------- primitives
def rms(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def silu(x):
    return x / (1.0 + np.exp(-x))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class Layer:
    """Weights of one layer; only those its plan calls for."""

    def __init__(self, model, weights, index):
        plan = self.plan = model.plan[index]
        self.producer = plan.kv_layer == index
        prefix = f"model.layers.{index}."
        mamba = prefix + "mamba."
        if plan.attention or plan.ssm:
            self.input_norm = weights[prefix + "input_layernorm.weight"]
            self._split_in_proj(model, weights[mamba + "in_proj.weight"], index)
            self.out_proj = weights[mamba + "out_proj.weight"]
            width = model.di * (2 if plan.concat else 1)
            assert self.out_proj.shape == (model.H, width), (index, self.out_proj.shape, width)
        if plan.ssm:
            self.conv_weight = weights[mamba + "conv1d.weight"][:, 0, :]
            self.conv_bias = weights[mamba + "conv1d.bias"]
            self.x_proj = weights[mamba + "x_proj.0.weight"]
            self.dt_norm = weights[mamba + "dt_layernorm.weight"]
            self.b_norm = weights[mamba + "B_layernorm.weight"]
            self.c_norm = weights[mamba + "C_layernorm.weight"]
            self.dt_weight = weights[mamba + "dt_proj.0.weight"]
            self.dt_bias = weights[mamba + "dt_proj.0.bias"]
            self.a = -np.exp(weights[mamba + "A_log.0"])
            self.d = weights[mamba + "D.0"]
        if plan.attention and plan.ssm:
            self.attention_norm = weights[mamba + "pre_avg_layernorm1.weight"]
            self.ssm_norm = weights[mamba + "pre_avg_layernorm2.weight"]
        if plan.ffn:
            self.ffn_norm = weights[prefix + "pre_moe_layernorm.weight"]
            expert = prefix + "moe.experts.0."
            self.gate = weights[expert + "gate_proj.weight"]
            self.up = weights[expert + "up_proj.weight"]
            self.down = weights[expert + "down_proj.weight"]

    def _split_in_proj(self, model, matrix, index):
        """Section 2: rows q | k | v | x | z, of which a layer has those it needs."""
        parts = []
        if self.plan.attention:
            parts.append(("wq", model.H))
        if self.producer:
            parts += [("wk", model.nkv * model.hd), ("wv", model.nkv * model.vd)]
        if self.plan.ssm:
            parts += [("wx", model.di), ("wz", model.di)]
        assert matrix.shape == (sum(n for _, n in parts), model.H), (index, matrix.shape, parts)
        row = 0
        for name, n in parts:
            setattr(self, name, matrix[row:row + n])
            row += n


class Hymba:
    def __init__(self, directory):
        with open(os.path.join(directory, "config.json")) as file:
            c = self.config = json.load(file)
        weights = read_weights(directory)
        # Section 1: sizes.
        self.V, self.H, self.L = c["vocab_size"], c["hidden_size"], c["num_hidden_layers"]
        self.nq, self.nkv = c["num_attention_heads"], c["num_key_value_heads"]
        self.hd = self.H // self.nq
        self.di = inner_size(c)
        self.vd = self.di // self.nq
        self.N, self.R, self.K = c["mamba_d_state"], dt_rank(c), c["mamba_d_conv"]
        self.eps = c["rms_norm_eps"]
        self.meta = c.get("num_memory_tokens", 0)
        self.window = c.get("sliding_window")
        self.plan = read_plan(c)
        self.inv_freq = self._inv_freq() if c.get("rope", False) else None
        self.embedding = weights["model.embed_tokens.weight"]
        self.memory_tokens = (weights["model.memory_tokens"] if self.meta
                              else np.zeros((0, self.H)))
        self.final_norm = weights["model.final_layernorm.weight"]
        self.head = self.embedding if c["tie_word_embeddings"] else weights["lm_head.weight"]
        self.layers = [Layer(self, weights, i) for i in range(self.L)]

    def _inv_freq(self):
        """Section 5."""
        c, d = self.config, self.hd
        base = float(c.get("rope_theta", 10000.0))
        kind = c.get("rope_type")
        if kind == "ntk":
            stretch = 2.0 * c["max_position_embeddings"] / c["orig_max_position_embeddings"] - 1.0
            base = base * stretch ** (d / (d - 2))
        elif kind not in (None, "default"):
            raise NotImplementedError(kind)
        return 1.0 / base ** (np.arange(0, d, 2) / d)

    def rope(self, x, positions):
        """x [T, heads, hd], positions [T]. Pairs are (j, j + hd/2)."""
        if self.inv_freq is None:
            return x
        angle = np.asarray(positions, np.float64)[:, None] * self.inv_freq
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        half = self.hd // 2
        low, high = x[..., :half], x[..., half:]
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    def visible(self, layer, q, k):
        """Section 6: may a query at absolute position q see a key at absolute position k?"""
        if self.plan[layer].full:
            return k <= q
        return (k <= q) & ((q - k <= self.window) | (k < self.meta))

    # --------------------------------------------------------------------------- the whole at once
    def _attention(self, index, layer, u, cache):
        T = u.shape[0]
        positions = np.arange(T)
        q = self.rope((u @ layer.wq.T).reshape(T, self.nq, self.hd), positions)
        if layer.producer:
            k = self.rope((u @ layer.wk.T).reshape(T, self.nkv, self.hd), positions)
            cache[index] = k, (u @ layer.wv.T).reshape(T, self.nkv, self.vd)
        k, v = cache[layer.plan.kv_layer]
        keep = self.visible(index, positions[:, None], positions[None, :])
        out = np.empty((T, self.nq, self.vd))
        per_kv = self.nq // self.nkv
        for h in range(self.nq):
            scores = q[:, h] @ k[:, h // per_kv].T / math.sqrt(self.hd)
            out[:, h] = softmax(np.where(keep, scores, -np.inf)) @ v[:, h // per_kv]
        return out.reshape(T, self.di)

    def _ssm(self, layer, u, record):
        T, R, N = u.shape[0], self.R, self.N
        raw, z = u @ layer.wx.T, u @ layer.wz.T
        padded = np.concatenate([np.zeros((self.K, self.di)), raw])
        c = sum(padded[j + 1:j + 1 + T] * layer.conv_weight[:, j] for j in range(self.K))
        c = silu(c + layer.conv_bias)
        r = c @ layer.x_proj.T
        dt = softplus(rms(r[:, :R], layer.dt_norm, self.eps) @ layer.dt_weight.T + layer.dt_bias)
        b = rms(r[:, R:R + N], layer.b_norm, self.eps)
        c_out = rms(r[:, R + N:], layer.c_norm, self.eps)
        state = np.zeros((self.di, N))
        out = np.empty((T, self.di))
        for t in range(T):
            state = np.exp(dt[t][:, None] * layer.a) * state + (dt[t] * c[t])[:, None] * b[t]
            out[t] = state @ c_out[t] + layer.d * c[t]
        record["conv_state"], record["ssm_state"] = padded[T:].T, state
        return out * silu(z)

    def _mixer(self, index, layer, x, cache, record):
        plan = layer.plan
        u = rms(x, layer.input_norm, self.eps)
        if plan.attention:
            attention = self._attention(index, layer, u, cache)
        if plan.ssm:
            ssm = self._ssm(layer, u, record)
        if plan.attention and plan.ssm:
            attention = rms(attention, layer.attention_norm, self.eps)
            ssm = rms(ssm, layer.ssm_norm, self.eps)
            mixed = (np.concatenate([attention, ssm], axis=-1) if plan.concat
                     else (attention + ssm) / 2)
        else:
            mixed = attention if plan.attention else ssm
        if plan.attention:
            record["attn_norm"] = attention
            if layer.producer:
                record["k_rope"], record["v"] = cache[index]
        if plan.ssm:
            record["ssm_norm"] = ssm
        return mixed @ layer.out_proj.T

    def forward(self, ids, trace=None):
        """Logits [len(ids), V] of a prompt without meta tokens. trace, a dict, receives "layers"
        (one dict of arrays per layer) and "final_norm", meta tokens first."""
        x = np.concatenate([self.memory_tokens, self.embedding[np.asarray(ids, int)]])
        cache, records = {}, []
        for index, layer in enumerate(self.layers):
            record = {}
            if layer.plan.attention or layer.plan.ssm:
                x = x + self._mixer(index, layer, x, cache, record)
            if layer.plan.ffn:
                u = rms(x, layer.ffn_norm, self.eps)
                x = x + (silu(u @ layer.gate.T) * (u @ layer.up.T)) @ layer.down.T
            record["hidden"] = x
            records.append(record)
        f = rms(x, self.final_norm, self.eps)
        if trace is not None:
            trace["layers"], trace["final_norm"] = records, f
        return f[self.meta:] @ self.head.T

    def stepper(self):
        return Stepper(self)


# ------------------------------------------------------------------------------------ step by step
class Stepper:
    """One sequence with its state; the meta tokens are fed at construction (section 8).

    Per producer: the meta keys and values are pinned; the others lie in a ring of window + 1
    entries (the window's and the current one), or all stay if any reader is a full layer. Per
    layer with an SSM: K-1 raw convolution inputs and the state.
    """

    def __init__(self, model):
        self.model, self.position = model, 0
        self.rings = {}
        for i, plan in enumerate(model.plan):
            if plan.kv_layer == i:
                full = any(p.full for p in model.plan if p.kv_layer == i)
                self.rings[i] = dict(size=None if full else model.window + 1, meta=[], slots={})
        self.conv = [np.zeros((model.K - 1, model.di)) for _ in model.plan]
        self.ssm = [np.zeros((model.di, model.N)) for _ in model.plan]
        for row in model.memory_tokens:
            self._step(row)

    def feed(self, token):
        model = self.model
        x = self._step(model.embedding[int(token)])
        return model.head @ rms(x, model.final_norm, model.eps)

    def _store(self, index, k, v):
        ring, entry = self.rings[index], (self.position, k, v)
        if self.position < self.model.meta:
            ring["meta"].append(entry)
        else:
            n = self.position - self.model.meta
            ring["slots"][n if ring["size"] is None else n % ring["size"]] = entry

    def _attention(self, index, layer, u):
        m, p = self.model, self.position
        q = m.rope((layer.wq @ u).reshape(1, m.nq, m.hd), [p])[0]
        if layer.producer:
            k = m.rope((layer.wk @ u).reshape(1, m.nkv, m.hd), [p])[0]
            self._store(index, k, (layer.wv @ u).reshape(m.nkv, m.vd))
        ring = self.rings[layer.plan.kv_layer]
        entries = [e for e in ring["meta"] + list(ring["slots"].values())
                   if m.visible(index, p, e[0])]
        keys, values = np.stack([e[1] for e in entries]), np.stack([e[2] for e in entries])
        out = np.empty((m.nq, m.vd))
        for h in range(m.nq):
            g = h // (m.nq // m.nkv)
            out[h] = softmax(keys[:, g] @ q[h] / math.sqrt(m.hd)) @ values[:, g]
        return out.reshape(-1)

    def _ssm(self, index, layer, u):
        m = self.model
        raw, z = layer.wx @ u, layer.wz @ u
        taps = np.concatenate([self.conv[index], raw[None]])
        c = silu((taps.T * layer.conv_weight).sum(-1) + layer.conv_bias)
        self.conv[index] = taps[1:]
        r = layer.x_proj @ c
        dt = softplus(layer.dt_weight @ rms(r[:m.R], layer.dt_norm, m.eps) + layer.dt_bias)
        b = rms(r[m.R:m.R + m.N], layer.b_norm, m.eps)
        c_out = rms(r[m.R + m.N:], layer.c_norm, m.eps)
        decay = np.exp(dt[:, None] * layer.a)
        self.ssm[index] = decay * self.ssm[index] + (dt * c)[:, None] * b
        return (self.ssm[index] @ c_out + layer.d * c) * silu(z)

    def _mixer(self, index, layer, x):
        eps, plan = self.model.eps, layer.plan
        u = rms(x, layer.input_norm, eps)
        if not plan.ssm:
            return layer.out_proj @ self._attention(index, layer, u)
        if not plan.attention:
            return layer.out_proj @ self._ssm(index, layer, u)
        attention = rms(self._attention(index, layer, u), layer.attention_norm, eps)
        ssm = rms(self._ssm(index, layer, u), layer.ssm_norm, eps)
        if plan.concat:
            return layer.out_proj @ np.concatenate([attention, ssm])
        return layer.out_proj @ (0.5 * (attention + ssm))

    def _step(self, x):
        for index, layer in enumerate(self.model.layers):
            if layer.plan.attention or layer.plan.ssm:
                x = x + self._mixer(index, layer, x)
            if layer.plan.ffn:
                u = rms(x, layer.ffn_norm, self.model.eps)
                x = x + layer.down @ (silu(layer.gate @ u) * (layer.up @ u))
        self.position += 1
        return x


# ------------------------------------------------------------------------------------------- check
def check_one(directory, name):
    """Largest differences from one stored truth: of the logits, of the other tensors."""
    with open(os.path.join(directory, name + ".json")) as file:
        manifest = json.load(file)
    truth = read_safetensors(os.path.join(directory, manifest["tensors"]))
    model = Hymba(os.path.join(directory, manifest["model_dir"]))
    logits, rest, greedy = 0.0, 0.0, True
    for prompt in manifest["prompts"]:
        p = f"p{prompt['length']}."
        ids, continuation, trace = truth[p + "input_ids"], truth[p + "greedy_ids"], {}
        got = model.forward(ids, trace)
        logits = max(logits, np.abs(got - truth[p + "logits"]).max())
        rows = model.forward(np.concatenate([ids, continuation[:-1]]))[len(ids) - 1:]
        greedy = greedy and bool((rows.argmax(-1) == continuation).all())
        computed = {p + "final_norm": trace["final_norm"]}
        for i, record in enumerate(trace["layers"]):
            computed.update({f"{p}layer{i}.{key}": value for key, value in record.items()})
        for key, expected in truth.items():
            if key.startswith(p + "layer") or key == p + "final_norm":
                rest = max(rest, np.abs(computed[key] - expected).max())
    return logits, rest, greedy


def main():
    if len(sys.argv) != 3 or sys.argv[1] != "check":
        sys.exit(__doc__)
    directory, failed = sys.argv[2], False
    for entry in sorted(os.listdir(directory)):
        if not entry.endswith(".json"):
            continue
        logits, rest, greedy = check_one(directory, entry[:-5])
        good = logits <= 2e-4 and rest <= 1e-4 and greedy
        failed = failed or not good
        print(f"{entry[:-5]}: logits {logits:.2e}, others {rest:.2e}, greedy continuations "
              f"{'equal' if greedy else 'DIFFER'}{'' if good else '  FAILED'}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
