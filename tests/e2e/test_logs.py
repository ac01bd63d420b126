"""The server's log: formats, a line for each request, and what is running."""

import json
import os
import re
import signal
import subprocess
import time

import httpx
import pytest

from conftest import BINARY, KV_BLOCK, MODEL
from test_service import connect

REQUEST = re.compile(r"request ended (.*)$")


def ended(server, count):
    """The fields of the first `count` lines of requests, once they are there."""
    deadline = time.monotonic() + 10
    while True:
        found = [REQUEST.search(line)[1] for line in server.log if REQUEST.search(line)]
        if len(found) >= count:
            return [dict(part.split("=", 1) for part in line.split()) for line in found]
        assert time.monotonic() < deadline, server.log
        time.sleep(0.02)


def test_a_line_for_each_request(serve):
    server = serve("--log-requests")
    answer = server.ask("/v1/completions", {"prompt": [258] * (KV_BLOCK + 8), "max_tokens": 8, "ignore_eos": True, "n": 2})
    lines = ended(server, 2)
    assert {line["id"] for line in lines} == {answer["id"] + "-0", answer["id"] + "-1"}
    for line in lines:
        assert (line["prompt_tokens"], line["output_tokens"], line["finish_reason"]) == (str(KV_BLOCK + 8), "8", "length")
        queue, first, whole = (float(line[name]) for name in ("queue_seconds", "ttft_seconds", "duration_seconds"))
        assert 0 <= queue <= first <= whole < 60
    assert sorted(line["cached_tokens"] for line in lines) == ["0", str(KV_BLOCK)]

    connection = connect(server, {"prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True})
    connection.recv(1000)
    connection.close()
    server.wait_until_empty()
    assert ended(server, 3)[2]["finish_reason"] == "abort"


class Piped:
    """A server whose log goes into a pipe that the test reads as it likes."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [BINARY, "serve", "--model-path", MODEL, "--port", "0", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        self.url = None
        for line in self.process.stderr:
            if match := re.search(rb"Chorale is ready: (http://\S+)", line):
                self.url = match[1].decode()
                break
        assert self.url

    def ask(self):
        body = {"prompt": [258], "max_tokens": 1}
        return httpx.post(self.url + "/v1/completions", json=body, timeout=20).status_code

    def stop(self):
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20), time.monotonic() - start

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


@pytest.mark.parametrize("arguments", [[], ["--log-format", "json"], ["--log-requests", "--log-level", "debug"]])
def test_the_reader_of_the_log_leaves(arguments):
    with Piped(*arguments) as server:
        server.process.stderr.close()
        assert [server.ask() for _ in range(20)] == [200] * 20
        status, seconds = server.stop()
        assert status == 0 and seconds < 5


def test_a_reader_that_stops_reading_holds_up_nobody():
    with Piped("--log-requests") as server:
        # A line is some 260 bytes; the pipe holds 64 KiB, the queue 1 MiB.
        with httpx.Client(timeout=20) as client:
            for _ in range(6000):
                assert client.get(server.url + "/no-such-path-" + "x" * 500).status_code == 404
        assert httpx.get(server.url + "/health", timeout=20).status_code == 200
        assert server.ask() == 200
        # Once it reads again, it is told what it has missed.
        text = b""
        while b"lines of the log were dropped here" not in text:
            assert len(text) < 4 << 20
            text += os.read(server.process.stderr.fileno(), 1 << 16)
        status, seconds = server.stop()
        assert status == 0 and seconds < 5


def test_a_log_that_nobody_reads_does_not_hold_up_the_end():
    with Piped() as server:
        for _ in range(400):
            httpx.get(server.url + "/no-such-path-" + "x" * 500, timeout=20)
        status, seconds = server.stop()
        assert status == 0 and seconds < 5


def test_requests_are_not_logged_unless_asked_for(serve):
    server = serve()
    server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 2})
    server.stop()
    assert not [line for line in server.log if "request ended" in line]
    assert any("POST /v1/completions 200" in line for line in server.log)


def test_json_lines(serve):
    server = serve("--log-format", "json", "--log-requests", "--served-model-name", 'q"\x1b[31m')
    answer = server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 3, "ignore_eos": True})
    server.post("/v1/completions", {"prompt": "Once", "no\nsuch\x1b\"field": 1})
    httpx.get(server.url + '/%22%0a"')
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log]
    assert len(lines) > 8
    for line in lines:
        assert list(line)[:3] == ["time", "level", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("info", "warn")
    assert not any("\x1b" in line for line in server.log)
    request, other = (line for line in lines if line["message"] == "request ended")
    assert request["id"] == answer["id"] + "-0" != other["id"]
    assert (request["output_tokens"], request["finish_reason"]) == (3, "length")
    assert isinstance(request["ttft_seconds"], float)


def test_a_fatal_error_is_json_too(tmp_path):
    result = subprocess.run([BINARY, "serve", "--model-path", tmp_path, "--log-format", "json"],
                            capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    (line,) = map(json.loads, result.stderr.splitlines())
    assert line["level"] == "critical" and "config.json" in line["message"]


def test_status_lines_come_while_something_runs(serve):
    server = serve("--status-interval", 0.5, "--max-total-tokens", 8192)
    time.sleep(1.2)
    assert not [line for line in server.log if " running " in line], "idle"
    server.ask("/v1/completions", {"prompt": [258] * 40, "max_tokens": 600, "ignore_eos": True, "n": 4})
    time.sleep(1.5)
    lines = [line for line in server.log if "info running " in line]
    assert lines
    found = re.search(r"running (\d+), queued (\d+), KV cache (\d+) of (\d+) tokens \(([\d.]+)%\), prefix hits ([\d.]+)%, "
                      r"prompt ([\d.]+) tokens/s, generated ([\d.]+) tokens/s\n", lines[0])
    assert found, lines[0]
    assert found[4] == "8192" and float(found[8]) > 0
    before = len(lines)
    time.sleep(1.2)
    assert len([line for line in server.log if "info running " in line]) <= before + 1, "idle again"


def test_status_lines_can_be_left_out(serve):
    server = serve("--status-interval", 0)
    server.ask("/v1/completions", {"prompt": "Once", "max_tokens": 400, "ignore_eos": True})
    server.stop()
    assert not [line for line in server.log if "info running " in line]


def test_the_start_tells_the_capacity(serve):
    server = serve("--max-total-tokens", 4096, "--context-length", 1000, "--tp-size", 1, "--dp-size", 2)
    assert any("KV cache: 8192 tokens, 8 requests of 1000\n" in line for line in server.log), server.log


def test_flags_are_checked():
    for flags in (("--log-format", "xml"), ("--status-interval", "-1"), ("--metrics-compat", "vllm,tgi")):
        result = subprocess.run([BINARY, "serve", "--model-path", MODEL, *flags], capture_output=True, text=True, timeout=60)
        assert result.returncode == 2, flags
        assert flags[0] in result.stderr
