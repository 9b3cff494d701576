#!/usr/bin/env python3
"""Compares the speed of this engine with llama.cpp's, on models of like size and random weights.

Builds llama.cpp from the sources in its Python package, writes a random Falcon-H1 of the published
1.5B shape (the nearest hybrid that it runs) and a random Hymba of 1.5B, and measures both in turn,
case by case, so that what else the machine does meets both. Prints tokens per second, their ratio
and the ratio normalised by parameters. Needs a compiler, CMake is installed if absent; nothing is
fetched but packages by name through pip, and everything is kept in one folder outside the
repository. Not a test: run it on a quiet machine.
"""

import argparse
import dataclasses
import fnmatch
import hashlib
import json
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "llama-cpp-python>=0.3.16"  # the first releases do not know Falcon-H1
TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize")
DISK_BYTES = 14 << 30  # sources, objects, and three files of each model
BUILD_OPTIONS = (
    "CMAKE_BUILD_TYPE=Release", "BUILD_SHARED_LIBS=ON", "GGML_NATIVE=ON", "GGML_CCACHE=OFF",
    "LLAMA_BUILD_COMMON=ON", "LLAMA_BUILD_TOOLS=ON", "LLAMA_BUILD_TESTS=OFF",
    "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=OFF", "LLAMA_BUILD_APP=OFF",
    "LLAMA_BUILD_UI=OFF", "LLAMA_USE_PREBUILT_UI=OFF", "LLAMA_CURL=OFF", "LLAMA_OPENSSL=OFF",
)

# One name for each weight type; what the two engines call it.
HYMBA_TYPES = {"bf16": None, "int8": "q8", "int4": "q4"}
LLAMA_TYPES = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
KINDS = ("decode", "prefill", "batch")
DEFAULT_CASES = (
    [f"decode-{kind}-{depth}" for depth in (0, 2048, 8192) for kind in HYMBA_TYPES]
    + [f"prefill-{kind}-{tokens}" for tokens in (512, 2048) for kind in ("bf16", "int8")]
    + [f"batch-{kind}-8" for kind in ("bf16", "int8")]
)


class Failure(Exception):
    """What the user reads in one line."""


class Unavailable(Failure):
    """A model that cannot be made: its cases are left out, the others measured."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, **options):
    """Standard output of a command that succeeds."""
    command = [str(word) for word in command]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              errors="replace", check=False, **options)
    except OSError as error:
        raise Failure(f"cannot run {command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        lines = (done.stderr + done.stdout if not done.stderr.strip() else done.stderr).split("\n")
        told = " | ".join([line for line in lines if line.strip()][-4:])
        raise Failure(f"{shlex.join(command)}: exit status {done.returncode}: {told}")
    return done.stdout


# ------------------------------------------------------------------ the folder


def default_work():
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "hymba-compare"


def prepare_folder(work):
    if work == ROOT or ROOT in work.parents:
        raise Failure(f"--work {work} is inside the repository; name a folder outside of it")
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "llama-bf16.gguf").exists() and shutil.disk_usage(work).free < DISK_BYTES:
        raise Failure(f"{work} has {shutil.disk_usage(work).free >> 30} GiB free; "
                      f"{DISK_BYTES >> 30} GiB are needed")


def prepare_python(work):
    """A virtual environment with what this script imports; runs the script again in it."""
    folder = work / "python"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        say(f"making {folder}")
        run([sys.executable, "-m", "venv", "--clear", folder])
        packages = ["numpy", "gguf"] + ([] if shutil.which("cmake") else ["cmake"])
        run([python, "-m", "pip", "install", "--quiet", *packages])
        (folder / "complete").touch()
    if Path(sys.prefix).resolve() != folder.resolve():
        os.execv(python, [str(python), str(Path(__file__).resolve()), *sys.argv[1:]])


# ---------------------------------------------------------------- llama.cpp


def fetch_sources(work, package):
    """The package's source archive, unpacked; its folder."""
    archives = work / "archive"
    shutil.rmtree(archives, ignore_errors=True)
    say(f"fetching the sources of {package}")
    name = re.split(r"[<>=!~ ]", package)[0]
    run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name,
         "--dest", archives, package])
    found = sorted(archives.glob("*.tar.gz"))
    if len(found) != 1:
        raise Failure(f"pip left {len(found)} archives in {archives}, expected one")
    sources = work / "sources"
    shutil.rmtree(sources, ignore_errors=True)
    with tarfile.open(found[0]) as archive:
        archive.extractall(sources, **({"filter": "data"} if hasattr(tarfile, "data_filter")
                                       else {}))
    (folder,) = sources.iterdir()
    if not (folder / "vendor" / "llama.cpp" / "CMakeLists.txt").exists():
        raise Failure(f"{found[0].name} holds no sources of llama.cpp")
    return folder


