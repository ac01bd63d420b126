"""Recording of how many tokens go to each expert, and what it is good for: a balanced placement."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

LAYERS, EXPERTS, TOP_K = 6, 16, 4


@pytest.fixture(scope="module")
def recording(server):
    """Counts of one prompt's tokens and the tokens that it generated."""
    assert server.post("/flush_cache", None).status_code == 200  # what other tests left is not computed again
    assert server.post("/start_expert_distribution_record", None).status_code == 200
    server.generate(input_ids=list(range(100, 150)), max_new_tokens=10, temperature=0, ignore_eos=True)
    assert server.post("/stop_expert_distribution_record", None).status_code == 200
    server.generate(input_ids=list(range(300, 350)), max_new_tokens=10, temperature=0, ignore_eos=True)
    response = httpx.get(server.url + "/dump_expert_distribution_record", timeout=30)
    assert response.status_code == 200
    return response.json()


def test_every_computed_token_counts_top_k_times_in_every_layer(recording):
    assert recording["recording"] is False
    assert len(recording["logical_count"]) == LAYERS
    for layer in recording["logical_count"]:
        assert len(layer) == EXPERTS
        assert sum(layer) == TOP_K * (50 + 9)  # the last token is never computed


def test_counts_are_the_same_under_another_strategy(serve, recording):
    other = serve("--tp-size", 4, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 8)
    other.post("/start_expert_distribution_record", None)
    other.generate(input_ids=list(range(100, 150)), max_new_tokens=10, temperature=0, ignore_eos=True)
    dump = other.post("/dump_expert_distribution_record", None).json()
    assert dump["recording"] is True
    assert dump["logical_count"] == recording["logical_count"]
    assert all(1 <= balance <= 8 for balance in dump["balancedness"])


def test_a_dump_makes_a_balanced_placement(serve, recording, server, tmp_path):
    file = tmp_path / "load.json"
    file.write_text(json.dumps(recording))
    flags = ("--tp-size", 4, "--dp-size", 2, "--ep-size", 8, "--ep-num-redundant-experts", 8)
    balanced = serve(*flags, "--init-expert-location", file)
    ask = dict(input_ids=list(range(100, 150)), max_new_tokens=10, temperature=0, ignore_eos=True)
    assert balanced.generate(**ask)["output_ids"] == server.generate(**ask)["output_ids"]


def test_balance_is_a_metric_by_layer(server):
    server.generate(input_ids=[1, 2, 3], max_new_tokens=1)
    server.metrics()  # asks for fresh numbers
    server.post("/dump_expert_distribution_record", None)  # answered after them
    metrics = server.metrics()
    names = [f'chorale_expert_load_max_over_mean{{layer="{layer}"}}' for layer in range(LAYERS)]
    assert all(1 <= metrics[name] <= EXPERTS for name in names)
    assert metrics['chorale_expert_rank_load_max_over_mean{layer="0"}'] == 1  # one rank has it all


ON_ALL_RANKS = "tp=2,dp=1,ep=1,moe_tp=2,moe_dp=1"


def assert_experts_lie_on_all_ranks(server):
    """What is told of the placement is told of the strategy in force, not of the one that the server began with."""
    placement = httpx.get(server.url + "/expert_placement").json()
    assert placement["movable"] is False
    assert placement["slots_per_rank"] == EXPERTS + 4  # two ranks that own half of them have 10
    server.metrics()  # asks for fresh numbers
    dump = server.post("/dump_expert_distribution_record", None).json()  # answered after them
    assert sum(dump["logical_count"][0]) > 0 and dump["balancedness"] == [1] * LAYERS
    metrics = server.metrics()
    for layer in range(LAYERS):
        assert metrics[f'chorale_expert_rank_load_max_over_mean{{layer="{layer}"}}'] == 1


def test_experts_move_and_the_strategy_changes_while_a_request_runs(serve, server):
    ask = dict(input_ids=list(range(100, 150)), max_new_tokens=200, temperature=0, ignore_eos=True)
    expected = server.generate(**ask)["output_ids"]
    moving = serve("--dp-size", 2, "--ep-size", 2, "--ep-num-redundant-experts", 4, "--enable-eplb", "--eplb-interval", 5)
    moving.post("/start_expert_distribution_record", None)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(moving.generate, **ask)
        moved = moving.post("/rebalance_experts", None).json()
        assert moved["status"] == "ok" and len(moved["max_over_mean_after"]) == LAYERS
        for strategy in (ON_ALL_RANKS, "tp=1,dp=4,ep=4,moe_tp=1,moe_dp=1"):
            response = moving.post("/switch_strategy", {"strategy": strategy})
            assert response.status_code == 200, response.text
            assert response.json()["strategy"] == strategy
            assert httpx.get(moving.url + "/get_server_info").json()["strategy"] == strategy
            if strategy == ON_ALL_RANKS:
                assert_experts_lie_on_all_ranks(moving)
        assert running.result()["output_ids"] == expected
    assert moving.metrics()["chorale_strategy_switches_total"] == 2
    for bad in ({}, {"strategy": 1}, {"strategy": "tp=3"}, {"strategy": "sideways"}):
        response = moving.post("/switch_strategy", bad)
        assert response.status_code == 400 and response.json()["error"]["param"] == "strategy"
    placement = httpx.get(moving.url + "/expert_placement").json()
    assert placement["movable"] is True and placement["slots_per_rank"] == 5
    assert [len(layer) for layer in placement["physical_to_logical_map"]] == [20] * LAYERS
    assert all(set(layer) == set(range(EXPERTS)) for layer in placement["physical_to_logical_map"])
    assert httpx.get(server.url + "/expert_placement").json()["movable"] is False
    assert server.post("/rebalance_experts", None).status_code == 400


def test_nothing_recorded_and_wrong_methods(serve):
    fresh = serve()
    response = fresh.post("/dump_expert_distribution_record", None)
    assert response.status_code == 400
    assert "start_expert_distribution_record" in response.json()["error"]["message"]
    assert httpx.put(fresh.url + "/start_expert_distribution_record").status_code == 405
