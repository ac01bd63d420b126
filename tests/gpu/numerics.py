#!/usr/bin/env python3
"""The numerics contract and the accuracy of a device, by the real program: numerics.py --binary FILE --models FOLDER
--golden FOLDER [--device cuda] [--results FOLDER] [--only PART]... [--small].

  contract  64 random requests of the bundled model, each alone, all at once, in chunks of 16, 48 and 512, from the prefix
            cache, after preemption, with and without CUDA graphs; tokens and log probabilities are equal
  large     the same in the shape of Qwen3-30B-A3B with random weights: batches of 1, 2, 7, 32 and 256, prompts of 1 to
            8,192 tokens
  accuracy  logits and likelihoods of the bundled model, against the references and the CPU
  shapes    logits of other shapes in float32, against the CPU

--small makes the large model tiny, for machines without a GPU. Needs Python alone. Writes numerics.json and the servers' logs
to the results; the last line is "N passed, N failed".
"""

import argparse
import array
import concurrent.futures
import http.client
import json
import random
import re
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

READY = re.compile(r"Chorale is ready: http://\S+:(\d+)")
LOGITS_TOLERANCE = 2e-4  # absolute, in float32
LIKELIHOOD_TOLERANCE = {"float32": 2e-4, "bfloat16": 0.01}
HELDOUT = ["--window", "512", "--max-windows", "24"]

QWEN3_30B = {
    "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
    "norm_topk_prob": True, "max_position_embeddings": 40960, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6,
    "hidden_act": "silu", "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
SMALL = QWEN3_30B | {
    "vocab_size": 5000, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16, "moe_intermediate_size": 16, "num_experts": 16, "num_experts_per_tok": 4,
}  # fmt: skip

BASE = QWEN3_30B | {
    "vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "intermediate_size": 96, "moe_intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 2,
    "max_position_embeddings": 4096, "rope_theta": 10000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SHAPES = {
    "plain": {},
    "one expert": {"num_experts": 1, "num_experts_per_tok": 1},
    "three experts, tied, heads of 20": {
        "num_experts": 3, "tie_word_embeddings": True, "num_attention_heads": 6, "num_key_value_heads": 3,
        "head_dim": 20, "hidden_size": 60, "moe_intermediate_size": 36, "vocab_size": 211,
    },
    "128 experts": {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 24},
    "dense layers mixed in": {
        "num_hidden_layers": 4, "mlp_only_layers": [1], "decoder_sparse_step": 2, "intermediate_size": 77,
        "moe_intermediate_size": 35,
    },
    "yarn and biases": {"attention_bias": True, "rope_scaling": YARN, "rope_theta": 1e6, "max_position_embeddings": 256},
    "one KV head, heads of 6": {"num_attention_heads": 8, "num_key_value_heads": 1, "head_dim": 6},
    "8 KV heads": {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "hidden_size": 256},
    "shares not normalized": {"norm_topk_prob": False, "num_experts_per_tok": 3},
}  # fmt: skip


class Checks:
    """What was checked, each by a name; a check holds, or says why it does not."""

    def __init__(self):
        self.all = []

    def add(self, name, fault, **details):
        self.all.append({"name": name, "passed": not fault, "fault": fault or None} | details)
        text = " ".join(f"{key}={value}" for key, value in details.items())
        print(("passed: " if not fault else "FAILED: ") + name + (f"  {text}" if text else "") + (f"  {fault}" if fault else ""),
              flush=True)

    def failed(self):
        return sum(not check["passed"] for check in self.all)


class Server:
    """`chorale serve` on a free port; ends with the block, and must end well."""

    def __init__(self, options, name, model, *flags):
        self.log_file = options.results / f"{name}.log"
        command = [options.binary, "serve", "--device", options.device, "--model-path", model, "--port", "0", *flags]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, encoding="utf-8", errors="replace")
        self.port = None
        self.ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self.ready.wait(240) or self.port is None:
            self.process.kill()
            raise RuntimeError(f"not ready: {self.log_file.read_text()[-600:]}")

    def _read(self):
        with open(self.log_file, "w", encoding="utf-8") as log:
            for line in self.process.stderr:
                log.write(line)
                log.flush()
                if self.port is None and (match := READY.search(line)):
                    self.port = int(match[1])
                    self.ready.set()
        self.ready.set()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = "none within a minute"
        if kind is None and status != 0:
            raise RuntimeError(f"exit status {status}: {self.log_file.read_text()[-600:]}")

    def ask(self, request):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=240)
        try:
            connection.request("POST", "/generate", json.dumps(request), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"status {response.status}: {text[:300]!r}")
        return json.loads(text)

    def alone(self, requests):
        return [self.ask(request) for request in requests]

    def together(self, requests):
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(self.ask, requests))

    def metric(self, name):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", text, re.MULTILINE)[1])


