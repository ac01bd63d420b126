"""chorale bench: its numbers agree with each other; how large they are is not tested."""

import json

import pytest

from conftest import MODEL

SHORT = ("--prompt", 64, "--decode", 4, "--batch", "1,3", "--repeats", 2)


@pytest.fixture(scope="module")
def report(chorale):
    return chorale.json("bench", "--model-path", MODEL, *SHORT, "--profile")


def test_a_result_for_each_kind_of_step(report):
    assert [(r["phase"], r["sequences"], r["tokens"]) for r in report["results"]] == [
        ("prefill", 1, 64),
        ("decode", 1, 1),
        ("decode", 3, 3),
    ]
    assert report["machine"]["cores"] >= 1
    assert report["load_seconds"] > 0
    assert report["peak_memory_bytes"] > report["weight_bytes"] > 0


def test_the_fraction_is_the_floor_over_the_time(report):
    for result in report["results"]:
        rate = result["tokens_per_second"]
        assert 0 < rate["low"] <= rate["median"] <= rate["high"]
        reading = result["bytes"] / result["read_bandwidth"]
        computing = result["operations"] / result["peak_operations"]
        assert result["bound_by"] == ("memory" if reading >= computing else "compute")
        # of an even number of steps, the median of rates is not the rate of the median
        seconds = (result["tokens"] / rate["high"], result["tokens"] / rate["low"])
        floor = max(reading, computing)
        assert floor / seconds[1] * 0.999 <= result["fraction_of_ceiling"] <= floor / seconds[0] * 1.001


def test_more_sequences_read_the_same_weights_and_more_cache(report):
    one, three = report["results"][1:]
    assert one["bytes"] < three["bytes"] < 3 * one["bytes"]
    assert three["operations"] == pytest.approx(3 * one["operations"])


def test_the_profile_has_the_ops_of_every_layer(report):
    layers = 6
    for result in report["results"]:
        calls = {op["op"]: op["calls"] for op in result["profile"]}
        assert calls["attention"] == calls["gated_matmul"] == layers
        assert calls["order_free_matmul"] == 2 * layers  # o_proj and down_proj
        assert calls["rms_norm"] == 2 * layers + 1
        assert all(op["seconds"] > 0 for op in result["profile"])


def test_the_profile_of_another_device_has_its_own_time_and_the_same_work(chorale):
    tiny = ("--prompt", 8, "--decode", 1, "--batch", 2, "--repeats", 1, "--profile")
    cpu, other = (chorale.json("bench", "--model-path", MODEL, *tiny, "--device", device) for device in ("cpu", "ref"))
    for expected, result in zip(cpu["results"], other["results"], strict=True):
        work = {op["op"]: op["operations"] for op in expected["profile"]}
        assert {op["op"]: op["operations"] for op in result["profile"]} == work
        assert work["attention"] > 0 and work["gated_matmul"] > 0
        assert all(op["seconds"] > 0 for op in result["profile"])


def test_a_trace_for_chrome(chorale, tmp_path):
    file = tmp_path / "trace.json"
    result = chorale("bench", "--model-path", MODEL, "--prompt", 32, "--decode", 1, "--batch", 1, "--repeats", 1, "--trace", file)
    assert result.returncode == 0, result.stderr
    events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    names = [event["args"]["name"] for event in events if event["ph"] == "M"]
    assert names == ["prefill 32", "decode, batch 1"]
    assert {"embed", "matmul", "attention"} <= {event["name"] for event in events if event["ph"] == "X"}


def test_ranks_and_markdown(chorale):
    result = chorale("bench", "--model-path", MODEL, "--prompt", 32, "--decode", 2, "--batch", 2, "--repeats", 1,
                     "--tp-size", 2, "--markdown", "--profile")  # fmt: skip
    assert "tp=2" in result.stdout
    rows = [line for line in result.stdout.splitlines() if line.startswith("| ")]
    assert any(row.startswith("| prefill 32") for row in rows)
    assert any(row.startswith("| decode, batch 2") for row in rows)


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "expected either --model-path or --preset, found neither"),
        (("--preset", "qwen3-30b-a3b-1e", "--model-path", MODEL), "found both"),
        (("--preset", "qwen4"), "qwen3-30b-a3b-1e"),
        (("--model-path", MODEL, "--batch", "0"), "--batch"),
        (("--model-path", MODEL, "--json", "--markdown"), "--json"),
        (("--model-path", MODEL, "--trace", "/nowhere/trace.json"), "--trace /nowhere/trace.json"),
    ],
)
def test_refusals(chorale, flags, message):
    result = chorale("bench", *flags)
    assert result.returncode != 0
    assert message in result.stderr
