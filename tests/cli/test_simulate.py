"""chorale simulate: a load on machines that are not here."""

import json

import pytest

from conftest import ROOT

MACHINE = ROOT / "machines" / "h200-x8.json"
SMALL = ("--workload", "random:40x100+20", "--rate", "50")


def simulate(chorale, *flags, status=0):
    return chorale.json("simulate", "--preset", "qwen3-30b-a3b", "--machine", MACHINE, *flags, status=status)


def test_ranks_are_replicas_of_a_strategy(chorale):
    report = simulate(chorale, *SMALL, "--ranks", 64, "--strategy", "tp=8", "--strategy", "tp=4,dp=4,ep=16")
    assert [(s["strategy"], s["replicas"], s["ranks"]) for s in report["strategies"]] == [
        ("tp=8", 8, 64),
        ("tp=4,dp=4,ep=16", 4, 64),
    ]
    for result in report["strategies"]:
        assert result["completed"] == 40
        assert result["total_input_tokens"] == 4000
        assert result["total_output_tokens"] == 800
        assert 0 < result["median_itl_ms"] < result["median_ttft_ms"] < result["max_e2e_latency_ms"]
        assert 0 < result["peak_kv_usage"] < 1
        assert sum(window["output_tokens"] for window in result["windows"]) == 800


def test_the_same_arguments_give_the_same_bytes(chorale, tmp_path):
    def files(name, *flags):
        simulate(chorale, *SMALL, "--report", tmp_path / name, *flags)
        return [(tmp_path / name / file).read_bytes() for file in ("report.json", "report.html")]

    first = files("first")
    assert files("second") == first
    assert files("third", "--seed", 1) != first


def test_a_trace_shares_prefixes(chorale, tmp_path):
    trace = tmp_path / "trace.jsonl"
    lines = [{"timestamp": 1000 * i, "input_length": 1500, "output_length": 4, "hash_ids": [1, 2, 10 + i]} for i in range(5)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (result,) = simulate(chorale, "--trace", trace)["strategies"]
    assert result["prompt_tokens"] == 7500
    assert result["cached_tokens"] == 4 * 1024
    (result,) = simulate(chorale, "--trace", trace, "--disable-radix-cache")["strategies"]
    assert result["cached_tokens"] == 0


def test_a_strategy_that_does_not_work_is_a_row(chorale):
    report = simulate(chorale, *SMALL, "--strategy", "tp=3", "--strategy", "tp=2", status=1)
    assert "error" in report["strategies"][0]
    assert report["strategies"][1]["completed"] == 40


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--workload", "random:5"], 2, "--workload: expected random:REQUESTSxPROMPT+NEW"),
        (["--workload", "random:5+5"], 2, "give --duration or a --rate that ends"),
        (["--rate", "0"], 2, "--rate: expected a number above 0"),
        (["--rate", "day:3..1"], 2, "--rate: expected day:LOW..HIGH"),
        (["--ranks", "3", "--strategy", "tp=2"], 2, "--ranks 3: expected a multiple of the 2 ranks"),
        (["--trace", "/no/such/file"], 1, "/no/such/file"),
    ],
)
def test_mistakes(chorale, flags, status, message):
    result = chorale("simulate", "--preset", "qwen3-30b-a3b", "--machine", MACHINE, *flags)
    assert (result.returncode, result.stdout) == (status, "")
    assert message in result.stderr
