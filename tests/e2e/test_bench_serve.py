"""chorale bench serve, against the real server and against stubs that misbehave."""

import json
import re
import socket
import subprocess
import threading
import time
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from conftest import BINARY, KV_BLOCK, MODEL

# The lines of the block, and the members of the JSON that they show.
BLOCK = {
    "Successful requests": "completed",
    "Failed requests": "failed",
    "Benchmark duration (s)": "duration",
    "Total input tokens": "total_input_tokens",
    "Total generated tokens": "total_output_tokens",
    "Request throughput (req/s)": "request_throughput",
    "Input token throughput (tok/s)": "input_throughput",
    "Output token throughput (tok/s)": "output_throughput",
    "Total token throughput (tok/s)": "total_throughput",
    "Concurrency": "concurrency",
} | {
    f"{title} {short} (ms)": f"{name}_{member}_ms"
    for title, name in (("Mean", "mean"), ("Median", "median"), ("P99", "p99"))
    for short, member in (("E2E Latency", "e2e_latency"), ("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"))
}


def bench(*flags, url=None):
    flags = ("--base-url", url, *flags) if url else flags
    return subprocess.run(
        [BINARY, "bench", "serve", *map(str, flags)],
        stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=240,
    )  # fmt: skip


def measure(url, *flags, status=0):
    """The JSON of a run, once it has been held against itself."""
    result = bench("--json", "--output-details", *flags, url=url)
    assert result.returncode == status, result.stderr
    report = json.loads(result.stdout)
    check_consistent(report)
    return report


def check_consistent(report):
    good = [r for r in report["requests"] if r["success"]]
    assert report["completed"] == len(good)
    assert report["completed"] + report["failed"] == report["num_prompts"] == len(report["requests"])
    assert report["total_input_tokens"] == sum(r["input_len"] for r in good)
    assert report["total_output_tokens"] == sum(r["output_len"] for r in good)
    assert report["output_throughput"] == pytest.approx(report["total_output_tokens"] / report["duration"])
    assert report["total_throughput"] == pytest.approx(report["input_throughput"] + report["output_throughput"])
    assert report["concurrency"] == pytest.approx(sum(r["latency"] for r in good) / report["duration"])
    assert report["concurrency"] <= report["peak_concurrency"]
    for request in good:
        assert 0 <= request["start"] <= request["start"] + request["latency"] <= report["duration"]
    told = [r for r in good if r["ttft"] is not None]
    for request in told:
        assert request["ttft"] + sum(request["itl"]) <= request["latency"] + 1e-9
        assert 0 < request["ttft"]
    assert (len(told) < len(good)) == any("had no text" in note for note in report["notes"])
    if told:
        assert report["mean_ttft_ms"] == pytest.approx(1e3 * sum(r["ttft"] for r in told) / len(told))
        gaps = [gap for r in good for gap in r["itl"]]
        assert report["mean_itl_ms"] == (pytest.approx(1e3 * sum(gaps) / len(gaps)) if gaps else None)
    for name in ("e2e_latency", "ttft", "tpot", "itl"):
        values = [report[f"{p}_{name}_ms"] for p in ("median", "p90", "p95", "p99", "max")]
        assert values == ([None] * 5 if values[0] is None else sorted(values))


