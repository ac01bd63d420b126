"""Every parallel strategy gives the same bits: logits and sampled tokens, with ranks as threads and as processes."""

import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from conftest import BINARY, GOLDEN, MODEL, MPIRUN, ONE_EXPERT


class Model(NamedTuple):
    path: Path
    num_experts: int
    num_layers: int = 6
    flags: tuple = ()


def write_model(folder, config, tensors=None):
    """A folder with config.json and, if there are tensors {name: (dtype, shape, bytes)}, one file of weights."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tensors is None:
        return
    header, offset = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    data = b"".join(data for _, _, data in tensors.values())
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


def pruned(folder, count):
    """The bundled model with `count` experts, chosen with a little text."""
    flags = ("--method", "reap", "--experts", count, "--calibration-tokens", 2048)
    text = GOLDEN / "calibration.txt"
    subprocess.run(
        [BINARY, "prune", "--model-path", MODEL, "--output", folder, "--calibration-file", text, *map(str, flags)],
        check=True, capture_output=True,
    )  # fmt: skip
    return Model(folder, count)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    made = {f"{count} experts": pruned(folder / str(count), count) for count in (3, 7)}
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    sizes = {"num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 3, "moe_intermediate_size": 64}
    write_model(folder / "128", config | sizes)
    dummy = Model(folder / "128", 128, 3, ("--load-format", "dummy"))
    return made | {"1 experts": Model(ONE_EXPERT, 1), "bundled": Model(MODEL, 16), "128 experts": dummy}


class Case(NamedTuple):
    """A model and a type, of computation or of quantized weights, and what it answers on one rank."""

    model: Model
    dtype: str
    folder: Path

    @property
    def type_flags(self):
        return ("--quantization" if self.dtype in ("int8", "int4") else "--dtype", self.dtype)

    def run(self, command, *flags, launcher=(), environment=None):
        flags = ("--model-path", self.model.path, *self.model.flags, *self.type_flags, *flags)
        return subprocess.run(
            [*launcher, BINARY, command, *map(str, flags), "--log-level", "info"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
            env=os.environ | (environment or {}),
        )

    def answer(self, strategy, *flags, **more):
        """(the bytes of the file of logits, the sampled tokens); fails unless the log tells of this strategy."""
        file = self.folder / "logits.safetensors"
        file.unlink(missing_ok=True)
        ids = ",".join(map(str, random.Random(1).choices(range(4000), k=100)))
        logits = self.run("logits", "--input-ids", ids, "--output", file, *flags, "--chunked-prefill-size", 37, **more)
        sampling = ("--temperature", 1, "--seed", 7, "--max-new-tokens", 32, "--ignore-eos", "--json")
        sampled = self.run("generate", "--prompt", "Once upon a time there was a king who", *sampling, *flags, **more)
        for result in (logits, sampled):
            assert result.returncode == 0, (flags, result.stderr)
            assert strategy is None or f"strategy {strategy}:" in result.stderr, (flags, result.stderr)
        return file.read_bytes(), json.loads(sampled.stdout)["output_ids"]


def named(tp, dp, ep, moe_tp, moe_dp):
    return f"tp={tp},dp={dp},ep={ep},moe_tp={moe_tp},moe_dp={moe_dp}"


def sizes(tp, dp, ep, moe_tp, moe_dp):
    """The strategy's name, and flags that leave nothing to defaults."""
    given = {"--tp-size": tp, "--dp-size": dp, "--ep-size": ep, "--moe-tp-size": moe_tp, "--moe-dp-size": moe_dp}
    return named(tp, dp, ep, moe_tp, moe_dp), *(part for pair in given.items() for part in pair)


def powers_up_to(limit):
    return [size for size in (1, 2, 4, 8) if size <= limit]


