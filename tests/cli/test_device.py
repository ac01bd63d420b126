"""--device ref: a second device, whose memory the host cannot follow, does what the CPU does, with bits of its own."""

import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import BINARY, GOLDEN, MODEL, MPIRUN

REF = ("--device", "ref")
FLOAT32 = ("--dtype", "float32")
TOLERANCE = 2e-4  # absolute, on logits, as on the CPU
# Together they call every collective: rows gathered and summed over a tensor-parallel group, tokens that travel to
# their experts, experts that are split, and batches of their own.
SIZES = ("--tp-size", "--dp-size", "--ep-size", "--moe-tp-size", "--moe-dp-size")
STRATEGIES = [(4, 1, 1, 4, 1), (2, 2, 4, 1, 1), (2, 2, 2, 2, 1), (1, 2, 1, 1, 2)]


def flags_of(strategy):
    return tuple(part for pair in zip(SIZES, strategy, strict=True) for part in pair)


def id_list(ids):
    return ",".join(map(str, ids))


@pytest.mark.parametrize("index", [0, 3])
def test_float32_logits(chorale, golden, golden_tensors, tmp_path, index):
    ids = golden["prompts"][index]["ids"]
    logits = chorale.logits(tmp_path, "--input-ids", id_list(ids), *FLOAT32, *REF)
    assert np.abs(logits[-1] - golden_tensors[f"prompt{index}.last_logits"]).max() <= TOLERANCE


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_and_strategies_do_not_change_a_bit(chorale, golden, tmp_path, dtype):
    flags = ("--input-ids", id_list(golden["prompts"][7]["ids"][:70]), "--dtype", dtype, *REF)
    reference = chorale.logits(tmp_path, *flags)
    for more in (("--chunked-prefill-size", 7), *map(flags_of, STRATEGIES)):
        other = chorale.logits(tmp_path, *flags, *more)
        assert np.array_equal(reference.view(np.uint32), other.view(np.uint32)), more


@pytest.mark.parametrize("strategy", STRATEGIES[:2])
def test_ranks_as_processes_give_the_same_bits(chorale, golden, tmp_path, mpi, strategy):
    flags = ("--input-ids", id_list(golden["prompts"][0]["ids"]), *REF)
    reference = chorale.logits(tmp_path, *flags)
    file = tmp_path / "over-mpi.safetensors"
    command = [*MPIRUN, 4, BINARY, "logits", "--model-path", MODEL, "--output", file, *flags, *flags_of(strategy)]
    subprocess.run([*map(str, command)], check=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert np.array_equal(reference.view(np.uint32), load_file(file)["logits"].view(np.uint32))


def test_greedy_continuation(chorale, golden):
    prompt = golden["prompts"][1]
    flags = ("--prompt", prompt["text"], "--temperature", 0, "--max-new-tokens", len(prompt["greedy"]), *FLOAT32, *REF)
    result = chorale.json("generate", "--model-path", MODEL, *flags, "--ignore-eos")
    assert result["output_ids"] == prompt["greedy"]


def test_eval(chorale):
    text = GOLDEN / "heldout_excerpt.txt"
    flags = ("--model-path", MODEL, "--text-file", text, "--window", 64, "--max-windows", 2, *FLOAT32)
    nll = [chorale.json("eval", *flags, *device)["nll"] for device in ((), REF)]
    assert abs(nll[0] - nll[1]) <= TOLERANCE


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--quantization", "int8"), "--device ref: weights in int8 run on the CPU alone"),
        (("--kv-cache-dtype", "int8"), "--kv-cache-dtype int8: a cache in int8 runs on the CPU alone, found --device ref"),
        (("--device", "tpu"), '--device: expected auto, cpu, ref, cuda or cuda:N, found "tpu"'),
    ],
)
def test_what_a_device_has_not_is_refused(chorale, flags, message):
    device = () if "--device" in flags else REF
    result = chorale("logits", "--model-path", MODEL, "--input-ids", "1", "--output", "none", *device, *flags)
    assert result.returncode == 2
    assert message in result.stderr
