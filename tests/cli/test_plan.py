"""chorale plan: what a strategy makes of a model, from its config.json alone."""

import json
import os
import re
import subprocess

import pytest

from conftest import BINARY, MODEL

EXPERT_PARALLEL = ("--tp-size", 4, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 8)


@pytest.fixture
def config_only(tmp_path):
    """The bundled model's folder without weights; edit(**fields) changes its configuration."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))

    def edit(**fields):
        config.update(fields)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        return folder

    edit()
    edit.folder = folder
    return edit


def plan(chorale, *flags, model=MODEL):
    return chorale.json("plan", "--model-path", model, *flags)


def test_one_rank_has_everything(chorale):
    result = plan(chorale, "--max-total-tokens", 100)
    assert result["strategy"] == {
        "tp_size": 1, "dp_size": 1, "ep_size": 1, "moe_tp_size": 1, "moe_dp_size": 1, "world": 1
    }  # fmt: skip
    assert result["tokens_travel"] is False
    (rank,) = result["ranks"]
    assert rank["experts"] == list(range(16))
    assert (rank["query_heads"], rank["kv_heads"]) == (8, 4)
    assert rank["weight_bytes"] == result["memory"]["weight_bytes"]
    assert rank["kv_tokens"] == 128  # whole blocks of 32
    # 6 layers, keys and values of 4 heads of 64 in bfloat16
    assert result["kv_cache_dtype"] == "bfloat16"
    assert rank["kv_cache_bytes"] == 128 * 6 * 2 * 4 * 64 * 2


def test_an_int8_cache_has_a_scale_for_each_head_of_a_token(chorale):
    result = plan(chorale, "--max-total-tokens", 100, "--kv-cache-dtype", "int8")
    assert result["kv_cache_dtype"] == "int8"
    assert result["ranks"][0]["kv_cache_bytes"] == result["memory"]["kv_cache_bytes"] == 128 * 6 * 2 * 4 * (64 + 4)


def test_expert_parallel(chorale, config_only):
    result = plan(chorale, *EXPERT_PARALLEL, "--max-total-tokens", 4096, model=config_only.folder)
    assert result["strategy"]["world"] == 8
    assert result["tokens_travel"] is True
    ranks = result["ranks"]
    assert [rank["rank"] for rank in ranks] == list(range(8))
    assert [rank["data_parallel_rank"] for rank in ranks] == [0] * 4 + [1] * 4
    assert [rank["tensor_parallel_rank"] for rank in ranks] == [0, 1, 2, 3] * 2
    assert [rank["moe_expert_parallel_rank"] for rank in ranks] == list(range(8))
    assert [expert for rank in ranks for expert in rank["experts"]] == list(range(16))
    assert {rank["kv_heads"] for rank in ranks} == {1}
    assert {rank["kv_tokens"] for rank in ranks} == {4096}
    # Each rank computes with less than the process stores.
    assert max(rank["weight_bytes"] for rank in ranks) < result["memory"]["weight_bytes"] / 4
    assert result["memory"]["fits"] is True
    assert result["physical_to_logical_map"] == [list(range(16))] * 6
    assert result["slots_per_rank"] == 2


def test_sharding_table(chorale):
    rows = {row["pattern"]: row for row in plan(chorale, *EXPERT_PARALLEL)["sharding"]}
    assert rows["*.self_attn.q_proj.*"]["split"] == "by output"
    assert (rows["*.self_attn.q_proj.*"]["size"], rows["*.self_attn.q_proj.*"]["chunks"]) == (8, 8)
    assert rows["*.self_attn.q_proj.*"]["most_chunks_of_a_rank"] == 2
    assert rows["*.self_attn.k_proj.*"]["chunks"] == 4
    assert rows["*.self_attn.o_proj.weight"]["split"] == "by input"
    assert rows["*.mlp.experts.*.down_proj.weight"]["split"] == "by expert, then by input"
    assert rows["*norm.weight"]["split"] == "replicated"
    assert "*.mlp.up_proj.weight" not in rows  # every layer has experts


def test_dense_layers_are_in_the_table_where_there_are_some(chorale, config_only):
    rows = {row["pattern"] for row in plan(chorale, model=config_only(mlp_only_layers=[0]))["sharding"]}
    assert "*.mlp.up_proj.weight" in rows
    assert "*.mlp.experts.*.up_proj.weight" in rows
    result = plan(chorale, "--tp-size", 2, model=config_only(mlp_only_layers=list(range(6))))
    rows = {row["pattern"] for row in result["sharding"]}
    assert "*.mlp.up_proj.weight" in rows
    assert not any("experts" in row or "mlp.gate.weight" in row for row in rows)


def test_fewer_experts_than_ranks_are_replicated(chorale, config_only):
    result = plan(chorale, *EXPERT_PARALLEL, model=config_only(num_experts=1, num_experts_per_tok=1))
    assert result["tokens_travel"] is False
    assert [rank["experts"] for rank in result["ranks"]] == [[0]] * 8
    assert result["physical_to_logical_map"] == [[0] * 8] * 6
    result = plan(chorale, *EXPERT_PARALLEL, model=config_only(num_experts=3, num_experts_per_tok=2))
    assert [rank["experts"] for rank in result["ranks"]] == [[0], [1], [2], [0], [1], [2], [0], [1]]


def test_the_placement_is_one_that_can_be_loaded(chorale, tmp_path):
    flags = (*EXPERT_PARALLEL, "--ep-num-redundant-experts", 5)
    first = plan(chorale, *flags)
    assert len(first["physical_to_logical_map"][0]) == 24
    first["physical_to_logical_map"][3].reverse()
    file = tmp_path / "placement.json"
    file.write_text(json.dumps(first), encoding="utf-8")
    again = plan(chorale, *flags, "--init-expert-location", file)
    assert again["physical_to_logical_map"] == first["physical_to_logical_map"]
    text = chorale("plan", "--model-path", MODEL, *flags, "--init-expert-location", file).stdout
    assert "experts are those of the first layer" in text


def test_a_placement_is_explained_by_a_load(chorale, tmp_path):
    """Half of the work of layer 2 is that of expert 0; that of the others is even."""
    load = [[1] * 16 for _ in range(6)]
    load[2] = [15] + [1] * 15
    file = tmp_path / "load.json"
    file.write_text(json.dumps({"recording": False, "logical_count": load}), encoding="utf-8")
    flags = ("--dp-size", 4, "--ep-size", 4, "--ep-num-redundant-experts", 4, "--expert-load", file)
    explained = plan(chorale, *flags)["placement"]
    assert explained["layer"] == 2
    for layer in (0, 1, 3, 4, 5):
        assert explained["max_over_mean"][layer] >= explained["balanced_max_over_mean"][layer]
    now, then = explained["max_over_mean"][2], explained["balanced_max_over_mean"][2]
    assert now > 1.3 > then >= 1
    ranks = explained["ranks"]
    assert sum(rank["share"] for rank in ranks) == pytest.approx(1)
    assert max(rank["share"] for rank in ranks) * 4 == pytest.approx(now)
    assert max(rank["balanced_share"] for rank in ranks) * 4 == pytest.approx(then)
    assert set().union(*(rank["balanced_experts"] for rank in ranks)) == set(range(16))
    assert plan(chorale, *flags, "--layer", 0)["placement"]["layer"] == 0
    text = chorale("plan", "--model-path", MODEL, *flags).stdout
    assert "experts of layer 2, and their share of its work" in text
    even = plan(chorale, "--dp-size", 4, "--ep-size", 4)["placement"]
    assert even["max_over_mean"] == [1] * 6
    for wrong, message in (({"logical_count": load[:5]}, "5 layers"), ({}, "logical_count")):
        file.write_text(json.dumps(wrong), encoding="utf-8")
        result = chorale("plan", "--model-path", MODEL, *flags)
        assert result.returncode != 0 and f"--expert-load {file}" in result.stderr and message in result.stderr


def test_processes_store_their_part_alone(chorale):
    threads = plan(chorale, *EXPERT_PARALLEL, "--communicator", "local")
    processes = plan(chorale, *EXPERT_PARALLEL, "--communicator", "mpi")
    assert processes["ranks"][0]["weight_bytes"] == threads["ranks"][0]["weight_bytes"]
    assert processes["memory"]["weight_bytes"] == processes["ranks"][0]["weight_bytes"]
    assert processes["memory"]["weight_bytes"] < threads["memory"]["weight_bytes"]


def test_a_model_that_does_not_fit_still_has_a_plan(chorale, config_only):
    model = config_only(hidden_size=65536, num_hidden_layers=400, vocab_size=1_000_000)
    flags = ("--model-path", model, *EXPERT_PARALLEL)
    result = chorale.json("plan", *flags)
    assert result["memory"]["fits"] is False
    assert "does not fit" in result["memory"]["reason"]
    assert result["ranks"][0]["kv_tokens"] is None
    assert chorale.json("plan", *flags, "--max-total-tokens", 64)["ranks"][0]["kv_tokens"] == 64
    text = chorale("plan", *flags)
    assert text.returncode == 0
    assert "the model does not fit" in text.stdout


def test_for_people(chorale):
    result = chorale("plan", "--model-path", MODEL, *EXPERT_PARALLEL, "--max-total-tokens", 4096)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert "strategy tp=4,dp=2,ep=8,moe_tp=1,moe_dp=1: 8 ranks, tokens travel to their experts" in lines
    assert any(re.match(r"  \*\.self_attn\.q_proj\.\* +by output +8 query heads +8 +2$", line) for line in lines)
    assert any(re.match(r"  7 +1/2 +3/4 +7/8 +0/1 +0/1 +2 +1 .* 4096 .* 14-15$", line) for line in lines)
    assert any(line.startswith("  KV cache ") for line in lines)
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--tp-size", 3), ["--tp-size", "3 ranks", "8 query heads", "1, 2, 4, 8"]),
        (("--tp-size", 4, "--ep-size", 3), ["--ep-size 3", "1, 2, 4"]),
        (("--single-expert-mode", "dp"), ["--single-expert-mode", "16"]),
        (("--context-length", 4096), ["--context-length", "2048"]),
        (("--init-expert-location", "/no/such/file"), ["/no/such/file"]),
    ],
)
def test_what_cannot_be_done_is_refused(chorale, flags, parts):
    result = chorale("plan", "--model-path", MODEL, *flags)
    is_a_file = flags[0] == "--init-expert-location"
    assert result.returncode == (1 if is_a_file else 2)
    assert result.stdout == ""
    assert result.stderr.startswith("chorale: ")
    assert result.stderr.count("\n") == (1 if is_a_file else 2)
    for part in parts:
        assert part in result.stderr


def test_single_expert_mode_comes_from_the_environment(config_only):
    model = config_only(num_experts=1, num_experts_per_tok=1)
    for mode, ep_size in (("dp", 8), ("tp", 1)):
        result = subprocess.run(
            [BINARY, "plan", "--model-path", model, "--tp-size", "8", "--json"],
            env={**os.environ, "SINGLE_EXPERT_MODE": mode}, capture_output=True, check=True,
        )  # fmt: skip
        assert json.loads(result.stdout)["strategy"]["ep_size"] == ep_size


MACHINE = MODEL.parent.parent / "machines" / "h200-x8.json"


def recommend(chorale, *flags):
    return chorale("plan", "--recommend", "--model-path", MODEL, "--ranks", 8, "--machine", MACHINE, *flags)


def test_every_strategy_is_ranked_the_same_way_every_time(chorale):
    result = recommend(chorale, "--json")
    assert result.returncode == 0, result.stderr
    assert recommend(chorale, "--json").stdout == result.stdout
    advice = json.loads(result.stdout)
    texts = [row["text"] for row in advice["strategies"]]
    assert len(set(texts)) == len(texts) > 20
    rates = [row["output_tokens_per_second"] for row in advice["strategies"]]
    assert rates == sorted(rates, reverse=True)
    for row in advice["strategies"]:
        assert sum(row["seconds_by_part"].values()) == pytest.approx(row["seconds"])
    assert texts[0] in advice["reason"]
    assert all(other["first"] != texts[0] for other in advice["alternatives"])


def test_a_recommendation_for_people_ends_with_its_reason(chorale):
    result = recommend(chorale, "--objective", "itl", "--slo", "ttft=1s", "--workload", "random:2x16+4")
    assert result.returncode == 0, result.stderr
    assert "2 requests of 16 prompt tokens and 4 new ones" in result.stdout
    assert "is first by itl" in result.stdout


def test_a_trace_counts_as_its_mean_request(chorale, tmp_path):
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"timestamp": 0, "input_length": 10, "output_length": 3}\n{"input_length": 30, "output_length": 5}\n')
    workload = json.loads(recommend(chorale, "--json", "--trace", trace).stdout)["workload"]
    assert workload == {"requests": 2, "prompt_tokens": 20, "new_tokens": 4}


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (["--slo", "ttft=2"], 2),
        (["--workload", "random:0x1+1"], 2),
        (["--machine", "/nowhere.json"], 1),
        (["--trace", "/nowhere.jsonl"], 1),
    ],
)
def test_what_cannot_be_recommended_names_the_flag(chorale, flags, status):
    machine = [] if flags[0] == "--machine" else ["--machine", MACHINE]
    result = chorale("plan", "--recommend", "--model-path", MODEL, *machine, *flags)
    assert result.returncode == status
    assert flags[0] in result.stderr
