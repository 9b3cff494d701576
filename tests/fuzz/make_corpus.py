#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets into tests/fuzz/corpus, from our own tiny data. Inputs that
fuzzing has found are kept there beside them under names that begin with "found_"."""

import json
import os
import struct

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
CORPUS = os.path.join(ROOT, "tests", "fuzz", "corpus")
MARK = "\u2581"


def write(target, name, data):
    folder = os.path.join(CORPUS, target)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)


def read(path):
    with open(os.path.join(ROOT, path), "rb") as file:
        return file.read()


# ---------------------------------------------------------------- formats

def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def piece(text, score, kind):
    return field(1, field(1, text.encode()) + field(2, float(score)) + field(3, kind))


def tokenizer_model(words=("a", "b", MARK, "ab", MARK + "a", "on", "ce", "once")):
    out = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3)
    for byte in range(256):
        out += piece("<0x%02X>" % byte, 0, 6)
    for i, word in enumerate(words):
        out += piece(word, -i, 1)
    out += field(2, field(3, 2) + field(35, 1))
    return out + field(3, field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1))


def tokenizer_json():
    whole = json.loads(read("examples/demo/tokenizer.json"))
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary["<0x%02X>" % byte] = 3 + byte
    for text in ("a", "b", MARK, "ab", MARK + "a"):
        vocabulary[text] = len(vocabulary)
    whole["model"]["vocab"] = vocabulary
    whole["model"]["merges"] = ["a b", MARK + " a"]
    return whole


# ---------------------------------------------------------------- targets

def config():
    for name in ("no_rope", "window_one", "sequence", "mixed_plan"):
        write("config", name + ".json", read("tests/data/variants/%s/config.json" % name))
    quantised = json.loads(read("tests/data/variants/no_rope/config.json"))
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group",
               "group_size": 32, "dynamic": False, "actorder": None}
    quantised["quantization_config"] = {
        "quant_method": "compressed-tensors", "format": "pack-quantized",
        "quantization_status": "compressed", "ignore": [], "kv_cache_scheme": None,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
                                      "input_activations": None, "output_activations": None}}}
    write("config", "quantised.json", json.dumps(quantised))


def tensors():
    one = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}
    two = dict(one, b={"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
               c={"dtype": "I64", "shape": [], "data_offsets": [32, 40]})
    write("safetensors", "one", safetensors(one, bytes(24)))
    write("safetensors", "three", safetensors(dict(two, __metadata__={"format": "pt"}), bytes(40)))
    write("safetensors", "none", safetensors({}))
    write("safetensors", "empty_tensor",
          safetensors({"a": {"dtype": "F4", "shape": [0], "data_offsets": [0, 0]}}))


def shard_index():
    data = read("tests/data/variants/no_rope/model.safetensors")
    size = struct.unpack("<Q", data[:8])[0]
    names = [name for name in json.loads(data[8:8 + size]) if name != "__metadata__"]
    whole = {"metadata": {"total_size": len(data)},
             "weight_map": {name: "a.safetensors" for name in names}}
    write("shard_index", "whole", json.dumps(whole))
    write("shard_index", "two", '{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}')
    write("shard_index", "missing", '{"weight_map": {"a": "c.safetensors"}}')


def tokenizers():
    write("tokenizer_model", "whole", tokenizer_model())
    write("tokenizer_model", "few", piece("<unk>", 0, 2) + piece("a", 0, 1))
    settings = json.loads(read("examples/demo/tokenizer_config.json"))
    settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    settings["added_tokens_decoder"] = {"1": {"content": "<s>", "special": True}}
    whole = json.dumps(tokenizer_json(), ensure_ascii=False)
    write("tokenizer_json", "whole", whole)
    write("tokenizer_json", "with_config", whole + "\n=====\n" + json.dumps(settings))


def templates():
    """Every thirtieth case of the template tests."""
    variables = {}
    with open(os.path.join(ROOT, "tests/data/template_cases.jsonl"), encoding="utf-8") as file:
        cases = [json.loads(line) for line in file]
    for case in cases:
        if "name" in case:
            variables[case["name"]] = case["variables"]
    for number, case in enumerate(cases):
        if "template" in case and number % 30 == 2:
            text = case["template"]
            if number % 60 == 2:
                text += "\n=====\n" + json.dumps(variables.get(case["variables"], {}))
            write("chat_template", "case_%03d" % number, text)


def change(kind, chunk, *values):
    return bytes([kind, chunk]) + b"".join(values)


def saved_sessions():
    """Lists of changes (test_saved_session.c): SET is 0, ADD 1, CUT 2, GROW 3, CLAIM 4, ..."""
    number = struct.pack
    write("saved_session", "short", b"\2\0")
    write("saved_session", "slid", b"\2\1")
    write("saved_session", "other_limits", b"\5\0")
    for place in range(0, 140, 8):
        write("saved_session", "parameter_%03d" % place,
              b"\2\0" + change(1, 0, b"\3", number("<HQ", place, 1)))
    for chunk in range(7):
        write("saved_session", "claim_%d" % chunk,
              b"\2\0" + change(4, chunk, number("<Q", (1 << 63) - 1)))
        write("saved_session", "drop_%d" % chunk, b"\2\1" + change(5, chunk))
        write("saved_session", "state_%d" % chunk,
              b"\2\1" + change(0, chunk, b"\3", number("<HQ", 8 * chunk, 1 << 40)))
    write("saved_session", "header", b"\0HYMBASAV\4\3\2\1" + number("<I", 1))


def histories():
    write("tokens", "append", bytes([0, 7, 4, 17, 0, 5, 1, 2, 3, 4, 5, 1, 17, 0, 40, 3, 2]))
    write("tokens", "fork_and_batch",
          bytes([1, 15, 4, 17, 0, 40, 3, 1, 4, 0, 1, 0, 2, 0, 3, 1, 2, 3, 1, 1, 2, 8, 9, 2]))
    write("tokens", "snapshot_and_rewind",
          bytes([2, 3, 0, 17, 0, 33, 1, 1, 5, 0, 4, 17, 0, 50, 9, 1, 7, 0, 33, 0, 0, 7, 0, 20, 0,
                 1]))
    write("tokens", "save", bytes([3, 3, 5, 11, 0, 1, 32, 3, 99, 9, 20, 5, 17, 0, 9, 1, 2, 3, 4,
                                   5, 6, 7, 8, 9, 1, 12, 0, 0, 9, 0, 12, 0, 1]))
    write("tokens", "no_memory", bytes([4, 3, 5, 15, 0, 4, 17, 0, 40, 3, 1, 15, 0, 33, 4, 0, 9, 0,
                                        5, 0, 3]))


if __name__ == "__main__":
    config()
    tensors()
    shard_index()
    tokenizers()
    templates()
    saved_sessions()
    histories()