def expert_splits():
    """(world, ep, moe_tp, moe_dp): every way to split experts over 2, 4 and 8 ranks."""
    for world in (2, 4, 8):
        for ep in powers_up_to(world):
            for moe_tp in powers_up_to(world // ep):
                yield world, ep, moe_tp, world // ep // moe_tp


def every_strategy():
    return [sizes(tp, world // tp, *experts) for world, *experts in expert_splits() for tp in powers_up_to(world)]


def some_strategies():
    """Every way to split the experts, the ways to split attention in turn."""
    chosen = []
    for i, (world, *experts) in enumerate(expert_splits()):
        ways = powers_up_to(world)
        chosen.append(sizes(ways[i % len(ways)], world // ways[i % len(ways)], *experts))
    return chosen


NAMED = [
    (named(4, 2, 8, 1, 1), "--tp-size", 4, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 8),
    (named(8, 1, 1, 8, 1), "--tp-size", 8, "--dp-size", 1),
]
SHORT_FLAGS = [
    (named(2, 2, 2, 1, 2), "--tp-size", 2, "--dp-size", 2, "--enable-ep-moe"),
    (named(2, 4, 1, 2, 4), "--tensor-parallel-size", 2, "--data-parallel-size", 4),
    (named(1, 8, 8, 1, 1), "--dp-size", 8, "--expert-parallel-size", 8),
    (named(4, 2, 1, 8, 1), "--tp-size", 8, "--dp-size", 2, "--enable-dp-attention"),
    (named(1, 8, 8, 1, 1), "--tp-size", 8, "--dp-size", 8, "--enable-dp-attention", "--ep-size", 8),
    (named(2, 2, 4, 1, 1), "--tp-size", 4, "--dp-size", 2, "--enable-dp-attention", "--enable-ep-moe"),
    (named(4, 1, 1, 4, 1), "--tp-size", 4, "--threads-per-rank", 3),
]
REDUNDANT = [
    (*NAMED[0], "--ep-num-redundant-experts", 5, "--ep-dispatch-algorithm", "static"),
    (*NAMED[0], "--ep-num-redundant-experts", 21, "--ep-dispatch-algorithm", "dynamic"),
    (*sizes(2, 4, 2, 2, 2), "--ep-num-redundant-experts", 3, "--ep-dispatch-algorithm", "dynamic"),
]


def written(file, value):
    file.write_text(json.dumps(value), encoding="utf-8")
    return file


def shuffled_placement(model, ep, redundant, random_):
    slots = -(-(model.num_experts + redundant) // ep) * ep
    layers = []
    for _ in range(model.num_layers):
        experts = list(range(model.num_experts))
        experts += random_.choices(experts, k=slots - len(experts))
        layers.append(random_.sample(experts, slots))
    return {"physical_to_logical_map": layers}


def placed_by_file(model, folder):
    random_ = random.Random(model.num_experts)
    counts = [[random_.randrange(1000) for _ in range(model.num_experts)] for _ in range(model.num_layers)]
    load = written(folder / "load.json", {"logical_count": counts})
    some = written(folder / "map.json", shuffled_placement(model, 8, 5, random_))
    halves = written(folder / "halves.json", shuffled_placement(model, 2, 0, random_))
    more = ("--ep-num-redundant-experts", 5)
    balanced = (*sizes(4, 2, 4, 2, 1), *more, "--init-expert-location", load, "--ep-dispatch-algorithm", "dynamic")
    return [
        (*NAMED[0], *more, "--init-expert-location", some),
        (*NAMED[0], *more, "--init-expert-location", some, "--ep-dispatch-algorithm", "dynamic"),
        (*sizes(2, 2, 2, 1, 2), "--init-expert-location", halves),
        (*NAMED[0], *more, "--init-expert-location", load),
        *((*balanced, "--eplb-algorithm", algorithm) for algorithm in ("auto", "hierarchical", "global")),
    ]


MODELS = ["bundled", "1 experts", "3 experts", "7 experts", "128 experts"]
# Each model, and each type, with the bundled model and with one expert above all.
CASES = [(model, "bfloat16") for model in MODELS if model != "7 experts"] + [("7 experts", "int8"), ("128 experts", "int4")]
CASES += [("bundled", "float32"), ("bundled", "int8"), ("bundled", "int4"), ("1 experts", "float32"), ("1 experts", "int4")]


@pytest.fixture
def case(models, request, tmp_path):
    model, dtype = request.param
    return Case(models[model], dtype, tmp_path)


def assert_same(case, expected, strategies, **more):
    different = [flags for flags in strategies if case.answer(*flags, **more) != expected]
    assert not different


@pytest.mark.parametrize("case", CASES, indirect=True, ids="-".join)
def test_ranks_as_threads(case):
    expected = case.answer(None)
    assert case.answer(None, *sizes(1, 1, 1, 1, 1)[1:]) == expected
    everything = case.model.num_experts == 16 and case.dtype == "bfloat16"
    assert_same(case, expected, every_strategy() if everything else some_strategies())
    assert_same(case, expected, NAMED + SHORT_FLAGS + REDUNDANT + placed_by_file(case.model, case.folder))


@pytest.mark.parametrize("case", [("1 experts", "bfloat16"), ("1 experts", "float32")], indirect=True, ids="-".join)
def test_single_expert_mode(case):
    expected = case.answer(None)
    ranks = ("--tp-size", 4, "--dp-size", 2)
    modes = {"dp": named(4, 2, 8, 1, 1), "tp": named(4, 2, 1, 4, 2)}
    for mode, strategy in modes.items():
        assert_same(case, expected, [(strategy, *ranks, "--single-expert-mode", mode)])
        assert_same(case, expected, [(strategy, *ranks)], environment={"SINGLE_EXPERT_MODE": mode})
    assert_same(case, expected, [(named(8, 1, 8, 1, 1), "--tp-size", 8, "--single-expert-mode", "dp")])
    assert_same(case, expected, [(named(8, 1, 1, 8, 1), "--tp-size", 8, "--single-expert-mode", "tp")])


@pytest.mark.parametrize("case", [("bundled", "bfloat16"), ("128 experts", "bfloat16")], indirect=True, ids="-".join)
def test_answers_differ_where_they_should(case, models):
    """What the other tests compare says something: it tells models, types and weights apart."""
    answers = [case._replace(dtype=dtype).answer(None) for dtype in (case.dtype, "float32", "int8", "int4")]
    answers += [case._replace(model=models[name]).answer(None) for name in ("1 experts", "3 experts", "7 experts")]
    for i, (logits, ids) in enumerate(answers):
        assert len(ids) == 32
        assert all(logits != other for other, _ in answers[:i])


PROCESSES = {  # by case: strategies and their numbers of ranks
    ("bundled", "bfloat16"): [(2, *sizes(2, 1, 1, 2, 1)), (4, *sizes(2, 2, 2, 2, 1)), (8, *REDUNDANT[1])],
    ("bundled", "float32"): [(8, *NAMED[1])],
    ("bundled", "int8"): [(4, *sizes(2, 2, 2, 2, 1))],
    ("bundled", "int4"): [(8, *NAMED[1])],
    ("1 experts", "bfloat16"): [(8, *NAMED[0])],
    ("3 experts", "float32"): [(8, *sizes(2, 4, 4, 1, 2))],
    ("7 experts", "bfloat16"): [(4, *sizes(1, 4, 4, 1, 1))],
    ("128 experts", "bfloat16"): [(8, *NAMED[0])],
}


@pytest.mark.parametrize("case", PROCESSES, indirect=True, ids="-".join)
def test_ranks_as_processes(case, request, mpi):
    expected = case.answer(None)
    for ranks, *flags in PROCESSES[request.node.callspec.params["case"]]:
        assert_same(case, expected, [flags], launcher=(*MPIRUN, str(ranks)))


def test_processes_read_a_placement(models, tmp_path, mpi):
    case = Case(models["7 experts"], "bfloat16", tmp_path)
    placement = written(tmp_path / "map.json", shuffled_placement(case.model, 2, 3, random.Random(5)))
    flags = (*sizes(2, 1, 2, 1, 1), "--ep-num-redundant-experts", 3, "--init-expert-location", placement)
    assert_same(case, case.answer(None), [flags], launcher=(*MPIRUN, "2"))


def refusal(case, *flags, status=2, **more):
    """The line that a refused strategy leaves, and after a mistake in a flag the one about the help. Nothing is
    loaded, planned or written before it."""
    file = case.folder / "refused.safetensors"
    result = case.run("logits", "--input-ids", "1,2,3", "--output", file, *flags, **more)
    assert result.returncode == status
    assert result.stdout == ""
    assert not file.exists()
    lines = result.stderr.splitlines()
    assert len(lines) == status, result.stderr
    assert lines[0].startswith("chorale: ")
    return lines[0]


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--tp-size", 3], ["--tp-size", " 3 ", "num_attention_heads", "1, 2, 4, 8"]),
        (["--tp-size", 16], ["--tp-size", " 16 ", "num_attention_heads", "1, 2, 4, 8"]),
        (["--tp-size", 0], ["--tp-size", " 0", "1 to 1024"]),
        (["--dp-size", -2], ["--dp-size", " -2", "1 to 1024"]),
        (["--tp-size", 8, "--dp-size", 129], ["--dp-size", "129", "1032", "1 to 128"]),
        (["--tp-size", 8, "--ep-size", 3], ["--ep-size", " 3 ", "1, 2, 4, 8"]),
        (["--tp-size", 2, "--ep-size", 4], ["--ep-size", " 4 ", "1, 2"]),
        (["--tp-size", 8, "--moe-tp-size", 3], ["--moe-tp-size", " 3 ", "1, 2, 4, 8"]),
        (["--tp-size", 8, "--ep-size", 4, "--moe-dp-size", 4], ["--moe-dp-size", " 4 ", "1, 2"]),
        (
            ["--tp-size", 8, "--ep-size", 4, "--moe-tp-size", 2, "--moe-dp-size", 2],
            ["--moe-tp-size", "--moe-dp-size 2", "that works is 1"],
        ),
        (["--dp-size", 16, "--moe-dp-size", 1], ["--moe-tp-size", " 16 ", "moe_intermediate_size", "1, 2, 4, 8"]),
        (["--tp-size", 4, "--max-tp-size", 2], ["--tp-size", "query heads", "2 equal chunks under --max-tp-size 2"]),
        (["--tp-size", 8, "--dp-size", 3, "--enable-dp-attention"], ["--dp-size", " 3 ", "1, 2, 4, 8"]),
        (["--tp-size", 8, "--single-expert-mode", "dp"], ["--single-expert-mode", "one expert", "has 16", "--ep-size"]),
        (["--tp-size", 8, "--single-expert-mode", "ep"], ["--single-expert-mode", '"ep"', "dp, tp"]),
    ],
)
def test_what_cannot_be_done_is_refused(models, tmp_path, flags, parts):
    line = refusal(Case(models["bundled"], "bfloat16", tmp_path), *flags)
    for part in parts:
        assert part in line


def test_a_placement_that_is_not_there_is_refused(models, tmp_path):
    case = Case(models["bundled"], "bfloat16", tmp_path)
    assert "/no/such/file.json" in refusal(case, "--init-expert-location", "/no/such/file.json", status=1)


@pytest.mark.parametrize(
    ("mode", "flags", "contradicting"),
    [
        ("dp", ["--ep-size", 1], "--ep-size 1"),
        ("dp", ["--moe-tp-size", 8], "--moe-tp-size 8"),
        ("dp", ["--moe-dp-size", 2], "--moe-dp-size 2"),
        ("tp", ["--ep-size", 8], "--ep-size 8"),
        ("tp", ["--enable-ep-moe"], "--enable-ep-moe"),
    ],
)
@pytest.mark.parametrize("from_environment", [False, True])
def test_contradictions_of_single_expert_mode_are_refused(models, tmp_path, mode, flags, contradicting, from_environment):
    case = Case(models["1 experts"], "bfloat16", tmp_path)
    ep_size = {"dp": 8, "tp": 1}[mode]
    if from_environment:
        line = refusal(case, "--tp-size", 8, *flags, environment={"SINGLE_EXPERT_MODE": mode})
    else:
        line = refusal(case, "--tp-size", 8, *flags, "--single-expert-mode", mode)
    for part in ("--single-expert-mode", f"SINGLE_EXPERT_MODE={mode}", f"--ep-size {ep_size}", contradicting):
        assert part in line


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ({"physical_to_logical_map": [list(range(16)) + [0] * 8] * 6}, ["24 slots", "have 16", "--ep-num-redundant-experts 8"]),
        ({"physical_to_logical_map": [list(range(15))] * 6}, ["15 slots", "have 16"]),
        ({"physical_to_logical_map": [list(range(16))] * 5}, ["5 layers", "has 6"]),
        ({"physical_to_logical_map": [[0] * 16] * 6}, ["no slot for expert 1"]),
        ({"physical_to_logical_map": [list(range(1, 17))] * 6}, [" 16 in layer 0", "0 to 15"]),
        ({"logical_count": [[1] * 15] * 6}, ["15 experts", "has 16"]),
        ({"logical_count": [[1] * 16] * 7}, ["7 layers", "has 6"]),
        ({"logical_count": [[-1] * 16] * 6}, ["logical_count"]),
        ({"something": 1}, ["physical_to_logical_map", "logical_count"]),
        ([], ["physical_to_logical_map"]),
    ],
)
def test_placements_that_do_not_fit_are_refused(models, tmp_path, value, parts):
    file = written(tmp_path / "placement.json", value)
    case = Case(models["bundled"], "bfloat16", tmp_path)
    line = refusal(case, "--tp-size", 8, "--ep-size", 8, "--init-expert-location", file, status=1)
    for part in (f"--init-expert-location {file}", *parts):
        assert part in line


def test_unknown_algorithms_are_refused(models, tmp_path):
    case = Case(models["bundled"], "bfloat16", tmp_path)
    flags = ("--input-ids", "1", "--output", tmp_path / "x")
    for flag, values in (("--eplb-algorithm", "auto,hierarchical,global"), ("--ep-dispatch-algorithm", "static,dynamic")):
        result = case.run("logits", *flags, flag, "other")
        assert result.returncode == 2, flag
        line = result.stderr.splitlines()[0]
        for part in (flag, "other", *values.split(",")):
            assert part in line


def test_a_wrong_number_of_processes_is_refused(models, tmp_path, mpi):
    case = Case(models["bundled"], "bfloat16", tmp_path)
    result = case.run("logits", "--input-ids", "1", "--output", tmp_path / "x", "--tp-size", 4, launcher=(*MPIRUN, "2"))
    assert result.returncode == 2
    message = next(line for line in result.stderr.splitlines() if line.startswith("chorale: "))
    for part in ("--tp-size", "--dp-size", "4 ranks", "2 processes", "product is 2"):
        assert part in message
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "3"},
        {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"},
        {"PMI_SIZE": "4", "PMI_RANK": "1"},
    ],
    ids=lambda environment: "+".join(environment),
)
@pytest.mark.parametrize("command", ["generate", "serve"])
def test_processes_that_do_not_know_of_each_other_are_refused(mpi, command, environment):
    """As "srun -n 8" starts them where MPI has no PMIx."""
    flags = {"generate": ("--prompt", "x", "--max-new-tokens", "1"), "serve": ("--port", "0")}[command]
    for more in ((), ("--tp-size", "4")):
        result = subprocess.run(
            [BINARY, command, MODEL, *flags, *more], capture_output=True, text=True, timeout=60, env=os.environ | environment
        )
        assert result.returncode == 1, result.stderr
        last = result.stderr.splitlines()[-1]
        assert any(f"{name}={value}:" in last for name, value in environment.items()), last
        assert "MPI" in last and "--communicator local" in last


