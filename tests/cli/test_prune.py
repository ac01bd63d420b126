"""chorale prune, against the real binary: the table of methods, refusals, and checkpoints that serve."""

import json
import os
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from conftest import BINARY, MODEL, ONE_EXPERT, ROOT

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
        ("frequency", 8, 4.374), ("frequency", 1, 6.586), ("reap", 12, 3.919), ("reap", 1, 7.699), ("average", 1, 7.129),
    ],
)  # fmt: skip
def test_methods_reach_the_reference_likelihood(tmp_path, method, experts, nll):
    result = scored(tmp_path / "out", "--method", method, "--experts", experts)
    assert result["nll_before"] == pytest.approx(3.7724, abs=1e-3)
    assert result["nll_after"] == pytest.approx(nll, abs=0.01)
    record = json.loads((tmp_path / "out/pruning.json").read_text(encoding="utf-8"))
    assert record["method"] == method
    subprocess.run([BINARY, "check", tmp_path / "out"], check=True, capture_output=True)


# The figures with all of the text, of other widths, and of training, are those of `make prune-report`, which takes a quarter
# of an hour.
def test_the_closed_form_of_a_fit_reaches_its_goal(tmp_path):
    result = scored(tmp_path / "out", "--method", "fit", "--fit-steps", 0, "--calibration-tokens", 16384)
    assert result["moe_intermediate_size"] == 128
    assert result["nll_after"] <= 5.0
    subprocess.run([BINARY, "check", tmp_path / "out"], check=True, capture_output=True)


def test_the_bundled_one_expert_model_is_as_good_as_its_record_says(chorale):
    record = json.loads((ONE_EXPERT / "pruning.json").read_text(encoding="utf-8"))
    assert (record["method"], record["num_experts"], record["fit"]["width"]) == ("fit", 1, 512)
    scores = chorale.json(
        "eval", "--model-path", ONE_EXPERT, "--text-file", HELDOUT, "--window", 512, "--max-windows", 24,
        "--dtype", "float32",
    )  # fmt: skip
    assert scores["nll"] == pytest.approx(record["held_out"]["nll_after"], abs=1e-6)
    assert scores["nll"] <= 4.02
    assert chorale.json("check", ONE_EXPERT)["warnings"] == []


def test_training_improves_on_the_closed_form_and_is_deterministic(tmp_path):
    flags = ("--method", "fit", "--calibration-tokens", 4096, "--window", 256)
    closed = scored(tmp_path / "closed", *flags, "--fit-steps", 0)
    first = scored(tmp_path / "first", *flags, "--fit-steps", 20)
    again = scored(tmp_path / "again", *flags, "--fit-steps", 20, "--threads", 1)
    assert first["nll_after"] < closed["nll_after"]
    assert first["nll_after"] == again["nll_after"]
    for name in ("model.safetensors", "pruning.json", "config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_kept_expert_is_the_same_to_the_byte(tmp_path, chorale):
    prune("--model-path", MODEL, "--output", tmp_path / "out", "--method", "first", "--experts", 1)
    source = {}
    for shard in sorted(MODEL.glob("*.safetensors")):
        source.update(read_bits(shard))
    pruned = read_bits(tmp_path / "out/model.safetensors")
    assert set(pruned) == {name for name in source if not re.search(r"\.experts\.[1-9]", name)}
    for name, values in pruned.items():
        router = name.endswith(".mlp.gate.weight")
        assert values.shape == ((1, 256) if router else source[name].shape)
        assert np.array_equal(values, source[name][:1] if router else source[name]), name

    assert chorale.json("check", tmp_path / "out")["warnings"] == []
    config = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))
    assert config["num_experts"] == config["num_experts_per_tok"] == 1
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (MODEL / "tokenizer.json").read_bytes()


def read_bits(file):
    """Tensors by name, as the bits of their bfloat16 values, which numpy has no type for."""
    data = file.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:header_end])
    header.pop("__metadata__", None)
    tensors = {}
    for name, tensor in header.items():
        assert tensor["dtype"] == "BF16"
        begin, end = (header_end + offset for offset in tensor["data_offsets"])
        tensors[name] = np.frombuffer(data[begin:end], np.uint16).reshape(tensor["shape"])
    return tensors


