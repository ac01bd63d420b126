"""The strategy changes and experts move between processes while requests run, and no answer shows it.

CHORALE_SWITCHES and CHORALE_SWITCH_RANKS set how often, and among how many processes: 50 and 8, for instance.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from conftest import MODEL, MPIRUN, Server, ranks_of, wait_for_the_end

RANKS = int(os.environ.get("CHORALE_SWITCH_RANKS", 4))
SWITCHES = int(os.environ.get("CHORALE_SWITCHES", 4))
STRATEGIES = {
    2: ["tp=2", "dp=2,ep=2", "tp=2,ep=2"],
    4: ["tp=4", "dp=4,ep=4", "tp=2,dp=2,ep=2,moe_tp=2", "tp=2,dp=2,ep=4", "dp=4", "tp=4,ep=2,moe_tp=2"],
    8: ["tp=8", "dp=8,ep=8", "tp=4,dp=2,ep=8", "tp=2,dp=4,ep=4,moe_tp=2", "tp=4,dp=2,ep=4", "dp=8", "tp=8,moe_dp=2"],
}[RANKS]
REQUESTS = 8
VOCABULARY = 4000  # the plain tokens of the bundled model


def request(number):
    random_ = random.Random(number)
    start = random.Random(number % 3).choices(range(VOCABULARY), k=70)  # which others begin with as well
    length = random_.randint(5, 40)
    params = {"temperature": 1, "seed": number, "max_new_tokens": length, "ignore_eos": True}
    if number % 4 == 3:
        params["frequency_penalty"] = 0.5
    return {
        "input_ids": start + random_.choices(range(VOCABULARY), k=random_.randint(1, 60)),
        "sampling_params": params,
        "return_logprob": True,
        "top_logprobs_num": 2,
    }


def answer(server, number):
    """Without what depends on time or on the prefix cache."""
    got = server.ask("/generate", request(number))
    return got["output_ids"], got["meta_info"]["output_token_logprobs"], got["meta_info"]["output_top_logprobs"]


class LongRequest(threading.Thread):
    """Runs from before the first switch until it is ended; .ids are its tokens so far."""

    BODY = {"input_ids": list(range(100, 180)), "sampling_params": {"temperature": 0, "ignore_eos": True}}

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server = server
        self.ids = []
        self.reads = threading.Event()
        self.enough = threading.Event()
        self.start()
        assert self.reads.wait(60)

    def run(self):
        params = {**self.BODY["sampling_params"], "max_new_tokens": 1900}
        body = {**self.BODY, "stream": True, "sampling_params": params}
        url = self.server.url + "/generate"
        # Where the server ends in the midst of it, that is the test's affair.
        with contextlib.suppress(httpx.TransportError), httpx.stream("POST", url, json=body, timeout=120) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    message = json.loads(line.removeprefix("data: "))
                    self.ids = message.get("output_ids", self.ids)  # the last may be an error
                    self.reads.set()
                if self.enough.is_set():
                    return  # hangs up

    def end(self):
        self.enough.set()
        self.join(60)
        assert not self.is_alive()
        return self.ids


def switch(server, strategy):
    response = server.post("/switch_strategy", {"strategy": strategy})
    assert response.status_code == 200, response.text + "".join(server.log[-20:])
    return response.json()


def test_no_answer_shows_that_processes_change_their_strategy(server, mpi):
    with ThreadPoolExecutor(REQUESTS) as pool:
        expected = list(pool.map(lambda number: answer(server, number), range(REQUESTS)))
    flags = ("--strategy", STRATEGIES[1], "--ep-num-redundant-experts", 4, "--enable-eplb", "--eplb-interval", 4)
    ranks = Server(*flags, launcher=(*MPIRUN, str(RANKS)))
    try:
        long = LongRequest(ranks)
        random_ = random.Random(5)
        made, moved, current = 0, 0, STRATEGIES[1]
        with ThreadPoolExecutor(REQUESTS) as pool:
            while made < SWITCHES:
                running = [pool.submit(answer, ranks, number) for number in range(REQUESTS)]
                current = random_.choice([strategy for strategy in STRATEGIES if strategy != current])
                change = switch(ranks, current)
                made += 1
                moved += change["moved_requests"] + change["recomputed_requests"]
                assert change["moved_requests"] == 0 or change["moved_kv_bytes"] > 0
                assert [future.result() for future in running] == expected, (made, current)
        assert moved >= SWITCHES or not long.is_alive()
        ids = long.end()
        alone = dict(LongRequest.BODY["sampling_params"], max_new_tokens=len(ids))
        assert server.generate(input_ids=LongRequest.BODY["input_ids"], **alone)["output_ids"] == ids
        assert ranks.metrics()["chorale_strategy_switches_total"] == SWITCHES

        # What is refused leaves the strategy in force.
        info = httpx.get(ranks.url + "/get_server_info").json()["strategy"]
        for bad, why in ((f"tp={2 * RANKS}", f"a strategy of {RANKS} ranks"), ("tp=3", "tp"), ("sideways", "")):
            response = ranks.post("/switch_strategy", {"strategy": bad})
            assert response.status_code == 400 and why in response.json()["error"]["message"], response.text
        assert httpx.get(ranks.url + "/get_server_info").json()["strategy"] == info
        assert answer(ranks, 0) == expected[0]
        ranks.wait_until_empty()
    finally:
        ranks.stop()


def test_experts_move_between_processes(server, mpi):
    with ThreadPoolExecutor(REQUESTS) as pool:
        expected = list(pool.map(lambda number: answer(server, number), range(REQUESTS)))
        flags = ("--dp-size", 2, "--ep-size", 2, "--ep-num-redundant-experts", 2)
        ranks = Server(*flags, launcher=(*MPIRUN, "2"))
        try:
            before = httpx.get(ranks.url + "/expert_placement").json()
            assert before["movable"] is True
            for _ in range(2):
                running = [pool.submit(answer, ranks, number) for number in range(REQUESTS)]
                assert ranks.post("/rebalance_experts", None).status_code == 200
                assert [future.result() for future in running] == expected
            moved = ranks.post("/rebalance_experts", None).json()
            after = httpx.get(ranks.url + "/expert_placement").json()
            assert after["moved"]["layers"] > 0 and after["moved"]["bytes"] > 0, moved
            assert after["physical_to_logical_map"] != before["physical_to_logical_map"]
            assert [answer(ranks, number) for number in range(3)] == expected[:3]
        finally:
            ranks.stop()


def test_a_process_that_cannot_read_its_weights_changes_nothing(server, mpi, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    expected = answer(server, 1)
    ranks = Server("--tp-size", 2, model=folder, launcher=(*MPIRUN, "2"))
    try:
        for file in folder.glob("*.safetensors"):
            os.truncate(file, file.stat().st_size // 4)
        response = ranks.post("/switch_strategy", {"strategy": "dp=2,ep=2"})
        assert response.status_code == 400, response.text
        assert response.json()["error"]["message"].startswith("rank "), response.text
        assert answer(ranks, 1) == expected
        assert ranks.metrics()["chorale_strategy_switches_total"] == 0
        response = ranks.post("/switch_strategy", {"strategy": "dp=2,ep=2"})  # and it may be tried again
        assert response.status_code == 400, response.text
    finally:
        ranks.stop()


@pytest.mark.parametrize("is_idle", [False, True])
def test_a_process_that_dies_during_a_change_ends_all(serve, mpi, is_idle):
    server = serve("--tp-size", 2, launcher=(*MPIRUN, "2"))
    pids = ranks_of(server)
    if is_idle:
        os.kill(pids[1], signal.SIGSTOP)  # the change is begun, and waits for this rank
    else:
        long = LongRequest(server)
    with ThreadPoolExecutor(1) as pool:
        change = pool.submit(server.post, "/switch_strategy", {"strategy": "dp=2,ep=2"})
        if is_idle:
            time.sleep(0.3)
            assert not change.done()
        begin = time.monotonic()
        os.kill(pids[1], signal.SIGKILL)
        with contextlib.suppress(httpx.TransportError):  # where the server has ended first
            assert change.result().status_code == 400
    assert wait_for_the_end(server, pids, begin) != 0
    if not is_idle:
        long.join(30)
        assert not long.is_alive()
