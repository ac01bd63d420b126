"""What the server makes of HTTP that is wrong, hostile or slow; who is let in. Raw sockets against a real server."""

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from conftest import BINARY, MODEL
from raw_http import Connection, exchange, post

COMPLETION = {"prompt": "Once", "max_tokens": 2, "temperature": 0}
GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
TYPES = {400: "invalid_request_error", 401: "invalid_request_error", 408: "timeout_error", 413: "request_too_large",
         503: "service_unavailable_error"}


def assert_healthy(server, **headers):
    answer = server.post("/v1/completions", COMPLETION, headers=headers)
    assert answer.status_code == 200 and answer.json()["choices"][0]["text"], answer.text


def assert_refused(response, status):
    assert response.status == status, response
    error = response.error()
    assert error["param"] is None
    assert error["type"] == TYPES.get(status, error["type"])
    assert response.headers["connection"] == "close"
    return error


MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "text": b"hello server\r\n\r\n",
    "http2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "http 3": b"GET / HTTP/3.0\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "no host": b"GET /v1/models HTTP/1.1\r\n\r\n",
    "two hosts": GET + b"Host: x\r\n\r\n",
    "a host that is none": b"GET /v1/models HTTP/1.1\r\nHost: a b\r\n\r\n",
    "bare LF": b"GET /v1/models HTTP/1.1\nHost: x\n\n",
    "bare LF in the header": GET + b"X: y\nZ: z\r\n\r\n",
    "bare CR": GET + b"X: y\rZ: z\r\n\r\n",
    "obs-fold": GET + b"X: y\r\n z\r\n\r\n",
    "space before the colon": GET + b"X : y\r\n\r\n",
    "a name that is no token": GET + b"X(y): z\r\n\r\n",
    "a name of other letters": GET + "Ä: z\r\n\r\n".encode(),
    "no name": GET + b": z\r\n\r\n",
    "NUL in a value": GET + b"X: a\x00b\r\n\r\n",
    "absolute target of another scheme": b"GET ftp://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "length of 2^64": POST + b"Content-Length: 18446744073709551616\r\n\r\n",
    "length of 2^64 + 5": POST + b"Content-Length: 18446744073709551621\r\n\r\nhello",
    "hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\nhello",
    "negative chunk": CHUNKED + b"-1\r\n",
    "chunk of 2^64": CHUNKED + b"10000000000000000\r\n",
    "chunk that is no number": CHUNKED + b"zz\r\n",
    "chunk without an end": CHUNKED + b"5\r\nhelloXX",
    "bare LF after a chunk's size": CHUNKED + b"5\nhello\r\n",
    "bare LF in an extension": CHUNKED + b'5;x="\n"\r\nhello\r\n',
    "chunked in HTTP/1.0": b"POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
