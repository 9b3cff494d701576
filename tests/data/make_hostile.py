#!/usr/bin/env python3
"""Writes tests/data/hostile: one folder for each flaw that public loaders are known to have.

A folder holds the files that are wrong; what a model needs besides comes from the golden model
"variants/no_rope", and what a tokenizer needs is there. cases.tsv says of each folder what opens
it (model, tokenizer, or chat: the tokenizer opens, and rendering fails), the status, and the words
that the sentence must hold. Run it in this folder; it needs nothing but Python.
"""
import json
import os
import shutil
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "hostile")
BASE = os.path.join(HERE, "variants", "no_rope")
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

cases = []


def case(name, kind, status, words, **files):
    """Keyword arguments are the wrong files, by their names in FILES."""
    folder = os.path.join(OUT, name)
    os.makedirs(folder)
    for key, content in files.items():
        path = os.path.join(folder, FILES[key])
        with open(path, "wb") as out:
            out.write(content if isinstance(content, bytes) else content.encode())
    cases.append([name, kind, status] + words)


FILES = {
    "config": "config.json",
    "weights": "model.safetensors",
    "index": "model.safetensors.index.json",
    "model": "tokenizer.model",
    "tokens": "tokenizer.json",
    "settings": "tokenizer_config.json",
}

# ------------------------------------------------------------------ weights


def container(header, data=b"", length=None):
    text = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return '{"dtype":%s,"shape":%s,"data_offsets":[%s,%s]}' % (
        json.dumps(dtype), json.dumps(shape).replace(" ", ""), begin, end)


def tensors(**entries):
    return "{%s}" % ",".join('"%s":%s' % item for item in entries.items())


def weights(name, status, words, *arguments, **keywords):
    case(name, "model", status, ["model.safetensors"] + words,
         weights=container(*arguments, **keywords))


