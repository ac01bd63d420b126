"""chorale compare, on both bundled models."""

import json
import os
import re
import subprocess
from html.parser import HTMLParser

import pytest

from conftest import BINARY, MODEL, ONE_EXPERT

SMALL = ("--workload", "random:6x20+8")
PURPOSES = ("attention", "dispatch", "combine", "logits")


@pytest.fixture
def compare(chorale, tmp_path):
    """Runs a comparison; gives what --json printed, after a look at the files. `status`: the expected exit status."""

    def run(*flags, model=MODEL, status=0):
        output = tmp_path / "output"
        report = chorale.json("compare", "--model-path", model, "--output", output, *flags, status=status)
        assert json.loads((output / "report.json").read_text(encoding="utf-8")) == report
        check_html((output / "report.html").read_text(encoding="utf-8"), len(report["strategies"]))
        return report

    return run


class Page(HTMLParser):
    """Counts elements, and checks that they are closed in order and refer to nothing outside the page."""

    VOID = {"meta"}

    def __init__(self):
        super().__init__()
        self.open, self.counts = [], {}

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert not {"src", "href", "style"} & {name for name, _ in attributes}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        assert tag in ("line", "rect")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_html(text, num_strategies):
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.counts["tr"] >= num_strategies + 2
    assert page.counts.get("svg", 0) in (0, 5)
    assert "://" not in text


def by_name(report):
    return {row["name"]: row for row in report["strategies"]}


def test_all_strategies_give_the_same_bits(compare):
    report = compare("--config", "all", *SMALL)
    assert report["identical"] is True
    assert len(report["strategies"]) == 9
    for row in report["strategies"]:
        assert row["error"] is None
        assert row["identical"] is True, row
        assert row["prompt_tokens"] == 120
        assert row["output_tokens"] == 48
        assert row["computed_tokens"] == 120 + 48 - 6
        assert len(row["ranks"]) == row["strategy"]["world"]
        for name in ("time_to_first_token", "inter_token_latency"):
            times = row[name]
            assert 0 < times["median"] <= times["p99"]
            assert 0 < times["mean"] <= times["p99"]
        assert row["prompt_tokens_per_second"] > 0
        assert row["output_tokens_per_second"] == pytest.approx(48 / row["seconds"])
        assert 1 <= row["expert_balance"]["mean"] <= row["expert_balance"]["worst"]
        for purpose in PURPOSES:
            traffic = row["traffic"][purpose]
            assert traffic["bytes"] == sum(traffic["bytes_by_rank"])
            assert traffic["bytes_per_token"] == pytest.approx(traffic["bytes"] / row["computed_tokens"])

    rows = by_name(report)
    assert rows["simple"]["is_reference"] is True
    sends = {name: {p for p in PURPOSES if row["traffic"][p]["bytes"]} for name, row in rows.items()}
    assert sends["simple"] == sends["dp"] == set()
    assert sends["ep"] == sends["tp"] == set(PURPOSES)
    assert sends["dp=8 ep=8"] == {"dispatch", "combine"}
    # A token is sent to every rank that has a part of its experts: all of them, or the owners of four.
    dispatch = {name: row["traffic"]["dispatch"]["bytes"] for name, row in rows.items()}
    assert dispatch["tp"] > dispatch["tp=8 ep=4 moe_tp=2"] > dispatch["tp=8 ep=8"]
    assert rows["tp"]["expert_balance"]["worst"] == 1
    assert rows["tp"]["ranks"][0]["weight_bytes"] < rows["simple"]["ranks"][0]["weight_bytes"] / 6


def test_one_expert_needs_no_expert_traffic(compare):
    report = compare("--config", "both", *SMALL, model=ONE_EXPERT)
    rows = by_name(report)
    assert report["identical"] is True
    assert report["model"]["num_experts"] == 1
    assert rows["ep"]["strategy"] == {
        "tp_size": 4, "dp_size": 2, "ep_size": 8, "moe_tp_size": 1, "moe_dp_size": 1, "world": 8
    }  # fmt: skip
    for purpose in ("dispatch", "combine"):
        assert rows["ep"]["traffic"][purpose]["bytes"] == 0
        assert rows["ep"]["traffic"][purpose]["bytes_by_rank"] == [0] * 8
        assert rows["tp"]["traffic"][purpose]["bytes"] > 0
    # All ranks compute with the one copy of the expert that the process has.
    assert rows["ep"]["stored_weight_bytes"] < ONE_EXPERT.joinpath("model.safetensors").stat().st_size * 1.05


def test_a_strategy_that_is_refused_is_a_row(compare):
    report = compare("--strategy", "tp=3", "--strategy", "tp=2", "--strategy", "nonsense", *SMALL)
    refused, ran, nonsense = report["strategies"]
    assert "--tp-size" in refused["error"]
    assert "8 query heads" in refused["error"]
    assert refused["identical"] is None
    assert '"nonsense" is not a size' in nonsense["error"]
    assert ran["error"] is None
    assert ran["identical"] is True
    assert report["identical"] is True


def test_a_strategy_that_fails_while_running_is_a_row(compare):
    report = compare("--strategy", "tp=2", "--strategy", "tp=1", *SMALL, "--inject-fault", "1:4")
    failed, ran = report["strategies"]
    assert "rank 1 failed" in failed["error"]
    assert ran["is_reference"] is True


