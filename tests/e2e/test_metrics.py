"""/metrics against what clients saw, by equality; its format; and the names of other servers."""

import json
import re
import shutil
import socket
import subprocess
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from conftest import KV_BLOCK, ROOT
from raw_http import Connection, post

SAMPLE = re.compile(r'^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$')
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
SEEDED = {"temperature": 1, "seed": 7, "ignore_eos": True}


class Exposition:
    """A parsed /metrics: .types and .helps by family, .samples by (name, labels but for model_name)."""

    def __init__(self, text):
        self.types, self.helps, self.samples, self.families = {}, {}, {}, []
        for line in text.splitlines():
            if line.startswith("# "):
                _, kind, name, rest = line.split(" ", 3)
                target = self.types if kind == "TYPE" else self.helps
                assert name not in target, f"{kind} of {name} comes twice"
                target[name] = rest
                if kind == "TYPE":
                    self.families.append(name)
            else:
                name, labels, value = SAMPLE.match(line).groups()
                labels = dict(LABEL.findall(labels or ""))
                labels.pop("model_name")
                key = name, tuple(sorted(labels.items()))
                assert key not in self.samples, f"{key} comes twice"
                self.samples[key] = float(value)

    def __call__(self, name, **labels):
        return self.samples[name, tuple(sorted(labels.items()))]

    def family(self, name):
        """{labels: value} of all samples of a family, buckets included."""
        return {key: value for key, value in self.samples.items()
                if key[0] == name or (self.types[name] == "histogram" and key[0] in
                                      (name + "_bucket", name + "_sum", name + "_count"))}


class Client:
    """Asks a server and keeps account of what it was told."""

    def __init__(self, server):
        self.server = server
        self.codes = Counter()
        self.finished = Counter()
        self.lengths = []  # (prompt, generated) of each finished request
        self.cached = 0

    def metrics(self):
        response = httpx.get(self.server.url + "/metrics")
        exposition = Exposition(response.text)
        self.codes[response.status_code] += 1  # after it was written
        return exposition

    def wait_until_empty(self):
        for _ in range(1000):
            metrics = self.metrics()
            if not (metrics("chorale_num_requests_running") or metrics("chorale_num_requests_waiting")):
                return metrics
            time.sleep(0.01)
        raise AssertionError("requests are left")

    def post(self, path, body, **more):
        response = self.server.post(path, body, **more)
        self.codes[response.status_code] += 1
        return response

    def count(self, prompt, generated, finish):
        self.lengths.append((prompt, generated))
        self.finished[finish] += 1

    def completion(self, prompt, **body):
        """A completion of token ids; all choices have the same prompt."""
        response = self.post("/v1/completions", {"prompt": prompt, "logprobs": 0} | body)
        assert response.status_code == 200, response.text
        answer = response.json()
        total = 0
        for choice in answer["choices"]:
            generated = len(choice["logprobs"]["tokens"])
            total += generated
            self.count(len(prompt), generated, choice["finish_reason"])
        assert answer["usage"]["completion_tokens"] == total
        return answer

    def chat_stream(self, content, **body):
        body |= {"messages": [{"role": "user", "content": content}], "stream_options": {"include_usage": True}}
        messages = self.server.stream("/v1/chat/completions", body)
        self.codes[200] += 1
        usage = messages[-1]["usage"]
        (finish,) = (choice["finish_reason"] for message in messages for choice in message["choices"]
                     if choice["finish_reason"])
        self.count(usage["prompt_tokens"], usage["completion_tokens"], finish)
        self.cached += usage["prompt_tokens_details"]["cached_tokens"]

    def generate(self, input_ids, **params):
        response = self.post("/generate", {"input_ids": input_ids, "sampling_params": params})
        assert response.status_code == 200, response.text
        for answer in response.json():
            meta = answer["meta_info"]
            self.count(meta["prompt_tokens"], meta["completion_tokens"], meta["finish_reason"]["type"])
            self.cached += meta["cached_tokens"]

    def check(self, metrics):
        """Every counter and histogram that this client knows the value of, where nothing was aborted."""
        prompts, generated = [p for p, _ in self.lengths], [g for _, g in self.lengths]
        started = sum(g > 0 for g in generated)
        assert metrics("chorale_prompt_tokens_total") == sum(prompts)
        assert metrics("chorale_generation_tokens_total") == sum(generated)
        assert metrics("chorale_time_to_first_token_seconds_count") == started
        assert metrics("chorale_inter_token_latency_seconds_count") == sum(generated) - started
        for name in ("e2e_request_latency_seconds", "request_prompt_tokens", "request_generation_tokens",
                     "request_queue_time_seconds"):
            assert metrics(f"chorale_{name}_count") == len(self.lengths), name
        for name in ("request_prefill_time_seconds", "request_decode_time_seconds"):
            assert metrics(f"chorale_{name}_count") == started, name
        assert metrics("chorale_request_prompt_tokens_sum") == sum(prompts)
        assert metrics("chorale_request_generation_tokens_sum") == sum(generated)
        for bound in (1, 10, 100):
            for name, values in ("prompt", prompts), ("generation", generated):
                expected = sum(value <= bound for value in values)
                assert metrics(f"chorale_request_{name}_tokens_bucket", le=str(bound)) == expected
        for reason in ("stop", "length", "tool_calls", "abort", "error"):
            assert metrics("chorale_request_finished_total", reason=reason) == self.finished[reason], reason
        assert metrics("chorale_num_aborted_requests_total") == self.finished["abort"]
        self.check_codes(metrics)

    def check_codes(self, metrics):
        """The answer to this very question is counted after it was made."""
        told = dict(self.codes)
        told[200] -= 1
        counted = {int(dict(labels)["code"]): value for (_, labels), value in
                   metrics.family("chorale_http_responses_total").items()}
        assert counted == told