def write_weights():
    weights("count_product_wraps_to_zero", "FORMAT", ["tensor big", "product of its shape"],
            tensors(big=entry([2**32, 2**32], 0, 0)))
    weights("count_product_wraps_to_little", "FORMAT", ["tensor big", "product of its shape"],
            tensors(big=entry([2**62, 2, 2, 3], 0, 12)), bytes(12))
    weights("count_times_element_size_wraps", "FORMAT",
            ["tensor big", "4611686018427387904 elements", "do not fit 64 bits"],
            tensors(big=entry([2**62], 0, 0)))
    weights("count_times_wide_elements_wraps", "FORMAT",
            ["tensor big", "elements of type F64", "do not fit 64 bits"],
            tensors(big=entry([2**58 + 1], 0, 8, "F64")), bytes(8))
    weights("range_past_the_end", "FORMAT", ["tensor late", "end at 64", "holds 16 bytes"],
            tensors(late=entry([16], 0, 64)), bytes(16))
    weights("range_begins_past_the_end", "FORMAT", ["tensor late", "holds 16 bytes"],
            tensors(first=entry([4], 0, 16), late=entry([4], 4096, 4112)), bytes(16))
    weights("range_at_the_end_of_numbers", "FORMAT", ["tensor late", "9223372036854775807"],
            tensors(late=entry([4], 2**63 - 17, 2**63 - 1)), bytes(16))
    weights("range_beyond_64_bits", "FORMAT", ["model.safetensors", "integer"],
            tensors(late=entry([4], 2**64, 2**64 + 16)), bytes(16))
    weights("range_backwards", "FORMAT", ["tensor back", "before their beginning"],
            tensors(back=entry([0], 8, 0)), bytes(8))
    weights("range_of_three", "FORMAT", ["tensor odd", "expected an array of 2"],
            '{"odd":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', bytes(4))
    weights("element_type_unknown", "FORMAT", ["tensor odd", '"F99"'],
            tensors(odd=entry([1], 0, 4, "F99")), bytes(4))
    weights("element_type_is_a_number", "FORMAT", ["tensor odd", "dtype is an integer"],
            tensors(odd=entry([1], 0, 4, 7)), bytes(4))
    weights("element_type_is_empty", "FORMAT", ["tensor odd", '""'],
            tensors(odd=entry([1], 0, 4, "")), bytes(4))
    weights("element_type_that_no_weight_has", "UNSUPPORTED",
            ["tensor model.embed_tokens.weight", "I16"],
            tensors(**{"model.embed_tokens.weight": entry([67, 30], 0, 67 * 30 * 2, "I16")}),
            bytes(67 * 30 * 2))
    weights("nine_dimensions", "FORMAT", ["tensor deep", "9 dimensions", "at most 8"],
            tensors(deep=entry([1] * 9, 0, 4)), bytes(4))
    weights("thousand_dimensions", "FORMAT", ["tensor deep", "1000 dimensions", "at most 8"],
            tensors(deep=entry([1] * 1000, 0, 4)), bytes(4))
    weights("header_length_beyond_the_file", "FORMAT", ["claims 4096 bytes", "follow in the file"],
            tensors(x=entry([1], 0, 4)), bytes(4), length=4096)
    weights("header_length_wraps", "FORMAT", ["claims 18446744073709551615 bytes", "at most"],
            tensors(x=entry([1], 0, 4)), bytes(4), length=2**64 - 1)
    weights("header_length_wraps_with_its_own_8_bytes", "FORMAT",
            ["claims 18446744073709551608 bytes", "at most"],
            tensors(x=entry([1], 0, 4)), bytes(4), length=2**64 - 8)
    weights("header_length_negative", "FORMAT", ["claims 9223372036854775808 bytes", "at most"],
            tensors(x=entry([1], 0, 4)), bytes(4), length=2**63)
    case("shorter_than_a_length", "model", "FORMAT", ["model.safetensors", "5 bytes long"],
         weights=b"\x02\0\0\0\0")
    case("empty_weights", "model", "FORMAT", ["model.safetensors", "0 bytes long"], weights=b"")
    weights("duplicate_tensors", "FORMAT", ["duplicate", "twin"],
            '{"twin":%s,"twin":%s}' % (entry([1], 0, 4), entry([1], 4, 8)), bytes(8))
    weights("duplicate_fields_of_a_tensor", "FORMAT", ["duplicate", "shape"],
            '{"x":{"dtype":"F32","shape":[1],"shape":[2],"data_offsets":[0,4]}}', bytes(4))
    weights("overlapping_tensors", "FORMAT", ["tensor b begins at byte 12", "inside tensor a"],
            tensors(a=entry([4], 0, 16), b=entry([4], 12, 28)), bytes(28))
    weights("tensors_in_one_place", "FORMAT", ["begins at byte 0", "inside tensor"],
            tensors(a=entry([4], 0, 16), b=entry([4], 0, 16)), bytes(16))
    weights("a_gap_between_tensors", "FORMAT", ["before tensor b", "belong to no tensor"],
            tensors(a=entry([1], 0, 4), b=entry([1], 8, 12)), bytes(12))
    weights("negative_shape", "FORMAT", ["tensor x", "shape[1] is -4"],
            tensors(x=entry([1, -4], 0, 16)), bytes(16))
    weights("two_negatives_make_a_plausible_count", "FORMAT", ["tensor x", "shape[0] is -2"],
            tensors(x=entry([-2, -2], 0, 16)), bytes(16))
    weights("negative_offset", "FORMAT", ["tensor x", "data_offsets[0] is -8"],
            tensors(x=entry([4], -8, 8)), bytes(16))
    weights("shape_with_a_fraction", "FORMAT", ["tensor x", "shape[0]", "fraction"],
            tensors(x=entry([4.0], 0, 16)), bytes(16))
    weights("deep_header", "FORMAT", ["model.safetensors", "depth"],
            '{"x":' + "[" * 5000 + "]" * 5000 + "}")
    weights("deep_header_of_objects", "FORMAT", ["model.safetensors", "depth"],
            '{"x":' * 5000 + "1" + "}" * 5000)
    weights("nul_in_a_name", "FORMAT", ["model.safetensors", "NUL"],
            '{"a\\u0000b":%s}' % entry([1], 0, 4), bytes(4))
    weights("header_is_no_object", "FORMAT", ["header is an array"], "[1]")
    weights("header_is_no_text", "FORMAT", ["model.safetensors"], b'{"\xff\xfe":1}')