def keep_tile_configuration(llama):
    """gcc 12 believes that loading the tile configuration reads 8 of its 64 bytes and drops the
    stores before it, so llama.cpp faults on machines with AMX: a barrier keeps them."""
    path = llama / "ggml" / "src" / "ggml-cpu" / "amx" / "mmq.cpp"
    text = path.read_text() if path.exists() else ""
    call = "_tile_loadconfig(&tc);"
    if call not in text:
        say(f"note: {call} not found in llama.cpp: if it faults on AMX, use another compiler")
        return
    barrier = '__asm__ volatile("" : : "r"(&tc) : "memory");'
    path.write_text(text.replace(call, f"{barrier} {call}"))


def find_cmake():
    inside = Path(sys.prefix) / "bin" / "cmake"
    return inside if inside.exists() else shutil.which("cmake") or "cmake"


def build_llama(work, package, jobs):
    """The folder with llama.cpp's tools, built once."""
    build = work / "build"
    stamp = build / "complete"
    if stamp.exists():
        return build / "bin"
    folder = fetch_sources(work, package)
    llama = folder / "vendor" / "llama.cpp"
    keep_tile_configuration(llama)
    shutil.rmtree(build, ignore_errors=True)
    say(f"building llama.cpp with {jobs} job(s); this takes minutes")
    run([find_cmake(), "-S", llama, "-B", build, *(f"-D{option}" for option in BUILD_OPTIONS)])
    run([find_cmake(), "--build", build, "--parallel", str(jobs), "--target", *TOOLS])
    for tool in TOOLS:
        if not (build / "bin" / tool).exists():
            raise Failure(f"llama.cpp was built but {build / 'bin' / tool} is absent")
    stamp.write_text(folder.name)
    return build / "bin"


# ------------------------------------------------------------ llama.cpp's models


@dataclasses.dataclass(frozen=True)
class FalconShape:
    """Falcon-H1-1.5B as published; llama.cpp has its multipliers multiplied into the weights."""
    layers: int = 24
    hidden: int = 2048
    intermediate: int = 4608
    vocabulary: int = 65537
    heads: int = 8
    kv_heads: int = 2
    head_size: int = 128
    ssm_heads: int = 48
    ssm_inner: int = 3072
    state: int = 256
    groups: int = 1
    convolution: int = 4
    context: int = 131072
    rope_base: float = 1e11
    epsilon: float = 1e-5