def test_nothing_that_runs_is_a_failure(compare):
    report = compare("--strategy", "tp=3", "--strategy", "tp=5", *SMALL, status=1)
    assert report["identical"] is False
    assert report["verdict"] == "No strategy ran."


def test_seeds_repeat_and_differ(compare):
    """The tokens' checksum is not shown, but what they cost is: other prompts go to other experts."""
    flags = ("--strategy", "dp=2,ep=2", "--workload", "random:2x30+1", "--chunked-prefill-size", 60)
    balance = [compare(*flags, "--seed", seed)["strategies"][0]["expert_balance"] for seed in (1, 1, 2)]
    assert balance[0] == balance[1]
    assert balance[0] != balance[2]


def test_prompts_from_a_file(compare, tmp_path):
    lines = tmp_path / "prompts.txt"
    lines.write_text("Once upon a time\n\na king had three daughters\n", encoding="utf-8")
    report = compare("--config", "both", "--ranks", 2, "--prompts", lines, "--max-new-tokens", 5)
    assert report["identical"] is True
    assert [row["output_tokens"] for row in report["strategies"]] == [10, 10]

    objects = tmp_path / "prompts.jsonl"
    objects.write_text('{"prompt": "Once", "max_tokens": 3}\n{"prompt": "a king"}\n', encoding="utf-8")
    report = compare("--config", "simple", "--prompts", objects, "--max-new-tokens", 5)
    assert report["strategies"][0]["output_tokens"] == 8


def test_random_weights_need_the_config_alone(compare, tmp_path):
    model = tmp_path / "<b>model & 'co'"
    model.mkdir()
    (model / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    report = compare(
        "--config", "both", "--ranks", 4, "--load-format", "dummy", "--dtype", "float32", "--threads", 2,
        "--ep-num-redundant-experts", 4, "--ep-dispatch-algorithm", "dynamic", *SMALL, model=model,
    )  # fmt: skip
    assert report["identical"] is True
    assert report["dtype"] == "float32"
    assert report["model"]["random_weights"] is True
    assert report["model"]["name"] == "<b>model & 'co'"
    assert {row["threads_per_rank"] for row in report["strategies"]} == {2}


def test_for_people(chorale, tmp_path):
    flags = ("--strategy", "tp=2,ep=2", "--strategy", "tp=3", "--strategy", "tp=1", *SMALL)
    result = chorale("compare", "--model-path", MODEL, "--output", tmp_path / "new" / "folder", *flags)
    assert result.returncode == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert all(len(line) <= 140 for line in lines)
    assert lines[0] == "tales-moe: 6 requests of 20 random tokens, 8 new tokens each"
    assert any(re.match(r"tp=2 ep=2 +2x1 +first ", line) for line in lines)
    assert any(re.match(r"1 rank +1x\d+ +same ", line) for line in lines)
    assert any(line.startswith("tp=3 moe_tp=3  failed: --tp-size ") for line in lines)
    assert lines[-2].startswith("All 2 strategies that ran gave the same bits: 48 tokens")
    assert lines[-1] == str(tmp_path / "new" / "folder" / "report.html")


@pytest.mark.parametrize(
    ("flags", "status", "parts"),
    [
        ((), 2, ["--output", "required"]),
        (("--output", "{tmp}", "--config", "fast"), 2, ["--config", "simple"]),
        (("--output", "{tmp}", "--config", "tp", "--strategy", "tp=1"), 2, ["--config", "--strategy"]),
        (("--output", "{tmp}", "--workload", "random:1x1+1", "--prompts", "x"), 2, ["--workload", "--prompts"]),
        (("--output", "{tmp}", "--ranks", "0"), 2, ["--ranks"]),
        (("--output", "{tmp}", "--tp-size", "2"), 2, ["unknown flag --tp-size"]),
        (("--output", "{tmp}", "--workload", "6x20+8"), 2, ["--workload", "random:64x128+64"]),
        (("--output", "{tmp}", "--workload", "random:1x2048+1"), 2, ["--workload", "2048"]),
        (("--output", "{tmp}", "--prompts", "/no/such/file"), 1, ["/no/such/file"]),
        (("--output", "/dev/null/folder"), 1, ["--output /dev/null/folder"]),
        (("--output", "{tmp}", "--model-path", "/no/such/model"), 1, ["/no/such/model"]),
    ],
)
def test_mistakes(chorale, tmp_path, flags, status, parts):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    if "--model-path" not in flags:
        flags += ["--model-path", str(MODEL)]
    result = chorale("compare", *flags)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    for part in parts:
        assert part in result.stderr.splitlines()[0]


def test_the_environment_does_not_choose_strategies(tmp_path):
    result = subprocess.run(
        [BINARY, "compare", "--model-path", ONE_EXPERT, "--config", "simple", *SMALL, "--output", tmp_path, "--json"],
        env={**os.environ, "SINGLE_EXPERT_MODE": "neither"}, capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(result.stdout)["identical"] is True


def test_help_has_the_flags_that_say_something_here(chorale):
    text = chorale("compare", "--help").stdout
    for flag in ("--config", "--strategy", "--workload", "--ep-num-redundant-experts", "--threads", "--dtype"):
        assert f"  {flag}" in text
    for flag in ("--tp-size", "--single-expert-mode", "--communicator", "SINGLE_EXPERT_MODE"):
        assert flag not in text