# -------------------------------------------------------------- configuration


def config(name, status, words, **changes):
    with open(os.path.join(BASE, "config.json"), encoding="utf-8") as file:
        fields = json.load(file)
    fields.update(changes)
    case(name, "model", status, ["config.json"] + words, config=json.dumps(fields, indent=1))


def write_configurations():
    config("sizes_that_wrap_when_multiplied", "FORMAT", ["hidden_size", "4294967296"],
           hidden_size=2**32)
    config("vocabulary_of_32_bits", "FORMAT", ["vocab_size", "4294967363"],
           vocab_size=2**32 + 67)
    config("vocabulary_beyond_64_bits", "FORMAT", ["config.json"], vocab_size=2**64 + 67)
    config("layers_of_no_end", "FORMAT", ["num_hidden_layers", "2147483647"],
           num_hidden_layers=2**31 - 1)
    config("negative_layers", "FORMAT", ["num_hidden_layers", "-4"], num_hidden_layers=-4)
    config("negative_vocabulary", "FORMAT", ["vocab_size", "-67"], vocab_size=-67)
    config("negative_window", "FORMAT", ["sliding_window", "-6"], sliding_window=-6)
    config("negative_expansion", "FORMAT", ["mamba_expand"], mamba_expand=-1)
    config("expansion_of_no_end", "FORMAT", ["mamba_expand"], mamba_expand=1e308)
    config("no_heads", "FORMAT", ["num_attention_heads", "is 0"], num_attention_heads=0)
    config("end_token_outside_the_vocabulary", "FORMAT", ["eos_token_id", "67", "0 to 66"],
           eos_token_id=67)
    config("begin_token_negative", "FORMAT", ["bos_token_id", "-1", "0 to 66"], bos_token_id=-1)
    config("end_token_of_a_list_outside", "FORMAT", ["eos_token_id[0]", "4294967297"],
           eos_token_id=[2**32 + 1])
    config("full_layer_outside", "FORMAT", ["global_attn_idx[1]", "4"], global_attn_idx=[0, 4])
    config("full_layer_negative", "FORMAT", ["global_attn_idx[0]", "-1"], global_attn_idx=[-1])
    config("keys_of_a_layer_outside", "FORMAT", ["kv_reuse_group[0][1]", "9"],
           kv_reuse_group=[[1, 9]])
    config("keys_before_they_are_made", "FORMAT", ["kv_reuse_group[0]", "makes only after"],
           kv_reuse_group=[[2, 1]])
    with open(os.path.join(BASE, "config.json"), encoding="utf-8") as file:
        text = file.read()
    case("duplicate_field", "model", "FORMAT", ["config.json", "duplicate", "vocab_size"],
         config=text.replace("{", '{ "vocab_size": 1000000,', 1))
    case("deep_configuration", "model", "FORMAT", ["config.json", "depth"], config="[" * 50000)
    case("deep_layer_plan", "model", "FORMAT", ["config.json", "depth"],
         config=text.replace("{", '{ "layer_plan": %s,' % ("[" * 5000 + "]" * 5000), 1))
    case("configuration_of_a_long_number", "model", "FORMAT", ["config.json", "1023"],
         config=text.replace("{", '{ "x": %s,' % ("1" * 5000), 1))


def write_indexes():
    def index(name, words, text):
        # without model.safetensors, so that the index is read
        case(name, "shards", "FORMAT", ["model.safetensors.index.json"] + words, index=text)

    index("shard_outside_its_folder", ["weight_map", "../../secret"],
          '{"weight_map":{"a":"../../secret"}}')
    index("shard_at_a_path", ["weight_map", "/etc/passwd"], '{"weight_map":{"a":"/etc/passwd"}}')
    index("shard_with_a_nul", ["weight_map", "plain name"],
          '{"weight_map":{"a":"x\\u0000.safetensors"}}')
    index("duplicate_tensors_in_the_index", ["duplicate", "twin"],
          '{"weight_map":{"twin":"a","twin":"b"}}')
    index("deep_index", ["depth"], '{"weight_map":' * 2500)
    index("index_of_numbers", ["tensor a", "an integer"], '{"weight_map":{"a":-1}}')