def test_a_report_puts_ways_of_pruning_side_by_side(tmp_path):
    report = prune(
        "--model-path", MODEL, "--report", tmp_path / "report", "--heldout-file", HELDOUT, "--heldout-windows", 4,
        "--calibration-file", CALIBRATION, "--calibration-tokens", 4096, "--json",
        "--variants", "frequency:8,reap:1,average,fit:64:0", "--variants", "first:16",
    ).stdout  # fmt: skip
    report = json.loads(report)
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == ["report.html", "report.json"]
    assert json.loads((tmp_path / "report/report.json").read_text(encoding="utf-8")) == report
    rows = {row["name"]: row for row in report["variants"]}
    assert list(rows) == ["frequency:8", "reap:1", "average", "fit:64:0", "first:16"]
    assert rows["first:16"]["nll_after"] == rows["first:16"]["nll_before"] == rows["reap:1"]["nll_before"]
    assert rows["frequency:8"]["nll_after"] < rows["reap:1"]["nll_after"]
    assert [row["work"] for row in rows.values()] == [1, 0.25, 0.25, 0.125, 1]
    assert report["verdict"].startswith("Least is lost with first:16: 0.00000")
    # A variant's likelihood is that of the checkpoint which the same flags make.
    alone = scored(tmp_path / "out", "--heldout-windows", 4, "--method", "fit", "--expert-width", 64, "--fit-steps", 0,
                   "--calibration-tokens", 4096)  # fmt: skip
    assert alone["nll_after"] == rows["fit:64:0"]["nll_after"]
    html = (tmp_path / "report/report.html").read_text(encoding="utf-8")
    for text in ("<svg", "frequency:8", "fit:64:0", "calibration.txt"):
        assert text in html
    assert "http" not in html


def test_a_report_tells_people_the_same(tmp_path):
    table = prune(
        "--model-path", MODEL, "--report", tmp_path, "--heldout-file", HELDOUT, "--heldout-windows", 1,
        "--variants", "first:4",
    ).stdout  # fmt: skip
    lines = table.splitlines()
    assert lines[0].split()[:3] == ["variant", "experts", "width"]
    assert lines[1].split()[:3] == ["first:4", "4", "128"]
    assert lines[-1].endswith("report.html")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("--output", "--report", "neither")),
        (("--report", "REPORT", "--output", "OUTPUT"), ("--output", "--report")),
        (("--report", "REPORT"), ("--heldout-file",)),
        (("--report", "REPORT", "--heldout-file", HELDOUT), ("--calibration-file",)),
        (("--report", "REPORT", "--heldout-file", HELDOUT, "--variants", "first"), ("--variants", "first")),
        (("--report", "REPORT", "--heldout-file", HELDOUT, "--variants", "first:x"), ("first:x", '"x"')),
        (("--report", "REPORT", "--heldout-file", HELDOUT, "--variants", "first:17"), ("17", "16")),
        (("--report", "REPORT", "--heldout-file", HELDOUT, "--variants", "list:3"), ("list:3",)),
        (("--report", "REPORT", "--heldout-file", HELDOUT, "--variants", "average:1"), ("average:1",)),
        (("--report", "REPORT", "--heldout-file", HELDOUT, "--variants", "first:\x1b"), ("--variants",)),
    ],
)
def test_a_report_refuses_what_it_cannot_do(tmp_path, flags, words):
    flags = [tmp_path / "report" if flag == "REPORT" else flag for flag in flags]
    result = prune("--model-path", MODEL, *flags, check=False)
    assert result.returncode == 2
    for word in words:
        assert word in result.stderr
    assert "\x1b" not in result.stderr
    assert not any(tmp_path.iterdir())


def test_a_model_without_experts_is_refused(tmp_path, model_copy):
    config = json.loads((model_copy / "config.json").read_text(encoding="utf-8"))
    config["mlp_only_layers"] = list(range(config["num_hidden_layers"]))
    (model_copy / "config.json").write_text(json.dumps(config), encoding="utf-8")
    flags = ("--output", tmp_path / "out", "--method", "first", "--experts", 1)
    result = prune("--model-path", model_copy, *flags, check=False)
    assert result.returncode == 1
    assert "experts" in result.stderr
    assert not (tmp_path / "out").exists()


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
    assert result.returncode == (1 if os.devnull in flags else 2)
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
    assert "nothing: expected a folder with a checkpoint" in refused(tmp_path / "nothing", tmp_path / "new")
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