def test_a_launcher_of_one_process_or_a_word_is_enough(chorale, mpi):
    flags = ("generate", MODEL, "--prompt", "x", "--max-new-tokens", "1")
    for environment, more in (
        ({"SLURM_NTASKS": "1"}, ()),
        ({"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, ()),
        ({"SLURM_NTASKS": "8"}, ("--communicator", "local")),
    ):
        result = subprocess.run(
            [BINARY, *flags, *more], capture_output=True, text=True, timeout=60, env=os.environ | environment
        )
        assert result.returncode == 0, result.stderr


def half_and_half(command, *given, timeout=60):
    """Two ranks with the arguments that each was given."""
    launch = ["mpirun", "--allow-run-as-root", "--oversubscribe"]
    for number, arguments in enumerate(given):
        launch += [*([":"] if number > 0 else []), "-n", "1", str(BINARY), command, *map(str, arguments)]
    return subprocess.run(launch, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)


def copy_of(model, folder, edit):
    shutil.copytree(model, folder)
    edit(folder)
    return folder


def flip_a_bit(folder):
    with (folder / "model-00002-of-00003.safetensors").open("r+b") as file:
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1000, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))


def add_a_blank(name):
    def edit(folder):
        with (folder / name).open("a") as file:
            file.write(" ")

    return edit