def result(answer):
    """What must be equal: all but the time, the request's name, and how much the cache had."""
    meta = {key: value for key, value in answer["meta_info"].items() if key not in ("id", "e2e_latency", "cached_tokens")}
    return answer["output_ids"], meta


def difference(actual, expected):
    different = [i for i, (a, b) in enumerate(zip(actual, expected, strict=True)) if result(a) != result(b)]
    if not different:
        return ""
    first = different[0]
    (ids, meta), (expected_ids, expected_meta) = result(actual[first]), result(expected[first])
    if ids != expected_ids:
        at = next((i for i, (a, b) in enumerate(zip(ids, expected_ids, strict=False)) if a != b), min(len(ids), len(expected_ids)))
        what = f"token {at}"
    else:
        what = ", ".join(key for key in meta if meta[key] != expected_meta.get(key))
    return f"{len(different)} of {len(expected)} differ; request {first}: {what}"


def random_requests(vocab_size):
    """64 prompts of 1 to 150 tokens, half of them beginning with one of three prefixes of 70, sampled in many ways."""
    chance = random.Random(42)
    requests = []
    for i in range(64):
        prefix = []
        if chance.randrange(2) == 0:
            which = chance.randrange(3)
            prefix = [(t * t + 91 * which) % vocab_size for t in range(70)]
        own = [chance.randrange(vocab_size) for _ in range(1 + chance.randrange(80))]
        sampling = {
            "max_new_tokens": 4 + chance.randrange(44),
            "temperature": 0.0 if chance.randrange(3) == 0 else 0.7 + chance.randrange(6) / 10,
            "top_p": 0.9 if chance.randrange(3) == 0 else 1.0,
            "top_k": 40 if chance.randrange(3) == 0 else -1,
            "repetition_penalty": 1.1 if chance.randrange(4) == 0 else 1.0,
            "seed": chance.randrange(1 << 31),
            "ignore_eos": chance.randrange(2) == 0,
        }
        requests.append({"input_ids": prefix + own, "sampling_params": sampling, "return_logprob": True,
                         "top_logprobs_num": 5, "logprob_start_len": 0 if i % 2 == 0 else -1})
    return requests


