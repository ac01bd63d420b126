"""The server as a service: many at once, clients that leave, draining, bad input."""

import json
import random
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from conftest import BINARY, MODEL

LONG = {"prompt": "Once upon a time", "max_tokens": 1500, "ignore_eos": True}


def mixed_request(number):
    """(path, body, what of the answer must be the same whatever else the server does)"""
    random_ = random.Random(number)
    sampling = {
        "temperature": random_.choice([0, 0.7, 1.2]),
        "top_p": random_.choice([0.8, 1.0]),
        "top_k": random_.choice([-1, 10]),
        "repetition_penalty": random_.choice([1.0, 1.2]),
        "seed": number,
    }
    words = " ".join(random_.choices("the king went into a dark forest and met an old dragon".split(), k=3 + number * 5))
    length = random_.randint(4, 60)
    if number % 3 == 0:
        body = {"messages": [{"role": "user", "content": words}], "max_tokens": length, "n": 2}
        return "/v1/chat/completions", body | sampling | {"logprobs": True, "top_logprobs": 3}
    if number % 3 == 1:
        return "/v1/completions", {"prompt": words, "max_tokens": length, "logprobs": 3, "echo": True} | sampling
    body = {"text": words, "sampling_params": sampling | {"max_new_tokens": length}, "return_logprob": True}
    return "/generate", body | {"top_logprobs_num": 3}


def essence(answer):
    """What does not depend on time or on the prefix cache."""
    if "choices" in answer:
        return answer["choices"]
    meta = {key: value for key, value in answer["meta_info"].items() if "logprobs" in key or "finish" in key}
    return answer["text"], answer["output_ids"], meta


def test_many_at_once_get_what_they_get_alone(serve):
    requests = [mixed_request(number) for number in range(64)]
    alone_server = serve("--disable-radix-cache")
    alone = [essence(alone_server.ask(*request)) for request in requests]
    # A cache too small for all of them, so that some wait or are preempted.
    together_server = serve("--max-total-tokens", 4096, "--chunked-prefill-size", 64)
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(lambda request: essence(together_server.ask(*request)), requests))
    for request, expected, answer in zip(requests, alone, together, strict=True):
        assert answer == expected, request
    together_server.wait_until_empty()


