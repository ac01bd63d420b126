"""A rank that dies, throws or stops answering ends the whole server within seconds, and everybody is told."""

import json
import os
import re
import signal
import threading
import time

import httpx
import pytest

from conftest import MORE_ARGUMENTS, MPIRUN, ranks_of, wait_for_the_end

EIGHT_RANKS = ("--tp-size", 4, "--dp-size", 2, "--enable-ep-moe", "--ep-size", 8)
NUM_CLIENTS = 8


class Client(threading.Thread):
    """Reads a stream that outlasts the server. .outcome: done, error (a frame says so), closed, or an HTTP status."""

    def __init__(self, server, max_tokens):
        super().__init__(daemon=True)
        self.url = server.url + "/v1/completions"
        self.body = {"prompt": "Once upon a time", "max_tokens": max_tokens, "ignore_eos": True, "stream": True}
        self.reads = threading.Event()
        self.outcome = None
        self.message = ""
        self.start()

    def run(self):
        try:
            with httpx.stream("POST", self.url, json=self.body, timeout=60) as response:
                self.outcome = response.status_code
                if response.status_code == 200:
                    self.read(response)
        except httpx.TransportError as error:
            self.outcome, self.message = "closed", repr(error)
        finally:
            self.reads.set()

    def read(self, response):
        self.outcome = "ended without a word"
        for line in response.iter_lines():
            self.reads.set()
            if line == "data: [DONE]":
                self.outcome = "error" if self.message else "done"
            elif line and "error" in (message := json.loads(line.removeprefix("data: "))):
                self.outcome, self.message = "error", message["error"]["message"]


class Health(threading.Thread):
    """Asks for /health until nobody answers. .statuses: what was answered, in order, without repetitions."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.url = server.url + "/health"
        self.statuses = []
        self.start()

    def run(self):
        with httpx.Client(timeout=60) as client:
            while True:
                try:
                    status = client.get(self.url).status_code
                except httpx.TransportError:
                    return
                if status not in self.statuses[-1:]:
                    self.statuses.append(status)
                time.sleep(0.002)


def load(server, max_tokens=1900):
    """Clients that all have begun to read."""
    clients = [Client(server, max_tokens) for _ in range(NUM_CLIENTS)]
    for client in clients:
        assert client.reads.wait(60)
    return clients


def outcomes(clients):
    for client in clients:
        client.join(60)
    return [client.outcome for client in clients]


def lines_that_name(server, rank):
    """Those of Chorale's own log; a launcher has its own way to tell."""
    return [line for line in server.log if re.search(rf"\d (error|critical) .*\brank {rank}\b", line)]


@pytest.mark.parametrize("rank", [0, 3, 7])
def test_a_killed_process_ends_all(serve, mpi, rank):
    server = serve(*EIGHT_RANKS, launcher=(*MPIRUN, "8"))
    pids = ranks_of(server)
    assert list(pids) == list(range(8))
    clients = load(server)
    begin = time.monotonic()
    os.kill(pids[rank], signal.SIGKILL)
    assert wait_for_the_end(server, pids, begin) != 0
    if rank == 0:
        assert set(outcomes(clients)) == {"closed"}
    else:
        assert set(outcomes(clients)) == {"error"}, server.log[-20:]
        assert lines_that_name(server, rank), server.log[-20:]


def test_a_killed_process_ends_an_idle_server(serve, mpi):
    server = serve("--tp-size", 2, launcher=(*MPIRUN, "2"))
    pids = ranks_of(server)
    begin = time.monotonic()
    os.kill(pids[1], signal.SIGKILL)
    assert wait_for_the_end(server, pids, begin) != 0
    assert lines_that_name(server, 1), server.log[-20:]


@pytest.mark.parametrize("rank", [0, 3, 7])
def test_a_thread_that_throws_ends_the_server(serve, rank):
    server = serve(*EIGHT_RANKS, "--inject-fault", f"{rank}:150")
    health = Health(server)
    clients = load(server)
    begin = time.monotonic()
    assert set(outcomes(clients)) == {"error"}
    told = time.monotonic()
    assert wait_for_the_end(server, {}, told) not in (0, None)
    assert time.monotonic() - begin < 60, "the fault came late"
    assert lines_that_name(server, rank), server.log[-20:]
    assert all(f"rank {rank} " in client.message for client in clients), clients[0].message
    health.join(10)
    assert health.statuses == [200, 503]