class Page(HTMLParser):
    """Counts elements, and checks that nothing outside the page is loaded and nothing runs."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def handle_starttag(self, tag, attributes):
        self.counts[tag] = self.counts.get(tag, 0) + 1
        assert tag not in ("script", "link", "img", "iframe", "base", "object", "embed")
        assert not {"src", "href", "style", "onload"} & {name for name, _ in attributes}


def counters(server):
    metrics = server.metrics()
    return {name: metrics["chorale_" + name] for name in ("prompt_tokens_total", "generation_tokens_total")} | {
        "requests": sum(n for name, n in metrics.items() if name.startswith("chorale_request_finished_total"))
    }


def counted(server, *flags):
    """A run without warm-up, and what the server has counted meanwhile."""
    server.wait_until_empty()
    before = counters(server)
    report = measure(server.url, "--warmup-requests", 0, *flags)
    server.wait_until_empty()
    return report, {name: value - before[name] for name, value in counters(server).items()}


SMALL = ("--random-input-len", 48, "--random-output-len", 12, "--random-range-ratio", 0.25)


def test_the_server_has_counted_the_same(server):
    report, seen = counted(server, "--num-prompts", 20, *SMALL)
    assert report["failed"] == 0
    assert report["completed"] == seen["requests"] == 20
    assert report["total_input_tokens"] == seen["prompt_tokens_total"]
    assert report["total_output_tokens"] == seen["generation_tokens_total"]
    assert {r["input_len"] for r in report["requests"]} <= set(range(12, 49))
    assert {r["output_len"] for r in report["requests"]} <= set(range(3, 13))
    assert len({r["input_len"] for r in report["requests"]}) > 5
    assert report["notes"] == []
    assert report["model"] == "tales-moe"


@pytest.mark.parametrize("flags", [(), ("--tokenizer", MODEL)])
def test_lengths_are_exact(server, flags):
    report = measure(
        server.url, "--num-prompts", 6, "--random-input-len", 37, "--random-output-len", 9, "--random-range-ratio", 1,
        *flags,
    )  # fmt: skip
    assert [(r["input_len"], r["output_len"]) for r in report["requests"]] == [(37, 9)] * 6


def test_the_warmup_does_not_count_and_leaves_no_prefix(serve):
    server = serve()
    flags = ("--num-prompts", 3, "--random-input-len", 100, "--random-output-len", 40, "--random-range-ratio", 1)
    report = measure(server.url, "--warmup-requests", 2, *flags)
    server.wait_until_empty()
    assert report["completed"] == 3
    assert report["total_output_tokens"] == 120
    metrics = server.metrics()
    assert metrics["chorale_generation_tokens_total"] == 3 * 40 + 2 * 32
    assert metrics["chorale_cached_prompt_tokens_total"] == 0
    # The same prompts again are in the prefix cache, unless it is emptied.
    measure(server.url, "--warmup-requests", 0, "--flush-cache", *flags)
    assert server.metrics()["chorale_cached_prompt_tokens_total"] == 0
    measure(server.url, "--warmup-requests", 0, *flags)
    assert server.metrics()["chorale_cached_prompt_tokens_total"] == 3 * (99 // KV_BLOCK * KV_BLOCK)


def test_the_seed_decides(server):
    lengths = [
        [(r["input_len"], r["output_len"]) for r in measure(server.url, "--num-prompts", 8, "--seed", seed, *SMALL)["requests"]]
        for seed in (1, 1, 2)
    ]
    assert lengths[0] == lengths[1]
    assert lengths[0] != lengths[2]


def test_block_json_and_html_agree(server, tmp_path):
    files = ("--output-file", tmp_path / "out.json", "--html", tmp_path / "out.html")
    result = bench("--num-prompts", 12, *SMALL, *files, url=server.url)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert "requests" not in report
    lines = result.stdout.splitlines()
    assert lines[0] == " Serving Benchmark Result ".center(50, "=")
    assert lines[-1] == "=" * 50
    found = dict(re.findall(r"^(\S.*?): +(\S+)$", result.stdout, re.MULTILINE))
    for title, member in BLOCK.items():
        value = report[member]
        assert found[title] == (str(value) if isinstance(value, int) else f"{value:.2f}"), title
    assert report["completed"] == 12

    text = (tmp_path / "out.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert page.counts["svg"] == 4
    assert "://" not in text and "url(" not in text and "@import" not in text
    assert f">{report['p99_ttft_ms']:.2f}</td>" in text
    assert "prefers-color-scheme: dark" in text


def test_chat_with_words(server):
    report, seen = counted(
        server, "--endpoint", "chat", "--tokenizer", MODEL, "--num-prompts", 5, "--random-input-len", 20,
        "--random-output-len", 10, "--random-range-ratio", 1,
    )  # fmt: skip
    assert report["completed"] == 5
    assert report["total_output_tokens"] == seen["generation_tokens_total"] == 50
    assert report["total_input_tokens"] == seen["prompt_tokens_total"] > 5 * 20  # and those of the chat template


@pytest.fixture
def sharegpt(tmp_path):
    def turns(*texts):
        speakers = ("human", "gpt")
        return {"conversations": [{"from": speakers[i % 2], "value": text} for i, text in enumerate(texts)]}

    file = tmp_path / "sharegpt.json"
    story = "Once upon a time there was a king who had three daughters"
    many = [turns(f"{story}, number {i}", "They all lived happily" * (1 + i % 3)) for i in range(8)]
    file.write_text(json.dumps([*many, turns("alone"), turns("x" * 20000, "too long")]), encoding="utf-8")
    return file


def test_sharegpt(server, sharegpt):
    flags = ("--dataset-name", "sharegpt", "--dataset-path", sharegpt, "--num-prompts", 6)
    report, seen = counted(server, *flags, "--tokenizer", MODEL, "--sharegpt-context-len", 512)
    assert report["completed"] == 6
    assert report["total_input_tokens"] == seen["prompt_tokens_total"]
    assert report["total_output_tokens"] == seen["generation_tokens_total"]
    assert len({r["output_len"] for r in report["requests"]}) > 1  # as the replies

    report = measure(server.url, *flags[:-1], 100, "--sharegpt-output-len", 5, "--extra-request-body", '{"seed": 3}')
    assert report["num_prompts"] == 9
    assert any("the dataset has 9" in note for note in report["notes"])
    assert any("warm-up" in note for note in report["notes"])
    # The one that is longer than the context is refused, and the rest is not held up.
    assert report["failed"] == 1
    assert "HTTP 400" in report["errors"][0]["message"]
    assert report["total_output_tokens"] == 8 * 5


def test_request_rate(server):
    flags = ("--num-prompts", 12, "--request-rate", 20, *SMALL)
    times = [r["start"] for r in measure(server.url, *flags)["requests"]]
    assert times == sorted(times)
    assert times[-1] - times[0] > 0.1  # they may be late, but none is early


def test_answers_end_by_themselves_when_asked_to(server):
    flags = ("--tokenizer", MODEL, "--num-prompts", 4, "--random-input-len", 8, "--random-output-len", 60,
             "--random-range-ratio", 1)  # fmt: skip
    stop = ("--extra-request-body", json.dumps({"stop": [" ", "a", "e"]}))
    report = measure(server.url, *flags, "--disable-ignore-eos", *stop)
    assert report["completed"] == 4
    assert report["total_output_tokens"] < 4 * 60


def test_an_api_key(serve):
    server = serve("--api-key", "secret")
    flags = ("--num-prompts", 2, *SMALL)
    result = bench(*flags, url=server.url)
    assert result.returncode == 1
    assert "401" in result.stderr and "--api-key" in result.stderr
    assert measure(server.url, "--api-key", "secret", *flags)["completed"] == 2


class Stub:
    """A server whose answer to the n-th completion is what `behaviour(handler, n)` does."""

    def __init__(self, behaviour):
        self.bodies, self.headers = [], []
        self.running = self.most_running = 0
        self.lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                found = self.path == "/base/v1/models"
                self.answer(200 if found else 404, {"data": [{"id": "stub"}]} if found else {"detail": "Not Found"})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with stub.lock:
                    number = len(stub.bodies)
                    stub.bodies.append(body)
                    stub.headers.append((self.path, dict(self.headers)))
                    stub.running += 1
                    stub.most_running = max(stub.most_running, stub.running)
                try:
                    behaviour(self, number)
                finally:
                    with stub.lock:
                        stub.running -= 1

            def answer(self, status, body):
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def begin(self):
                """A stream without a length: its end is the connection's."""
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.close_connection = True

            def begin_chunked(self):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.close_connection = True

            def chunk(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

            def event(self, **event):
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")

            def text(self, text, **more):
                self.event(choices=[{"index": 0, "text": text, "finish_reason": None}], **more)

            def done(self):
                self.wfile.write(b"data: [DONE]\n\n")

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/base"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def stub():
    started = []

    def start(behaviour):
        started.append(Stub(behaviour))
        return started[-1]

    yield start
    for one in started:
        one.server.shutdown()
        one.server.server_close()


STUBBED = ("--vocab-size", 50, "--random-input-len", 7, "--random-output-len", 3, "--random-range-ratio", 1)


def good(handler, _=0):
    handler.begin()
    for text in ("a", "b", "c"):
        handler.text(text)
    handler.event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3})
    handler.done()