def connect(server, body, path="/v1/completions"):
    """Sends a request and leaves the connection open."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    payload = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    connection.sendall(head.encode() + payload)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["fin", "reset", "half-close"])
def test_a_client_that_leaves_frees_its_blocks(server, stream, how):
    before = server.metrics()
    connection = connect(server, LONG | {"stream": stream, "n": 4})
    if stream:
        assert b"text_completion" in connection.recv(65536) + connection.recv(65536)
    while server.metrics()["chorale_num_requests_running"] == 0:
        time.sleep(0.005)
    if how == "reset":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half-close":
        connection.shutdown(socket.SHUT_WR)
    else:
        connection.close()
    server.wait_until_empty()
    connection.close()
    name = 'chorale_request_finished_total{reason="abort"}'
    assert server.metrics()[name] - before[name] == 4


def test_sigterm_lets_a_stream_finish_and_exits_0(serve):
    server = serve("--drain-timeout", "150")
    events = []
    started = threading.Event()

    def read():
        # Long enough to go on for seconds while the server drains.
        body = LONG | {"max_tokens": 700, "n": 8, "stream": True, "stream_options": {"include_usage": True}}
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=150) as response:
            for line in response.iter_lines():
                if line:
                    events.append(line)
                    started.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert started.wait(30)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    assert httpx.get(server.url + "/health").status_code == 503
    refused = server.post("/v1/completions", {"prompt": "Once"})
    assert refused.status_code == 503
    assert "retry-after" in refused.headers
    reader.join(150)
    assert events[-1] == "data: [DONE]"
    assert json.loads(events[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 8 * 700
    assert server.process.wait(30) == 0


def test_an_idle_server_stops_at_once_on_ctrl_c(serve):
    server = serve()
    begin = time.monotonic()
    assert server.stop(signal.SIGINT) == 0
    assert time.monotonic() - begin < 5


def test_requests_that_outlast_the_drain_are_ended(serve):
    server = serve("--drain-timeout", 0.2)
    connection = connect(server, LONG | {"stream": True, "n": 16})
    connection.recv(1000)
    assert server.stop() == 0


def test_a_second_signal_ends_the_process_at_once(serve):
    server = serve("--drain-timeout", 60)
    connection = connect(server, LONG | {"n": 32})
    while server.metrics()["chorale_num_requests_running"] == 0:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + 10
    while not any("Draining" in line for line in server.log) and time.monotonic() < deadline:
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == -signal.SIGTERM
    connection.close()


def test_a_port_in_use_is_named(server):
    result = subprocess.run(
        [BINARY, "serve", "--model-path", MODEL, "--port", str(server.port)],
        capture_output=True, encoding="utf-8", timeout=60,
    )
    assert result.returncode != 0
    assert "--port" in result.stderr


def test_a_broken_chat_template_leaves_completions(serve, tmp_path):
    model = tmp_path / "tales"
    shutil.copytree(MODEL, model)
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }", encoding="utf-8")
    server = serve(model=model)
    client = server.client()
    with pytest.raises(openai.BadRequestError, match="template") as refused:
        client.chat.completions.create(model="tales", messages=[{"role": "user", "content": "Hi"}])
    assert str(tmp_path) not in str(refused.value)
    assert client.completions.create(model="tales", prompt="Once", max_tokens=4).choices[0].text
    assert server.stop() == 0


def test_an_endless_chat_template_costs_its_own_requests_alone(serve, tmp_path):
    model = tmp_path / "tales"
    shutil.copytree(MODEL, model)
    endless = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}"
    (model / "chat_template.jinja").write_text("{% if bad %}" + endless + "{% endif %}{{ messages[0].content }}", encoding="utf-8")
    server = serve(model=model)

    def chat(**kwargs):
        body = {"messages": [{"role": "user", "content": "Once"}], "max_tokens": 2, "chat_template_kwargs": kwargs}
        return server.post("/v1/chat/completions", body)

    assert chat().status_code == 200
    refused = chat(bad=True)
    assert refused.status_code == 400
    assert "processor's time" in refused.json()["error"]["message"]
    assert chat().status_code == 200
    assert server.stop() == 0


def test_bad_input_leaves_the_server_alive(server):
    bodies = [b"", b"{", b"[]", b'{"prompt":"\xff"}', b'{"prompt":"\\ud800"}', b'{"a":1,"a":2}', b"[" * 100_000,
              b'{"prompt":' + b"[" * 100_000, b'{"prompt":"a","temperature":1e999}', b'{"prompt":"a"}\x00']
    for body in bodies:
        response = httpx.post(server.url + "/v1/completions", content=body,
                              headers={"Content-Type": "application/json"})
        assert response.status_code == 400, body[:40]
        error = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
    assert httpx.post(server.url + "/generate", content=b"x" * (9 << 20)).status_code == 413
    assert httpx.post(server.url + "/generate", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx.get(server.url + "/generate").status_code == 405
    assert httpx.get(server.url + "/nothing").status_code == 404
    assert httpx.get(server.url + "/health").status_code == 200


def test_the_ready_line_is_the_last_of_the_start_and_listens_on_loopback(serve):
    server = serve()
    assert "Chorale is ready: http://127.0.0.1:" in server.log[-1]
    assert "Ctrl-C" in server.log[-1]


def test_metrics_count_tokens_and_ends(serve):
    server = serve("--served-model-name", "other")
    server.ask("/v1/completions", {"model": "other", "prompt": [258] * 40, "max_tokens": 8, "ignore_eos": True, "n": 2})
    metrics = server.metrics()
    assert metrics["chorale_generation_tokens_total"] == 16
    assert metrics["chorale_prompt_tokens_total"] == 80
    assert metrics['chorale_request_finished_total{reason="length"}'] == 2
    assert metrics["chorale_time_to_first_token_seconds_count"] == 2
    assert metrics["chorale_inter_token_latency_seconds_count"] == 14
    assert metrics["chorale_e2e_request_latency_seconds_count"] == 2
    assert metrics["chorale_kv_cache_capacity_tokens"] > 0