@pytest.mark.parametrize(("fault", "told"), [("", "a failure was asked for"), (":hang", "has not ended within 2 s")])
def test_a_device_that_breaks_ends_the_server(serve, small_model, fault, told):
    """A kernel that fails, and one that never ends: every request is told, and the log names the device."""
    device, name, step = ("--device", "ref"), "ref", 150
    if "--device" in MORE_ARGUMENTS:
        device, name, step = (), "cuda:0", 1500  # it is faster than clients begin
        told = told if fault else "cudaError"
    fault = f"0:{step}{fault}"
    server = serve(*device, "--load-format", "dummy", "--dist-timeout", 2, "--inject-fault", fault, model=small_model)
    clients = load(server)
    assert set(outcomes(clients)) == {"error"}, server.log[-20:]
    assert wait_for_the_end(server, {}, time.monotonic()) not in (0, None)
    assert all(told in client.message and name in client.message for client in clients), clients[0].message
    assert any("critical" in line and told in line and name in line for line in server.log), server.log[-20:]


def test_a_process_that_throws_ends_all(serve, mpi):
    server = serve("--tp-size", 2, "--inject-fault", "1:150", launcher=(*MPIRUN, "2"))
    pids = ranks_of(server)
    clients = load(server)
    assert set(outcomes(clients)) == {"error"}
    assert wait_for_the_end(server, pids, time.monotonic()) != 0
    assert lines_that_name(server, 1), server.log[-20:]


def test_a_process_that_stops_answering_ends_all(serve, mpi):
    server = serve("--tp-size", 2, "--dist-timeout", 2, launcher=(*MPIRUN, "2"))
    pids = ranks_of(server)
    clients = load(server)
    begin = time.monotonic()
    os.kill(pids[1], signal.SIGSTOP)
    assert wait_for_the_end(server, pids, begin) != 0
    assert set(outcomes(clients)) == {"error"}, server.log[-20:]
    assert lines_that_name(server, 1), server.log[-20:]


def test_sigterm_drains_a_server_of_threads(serve):
    server = serve(*EIGHT_RANKS)
    clients = load(server, max_tokens=200)
    assert server.stop(signal.SIGTERM) == 0
    assert set(outcomes(clients)) == {"done"}


@pytest.mark.parametrize("ranks", [2, 8])
def test_ctrl_c_at_rank_0_ends_idle_processes(serve, mpi, ranks):
    server = serve("--tp-size", ranks, launcher=(*MPIRUN, str(ranks)))
    server.generate(text="Once upon a time", max_new_tokens=4)
    pids = ranks_of(server)
    begin = time.monotonic()
    os.kill(pids[0], signal.SIGINT)
    assert wait_for_the_end(server, pids, begin) == 0, server.log[-20:]


@pytest.mark.parametrize("everyone", [False, True])
def test_sigterm_at_rank_0_or_at_all_ranks_drains_processes(serve, mpi, everyone):
    server = serve("--tp-size", 2, launcher=(*MPIRUN, "2"))
    pids = ranks_of(server)
    clients = load(server, max_tokens=200)
    for pid in list(pids.values()) if everyone else [pids[0]]:
        os.kill(pid, signal.SIGTERM)
    assert set(outcomes(clients)) == {"done"}
    assert wait_for_the_end(server, pids, time.monotonic()) == 0, server.log[-20:]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_leaves_nobody_behind(serve, mpi, number):
    server = serve("--tp-size", 2, launcher=(*MPIRUN, "2"))
    pids = ranks_of(server)
    clients = load(server)
    begin = time.monotonic()
    server.process.send_signal(number)
    wait_for_the_end(server, pids, begin)
    assert set(outcomes(clients)) <= {"error", "closed"}