def check_contract(options, checks):
    model = options.models / "tales-moe"
    requests = random_requests(4064)
    room = ["--max-total-tokens", "16384", "--max-running-requests", "64"]
    no_cache = ["--disable-radix-cache"]
    for dtype in ("bfloat16", "float32"):
        def served(name, *flags, dtype=dtype):
            return Server(options, f"contract-{dtype}-{name}", model, "--dtype", dtype, *flags)

        # Long answers, so that requests that have begun outgrow a small cache.
        longer = [request | {"sampling_params": request["sampling_params"] | {"max_new_tokens": 130, "ignore_eos": True}}
                  for request in requests]
        with served("whole", *room, *no_cache) as server:
            alone = server.alone(requests)
            longer_alone = server.alone(longer)
            checks.add(f"{dtype}: 64 requests at once answer as each does alone", difference(server.together(requests), alone),
                       tokens=sum(len(a["output_ids"]) for a in alone))
        for chunk in (16, 48, 512):
            with served(f"chunk-{chunk}", *room, *no_cache, "--chunked-prefill-size", chunk) as server:
                checks.add(f"{dtype}: in chunks of {chunk}", difference(server.together(requests), alone))
        with served("cache", *room) as server:
            first = difference(server.together(requests), alone)
            again = server.together(requests)
            cached = sum(answer["meta_info"]["cached_tokens"] for answer in again)
            checks.add(f"{dtype}: from the prefix cache", first or difference(again, alone) or
                       ("" if cached > 1000 else "the cache was not used"), cached_tokens=cached)
        with served("preemption", "--max-total-tokens", "512", "--max-running-requests", "64") as server:
            answers = server.together(longer)
            preemptions = server.metric("chorale_num_preemptions_total")
            checks.add(f"{dtype}: after preemption", difference(answers, longer_alone) or
                       ("" if preemptions > 5 else "nothing was preempted"), preemptions=int(preemptions))
        with served("no-graphs", *room, *no_cache, "--disable-cuda-graph") as server:
            checks.add(f"{dtype}: without CUDA graphs", difference(server.together(requests), alone))


def write_model(folder, config, tokenizer_of):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tokenizer_of / name).read_bytes())
    return folder


def check_large(options, checks):
    config = SMALL if options.small else QWEN3_30B
    model = write_model(options.results / "large-model", config, options.models / "tales-moe")
    chance = random.Random(7)
    requests = []
    for i in range(256):
        length = {0: 100, 1: 1, 2: 2048, 4: 8192, 60: 2048, 130: 8192}.get(i, 100 if i % 2 == 0 else 1 + chance.randrange(200))
        greedy = i % 3 == 0
        sampling = {"max_new_tokens": 12, "ignore_eos": True, "temperature": 0.0 if greedy else 0.9,
                    "top_p": 1.0 if greedy else 0.95, "seed": i}
        requests.append({"input_ids": [chance.randrange(config["vocab_size"]) for _ in range(length)],
                         "sampling_params": sampling, "return_logprob": True, "top_logprobs_num": 3})
    flags = ["--load-format", "dummy", "--disable-radix-cache", "--context-length", "8256", "--max-total-tokens", "65536"]
    shape = "small" if options.small else "Qwen3-30B-A3B"
    with Server(options, "large-graphs", model, *flags) as server:
        alone = server.alone(requests)
        for count in (1, 2, 7, 32, 256):
            checks.add(f"{shape}: {count} at once", difference(server.together(requests[:count]), alone[:count]),
                       tokens=sum(len(request["input_ids"]) for request in requests[:count]))
    with Server(options, "large-no-graphs", model, *flags, "--disable-cuda-graph", "--chunked-prefill-size", "2048") as server:
        for count in (7, 256):
            checks.add(f"{shape}: {count} at once without CUDA graphs, in chunks of 2048",
                       difference(server.together(requests[:count]), alone[:count]))


def run(options, device, command, *flags):
    done = subprocess.run(list(map(str, [options.binary, command, "--device", device, *flags])), stdin=subprocess.DEVNULL,
                          capture_output=True, encoding="utf-8", errors="replace", timeout=240)
    if done.returncode != 0:
        raise RuntimeError(f"{command} on {device}: exit status {done.returncode}: {done.stderr[-600:]}")
    return done.stdout


def read_tensors(file):
    """{name: float32 values} of a safetensors file"""
    data = Path(file).read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    tensors = {}
    for name, entry in json.loads(data[8:8 + size]).items():
        if name == "__metadata__" or entry["dtype"] != "F32":
            continue
        begin, end = entry["data_offsets"]
        tensors[name] = array.array("f", data[8 + size + begin:8 + size + end])
    return tensors