# What others may read as one request and the smuggled one, or the other way round.
AMBIGUOUS = {
    "CL.TE": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE.CL": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "two equal lengths": POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "TE twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "TE folded": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "TE with a space": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "TE after a vertical tab": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "TE after a bare LF": POST + b"X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "leading zeros without end": CHUNKED + b"00000000000000000\r\n\r\n",
    "a trailer that folds": CHUNKED + b"0\r\nX: y\r\n z\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_get_400(server, name):
    assert_refused(exchange(server, MALFORMED[name]), 400)
    assert_healthy(server)


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_nothing_can_be_smuggled(server, name):
    with Connection(server) as connection:
        connection.send(AMBIGUOUS[name] + SMUGGLED)
        assert_refused(connection.response(), 400)
        assert connection.rest() == b"", "one answer, and the end"
    assert_healthy(server)
    assert not any("/smuggled" in line for line in server.log)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, chunked", "identity", "chunked, chunked", "xchunked"])
def test_other_transfer_encodings_get_501(server, encoding):
    assert_refused(exchange(server, POST + f"Transfer-Encoding: {encoding}\r\n\r\n0\r\n\r\n".encode() + SMUGGLED), 501)
    assert_healthy(server)
    assert not any("/smuggled" in line for line in server.log)


def test_limits_of_header_target_and_body(server):
    assert_refused(exchange(server, GET + b"X: " + b"x" * 65536 + b"\r\n\r\n"), 431)
    assert_refused(exchange(server, GET + b"X: y\r\n" * 10_000 + b"\r\n"), 431)
    assert_refused(exchange(server, b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"), 414)
    announced = exchange(server, POST + b"Content-Length: 8388609\r\n\r\n")
    assert "8388608" in assert_refused(announced, 413)["message"], "before any of the body"
    assert_refused(exchange(server, POST + b"Expect: 100-continue\r\nContent-Length: 8388609\r\n\r\n"), 413)
    assert_refused(exchange(server, CHUNKED + b"ffffffffffffffff\r\n"), 413)
    assert_refused(exchange(server, CHUNKED + b"1;" + b"x" * 65536), 431)
    with Connection(server) as connection:
        connection.send(CHUNKED)
        for _ in range(9):
            if not connection.send(b"100000\r\n" + b" " * (1 << 20) + b"\r\n"):
                break
        assert_refused(connection.response(), 413)
    assert_healthy(server)


def test_correct_requests_of_all_shapes(server):
    body = json.dumps(COMPLETION).encode()
    with Connection(server) as connection:
        connection.send(b"\r\n\r\n" + post("/v1/completions", body) + b"\r\n" + GET + b"\r\n" + GET + b"\r\n")
        expected = json.loads(connection.response().body)["choices"]
        assert [connection.response().status for _ in range(2)] == [200, 200]

        connection.send(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert connection.response().status == 100
        connection.send(body)
        assert json.loads(connection.response().body)["choices"] == expected

        for byte in CHUNKED + b"5;x=\"y z\"\r\n" + body[:5] + b"\r\n%x\r\n" % len(body[5:]) + body[5:] + b"\r\n0\r\nT: t\r\n\r\n":
            connection.send(bytes([byte]))
        assert json.loads(connection.response().body)["choices"] == expected

        connection.send(b"GET http://x/v1/models?y HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.response().status == 200


def test_headers_of_all_answers(server):
    with Connection(server) as connection:
        for data in (GET, b"GET /health HTTP/1.1\r\nHost: x\r\n", b"GET /none HTTP/1.1\r\nHost: x\r\n",
                     b"OPTIONS /v1/completions HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Method: POST\r\n"):
            connection.send(data + b"Origin: http://elsewhere\r\n\r\n")
            response = connection.response()
            assert response.headers["x-content-type-options"] == "nosniff"
            assert not any(name.startswith("access-control") for name in response.headers), "no CORS"
        connection.send(post("/v1/completions", COMPLETION | {"stream": True}, "Origin: http://elsewhere\r\n"))
        stream = connection.response()
        assert stream.headers["x-content-type-options"] == "nosniff"
        assert not any(name.startswith("access-control") for name in stream.headers)
    assert exchange(server, b"\x00").headers["x-content-type-options"] == "nosniff"


# ---- keys

KEYS = ("sesame-open-1", "sesame-open-2")


@pytest.fixture(scope="module")
def guarded():
    """A server with two keys, and a log of everything."""
    from conftest import Server

    server = Server("--api-key", KEYS[0], "--api-key", KEYS[1], "--log-level", "debug")
    yield server
    assert server.stop() == 0


def request(path, header="", method="GET"):
    return f"{method} {path} HTTP/1.1\r\nHost: x\r\n{header}\r\n".encode()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/x", "/generate", "/none", "/%68ealth", "/health/", "//metrics",
                                  "http://x/generate", "/start_expert_distribution_record", "/health_generate"])
@pytest.mark.parametrize("header", ["", "Authorization: Bearer wrong-key\r\n", "Authorization: Basic sesame-open-1\r\n",
                                    "Authorization: sesame-open-1\r\n", "Authorization: Bearer sesame-open-11\r\n",
                                    "Authorization: Bearer sesame-open-\r\n", "x-api-key: wrong-key\r\n"])
def test_without_a_key_there_is_401(guarded, path, header):
    response = exchange(guarded, request(path, header))
    assert response.status == 401
    assert response.headers["www-authenticate"] == "Bearer"
    error = response.error()
    assert error["type"] == "invalid_request_error" and error["param"] is None
    assert "sesame" not in error["message"] and "wrong-key" not in error["message"]


@pytest.mark.parametrize("header", ["Authorization: Bearer {}\r\n", "authorization: bearer  {}\r\n", "X-API-Key: {}\r\n",
                                    "Authorization: Basic abc\r\nx-api-key: {}\r\n"])
def test_either_key_opens(guarded, header):
    for key in KEYS:
        assert exchange(guarded, request("/v1/models", header.format(key))).status == 200


def test_health_and_metrics_are_open(guarded):
    for path in ("/health", "/metrics", "/health?x=y"):
        assert exchange(guarded, request(path)).status == 200
    assert exchange(guarded, request("/")).status != 401


def test_the_official_client_presents_keys(guarded):
    client = openai.OpenAI(base_url=guarded.url + "/v1", api_key=KEYS[1], max_retries=0)
    model = client.models.list().data[0].id
    assert client.completions.create(model=model, prompt="Once", max_tokens=4).choices[0].text
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong-key").completions.create(model=model, prompt="Once", max_tokens=4)


def test_no_body_is_read_without_a_key(guarded):
    begin = time.monotonic()
    for framing in ("Content-Length: 8000000\r\n", "Transfer-Encoding: chunked\r\n", "Content-Length: 9\r\nExpect: 100-continue\r\n",
                    "Content-Length: 999999999\r\n"):
        response = exchange(guarded, request("/v1/completions", framing, "POST"))
        assert response.status == 401 and response.headers["connection"] == "close"
    assert time.monotonic() - begin < 20, "it does not wait for the body"
    assert_healthy(guarded, Authorization=f"Bearer {KEYS[0]}")


def test_keys_are_not_logged(guarded):
    exchange(guarded, request("/v1/models?api_key=sesame-in-the-query", "Authorization: Bearer wrong-key\r\n"))
    exchange(guarded, b"GET / HTTP/1.1\r\nAuthorization: Bearer sesame-open-1\r\n\r\n")
    assert any(" 401 " in line for line in guarded.log)
    assert not any("sesame" in line or "wrong-key" in line for line in guarded.log)


def test_a_key_from_the_environment(serve, monkeypatch):
    monkeypatch.setenv("CHORALE_API_KEY", "sesame-env")
    server = serve()
    assert exchange(server, request("/v1/models")).status == 401
    assert exchange(server, request("/v1/models", "x-api-key: sesame-env\r\n")).status == 200


def test_a_server_open_to_other_machines_warns_without_a_key(serve):
    def warns(*flags):
        return any("there is no --api-key" in line for line in serve(*flags).log)

    assert warns("--host", "0.0.0.0")
    assert not warns("--host", "0.0.0.0", "--api-key", "sesame")
    assert not warns()


@pytest.mark.parametrize("flags, named", [
    (("--api-key", "two words"), "--api-key"),
    (("--api-key", ""), "--api-key"),
    (("--max-buffered-bytes", "1000"), "--max-buffered-bytes"),
    (("--header-timeout", "0"), "--header-timeout"),
    (("--max-connections", "0"), "--max-connections"),
])
def test_flags_that_cannot_be_are_named(flags, named):
    result = subprocess.run([BINARY, "serve", "--model-path", MODEL, "--port", "0", *flags], capture_output=True,
                            encoding="utf-8", timeout=120)
    assert result.returncode != 0
    assert named in result.stderr
    assert "two words" not in result.stderr, "a key is not repeated"


def test_a_port_in_use_is_told_before_the_weights_are_read():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = subprocess.run([BINARY, "serve", "--model-path", MODEL, "--port", str(taken.getsockname()[1])],
                                capture_output=True, encoding="utf-8", timeout=120)
    assert result.returncode != 0
    assert "--port: cannot listen" in result.stderr
    assert "weights: " not in result.stderr


def test_an_empty_key_in_the_environment_is_refused():
    result = subprocess.run([BINARY, "serve", "--model-path", MODEL, "--port", "0"], capture_output=True,
                            encoding="utf-8", timeout=120, env=os.environ | {"CHORALE_API_KEY": ""})
    assert result.returncode != 0
    assert "CHORALE_API_KEY is empty" in result.stderr


# ---- what the server holds, and for how long


def test_unread_bodies_are_bounded_together(serve):
    server = serve("--max-body-bytes", 200_000, "--max-buffered-bytes", 400_000)
    holders = [Connection(server) for _ in range(2)]
    for holder in holders:
        holder.send(POST + b"Content-Length: 200000\r\n\r\n" + b" " * 190_000)
    deadline = time.monotonic() + 20
    while (response := exchange(server, POST + b"Expect: 100-continue\r\nContent-Length: 150000\r\n\r\n")).status == 100:
        assert time.monotonic() < deadline
    assert_refused(response, 503)
    assert response.headers["retry-after"] == "1"
    for holder in holders:
        holder.close()
    deadline = time.monotonic() + 20
    while server.post("/v1/completions", COMPLETION | {"user": "x" * 150_000}).status_code == 503:
        assert time.monotonic() < deadline
    assert_healthy(server)


SAMPLES = 30  # of each kind
ROUNDS = 5  # in which half of them are taken without the attackers, and half with them


def seconds_of(client, server):
    begin = time.monotonic()
    response = client.post(server.url + "/v1/completions", json=COMPLETION)
    seconds = time.monotonic() - begin
    assert response.status_code == 200, response.text
    return seconds


def median_seconds(server, attack):
    """Without the attack and with it. The two take turns, so that a machine that gets busy does for both."""
    without, within = [], []
    with httpx.Client(timeout=120) as client:
        seconds_of(client, server)
        for _ in range(ROUNDS):
            without += [seconds_of(client, server) for _ in range(SAMPLES // ROUNDS)]
            with attack():
                within += [seconds_of(client, server) for _ in range(SAMPLES // ROUNDS)]
    return statistics.median(without), statistics.median(within)


def assert_disturbs_nobody(server, attack, attempts=3):
    """Other clients' median latency stays within twice that without the attack, a context in which it goes on. What the
    server does wrong shows in each attempt; that a machine is busy at the wrong times does not."""
    measured = []
    for _ in range(attempts):
        alone, attacked = median_seconds(server, attack)
        if attacked < 2 * alone:
            return
        measured.append(f"{1000 * alone:.1f} ms without the attack, {1000 * attacked:.1f} ms with it")
    raise AssertionError("; ".join(measured))


@contextlib.contextmanager
def background(work):
    """Repeats work() on a thread."""
    ends = threading.Event()

    def repeat():
        while not ends.is_set():
            work()

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(repeat)
        try:
            yield
        finally:
            ends.set()
        running.result()


def test_the_measure_of_disturbance_can_fail(serve):
    """What does disturb, however fast the machine is: a server that stands still most of the time."""
    server = serve()

    def stand_still():
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.016)
        server.process.send_signal(signal.SIGCONT)
        time.sleep(0.004)

    with pytest.raises(AssertionError, match="ms with it"):
        assert_disturbs_nobody(server, lambda: background(stand_still), attempts=1)


@pytest.mark.parametrize("attack, start", [
    ("header", b"GET /"),
    ("header", b"GET /v1/models HTTP/1.1\r\nHost: x\r\nX: "),
    ("body", POST + b"Content-Length: 1000000\r\n\r\n"),
    ("body", CHUNKED + b"f4240\r\n"),
], ids=["request line", "header", "body", "chunk"])
def test_slow_senders_get_408_and_disturb_nobody(serve, attack, start):
    server = serve("--header-timeout", 2, "--body-timeout", 2)

    @contextlib.contextmanager
    def attackers():
        arguments = [sys.executable, Path(__file__).with_name("slow_sender.py"), str(server.port), start.hex()]
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sender:
            assert sender.stdout.readline() == "ready\n"
            yield
            sender.stdin.close()

    assert_disturbs_nobody(server, attackers)
    # A byte at a time: deadlines are absolute, so none of them moves one.
    begin = time.monotonic()
    connections = [Connection(server) for _ in range(100)]
    for connection in connections:
        connection.send(start)
    while time.monotonic() - begin < 4:
        for connection in connections:
            connection.send(b"x")
        time.sleep(0.05)
    for connection in connections:
        error = assert_refused(connection.response(), 408)
        assert attack in error["message"]
        connection.close()
    assert_healthy(server)


def test_idle_connections_are_closed(serve):
    server = serve("--idle-timeout", 1)
    with Connection(server) as silent, Connection(server) as used:
        used.send(GET + b"\r\n")
        assert used.response().status == 200
        assert silent.rest() == b""
        assert used.rest() == b""
    assert_healthy(server)


def read_slowly_until_cut_off(server, connection):
    """Takes a byte now and then for as long as it is let: there always is some progress."""
    connection.socket.settimeout(0.01)
    deadline = time.monotonic() + 90
    while not any("cutting it off" in line for line in server.log):
        assert time.monotonic() < deadline, "still served; log:\n" + "".join(server.log[-5:])
        try:
            connection.socket.recv(1)
        except TimeoutError:
            pass
        time.sleep(0.1)
    assert "takes too little" in next(line for line in server.log if "cutting it off" in line)
    connection.socket.settimeout(30)
    with pytest.raises(ConnectionResetError):
        while connection.socket.recv(65536):
            pass


def wait_until_still(server):
    """Until no answer is begun any more but those to this function."""
    def answers():
        return sum(value for name, value in server.metrics().items() if name.startswith("chorale_http_responses_total"))

    before, now = 0, answers()
    while now > before + 1:
        time.sleep(0.2)
        before, now = now, answers()


METRICS = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 1500  # many times what the system's buffers take


def test_slow_readers_are_cut_off(serve):
    server = serve("--write-timeout", 1)
    with Connection(server, receive_buffer=4096) as reader:
        reader.send(METRICS)
        read_slowly_until_cut_off(server, reader)
    assert_healthy(server)


def test_slow_readers_disturb_nobody(serve):
    server = serve()

    @contextlib.contextmanager
    def readers():
        connections = [Connection(server, receive_buffer=4096) for _ in range(20)]
        for connection in connections:
            connection.send(METRICS)

        def read_a_byte():
            for connection in connections:
                connection.socket.recv(1)
            time.sleep(0.05)

        wait_until_still(server)  # to answer is work; that they do not read on is to be none
        with background(read_a_byte):
            yield
        for connection in connections:
            connection.close()

    assert_disturbs_nobody(server, readers)
    assert_healthy(server)


def test_slow_readers_of_streams_are_cut_off(serve):
    server = serve("--write-timeout", 1)
    # A long prompt, in the prefix cache, that many choices repeat: megabytes for few steps.
    body = {"prompt": " grandmother" * 1900, "max_tokens": 1, "echo": True, "stream": True}
    server.post("/v1/completions", body)
    with Connection(server, receive_buffer=4096) as reader:
        reader.send(post("/v1/completions", body | {"n": 256}))
        read_slowly_until_cut_off(server, reader)
    server.wait_until_empty(60)
    assert_healthy(server)


def test_connections_beyond_the_limit_get_503(serve):
    server = serve("--max-connections", 4)
    held = [Connection(server) for _ in range(4)]
    for connection in held:
        connection.send(GET + b"\r\n")
        assert connection.response().status == 200
    response = exchange(server, b"")
    assert_refused(response, 503)
    assert response.headers["retry-after"] == "1"
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 20
    while httpx.get(server.url + "/health").status_code == 503:
        assert time.monotonic() < deadline
    assert_healthy(server)