def falcon_tensors(shape):
    """Name, shape (rows before columns) and kind of each tensor, in the order of the file."""
    channels = shape.ssm_inner + 2 * shape.groups * shape.state
    attention, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    layer = (
        ("attn_norm.weight", (shape.hidden,), "norm"),
        ("attn_q.weight", (attention, shape.hidden), "matrix"),
        ("attn_k.weight", (keys, shape.hidden), "matrix"),
        ("attn_v.weight", (keys, shape.hidden), "matrix"),
        ("attn_output.weight", (shape.hidden, attention), "matrix"),
        ("ssm_in.weight", (shape.ssm_inner + channels + shape.ssm_heads, shape.hidden), "matrix"),
        ("ssm_conv1d.weight", (channels, shape.convolution), "wide"),
        ("ssm_conv1d.bias", (channels,), "wide"),
        ("ssm_dt.bias", (shape.ssm_heads,), "wide"),
        ("ssm_a", (shape.ssm_heads, 1), "decay"),
        ("ssm_d", (shape.ssm_heads, 1), "wide"),
        ("ssm_norm.weight", (shape.groups, shape.ssm_inner // shape.groups), "norm"),
        ("ssm_out.weight", (shape.hidden, shape.ssm_inner), "matrix"),
        ("ffn_norm", (shape.hidden,), "norm"),  # as llama.cpp names it, without an ending
        ("ffn_gate.weight", (shape.intermediate, shape.hidden), "matrix"),
        ("ffn_up.weight", (shape.intermediate, shape.hidden), "matrix"),
        ("ffn_down.weight", (shape.hidden, shape.intermediate), "matrix"),
    )
    yield "token_embd.weight", (shape.vocabulary, shape.hidden), "matrix"
    for index in range(shape.layers):
        for name, size, kind in layer:
            yield f"blk.{index}.{name}", size, kind
    yield "output_norm.weight", (shape.hidden,), "norm"
    yield "output.weight", (shape.vocabulary, shape.hidden), "matrix"


def count_parameters(shape):
    total = 0
    for _, size, _ in falcon_tensors(shape):
        total += size[0] * (size[1] if len(size) > 1 else 1)
    return total


def random_tensor(random, size, kind):
    """bf16 bits of a matrix, f32 of everything else; values with which nothing overflows."""
    import numpy

    if kind == "norm":
        return numpy.ones(size, numpy.float32)
    values = random.standard_normal(size, numpy.float32)
    if kind == "decay":
        return -numpy.exp(values)
    values *= numpy.float32(0.02)
    return (values.view(numpy.uint32) >> 16).astype(numpy.uint16) if kind == "matrix" else values


def describe_falcon(writer, shape):
    writer.add_file_type(32)  # bf16
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")  # as many nameless tokens as the vocabulary has
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(shape.epsilon)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_ssm_conv_kernel(shape.convolution)
    writer.add_ssm_inner_size(shape.ssm_inner)
    writer.add_ssm_state_size(shape.state)
    writer.add_ssm_time_step_rank(shape.ssm_heads)
    writer.add_ssm_group_count(shape.groups)


def write_falcon(path, shape):
    """One tensor in memory at a time."""
    import gguf
    import numpy

    types = {True: (numpy.uint16, gguf.GGMLQuantizationType.BF16),
             False: (numpy.float32, gguf.GGMLQuantizationType.F32)}
    say(f"writing {path}")
    writer = gguf.GGUFWriter(path, "falcon-h1")
    describe_falcon(writer, shape)
    for name, size, kind in falcon_tensors(shape):
        number, stored = types[kind == "matrix"]
        count = size[0] * (size[1] if len(size) > 1 else 1)
        writer.add_tensor_info(name, size, numpy.dtype(number),
                               count * numpy.dtype(number).itemsize, stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random = numpy.random.default_rng(0)
    for _, size, kind in falcon_tensors(shape):
        writer.write_tensor_data(random_tensor(random, size, kind))
    writer.close()


def make_llama_model(setup, kind):
    """The file of that weight type; made under another name first, so it is never half there."""
    path = setup.work / f"llama-{kind}.gguf"
    if path.exists():
        return path
    part = path.with_suffix(".part")
    if kind == "bf16":
        write_falcon(part, setup.shape)
    else:
        source = make_llama_model(setup, "bf16")
        say(f"writing {path}")
        # --pure: every matrix in that type; otherwise the output head would be wider.
        run([setup.tools / "llama-quantize", "--pure", source, part, LLAMA_TYPES[kind],
             setup.threads])
    part.rename(path)
    return path


# --------------------------------------------------------------- Hymba's models


def make_hymba_base(setup):
    if setup.given["bf16"]:
        return setup.given["bf16"]
    path = setup.work / "hymba-bf16"
    if not (path / "config.json").exists():
        say(f"writing {path}")
        run([setup.hymba, "init", "--preset", "1.5b", "-o", path])
    return path


def make_hymba_model(setup, kind):
    """The directory of that weight type."""
    if setup.given[kind]:
        return setup.given[kind]
    base = make_hymba_base(setup)
    if HYMBA_TYPES[kind] is None:
        return base
    key = hashlib.sha256(str(base.resolve()).encode()).hexdigest()[:8]
    path = setup.work / f"hymba-{kind}-{key}"
    if not (path / "config.json").exists():
        say(f"writing {path}")
        try:
            run([setup.hymba, "quantize", "-m", base, "-o", path, "--type", HYMBA_TYPES[kind]])
        except Failure as error:
            raise Unavailable(f"no {kind} model of this engine: {error}") from error
    return path


def make_models(setup, kinds):
    """Both engines' models of each weight type, or why there are none."""
    setup.models, setup.refused = {}, {}
    for kind in kinds:
        try:
            setup.models[kind] = {"hymba": make_hymba_model(setup, kind),
                                  "llama": make_llama_model(setup, kind)}
        except Unavailable as error:
            setup.refused[kind] = str(error)
            say(f"left out: {error}")


def hymba_parameters(setup):
    """Of the unquantised model: what they are stored as does not change their number."""
    told = json.loads(run([setup.hymba, "info", "-m", make_hymba_base(setup), "--json"]))
    return told["parameters"]


# --------------------------------------------------------------- measurement


@dataclasses.dataclass(frozen=True)
class Case:
    """decode: number is the depth; prefill: the tokens; batch: the sequences."""
    kind: str
    weights: str
    number: int

    def __str__(self):
        return f"{self.kind}-{self.weights}-{self.number}"


def parse_case(name):
    match = re.fullmatch(r"([a-z]+)-([a-z0-9]+)-([0-9]{1,7})", name)
    if not match or match[1] not in KINDS or match[2] not in HYMBA_TYPES:
        raise Failure(f"unknown case '{name}': expected KIND-TYPE-NUMBER with KIND of "
                      f"{', '.join(KINDS)} and TYPE of {', '.join(HYMBA_TYPES)}, or a pattern")
    case = Case(match[1], match[2], int(match[3]))
    if case.number == 0 and case.kind != "decode":
        raise Failure(f"case '{name}': the number must be at least 1")
    return case


def choose_cases(text):
    """Patterns choose among the default cases; whole names may be any."""
    names = []
    for word in text.split(",") if text else DEFAULT_CASES:
        pattern = any(sign in word for sign in "*?[")
        found = fnmatch.filter(DEFAULT_CASES, word) if pattern else [word]
        if not found:
            raise Failure(f"no case matches '{word}'; --list shows them")
        names += [name for name in found if name not in names]
    return [parse_case(name) for name in names]


def measure_hymba(setup, model, case):
    """The verb always measures prompts and decoding: the one not wanted is made short."""
    prompt, steps, depth, batch = 1, setup.steps, 0, 1
    if case.kind == "prefill":
        prompt, steps = case.number, 1
    elif case.kind == "decode":
        depth = case.number
    else:
        batch = case.number
    told = json.loads(run([setup.hymba, "bench", "-m", model, "--json", "--read-buffer", 64,
                           "--threads", setup.threads, "-p", prompt, "-n", steps, "-d", depth,
                           "-b", batch, *setup.hymba_options]))
    wanted = "prefill" if case.kind == "prefill" else "decode"
    for row in told["rows"]:
        if row["kind"] == wanted:
            return row["tok_per_s"]
    raise Failure(f"{setup.hymba} bench: no {wanted} row in its output")


def measure_llama(setup, model, case):
    if case.kind == "batch":
        return measure_llama_batch(setup, model, case.number)
    command = [setup.tools / "llama-bench", "-m", model, "-t", setup.threads, "-o", "json"]
    if case.kind == "prefill":  # the first prompt warms up, the faster of both counts
        command += ["-p", case.number, "-n", 0, "-r", 2, "--no-warmup"]
    else:
        command += ["-p", 0, "-n", setup.steps, "-d", case.number, "-r", 1]
    (told,) = json.loads(run(command + setup.llama_options))
    return max(told["samples_ts"])


def measure_llama_batch(setup, model, sequences):
    """Each sequence begins with one token; a context of 256 for each is the least it takes."""
    context = sequences * (256 * (setup.steps // 256 + 1))
    output = run([setup.tools / "llama-batched-bench", "-m", model, "-c", context, "-t",
                  setup.threads, "-npp", 1, "-ntg", setup.steps, "-npl", sequences,
                  "--output-format", "jsonl", *setup.llama_options])
    for line in output.splitlines():
        if line.startswith("{"):
            return json.loads(line)["speed_tg"]
    raise Failure("llama-batched-bench printed no result")


def measure_case(setup, case):
    """Both engines in turn, the first of a round alternating."""
    models = setup.models[case.weights]
    measure = {"hymba": measure_hymba, "llama": measure_llama}
    rates = {"hymba": [], "llama": []}
    for index in range(setup.rounds):
        for engine in sorted(rates, reverse=index % 2 == 1):
            rates[engine].append(measure[engine](setup, models[engine], case))
        say(f"{case} round {index + 1}: hymba {rates['hymba'][-1]:.2f} tok/s, "
            f"llama.cpp {rates['llama'][-1]:.2f} tok/s")
    ratios = [left / right for left, right in zip(rates["hymba"], rates["llama"])]
    ratio = statistics.median(ratios)
    return {"case": str(case), "hymba_tok_per_s": statistics.median(rates["hymba"]),
            "llama_tok_per_s": statistics.median(rates["llama"]), "ratio": ratio,
            "ratio_by_parameters": ratio * setup.hymba_parameters / setup.llama_parameters,
            "load": os.getloadavg()[0],
            "hymba_rounds": rates["hymba"], "llama_rounds": rates["llama"]}


def warn_of_load():
    """Threads that wait for each other lose far more than their share to other programs."""
    load = os.getloadavg()[0]
    if load > 0.5:
        say(f"note: the machine is busy (load {load:.1f}): figures will be low and ratios wrong")


def measure_cases(setup, cases):
    """The rows, as far as it gets: an interrupt ends it but loses none."""
    rows = []
    warn_of_load()
    try:
        for case in cases:
            if case.weights in setup.refused:
                rows.append({"case": str(case), "error": setup.refused[case.weights]})
            else:
                rows.append(measure_case(setup, case))
    except KeyboardInterrupt:
        say("interrupted")
        return rows, 130
    return rows, 0


# -------------------------------------------------------------------- output


def describe_run(setup):
    return {"llama_package": (setup.tools.parent / "complete").read_text().strip(),
            "hymba_parameters": setup.hymba_parameters,
            "llama_parameters": setup.llama_parameters, "threads": setup.threads,
            "rounds": setup.rounds, "steps": setup.steps,
            "hymba_options": setup.hymba_options, "llama_options": setup.llama_options}


def print_table(told, rows):
    print(f"{told['llama_package']}, {told['threads']} threads, median of {told['rounds']} rounds")
    print(f"parameters: hymba {told['hymba_parameters']}, llama.cpp {told['llama_parameters']}\n")
    print(f"{'case':<20} {'hymba tok/s':>12} {'llama tok/s':>12} {'ratio':>7} "
          f"{'by parameters':>14}")
    for row in rows:
        if "error" in row:
            print(f"{row['case']:<20} {'-':>12} {'-':>12} {'-':>7} {'-':>14}")
        else:
            print(f"{row['case']:<20} {row['hymba_tok_per_s']:>12.2f} "
                  f"{row['llama_tok_per_s']:>12.2f} {row['ratio']:>7.2f} "
                  f"{row['ratio_by_parameters']:>14.2f}")
    for reason in dict.fromkeys(row["error"] for row in rows if "error" in row):
        print(f"left out: {reason}")


# ------------------------------------------------------------------- options


def processors():
    able = hasattr(os, "sched_getaffinity")  # not everywhere
    return len(os.sched_getaffinity(0)) if able else os.cpu_count() or 1


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def add_measuring_options(parser):
    parser.add_argument("--cases", metavar="NAME,...",
                        help="what to measure: KIND-TYPE-NUMBER (decode at a depth, prefill of so "
                             "many tokens, batch of so many sequences; bf16, int8 or int4), or "
                             "patterns among the default ones (default: all that --list shows)")
    parser.add_argument("--list", action="store_true", help="print the default cases and leave")
    parser.add_argument("--rounds", type=positive, default=3, metavar="N",
                        help="measurements of each case by each engine (default: 3)")
    parser.add_argument("--steps", type=positive, default=64, metavar="N",
                        help="steps of decoding in each measurement (default: 64)")
    parser.add_argument("--threads", type=positive, default=processors(),
                        metavar="N", help="threads of both engines (default: all processors)")
    parser.add_argument("--hymba-options", default="", metavar="TEXT",
                        help="more options of 'hymba bench' (--hymba-options='--compute bf16')")
    parser.add_argument("--llama-options", default="", metavar="TEXT",
                        help="more options of llama.cpp's tools")
    parser.add_argument("--json", action="store_true",
                        help="print a JSON object: parameters, rows with every round's rates...")


def parse_options():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_measuring_options(parser)
    parser.add_argument("--work", type=Path, default=default_work(), metavar="DIR",
                        help="folder for the build and the models, about 14 GB, used again by the "
                             "next run (default: %(default)s)")
    parser.add_argument("--prepare", action="store_true",
                        help="build and write the models of the cases, measure nothing")
    parser.add_argument("--jobs", type=positive, default=processors(), metavar="N",
                        help="jobs of the build (default: all processors)")
    parser.add_argument("--package", default=PACKAGE, metavar="NAME",
                        help="Python package to build from (default: %(default)s); a build that is "
                             "there is used as it is")
    parser.add_argument("--hymba", type=Path, default=ROOT / "bin" / "hymba", metavar="FILE",
                        help="this engine's command (default: %(default)s)")
    for kind in HYMBA_TYPES:
        parser.add_argument("--hymba-model" if kind == "bf16" else f"--hymba-{kind}", type=Path,
                            dest=f"hymba_{kind}", metavar="DIR",
                            help=f"model of {kind} weights (default: made in the folder)")
    return parser.parse_args()


def check_command(hymba):
    if not os.access(hymba, os.X_OK):
        raise Failure(f"{hymba} is absent; build it with make or name it with --hymba")


def prepare(options, cases):
    """Everything that is needed before the first measurement."""
    options.work = options.work.resolve()
    check_command(options.hymba)
    prepare_folder(options.work)
    prepare_python(options.work)
    options.tools = build_llama(options.work, options.package, options.jobs)
    options.shape = FalconShape()
    options.given = {kind: getattr(options, f"hymba_{kind}") for kind in HYMBA_TYPES}
    options.hymba_options = shlex.split(options.hymba_options)
    options.llama_options = shlex.split(options.llama_options)
    options.llama_parameters = count_parameters(options.shape)
    options.hymba_parameters = hymba_parameters(options)
    make_models(options, dict.fromkeys(case.weights for case in cases))


def main():
    options = parse_options()
    if options.list:
        print("\n".join(DEFAULT_CASES))
        return 0
    cases = choose_cases(options.cases)
    prepare(options, cases)
    if options.prepare:
        return 0
    rows, status = measure_cases(options, cases)
    told = describe_run(options)
    if options.json:
        print(json.dumps({**told, "rows": rows}, indent=2))
    else:
        print_table(told, rows)
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as error:
        say(f"compare_llama: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
