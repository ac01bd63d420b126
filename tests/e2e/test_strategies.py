"""Servers with several ranks: the same answers under load, idle ranks that sleep, and weights that exist once."""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import MODEL, MORE_ARGUMENTS, MPIRUN, Server

SIMPLE = ("--tp-size", 1, "--dp-size", 1)
EXPERT_PARALLEL = ("--tp-size", 4, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 8)
TENSOR_PARALLEL = ("--tp-size", 8, "--dp-size", 1)
NUM_REQUESTS = 64
VOCABULARY = 4000  # the plain tokens of the bundled model


def one_expert_model(folder, **sizes):
    """config.json alone, for --load-format dummy."""
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    config |= {"num_experts": 1, "num_experts_per_tok": 1} | sizes
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return config


def request(number):
    random_ = random.Random(number)
    start = random.Random(number % 8).choices(range(VOCABULARY), k=60)  # which others begin with as well
    ids = start[: random_.randint(0, 60)] + random_.choices(range(VOCABULARY), k=random_.randint(1, 60))
    length = random_.randint(1, 24)
    return {
        "input_ids": ids,
        "sampling_params": {"temperature": 1, "seed": number, "max_new_tokens": length, "ignore_eos": True},
        "return_logprob": True,
        "top_logprobs_num": 2,
        "logprob_start_len": 0 if number % 4 == 0 else -1,
    }


def answers(server):
    """What all requests, sent at once, are answered, without what depends on time or on the prefix cache."""
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        all_ = list(pool.map(lambda number: server.ask("/generate", request(number)), range(NUM_REQUESTS)))
    for number, answer in enumerate(all_):
        assert len(answer["output_ids"]) == request(number)["sampling_params"]["max_new_tokens"]
    logprobs = ("output_token_logprobs", "output_top_logprobs", "input_token_logprobs", "input_top_logprobs")
    return [(answer["output_ids"], [answer["meta_info"][name] for name in logprobs]) for answer in all_]


def logged(server, text):
    return any(text in line for line in server.log)


@pytest.mark.parametrize("model", ["bundled", "one expert"])
def test_all_strategies_give_the_same_answers_under_load(serve, tmp_path, model):
    flags, more = (), {}
    if model == "one expert":
        one_expert_model(tmp_path)
        flags, more = ("--load-format", "dummy"), {"model": tmp_path}
    expected = None
    for strategy, log in (
        (SIMPLE, "computing in bfloat16"),
        (EXPERT_PARALLEL, "strategy tp=4,dp=2,ep=8,moe_tp=1,moe_dp=1: 8 ranks"),
        (TENSOR_PARALLEL, "strategy tp=8,dp=1,ep=1,moe_tp=8,moe_dp=1: 8 ranks"),
    ):
        server = serve(*strategy, *flags, **more)
        assert logged(server, log), server.log
        got = answers(server)
        assert server.stop() == 0, server.log[-20:]
        expected = expected or got
        for number, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
            assert mine == theirs, (strategy, number)


def test_a_policy_changes_the_strategy_by_the_load(serve, tmp_path):
    """With the figures of a machine on which two ranks are far too many for a model so small."""
    policy = tmp_path / "policy.json"
    strategies = [f"tp={size},dp=1,ep=1,moe_tp={size},moe_dp=1" for size in (1, 2)]
    policy.write_text(json.dumps({"strategies": strategies, "interval": 0.1, "max_switches_per_hour": 1}))
    machine = MODEL.parent.parent / "machines" / "h200-x8.json"
    server = serve("--strategy", "tp=2", "--strategy-policy", policy, "--machine", machine)
    expected = server.ask("/generate", request(1))["output_ids"]
    deadline = time.monotonic() + 60
    while server.metrics()["chorale_strategy_switches_total"] == 0:
        assert server.ask("/generate", request(1))["output_ids"] == expected
        assert time.monotonic() < deadline, server.log[-20:]
    metrics = server.metrics()
    assert metrics['chorale_strategy_decisions_total{outcome="switching"}'] == 1
    assert metrics["chorale_strategy_switches_left"] == 0
    assert server.ask("/generate", request(1))["output_ids"] == expected
    assert logged(server, f"strategy policy: {strategies[1]} gives way to {strategies[0]}")


def test_another_device_serves_under_strategies(serve, small_model):
    """The reference device, which is slow, with a model that is small; or the device that all tests run on."""
    device, name = ((), "cuda:0") if "--device" in MORE_ARGUMENTS else (("--device", "ref"), "ref")
    expected = None
    for strategy in (SIMPLE, ("--tp-size", 2, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 4)):
        server = serve(*strategy, "--load-format", "dummy", *device, model=small_model)
        assert logged(server, f"computing in bfloat16 on {name}"), server.log
        got = answers(server)
        assert server.stop() == 0, server.log[-20:]
        expected = expected or got
        assert got == expected, strategy


def test_one_expert_makes_no_token_travel(serve, tmp_path):
    one_expert_model(tmp_path)
    server = serve(*EXPERT_PARALLEL, "--load-format", "dummy", model=tmp_path)
    assert logged(server, "no token travels")
    assert sum("all experts" in line for line in server.log) == 8


def test_processes_give_the_same_answers_under_load(server, mpi):
    expected = answers(server)
    ranks = Server("--tp-size", 2, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 4, launcher=(*MPIRUN, "4"))
    try:
        assert logged(ranks, "4 ranks over MPI")
        for number, (mine, theirs) in enumerate(zip(answers(ranks), expected, strict=True)):
            assert mine == theirs, number
    finally:
        ranks.stop()


def processor_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of all threads


def idle_share(pids, seconds=5):
    """Of a core, by process."""
    time.sleep(1)  # after the last request
    before = {pid: processor_seconds(pid) for pid in pids}
    time.sleep(seconds)
    return [(processor_seconds(pid) - before[pid]) / seconds for pid in pids]


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_idle_threads_sleep(serve):
    server = serve(*EXPERT_PARALLEL)
    answers(server)
    assert sum(idle_share([server.process.pid])) < 0.02


def test_idle_processes_sleep(serve, mpi):
    server = serve("--tp-size", 4, launcher=(*MPIRUN, "4"))
    server.generate(text="Once upon a time", max_new_tokens=8)
    ranks = children(server.process.pid)
    assert len(ranks) == 4
    shares = idle_share(ranks)
    assert max(shares) < 0.02, shares


@pytest.mark.parametrize("strategy", [EXPERT_PARALLEL, TENSOR_PARALLEL, (*TENSOR_PARALLEL, "--single-expert-mode", "dp")])
def test_threads_share_one_copy_of_the_weights(serve, tmp_path, strategy):
    sizes = dict(hidden_size=1024, moe_intermediate_size=4096, num_hidden_layers=7)
    config = one_expert_model(tmp_path, **sizes)
    heads = config["num_attention_heads"] + config["num_key_value_heads"]
    per_layer = 3 * 1024 * 4096 + 2 * 1024 * config["head_dim"] * heads
    weights = 2 * (7 * per_layer + 2 * 1024 * config["vocab_size"])
    assert 190e6 < weights < 260e6
    limits = ("--max-total-tokens", 2048, "--chunked-prefill-size", 64, "--max-running-requests", 16)
    server = serve(*strategy, *limits, "--load-format", "dummy", model=tmp_path)
    server.generate(input_ids=list(range(100)), max_new_tokens=8, ignore_eos=True)
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    resident = 1024 * int(status.partition("VmRSS:")[2].split()[0])
    assert 0.9 * weights < resident < 1.6 * weights