def test_max_concurrency_is_kept(stub):
    together = threading.Barrier(3)

    def slow(handler, number):
        if number < 3:
            together.wait(60)
        time.sleep(0.05)
        good(handler, number)

    server = stub(slow)
    report = measure(server.url, "--max-concurrency", 3, "--num-prompts", 17, "--warmup-requests", 0, *STUBBED)
    assert report["completed"] == 17
    assert server.most_running == report["peak_concurrency"] == report["max_concurrency"] == 3


def test_what_is_sent(stub):
    server = stub(good)
    extra = ("--extra-request-body", '{"temperature": 0.5, "top_k": 4}', "--api-key", "key")
    report = measure(server.url + "/v1/", "--num-prompts", 3, "--warmup-requests", 1, *STUBBED, *extra)
    assert report["model"] == "stub"
    assert len(server.bodies) == 4
    prompts = [body.pop("prompt") for body in server.bodies]
    assert all(len(prompt) == 7 and set(prompt) <= set(range(50)) for prompt in prompts)
    assert len(set(map(tuple, prompts))) == 4
    for body in server.bodies:
        assert body == {
            "model": "stub", "max_tokens": 3, "temperature": 0.5, "top_k": 4, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
    for path, headers in server.headers:
        assert path == "/base/v1/completions"
        assert headers["Authorization"] == "Bearer key"
        assert headers["Content-Type"] == "application/json"


def test_failures_are_counted_and_shown(stub):
    def drop_before(handler, _):
        handler.close_connection = True

    def drop_within(handler, _):
        handler.begin()
        handler.text("a")

    def drop_within_a_chunk(handler, _):
        handler.begin_chunked()
        handler.chunk(b'data: {"choices": [{"text": "a"}]}\n\n')
        handler.wfile.write(b"ff\r\nhalf of it")

    def error_within(handler, _):
        handler.begin()
        handler.text("a")
        handler.event(error={"message": "the engine has failed", "code": 500})
        handler.done()

    def refuse(handler, _):
        handler.answer(503, {"error": {"message": "too many requests"}})

    def no_stream(handler, _):
        handler.answer(200, {"choices": [{"text": "whole"}]})

    def garbage(handler, _):
        handler.wfile.write(b"this is not HTTP\r\n\r\n")
        handler.close_connection = True

    bad = [drop_before, drop_within, drop_within_a_chunk, error_within, refuse, no_stream, garbage]
    server = stub(lambda handler, number: (bad[number // 2] if number % 2 and number < 14 else good)(handler, number))
    flags = ("--num-prompts", 16, "--warmup-requests", 0, "--max-concurrency", 1, *STUBBED)
    report = measure(server.url, *flags)
    assert (report["completed"], report["failed"]) == (9, 7)
    assert report["total_output_tokens"] == 27
    errors = [r["error"] for r in report["requests"] if not r["success"]]
    expected = ("closed before", "without [DONE]", "closed before", "engine has failed", "HTTP 503: too many requests",
                "no stream of events", "")  # fmt: skip
    assert len(errors) == len(expected)
    for error, part in zip(errors, expected):
        assert error and part in error

    server.bodies.clear()
    result = bench(*flags, url=server.url)
    assert result.returncode == 0  # some succeeded
    assert "Failed requests:                         7\n" in result.stdout
    assert "7 of 16 requests failed" in result.stderr
    assert "the engine has failed" in result.stderr


def test_an_answer_without_text(stub):
    def silent(handler, number):
        handler.begin()
        if number:
            handler.text("a")
        handler.event(choices=[{"text": "", "finish_reason": "stop"}], usage={"prompt_tokens": 7, "completion_tokens": 1})
        handler.done()

    report = measure(stub(silent).url, "--num-prompts", 3, "--warmup-requests", 0, "--max-concurrency", 1, *STUBBED)
    assert report["completed"] == report["total_output_tokens"] == 3
    assert report["requests"][0]["ttft"] is None
    assert "1 answers had no text" in report["notes"][0]


def test_chunked_streams_and_other_line_ends(stub):
    def chunked(handler, number):
        handler.begin_chunked()
        data = b': hi\r\n\r\ndata: {"choices": [{"text": "a"}]}\r\n\r\ndata: {"choices": [{"text": "b", "finish_reason": "length"}]}\r\n\r\n'
        size = 1 + number * 7
        for at in range(0, len(data), size):
            handler.chunk(data[at : at + size])
        handler.wfile.write(b"0\r\n\r\n")

    report = measure(stub(chunked).url, "--num-prompts", 8, "--warmup-requests", 0, "--max-concurrency", 1, *STUBBED)
    assert report["completed"] == 8
    # Without usage, each event is a token, prompts are as sent, and the report says so.
    assert report["total_output_tokens"] == 16
    assert report["total_input_tokens"] == 56
    assert len(report["notes"]) == 2


def test_the_tokenizer_counts_where_the_server_does_not(stub):
    def without_usage(handler, _):
        handler.begin()
        handler.text("Once upon a time ")
        handler.text("there was a king")
        handler.done()

    flags = ("--num-prompts", 2, "--warmup-requests", 0, "--tokenizer", MODEL, *STUBBED)
    report = measure(stub(without_usage).url, *flags)
    tokens = subprocess.run(
        [BINARY, "tokenize", "--model-path", MODEL, "--text", "Once upon a time there was a king", "--json"],
        capture_output=True, check=True,
    )  # fmt: skip
    assert report["total_output_tokens"] == 2 * json.loads(tokens.stdout)["count"]
    assert any("tokenizer" in note for note in report["notes"])


def test_nothing_succeeds(stub):
    def fail(handler, _):
        handler.answer(500, {"error": {"message": "broken \x1b[31m"}})

    server = stub(fail)
    result = bench("--num-prompts", 4, "--warmup-requests", 0, *STUBBED, url=server.url)
    assert result.returncode == 1
    assert "Successful requests:                     0\n" in result.stdout
    assert "4 x HTTP 500: broken \\x1b[31m" in result.stderr
    result = bench("--num-prompts", 4, *STUBBED, url=server.url)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "warm-up failed" in result.stderr and "HTTP 500" in result.stderr


def test_a_request_that_takes_too_long(stub):
    held = threading.Event()

    def hang(handler, number):
        if number == 1:
            held.wait(60)
        good(handler, number)

    report = measure(
        stub(hang).url, "--num-prompts", 3, "--warmup-requests", 0, "--max-concurrency", 1, "--request-timeout", 2, *STUBBED
    )
    held.set()
    assert report["requests"][1]["error"] == "the time limit was reached"


def test_a_server_that_is_down():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    for flags in (("--port", port), ("--port", port, "--model", "m", "--vocab-size", 9), ("--base-url", f"http://127.0.0.1:{port}")):
        result = bench(*flags, "--num-prompts", 2)
        assert result.returncode == 1
        assert result.stdout == ""
        assert f"127.0.0.1:{port}" in result.stderr
        assert "Connection refused" in result.stderr
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "status", "parts"),
    [
        (["--bse-url", "x"], 2, ["--bse-url", "--base-url"]),
        (["--base-url", "x", "--port", "1"], 2, ["--port", "--base-url"]),
        (["--request-rate", "0"], 2, ["--request-rate", "above 0"]),
        (["--request-rate", "fast"], 2, ["--request-rate"]),
        (["--random-range-ratio", "1.5"], 2, ["--random-range-ratio"]),
        (["--extra-request-body", "[1]"], 2, ["--extra-request-body", "JSON object"]),
        (["--dataset-name", "mmmu"], 2, ["--dataset-name", "sharegpt"]),
        (["--base-url", "https://x"], 2, ["--base-url", "only http"]),
        (["--dataset-name", "sharegpt"], 2, ["--dataset-path"]),
        (["--dataset-path", "x"], 2, ["--dataset-path", "--dataset-name sharegpt"]),
        (["--dataset-name", "sharegpt", "--dataset-path", "x"], 2, ["--tokenizer", "--sharegpt-output-len"]),
        (["--endpoint", "chat"], 2, ["--endpoint chat", "--tokenizer"]),
        (["--output-file", "/no/such/folder/x"], 1, ["--output-file /no/such/folder/x"]),
        (["--html", "/tmp"], 1, ["--html /tmp", "folder"]),
        (["--base-url", "http://host.invalid"], 1, ["host.invalid"]),
        (["--tokenizer", "/no/such/model"], 1, ["/no/such/model"]),
    ],
)
def test_mistakes(flags, status, parts):
    result = bench(*flags)
    assert result.returncode == status
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == status, result.stderr
    for part in parts:
        assert part in lines[0]
    if status == 2:
        assert lines[1] == "chorale bench serve --help shows what there is"


def test_a_dataset_that_is_not_one(server, tmp_path):
    file = tmp_path / "bad.json"
    file.write_text('[{"conversations": [{"value": "a"}, {"text": "b"}]}]', encoding="utf-8")
    flags = ("--dataset-name", "sharegpt", "--dataset-path", file, "--sharegpt-output-len", 4)
    result = bench(*flags, url=server.url)
    assert result.returncode == 1
    assert all(part in result.stderr for part in ("bad.json", "conversation 0, turn 1", '"value"'))


def test_a_server_that_does_not_tell_its_vocabulary(stub):
    result = bench("--num-prompts", 2, url=stub(good).url)
    assert result.returncode == 1
    assert "--vocab-size" in result.stderr and "--tokenizer" in result.stderr