def other_header(folder):
    file = folder / "model-00003-of-00003.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    name = next(name for name in header if name != "__metadata__")
    header[name]["dtype"] = "F16"
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


@pytest.mark.parametrize(
    ("flags", "edit", "what"),
    [
        ((), flip_a_bit, "the weights: "),
        ((), other_header, "the headers of the weights: "),
        ((), add_a_blank("config.json"), "config.json: "),
        ((), add_a_blank("tokenizer.json"), "tokenizer.json: "),
        ((), add_a_blank("model.safetensors.index.json"), "model.safetensors.index.json: "),
        (("--quantization", "int8"), None, "--quantization: int8, rank 0 has none"),
        (("--dtype", "float32"), None, "--dtype: float32, rank 0 has bfloat16"),
        (("--kv-cache-dtype", "int8"), None, "--kv-cache-dtype: "),
        (("--chunked-prefill-size", 77), None, "--chunked-prefill-size: 77, rank 0 has 512"),
        (("--tp-size", 1, "--dp-size", 2), None, "the strategy: tp=1,dp=2,"),
        (("--tp-size", 4), None, "the strategy: tp=4,"),
        (("--load-format", "dummy"), None, "the headers of the weights: random weights"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_processes_that_were_given_something_else_are_named(mpi, tmp_path, flags, edit, what):
    other = MODEL if edit is None else copy_of(MODEL, tmp_path / "other", edit)
    common = ("--prompt", "x", "--max-new-tokens", 1)
    strategy = () if "--tp-size" in flags else ("--tp-size", 2)
    result = half_and_half("generate", (MODEL, *common, "--tp-size", 2), (other, *common, *strategy, *flags))
    assert result.returncode == 1, result.stderr
    told = [line for line in result.stderr.splitlines() if line.startswith("chorale: ")]
    assert told[0].startswith("chorale: rank 1 was given something else than rank 0: " + what), result.stderr
    assert set(told) == {told[0]}
