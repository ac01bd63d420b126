"""Requests that are as large as they may be, beside short ones: nobody waits long for them, what they take is bounded and
comes back, and they do not keep a server from its end."""

import contextlib
import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

MIB = 1 << 20
FLAGS = ("--context-length", 2048, "--drain-timeout", 1)
TEXT = "Once upon a time there was a fox who lived in the wood. "
SHORT = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}


def body_of(request):
    return json.dumps(request).encode()


# (path, body): nearly the largest body that is read.
LONG_PROMPTS = [("/v1/completions", body_of({"prompt": TEXT * (7_500_000 // len(TEXT)), "max_tokens": 4}))] * 80
# Nothing bounds these but their bodies: all of it is tokenized.
WORK = [("/tokenize", body_of({"prompt": TEXT * (1_000_000 // len(TEXT))}))] * 6
VARIABLES = [
    ("/v1/chat/completions",
     body_of({
         "messages": [{"role": "user", "content": "Hi"}],
         "chat_template_kwargs": {f"variable_{i}": i for i in range(20_000)},
         "max_tokens": 4,
     }))
] * 8


class Crowd:
    """Sends the bodies at once, each on a connection of its own, which it leaves open."""

    def __init__(self, server, requests):
        self.statuses = []
        self.sockets = [socket.create_connection(("127.0.0.1", server.port), 60) for _ in requests]
        self.threads = [threading.Thread(target=self._send, args=(connection, *request), daemon=True)
                        for connection, request in zip(self.sockets, requests)]
        for thread in self.threads:
            thread.start()

    def _send(self, connection, path, body):
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            connection.sendall(head.encode() + body)
        except OSError:
            pass  # refused before it was read
        try:
            if answer := connection.recv(12):
                self.statuses.append((path, int(answer[9:12])))
        except OSError:
            self.statuses.append((path, 0))  # reset, as it went on to send

    def wait(self, seconds):
        deadline = time.monotonic() + seconds
        for thread in self.threads:
            thread.join(max(0, deadline - time.monotonic()))
        assert not any(thread.is_alive() for thread in self.threads)

    def leave(self):
        for connection in self.sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # also where a thread waits for its answer
            connection.close()


def memory(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024


def processor_seconds(server):
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def seconds_of(server, request):
    begin = time.monotonic()
    response = httpx.post(server.url + "/v1/completions", json=request, timeout=60)
    assert response.status_code == 200, response.text
    return time.monotonic() - begin


@pytest.fixture(scope="module")
def server(request):
    from conftest import Server
    server = Server(*FLAGS)
    yield server
    assert server.stop() == 0, "".join(server.log[-20:])


@pytest.mark.parametrize("requests, statuses", [
    (LONG_PROMPTS + VARIABLES,  # beyond --max-buffered-bytes
     {("/v1/completions", status) for status in (400, 503, 0)} | {("/v1/chat/completions", status) for status in (200, 503, 0)}),
    (WORK, {("/tokenize", 200)}),
    (VARIABLES, {("/v1/chat/completions", 200)}),
], ids=["texts that cannot fit beside template variables", "texts that are tokenized", "template variables"])
def test_a_short_request_does_not_wait_for_large_ones(server, requests, statuses):
    alone = max(seconds_of(server, SHORT) for _ in range(3))
    before = memory(server)
    crowd = Crowd(server, requests)
    most = 0
    for _ in range(5):
        assert seconds_of(server, SHORT) < 2 * alone + 2
        most = max(most, memory(server))
        time.sleep(0.05)
    assert httpx.get(server.url + "/health", timeout=5).status_code == 200
    crowd.wait(60)
    assert set(crowd.statuses) <= statuses, crowd.statuses
    assert most < before + 256 * MIB + 150 * MIB  # --max-buffered-bytes, and the work of one
    crowd.leave()
    deadline = time.monotonic() + 20
    while memory(server) > before + 64 * MIB:
        assert time.monotonic() < deadline, f"{before} bytes before, {memory(server)} after"
        time.sleep(0.2)


def test_the_work_of_clients_that_have_left_is_dropped(server):
    crowd = Crowd(server, WORK * 10)  # for a minute
    time.sleep(0.5)
    crowd.leave()
    deadline = time.monotonic() + 10
    used = 1.0
    while used > 0.1:
        assert time.monotonic() < deadline, "it goes on"
        before = processor_seconds(server)
        time.sleep(0.5)
        used = processor_seconds(server) - before


@pytest.mark.parametrize("requests", [LONG_PROMPTS[:40] + VARIABLES, WORK],
                         ids=["texts that cannot fit beside template variables", "texts that are tokenized"])
def test_a_server_ends_within_its_deadline_whatever_it_works_on(serve, requests):
    server = serve(*FLAGS)
    Crowd(server, requests)
    time.sleep(0.3)
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(30) == 0, "".join(server.log[-20:])
    assert time.monotonic() - begin < 1 + 2 + 3  # --drain-timeout, the clients are told, what is in work ends


def test_a_long_answer_takes_no_more_than_its_budget_and_gives_it_back(server):
    request = {"prompt": [TEXT * 70] * 6, "echo": True, "logprobs": 20, "max_tokens": 1}
    before = memory(server)
    most = before
    with httpx.stream("POST", server.url + "/v1/completions", json=request, timeout=60) as response:
        assert response.status_code == 200, response.read()
        text = bytearray()
        for part in response.iter_bytes(1 << 20):
            text += part
            most = max(most, memory(server))
    answer = json.loads(text)
    assert len(answer["choices"]) == 6
    assert len(text) > 2 * MIB
    assert most < before + 64 * MIB
    deadline = time.monotonic() + 20
    while memory(server) > before + 64 * MIB:
        assert time.monotonic() < deadline, f"{before} bytes before, {memory(server)} after"
        time.sleep(0.2)


@pytest.mark.parametrize("policy", ["fair", "fcfs"])
def test_a_batch_of_prompts_does_not_hold_up_a_short_request(serve, policy):
    server = serve("--context-length", 2048, "--chunked-prefill-size", 128, "--schedule-policy", policy)
    batch = {"prompt": [f"{i} {TEXT * 30}" for i in range(8)], "max_tokens": 1}
    crowd = Crowd(server, [("/v1/completions", body_of(batch))])
    deadline = time.monotonic() + 30
    while server.metrics()["chorale_num_requests_running"] == 0:
        assert time.monotonic() < deadline
    server.ask("/v1/completions", SHORT | {"max_tokens": 1})
    metrics = server.metrics()
    left = metrics["chorale_num_requests_running"] + metrics["chorale_num_requests_waiting"]
    assert left >= 4 if policy == "fair" else left == 0
    crowd.leave()
    assert f'schedule_policy="{policy}"' in httpx.get(server.url + "/metrics").text