# ----------------------------------------------------------------- tokenizers


def varint(value):
    out = b""
    while True:
        byte = value & 0x7F
        value >>= 7
        out += bytes([byte | (0x80 if value else 0)])
        if not value:
            return out


def number(field, value):
    return varint(field << 3) + varint(value)


def text_field(field, content, length=None):
    if isinstance(content, str):
        content = content.encode()
    return varint(field << 3 | 2) + varint(len(content) if length is None else length) + content


def piece(content, kind=NORMAL, score=0.0, length=None):
    body = text_field(1, content, length) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return text_field(1, body + number(3, kind))


def sentencepiece(byte_pieces=None, extra=b"", tail=b""):
    byte_pieces = byte_pieces or ["<0x%02X>" % byte for byte in range(256)]
    pieces = piece("<unk>", UNKNOWN) + piece("<s>", CONTROL) + piece("</s>", CONTROL)
    for content in byte_pieces:
        pieces += piece(content, BYTE)
    for score, content in enumerate(["a", "b", SPACE, "ab", SPACE + "a"]):
        pieces += piece(content, NORMAL, -float(score))
    trainer = number(3, 2) + number(24, 0) + number(35, 1)
    normalizer = text_field(1, "identity") + number(3, 1) + number(4, 0) + number(5, 1)
    return pieces + extra + text_field(2, trainer) + text_field(3, normalizer) + tail


def with_byte(index, content):
    names = ["<0x%02X>" % byte for byte in range(256)]
    names[index] = content
    return names


def tokenizer_json(**changes):
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary["<0x%02X>" % byte] = 3 + byte
    for content in ["a", "b", SPACE, "ab"]:
        vocabulary[content] = len(vocabulary)
    fields = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": content, "special": True}
                         for i, content in enumerate(["<unk>", "<s>", "</s>"])],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "ignore_merges": False, "vocab": vocabulary,
                  "merges": ["a b"]},
    }
    for path, value in changes.items():
        target = fields
        *parents, last = path.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    return json.dumps(fields, ensure_ascii=False)


def write_tokenizers():
    def model(name, status, words, content):
        case(name, "tokenizer", status, ["tokenizer.model"] + words, model=content)

    def tokens(name, status, words, text):
        case(name, "tokenizer", status, ["tokenizer.json"] + words, tokens=text)

    def settings(name, status, words, text):
        case(name, "tokenizer", status, ["tokenizer_config.json"] + words, model=sentencepiece(),
             settings=text)

    model("byte_token_with_a_minus", "FORMAT", ["byte token", "<0x-1>"],
          sentencepiece(with_byte(1, "<0x-1>")))
    model("byte_token_with_a_plus", "FORMAT", ["byte token", "<0x+1>"],
          sentencepiece(with_byte(1, "<0x+1>")))
    model("byte_token_with_a_space", "FORMAT", ["byte token", "<0x 1>"],
          sentencepiece(with_byte(1, "<0x 1>")))
    model("byte_token_too_wide", "FORMAT", ["byte token", "<0x100>"],
          sentencepiece(with_byte(255, "<0x100>")))
    model("byte_token_twice", "FORMAT", ["the same as piece"],
          sentencepiece(with_byte(1, "<0x00>")))
    model("piece_longer_than_the_file", "FORMAT", [],
          sentencepiece(extra=piece("x", length=1 << 20)))
    model("piece_of_a_length_that_wraps", "FORMAT", [],
          sentencepiece(extra=piece("x", length=2**64 - 1)))
    model("part_longer_than_the_file", "FORMAT", [],
          sentencepiece(tail=text_field(1, "", length=2**63 - 1)))
    model("number_without_an_end", "FORMAT", [], sentencepiece(tail=b"\x08" + b"\xff" * 20))
    model("score_that_is_no_number", "FORMAT", ["score of piece", "not finite"],
          sentencepiece(extra=piece("x", score=float("nan"))))
    model("piece_longer_than_a_piece", "UNSUPPORTED", ["1025 bytes", "more than 1024"],
          sentencepiece(extra=piece("x" * 1025)))
    settings("added_token_far_outside", "FORMAT",
             ["added token 999999999", "does not continue the vocabulary"],
             '{"added_tokens_decoder": {"999999999": {"content": "<x>", "special": true}}}')
    settings("added_token_negative", "FORMAT", ['"-1"'],
             '{"added_tokens_decoder": {"-1": {"content": "<x>", "special": true}}}')
    settings("added_token_beyond_64_bits", "FORMAT", ["18446744073709551617"],
             '{"added_tokens_decoder": {"18446744073709551617": '
             '{"content": "<x>", "special": true}}}')
    settings("begin_token_that_there_is_not", "FORMAT", ["bos_token", "<begin>"],
             '{"bos_token": "<begin>"}')
    settings("duplicate_settings", "FORMAT", ["duplicate", "bos_token"],
             '{"bos_token": "<s>", "bos_token": "</s>"}')
    settings("deep_settings", "FORMAT", ["depth"], '{"a":' * 5000)
    tokens("vocabulary_id_negative", "FORMAT", ["is -1"], tokenizer_json(model__vocab__a=-1))
    tokens("vocabulary_id_outside", "FORMAT", ["is 1099511627776"],
           tokenizer_json(model__vocab__a=2**40))
    tokens("vocabulary_id_twice", "FORMAT", ["id of another piece"],
           tokenizer_json(model__vocab__a=5))
    tokens("duplicate_pieces", "FORMAT", ["duplicate"],
           tokenizer_json().replace('"b": 260', '"a": 260'))
    tokens("json_byte_token_with_a_sign", "FORMAT", ["<0x41> is missing"],
           tokenizer_json().replace("<0x41>", "<0x-1>"))
    tokens("special_token_outside", "FORMAT", ["added token 4294967297"],
           tokenizer_json(added_tokens=[{"id": 2**32 + 1, "content": "<s>", "special": True}]))
    tokens("merge_of_what_there_is_not", "FORMAT", ["merge 0"],
           tokenizer_json(model__merges=["a zz"]))
    tokens("deep_tokenizer", "FORMAT", ["depth"], "[" * 30000)