def check_steps(metrics):
    phases = [metrics("chorale_step_time_seconds_count", phase=phase) for phase in ("prefill", "decode", "mixed")]
    assert sum(phases) == metrics("chorale_engine_steps_total")
    return phases


def is_consistent(metrics):
    """What holds whatever was aborted: every token but a request's first one has one before it."""
    assert metrics("chorale_generation_tokens_total") == (
        metrics("chorale_time_to_first_token_seconds_count") + metrics("chorale_inter_token_latency_seconds_count"))
    ended = sum(metrics("chorale_request_finished_total", reason=r) for r in ("stop", "length", "tool_calls"))
    assert metrics("chorale_e2e_request_latency_seconds_count") == ended
    assert metrics("chorale_sampled_tokens_total") >= metrics("chorale_generation_tokens_total")
    check_steps(metrics)


def leave(server, body, read):
    """Streams until `read` bytes have come, then goes away. The tokens that were seen."""
    payload = json.dumps(body | {"stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(payload)}"
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(head.encode() + b"\r\n\r\n" + payload)
        seen = b""
        while len(seen) < read:
            seen += connection.recv(4096)
    return sum(len(choice["logprobs"]["tokens"])
               for line in re.findall(rb"^data: (\{.*\})\r?$", seen, re.MULTILINE)
               for choice in json.loads(line)["choices"] if choice["logprobs"])


def test_a_scripted_run_is_counted_to_the_token(serve):
    server = serve()
    client = Client(server)
    client.check(client.metrics())

    client.completion(list(range(100, 108 + KV_BLOCK)), n=3, max_tokens=8, **SEEDED)
    client.check(client.metrics())
    client.chat_stream("Tell me of a king.", max_tokens=12, seed=1)
    client.chat_stream("Tell me of a king.", max_tokens=1, seed=1)
    client.generate([[1], list(range(200, 290)), [5, 6, 7]], max_new_tokens=9, ignore_eos=True, temperature=0)
    client.check(client.metrics())

    # A stop string in the middle: the engine may have gone on by then, the client is not told of that.
    words = client.completion([258, 300, 301], max_tokens=60, **SEEDED)["choices"][0]["text"].split()
    stopped = client.completion([258, 300, 301], max_tokens=60, stop=[words[5]], n=2, **SEEDED)
    assert stopped["choices"][0]["finish_reason"] == "stop"
    client.completion([258, 300, 301], max_tokens=60, stop=["no such words anywhere"], **SEEDED)
    client.completion(list(range(50)), max_tokens=0)
    metrics = client.wait_until_empty()
    client.check(metrics)
    prefill, decode, mixed = check_steps(metrics)
    assert prefill > 0 and decode > 0
    # Of the completions' prompts none but the first choice's was computed: it is one full block and 8 tokens.
    assert metrics("chorale_cached_prompt_tokens_total") == client.cached + 2 * KV_BLOCK
    assert metrics("chorale_prefix_cache_hits_total") == metrics("chorale_cached_prompt_tokens_total")
    assert metrics("chorale_prefix_cache_queries_total") == sum(p - 1 for p, _ in client.lengths)


def test_what_is_refused_is_in_no_count_but_that_of_answers(serve):
    server = serve("--context-length", 256)
    client = Client(server)
    for path, body, status in (
        ("/v1/completions", {"prompt": "Once", "temperature": -1}, 400),
        ("/v1/completions", {"prompt": list(range(300)), "max_tokens": 4}, 400),
        ("/v1/chat/completions", {"messages": [], "n": 2, "no_such_field": 1}, 400),
        ("/generate", {"text": "a", "input_ids": [1]}, 400),
        ("/v1/completions", {"model": "another", "prompt": "a"}, 404),
        ("/nothing", {}, 404),
    ):
        assert client.post(path, body).status_code == status, body
    for response in (httpx.get(server.url + "/generate"),
                     httpx.post(server.url + "/generate", content=b"{}", headers={"Content-Type": "text/plain"}),
                     httpx.post(server.url + "/generate", content=b"x" * (9 << 20))):
        client.codes[response.status_code] += 1
    assert client.codes == {400: 4, 404: 2, 405: 1, 415: 1, 413: 1}
    client.check(client.metrics())
    assert client.metrics()("chorale_engine_steps_total") == 0


def test_a_client_that_leaves_is_aborted_once(serve):
    server = serve()
    client = Client(server)
    body = {"prompt": [258] * 40, "max_tokens": 1500, "logprobs": 0, "ignore_eos": True}
    seen = leave(server, body | {"n": 2}, 20_000)
    assert seen > 2
    metrics = client.wait_until_empty()
    assert metrics("chorale_request_finished_total", reason="abort") == 2
    assert metrics("chorale_num_aborted_requests_total") == 2
    assert metrics("chorale_time_to_first_token_seconds_count") == 2
    assert metrics("chorale_request_queue_time_seconds_count") == 2
    assert metrics("chorale_prompt_tokens_total") == 80
    assert metrics("chorale_generation_tokens_total") >= seen
    is_consistent(metrics)
    # Before its first token.
    leave(server, {"prompt": list(range(1500)), "max_tokens": 500, "ignore_eos": True}, 1)
    metrics = client.wait_until_empty()
    assert metrics("chorale_num_aborted_requests_total") == 3
    assert metrics("chorale_e2e_request_latency_seconds_count") == 0
    is_consistent(metrics)


def test_a_full_queue_and_preemptions(serve):
    server = serve("--max-total-tokens", 512, "--max-running-requests", 4, "--max-queued-requests", 3)
    client = Client(server)
    body = {"prompt": [258] * 20, "max_tokens": 200, "logprobs": 0, "ignore_eos": True}
    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(lambda seed: server.post("/v1/completions", body | {"seed": seed}), range(12)))
    for response in responses:
        client.codes[response.status_code] += 1
        if response.status_code == 200:
            client.count(20, 200, "length")
    assert client.codes[503] > 0 and client.codes[200] >= 3
    metrics = client.wait_until_empty()
    client.check(metrics)
    is_consistent(metrics)
    assert metrics("chorale_num_preemptions_total") > 0
    assert metrics("chorale_sampled_tokens_total") == 200 * client.finished["length"]
    assert metrics("chorale_request_queue_time_seconds_sum") > 0


def test_choices_of_which_one_finds_no_room_leave_no_trace(serve):
    server = serve("--max-running-requests", 1, "--max-queued-requests", 2)
    client = Client(server)
    prompt = [258] * 20
    with Connection(server) as running:
        running.send(post("/v1/completions", {"prompt": prompt, "n": 2, "max_tokens": 1900, "ignore_eos": True}))
        while True:
            metrics = client.metrics()
            if metrics("chorale_num_requests_running") == 1 and metrics("chorale_num_requests_waiting") == 1:
                break
        # One place is left.
        assert client.post("/v1/completions", {"prompt": prompt, "n": 2}).status_code == 503
        assert client.post("/generate", {"input_ids": [prompt, prompt]}).status_code == 503
        refused = client.post("/v1/completions", {"prompt": prompt, "n": 3})  # which would never find room
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "n"
        assert client.metrics()("chorale_num_requests_waiting") == 1
    metrics = client.wait_until_empty()
    # The two that were taken, of which one began.
    assert metrics("chorale_num_aborted_requests_total") == 2
    assert metrics("chorale_request_finished_total", reason="abort") == 2
    assert metrics("chorale_request_queue_time_seconds_count") == 1
    assert metrics("chorale_prompt_tokens_total") == 20
    client.check_codes(metrics)


def test_other_servers_names_have_the_same_values(serve):
    server = serve("--metrics-compat", "sglang,vllm")
    client = Client(server)
    prompt = list(range(KV_BLOCK + 8))
    client.completion(prompt, n=2, max_tokens=20, **SEEDED)
    client.completion(prompt, max_tokens=20, **SEEDED)
    metrics = client.wait_until_empty()
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    aliases = re.findall(r"^\| `((?:sglang|vllm):\w+)` \| `(chorale_\w+)` \|$", text, re.MULTILINE)
    assert len(aliases) > 30
    for name, own in aliases:
        assert metrics.types[name] == metrics.types[own], name
        theirs = [value for value in metrics.family(name).values()]
        assert theirs == [value for value in metrics.family(own).values()], name
    assert metrics("vllm:request_success_total", finished_reason="length", engine="0") == 3
    assert metrics("vllm:request_success_total", finished_reason="stop", engine="0") == 0
    assert metrics("sglang:num_requests_total") == 3
    assert metrics("sglang:cache_hit_rate") == pytest.approx(2 * KV_BLOCK / (3 * (KV_BLOCK + 7)))
    other = {name for name in metrics.types if ":" in name}
    assert other == {name for name, _ in aliases} | {
        "vllm:request_success_total", "sglang:num_requests_total", "sglang:cache_hit_rate", "sglang:gen_throughput"}
    deadline = time.monotonic() + 10
    while client.metrics()("sglang:gen_throughput") == 0:  # sampled once a second
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("flags, prefixes", [((), set()), (("--metrics-compat", "none"), set()),
                                             (("--metrics-compat", "vllm"), {"vllm"})])
def test_other_names_come_when_asked_for(serve, flags, prefixes):
    metrics = Client(serve(*flags)).metrics()
    assert {name.partition(":")[0] for name in metrics.types if ":" in name} == prefixes


def test_every_metric_is_described_and_documented(server):
    server.generate(input_ids=[1, 2, 3], max_new_tokens=2)
    metrics = Client(server).metrics()
    assert set(metrics.types) == set(metrics.helps)
    assert all(len(text) > 8 for text in metrics.helps.values())
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(chorale_\w+)`", text, re.MULTILINE))
    balance = {"chorale_expert_load_max_over_mean", "chorale_expert_rank_load_max_over_mean"}  # once asked twice
    on_a_gpu = {"chorale_device_memory_free_bytes"}
    where_experts_move = {name for name in documented
                          if re.match("chorale_expert_(rebalance|layers_moved|slots_moved|moved?_)", name)}
    assert len(where_experts_move) == 7
    with_a_policy = {f"chorale_strategy_{name}" for name in
                     ("decisions_total", "refused_switches_total", "saving_ratio", "switches_left")}
    assert set(metrics.types) | balance | on_a_gpu | where_experts_move | with_a_policy == documented
    for (name, _), value in metrics.samples.items():
        assert value >= 0, name


def test_build_and_model_are_told(serve):
    server = serve("--served-model-name", 'a "name"', "--tp-size", 2, "--dtype", "float32", "--instruction-set", "portable")
    text = httpx.get(server.url + "/metrics").text
    (build,) = re.findall(r"^chorale_build_info\{(.*)\} 1$", text, re.MULTILINE)
    (model,) = re.findall(r"^chorale_model_info\{(.*)\} 1$", text, re.MULTILINE)
    build, model = dict(LABEL.findall(build)), dict(LABEL.findall(model))
    assert (build["device"], build["device_name"]) == ("cpu", "")
    assert build["instruction_set"] == "portable" and build["compiler"] and build["version"]
    assert model["model_name"] == r'a \"name\"'
    assert (model["dtype"], model["num_experts"], model["num_layers"]) == ("float32", "16", "6")
    assert model["strategy"] == "tp=2,dp=1,ep=1,moe_tp=2,moe_dp=1"


def test_promtool_finds_no_fault(server):
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool (Debian package prometheus)")
    text = httpx.get(server.url + "/metrics").text
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr
