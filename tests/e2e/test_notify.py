"""What a service manager is told: ready, stopping, and the watchdog, which hears nothing from a server that hangs."""

import os
import signal
import socket
import threading
import time

import pytest

from conftest import MPIRUN, ON_A_GPU
from test_failures import ranks_of
from test_service import connect

LIMIT = 0.3  # seconds of the watchdog


class Manager:
    """A NOTIFY_SOCKET. .messages: (time, text), in order."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.messages = []
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while text := self.socket.recv(4096):
            self.messages.append((time.monotonic(), text.decode()))

    def texts(self):
        return [text for _, text in self.messages]

    def fed(self, begin, end):
        """How often the watchdog was fed between two times."""
        return sum(begin <= at <= end for at, text in self.messages if text == "WATCHDOG=1")

    def wait(self, text, count=1, seconds=20):
        deadline = time.monotonic() + seconds
        while self.texts().count(text) < count:
            assert time.monotonic() < deadline, f"{text} did not come: {self.texts()}"
            time.sleep(0.01)


@pytest.fixture
def manager(tmp_path, monkeypatch):
    path = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    return Manager(path)


def watched(monkeypatch, seconds=LIMIT):
    monkeypatch.setenv("WATCHDOG_USEC", str(int(seconds * 1e6)))


def test_ready_and_stopping(serve, manager):
    server = serve()
    manager.wait("READY=1")
    server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 2})
    assert manager.texts() == ["READY=1"], "nobody asked for a watchdog"
    assert server.stop() == 0
    assert manager.texts() == ["READY=1", "STOPPING=1"]


def test_an_abstract_socket(serve, monkeypatch):
    name = f"chorale-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
    manager = Manager("\0" + name)
    serve()
    manager.wait("READY=1")


def test_ready_means_that_it_answers(serve, manager):
    begin = time.monotonic()
    server = serve()
    manager.wait("READY=1")
    assert begin < manager.messages[0][0]
    assert server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 1})


def test_stopping_comes_when_the_drain_begins(serve, manager):
    server = serve()
    connection = connect(server, {"prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True, "n": 8})
    connection.recv(1000)
    server.process.send_signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    assert server.process.poll() is None, "it still has requests"
    connection.close()
    assert server.process.wait(30) == 0


def test_a_manager_that_is_gone_does_no_harm(serve, monkeypatch, tmp_path):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    watched(monkeypatch)
    server = serve()
    assert server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 2})
    assert server.stop() == 0


def test_another_process_watchdog_is_left_alone(serve, manager, monkeypatch):
    watched(monkeypatch)
    monkeypatch.setenv("WATCHDOG_PID", "1")
    serve()
    manager.wait("READY=1")
    time.sleep(3 * LIMIT)
    assert manager.texts() == ["READY=1"]


def test_the_watchdog_is_fed_while_idle_and_while_tokens_come(serve, manager, monkeypatch):
    watched(monkeypatch)
    server = serve()
    manager.wait("READY=1")
    begin = time.monotonic()
    time.sleep(4 * LIMIT)
    assert manager.fed(begin, time.monotonic()) >= 4, "idle"
    begin = time.monotonic()
    while time.monotonic() < begin + 4 * LIMIT:
        server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 300, "ignore_eos": True})
    assert manager.fed(begin, time.monotonic()) >= 4, "busy"


@pytest.mark.skipif(ON_A_GPU, reason="no step of a GPU is slow enough")
def test_a_step_that_does_not_end_starves_the_watchdog(serve, manager, monkeypatch):
    watched(monkeypatch)
    # One step for the whole prompt, as slow as it gets.
    server = serve("--instruction-set", "portable", "--dtype", "float32", "--threads", 1, "--chunked-prefill-size", 8192)
    manager.wait("READY=1")
    manager.wait("WATCHDOG=1", 2)
    begin = time.monotonic()
    server.generate(input_ids=[7 * i % 4000 for i in range(2000)], max_new_tokens=1)
    end = time.monotonic()
    assert end - begin > 4 * LIMIT, "this machine is too fast for this test"
    assert manager.fed(begin + 2 * LIMIT, end - LIMIT) == 0
    manager.wait("WATCHDOG=1", manager.texts().count("WATCHDOG=1") + 2)


def test_a_rank_that_hangs_starves_the_watchdog(serve, mpi, manager, monkeypatch):
    watched(monkeypatch)
    server = serve("--tp-size", 2, "--dist-timeout", 0, launcher=(*MPIRUN, "2"))
    manager.wait("WATCHDOG=1", 3)
    connection = connect(server, {"prompt": "Once", "max_tokens": 1900, "ignore_eos": True, "stream": True})
    connection.recv(1000)
    os.kill(ranks_of(server)[1], signal.SIGSTOP)
    try:
        time.sleep(2 * LIMIT)
        begin = time.monotonic()
        time.sleep(4 * LIMIT)
        assert manager.fed(begin, time.monotonic()) == 0
    finally:
        os.kill(ranks_of(server)[1], signal.SIGCONT)
    manager.wait("WATCHDOG=1", manager.texts().count("WATCHDOG=1") + 3)
    connection.close()
