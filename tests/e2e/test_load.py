"""Many clients at once: streams, a long queue, and memory that stays where it is."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx


def resident(server):
    """Bytes that the server's process has in memory."""
    with open(f"/proc/{server.process.pid}/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmRSS:"))


def read_stream(client, url, seed):
    body = {"prompt": f"Story {seed}: ", "max_tokens": 24, "seed": seed, "ignore_eos": True, "stream": True}
    text, finish = "", None
    with client.stream("POST", url + "/v1/completions", json=body) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line or line == "data: [DONE]":
                continue
            choice = json.loads(line.removeprefix("data: "))["choices"][0]
            text += choice["text"]
            finish = choice["finish_reason"] or finish
    assert finish == "length"
    return text


def test_200_concurrent_streams_complete_and_are_what_each_is_alone(serve):
    server = serve()
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    with httpx.Client(timeout=300, limits=limits) as client, ThreadPoolExecutor(200) as pool:
        texts = list(pool.map(lambda seed: read_stream(client, server.url, seed), range(200)))
        for seed in range(0, 200, 40):
            assert read_stream(client, server.url, seed) == texts[seed]
    server.wait_until_empty()


def test_2000_queued_requests_complete_and_no_more_are_taken(serve):
    server = serve("--max-running-requests", 64, "--max-queued-requests", 2000)
    body = {"prompt": [[i % 4000] for i in range(200)], "max_tokens": 4, "ignore_eos": True}
    limits = httpx.Limits(max_connections=16)
    with httpx.Client(timeout=300, limits=limits) as client, ThreadPoolExecutor(16) as pool:
        post = lambda _: client.post(server.url + "/v1/completions", json=body)  # noqa: E731
        answers = list(pool.map(post, range(10)))
        for answer in answers:
            assert answer.status_code == 200, answer.text
            assert [choice["finish_reason"] for choice in answer.json()["choices"]] == ["length"] * 200
        refused = [answer for answer in pool.map(post, range(16)) if answer.status_code == 503]
        assert refused  # 3,200 at once
        for answer in refused:
            assert "queue is full" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
    server.wait_until_empty()


def test_memory_is_flat_over_thousands_of_requests(serve):
    server = serve("--max-total-tokens", 16384)
    schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]}

    def ask(client, i):
        kind = i % 5
        body = {"prompt": f"Number {i}: " + "word " * (i % 50), "max_tokens": 8, "seed": i, "stream": kind == 1}
        if kind == 2:
            body["json_schema"] = schema | {"title": str(i % 400)}  # other grammars than before
        if kind == 3:
            body["temperature"] = -1
        path = "/tokenize" if kind == 4 else "/v1/completions"
        response = client.post(server.url + path, json=body)
        assert response.status_code == (400 if kind == 3 else 200), response.text

    def ask_many(begin, end):
        with httpx.Client(timeout=300) as client, ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda i: ask(client, i), range(begin, end)))

    ask_many(0, 1500)
    before = resident(server)
    ask_many(1500, 3000)
    assert resident(server) < before + 4_000_000
    server.wait_until_empty()