def logits_of(options, device, ids, *flags):
    file = options.results / f"logits-{device.replace(':', '-')}.safetensors"
    run(options, device, "logits", "--input-ids", ",".join(map(str, ids)), "--output", file, *flags)
    values = read_tensors(file)["logits"]
    file.unlink()
    return values


def compare_logits(actual, expected):
    """The largest distance, and why it is a fault."""
    if len(actual) != len(expected):
        return None, f"{len(actual)} values, expected {len(expected)}"
    distance = max(abs(a - b) for a, b in zip(actual, expected, strict=True))
    spread = max(expected) - min(expected)
    if not distance <= LOGITS_TOLERANCE:
        return distance, f"more than {LOGITS_TOLERANCE}"
    return distance, "" if spread > 100 * LOGITS_TOLERANCE else f"logits are all alike, within {spread}"


def check_accuracy(options, checks):
    model = options.models / "tales-moe"
    golden = json.loads((options.golden / "demo_golden.json").read_text(encoding="utf-8"))
    tensors = read_tensors(options.golden / "demo_golden.safetensors")
    for i, prompt in enumerate(golden["prompts"]):
        values = logits_of(options, options.device, prompt["ids"], "--dtype", "float32", "--model-path", model)
        last = tensors[f"prompt{i}.last_logits"]
        distance, fault = compare_logits(values[-len(last):], last)
        if not fault and f"prompt{i}.logits" in tensors:
            distance, fault = compare_logits(values, tensors[f"prompt{i}.logits"])
        checks.add(f"float32 logits of prompt {i} are the references'", fault, distance=distance)
    for dtype, tolerance in LIKELIHOOD_TOLERANCE.items():
        def likelihood(device, dtype=dtype):
            return json.loads(run(options, device, "eval", "--model-path", model, "--text-file",
                                  options.golden / "heldout_excerpt.txt", *HELDOUT, "--dtype", dtype, "--json"))["nll"]

        here, cpu, expected = likelihood(options.device), likelihood("cpu"), golden["heldout"]["nll"]
        checks.add(f"{dtype}: likelihood of the held-out text", "" if abs(here - expected) <= tolerance else f"expected {expected}",
                   nll=here)
        checks.add(f"{dtype}: likelihood of the held-out text, against the CPU",
                   "" if abs(here - cpu) <= tolerance else f"more than {tolerance} apart", nll=here, cpu=cpu)


def check_shapes(options, checks):
    for number, (name, changes) in enumerate(SHAPES.items()):
        config = BASE | changes
        model = options.results / f"shape-{number}"
        write_model(model, config, options.models / "tales-moe")
        chance = random.Random(number)
        ids = [chance.randrange(config["vocab_size"]) for _ in range(150)]
        flags = ["--load-format", "dummy", "--dtype", "float32", "--model-path", model]
        expected = logits_of(options, "cpu", ids, *flags)
        distance, fault = compare_logits(logits_of(options, options.device, ids, *flags), expected)
        checks.add(f"float32 logits, {name}", fault, distance=distance)


PARTS = {"accuracy": check_accuracy, "shapes": check_shapes, "contract": check_contract, "large": check_large}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--golden", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--results", type=Path, default=Path("gpu-results"))
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    checks = Checks()
    seconds = {}
    for part in options.only or PARTS:
        start = time.monotonic()
        try:
            PARTS[part](options, checks)
        except Exception as error:  # noqa: BLE001, what a server or a program does wrong is a failure of the part
            checks.add(f"{part} ran to its end", f"{type(error).__name__}: {error}")
        seconds[part] = round(time.monotonic() - start, 1)
    failed = checks.failed()
    report = {"device": options.device, "passed": len(checks.all) - failed, "failed": failed, "seconds": seconds,
              "checks": checks.all}
    (options.results / "numerics.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print("seconds: " + ", ".join(f"{part} {value}" for part, value in seconds.items()))
    print(f"{report['passed']} passed, {failed} failed")
    return 1 if failed or not checks.all else 0


if __name__ == "__main__":
    sys.exit(main())
