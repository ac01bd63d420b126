"""Throughput of a batch with structured output beside that without: .venv/bin/python bench/structured_output.py [MODEL]

Both make the same number of tokens. The two take turns, so that a machine that changes its speed changes it for both.
"""

import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from conftest import Server  # noqa: E402

BATCH, TOKENS, ROUNDS = 16, 256, 7
ITEM = {"type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
        "required": ["name", "age", "tags"], "additionalProperties": False}  # fmt: skip
KINDS = {
    "none": {},
    "JSON schema": {"json_schema": {"type": "array", "items": ITEM, "minItems": 200}},
    "JSON object": {"response_format": {"type": "json_object"}},
    "regex": {"regex": "[a-z ,.]{5000}"},
}


def tokens_per_second(client, url, fields, seed):
    def ask(i):
        body = {"prompt": "Once upon a time", "max_tokens": TOKENS, "seed": seed * BATCH + i} | fields
        answer = client.post(url + "/v1/completions", json=body | ({} if fields else {"ignore_eos": True})).json()
        return answer["usage"]["completion_tokens"]

    begin = time.monotonic()
    with ThreadPoolExecutor(BATCH) as pool:
        made = sum(pool.map(ask, range(BATCH)))
    return made / (time.monotonic() - begin)


def main():
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "models" / "tales-moe"
    print(next(line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line))
    server = Server(model=model)
    rates = {kind: [] for kind in KINDS}
    with httpx.Client(timeout=300, limits=httpx.Limits(max_connections=BATCH)) as client:
        for fields in KINDS.values():
            tokens_per_second(client, server.url, fields, 0)
        for seed in range(1, ROUNDS + 1):
            for kind, fields in KINDS.items():
                rates[kind].append(tokens_per_second(client, server.url, fields, seed))
    server.stop()
    base = statistics.median(rates["none"])
    for kind, values in rates.items():
        rate = statistics.median(values)
        print(f"{kind:12} batch {BATCH}: {rate:7.0f} tokens/s, {100 * rate / base:5.1f}% (from {min(values):.0f} to {max(values):.0f})")


if __name__ == "__main__":
    main()