def write_templates():
    def chat(name, status, words, template):
        case(name, "chat", status, ["chat template"] + words, model=sentencepiece(),
             settings=json.dumps({"chat_template": template}))

    ten = "[1,2,3,4,5,6,7,8,9,10]"
    loops = "".join("{%% for i%d in %s %%}" % (i, ten) for i in range(12))
    chat("template_without_end", "UNSUPPORTED", ["steps"],
         loops + "x" + "{% endfor %}" * 12)
    chat("template_that_prints_without_end", "UNSUPPORTED", ["longer than"],
         loops + "{{ '" + "word" * 100 + "' }}" + "{% endfor %}" * 12)
    doubling = "{% set x = 'ab' %}" + "{% set x = x + x %}" * 40 + "{{ x }}"
    chat("template_that_doubles_without_end", "UNSUPPORTED", ["more than"], doubling)
    chat("template_of_parentheses", "UNSUPPORTED", ["nesting"],
         "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}")
    chat("template_of_blocks", "UNSUPPORTED", ["nesting"], "{% if true %}" * 3000)
    chat("template_of_lists", "UNSUPPORTED", ["nesting"], "{{ " + "[" * 3000)
    chat("template_of_negations", "UNSUPPORTED", [], "{{ " + "not " * 3000 + "1 }}")
    chat("template_of_sums", "UNSUPPORTED", ["operations"], "{{ 1" + " + 1" * 3000 + " }}")
    chat("template_that_calls_itself", "UNSUPPORTED", ["macro"],
         "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}")
    chat("template_that_includes_itself", "UNSUPPORTED", ["include"], "{% include 'itself' %}")
    chat("template_that_reaches_inside", "UNSUPPORTED", [],
         "{{ messages.__class__.__mro__[1].__subclasses__() }}")


shutil.rmtree(OUT, ignore_errors=True)
os.makedirs(OUT)
write_weights()
write_configurations()
write_indexes()
write_tokenizers()
write_templates()
with open(os.path.join(OUT, "cases.tsv"), "w", encoding="utf-8") as file:
    for row in cases:
        file.write("\t".join(row) + "\n")
print(len(cases), "cases")
