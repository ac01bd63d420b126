"""chorale prune, against the real binary: the table of methods, refusals, and checkpoints that serve."""

import json
import os
import signal
import subprocess
import time

import pytest

from conftest import BINARY, MODEL, ROOT

CALIBRATION = ROOT / "tests/golden/calibration.txt"
HELDOUT = ROOT / "tests/golden/heldout_excerpt.txt"


def prune(*flags, check=True):
    result = subprocess.run(
        [BINARY, "prune", "--log-level", "warn", *map(str, flags)], capture_output=True, text=True, check=False
    )
    if check:
        assert result.returncode == 0, result.stderr
    return result


def scored(output, *flags):
    return json.loads(
        prune(
            "--model-path", MODEL, "--output", output, "--calibration-file", CALIBRATION, "--heldout-file", HELDOUT,
            "--json", *flags,
        ).stdout
    )  # fmt: skip


# Held-out likelihoods of a reference implementation, on transformers.
@pytest.mark.parametrize(
    ("method", "experts", "nll"),
    [
        ("frequency", 12, 3.973), ("frequency", 8, 4.374), ("frequency", 1, 6.586),
        ("reap", 12, 3.919), ("reap", 8, 4.343), ("reap", 1, 7.699), ("average", 1, 7.129),
    ],
)  # fmt: skip
def test_methods_reach_the_reference_likelihood(tmp_path, method, experts, nll):
    result = scored(tmp_path / "out", "--method", method, "--experts", experts)
    assert result["nll_before"] == pytest.approx(3.7724, abs=1e-3)
    assert result["nll_after"] == pytest.approx(nll, abs=0.01)
    record = json.loads((tmp_path / "out/pruning.json").read_text(encoding="utf-8"))
    assert record["method"] == method
    subprocess.run([BINARY, "check", tmp_path / "out"], check=True, capture_output=True)


def test_the_closed_form_of_a_fit_beats_every_single_expert(tmp_path):
    result = scored(tmp_path / "out", "--method", "fit", "--fit-steps", 0, "--calibration-tokens", 32768)
    assert result["moe_intermediate_size"] == 128
    assert result["nll_after"] < 5.3  # 4.96 with all of the text


def test_training_improves_on_the_closed_form_and_is_deterministic(tmp_path):
    flags = ("--method", "fit", "--calibration-tokens", 8192, "--window", 256)
    closed = scored(tmp_path / "closed", *flags, "--fit-steps", 0)
    first = scored(tmp_path / "first", *flags, "--fit-steps", 40)
    again = scored(tmp_path / "again", *flags, "--fit-steps", 40, "--threads", 1)
    assert first["nll_after"] < closed["nll_after"]
    assert first["nll_after"] == again["nll_after"]
    for name in ("model.safetensors", "pruning.json", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_all_experts_kept_is_the_identity_on_logits(tmp_path):
    prune("--model-path", MODEL, "--output", tmp_path / "out", "--method", "first", "--experts", 16)
    logits = [
        subprocess.run(
            [BINARY, "logits", "--model-path", model, "--input-ids", "1,2,3,4,5,6,7", "--output", tmp_path / name],
            capture_output=True, text=True, check=True,
        )
        for model, name in ((MODEL, "a.safetensors"), (tmp_path / "out", "b.safetensors"))
    ]  # fmt: skip
    assert logits
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--method", "first", "--experts", 17), ("--experts", "17", "16")),
        (("--method", "first", "--experts", 0), ("--experts", "0")),
        (("--method", "reap", "--experts", 4), ("--method reap", "--calibration-file")),
        (("--method", "list:3,3"), ("3",)),
        (("--method", "list:16"), ("16",)),
        (("--method", "fit", "--calibration-file", CALIBRATION, "--expert-width", 2049), ("--expert-width", "2048")),
        (("--method", "first", "--experts", 1, "--expert-width", 64), ("--expert-width", "fit")),
        (("--method", "reap", "--experts", 1, "--calibration-file", os.devnull), (os.devnull,)),
    ],
)
def test_refusals_name_what_is_wrong_and_write_nothing(tmp_path, flags, words):
    result = prune("--model-path", MODEL, "--output", tmp_path / "out", *flags, check=False)
    assert result.returncode == 1
    for word in words:
        assert word in result.stderr
    assert not any(tmp_path.iterdir())


def test_a_short_text_is_refused(tmp_path):
    text = tmp_path / "text"
    text.write_text("Once upon a time.", encoding="utf-8")
    result = prune(
        "--model-path", MODEL, "--output", tmp_path / "out", "--method", "reap", "--experts", 2,
        "--calibration-file", text, check=False,
    )  # fmt: skip
    assert result.returncode == 1
    assert "window" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["text"]


def test_a_damaged_or_missing_checkpoint_is_named_and_leaves_nothing(tmp_path, model_copy):
    def refused(source, output):
        flags = ("--model-path", source, "--output", output, "--method", "first", "--experts", 1)
        result = prune(*flags, check=False)
        assert result.returncode == 1
        return result.stderr

    (tmp_path / "there").mkdir()
    assert "exists" in refused(MODEL, tmp_path / "there")
    assert "config.json" in refused(tmp_path / "nothing", tmp_path / "new")
    shard = model_copy / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert shard.name in refused(model_copy, tmp_path / "new")
    shard.write_bytes(b"\xff" * 100)
    assert shard.name in refused(model_copy, tmp_path / "new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model", "there"]


def test_output_equal_to_input_is_refused():
    result = prune("--model-path", MODEL, "--output", MODEL, "--force", "--method", "first", "--experts", 1, check=False)
    assert result.returncode == 1
    assert "--output" in result.stderr
    assert (MODEL / "config.json").exists()


@pytest.mark.parametrize("delay", [0.2, 0.7, 1.5])
def test_an_interrupt_leaves_nothing(tmp_path, delay):
    process = subprocess.Popen(
        [BINARY, "prune", "--model-path", MODEL, "--output", tmp_path / "out", "--method", "fit",
         "--calibration-file", CALIBRATION],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not any(tmp_path.iterdir())
