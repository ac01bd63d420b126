#!/usr/bin/env python3
"""Bits of every strategy on several GPUs, by the real program: strategies.py --binary FILE --models FOLDER [--device cuda]
[--gpus N] [--results FOLDER] [--jobs N] [--only WORD]... [--small].

What one GPU computes is what all strategies must compute: logits of a 100-token prompt, 32 sampled tokens, and 64 requests
at once, for the bundled models and for tiny random ones of 1, 3 and 128 experts; with each kind of collectives that the ranks can
have, and with and without CUDA graphs. Ranks have a GPU each where there are as many, else they share --gpus of them (2).

--only keeps the checks whose names have all these words. --small keeps the tiny models and a few strategies, for machines without a
GPU: with --device ref ranks are on --gpus reference devices, with --device cpu on the CPU. Needs Python alone. Writes strategies.json
and the servers' logs to the results. Its last lines are a table of what passed, and "N passed, N failed".
"""

import argparse
import concurrent.futures
import json
import random
import subprocess
import sys
from pathlib import Path

from numerics import BASE, Server, difference, random_requests, read_tensors, write_model

TINY = BASE | {
    "vocab_size": 4096, "hidden_size": 256, "num_hidden_layers": 3, "num_attention_heads": 16, "num_key_value_heads": 4,
    "head_dim": 64, "intermediate_size": 768, "moe_intermediate_size": 768, "max_position_embeddings": 1024,
}  # fmt: skip
RANDOM_MODELS = {
    "random-1e": TINY | {"num_experts": 1, "num_experts_per_tok": 1},
    "random-3e": TINY | {"num_experts": 3, "num_experts_per_tok": 2},
    "random-128e": TINY | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 192},
}
# name: (ranks, flags)
STRATEGIES = {
    "tp=2": (2, ["--tp-size", "2"]),
    "dp=2": (2, ["--dp-size", "2"]),
    "dp=2 ep=2": (2, ["--dp-size", "2", "--ep-size", "2"]),
    "tp=2 ep=2": (2, ["--tp-size", "2", "--ep-size", "2"]),
    "tp=2 moe_tp=2": (2, ["--tp-size", "2", "--moe-tp-size", "2"]),
    "tp=4 dp=2 ep=8": (8, ["--tp-size", "4", "--dp-size", "2", "--enable-ep-moe", "--ep-size", "8"]),
    "tp=8": (8, ["--tp-size", "8"]),
    "simple": (1, []),
}
SMALL_STRATEGIES = ["tp=2", "dp=2 ep=2", "tp=4 dp=2 ep=8", "simple"]
# Of which all kinds of collectives are tried; the others are with the first kind alone.
THOROUGH = ["tales-moe", "random-128e"]
PROMPT = "Once upon a time there was a fox who"


def chorale(options, command, *flags):
    patience = ["--dist-timeout", "200"] if options.device in ("cpu", "ref") else []
    line = list(map(str, [options.binary, command, "--device", options.device, *patience, *flags]))
    done = subprocess.run(line, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)
    if done.returncode != 0:
        error = done.stderr.decode(errors="replace")[-500:]
        raise RuntimeError(f"{command} {' '.join(line[-12:])}: exit status {done.returncode}: {error}")
    return done.stdout


def logits(options, name, model, flags):
    chance = random.Random(5)
    ids = ",".join(str(chance.randrange(4000)) for _ in range(100))
    file = options.results / f"{name.replace(' ', '-').replace('/', '-')}.safetensors"
    chorale(options, "logits", "--input-ids", ids, "--output", file, *model, *flags)
    values = read_tensors(file)["logits"].tobytes()
    file.unlink()
    return values


def tokens(options, _, model, flags):
    answer = chorale(options, "generate", "--prompt", PROMPT, "--max-new-tokens", "32", "--ignore-eos", "--temperature", "0.9",
                     "--seed", "11", "--json", *model, *flags)
    return json.loads(answer)["output_ids"]


def load(options, name, model, flags):
    requests = random_requests(4064)
    room = ["--max-total-tokens", "16384", "--max-running-requests", "64", "--disable-radix-cache"]
    with Server(options, name.replace(" ", "-").replace("/", "-"), model[1], *model[2:], *room, *flags) as server:
        return server.together(requests)


PARTS = {"logits": logits, "tokens": tokens, "64 requests": load}


def models_of(options):
    models = {}
    if not options.small:
        for folder in sorted(options.models.iterdir()):
            if (folder / "config.json").is_file():
                models[folder.name] = ["--model-path", folder]
    for name, config in RANDOM_MODELS.items():
        folder = write_model(options.results / name, config, options.models / "tales-moe")
        models[name] = ["--model-path", folder, "--load-format", "dummy"]
    return models


def flags_of_ranks(options, ranks):
    """Where the ranks are, and what kinds of collectives they can have."""
    if options.device == "cpu" or ranks == 1:
        return [], [None]
    gpus = min(options.gpus, ranks)
    flags = ["--gpus", ",".join(map(str, range(gpus))), "--ranks-per-gpu", ranks // gpus]
    if options.device == "ref":
        return flags, ["host"]
    return flags, ["peer", "nccl", "host"] if gpus == ranks else ["host"]


def checks_of(options):
    """All checks, as (name, part, model, flags)."""
    checks = []
    for model_name, model in models_of(options).items():
        for name in SMALL_STRATEGIES if options.small else STRATEGIES:
            ranks, flags = STRATEGIES[name]
            places, kinds = flags_of_ranks(options, ranks)
            for kind in kinds if model_name in THOROUGH else kinds[:1]:
                more = [*flags, *places, *(["--collectives", kind] if kind else [])]
                for part in PARTS:
                    if part == "64 requests" and (model_name not in THOROUGH or kind == "host" or options.small):
                        continue
                    has_graphs = options.device.startswith("cuda") and part == "tokens" and kind != "host"
                    for graphs in (True, False) if has_graphs else (True,):
                        label = f"{model_name} / {name} / {kind or 'no'} collectives / {part}{'' if graphs else ' without graphs'}"
                        checks.append((label, part, (model_name, model), [*more, *([] if graphs else ["--disable-cuda-graph"])]))
    return [check for check in checks if all(word in check[0] for word in options.only)]


def fault(part, actual, expected):
    if part == "64 requests":
        return difference(actual, expected)
    if actual == expected:
        return ""
    if part == "tokens":
        return f"{actual!r}, expected {expected!r}"
    return f"{len(actual)} bytes differ from {len(expected)}"


def attempt(work):
    try:
        return work(), ""
    except (RuntimeError, OSError, subprocess.TimeoutExpired, ValueError, KeyError) as error:
        return None, str(error)[-700:]


def run_checks(options, checks):
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        wanted = {(check[1], check[2][0]): check[2][1] for check in checks}
        one = [] if options.device in ("cpu", "ref") else ["--gpus", "0"]
        expected = {key: pool.submit(attempt, lambda key=key, model=model: PARTS[key[0]](
                        options, f"one-{key[1]}-{key[0]}", model, one)) for key, model in wanted.items()}
        actual = [pool.submit(attempt, lambda check=check: PARTS[check[1]](options, check[0], check[2][1], check[3]))
                  for check in checks]
        results = []
        for (name, part, model, _), future in zip(checks, actual, strict=True):
            (reference, reason) = expected[(part, model[0])].result()
            (value, failure) = future.result()
            problem = reason or failure or fault(part, value, reference)
            results.append({"name": name, "passed": not problem, "fault": problem or None})
            print(("passed: " if not problem else "FAILED: ") + name + (f": {problem}" if problem else ""), flush=True)
    return results


def print_table(results):
    """A row for each strategy and kind of collectives, a column for each part."""
    cells = {}
    for result in results:
        _, strategy, kind, part = result["name"].split(" / ")
        cell = cells.setdefault((strategy, kind), {}).setdefault(part, [0, 0])
        cell[0 if result["passed"] else 1] += 1
    parts = sorted({part for row in cells.values() for part in row})
    print(f"{'passed/failed':36}" + "".join(f"{part:>26}" for part in parts))
    for (strategy, kind), row in cells.items():
        counts = ["{}/{}".format(*row[part]) if part in row else "-" for part in parts]
        print(f"{strategy + ', ' + kind:36}" + "".join(f"{count:>26}" for count in counts))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpus", type=int, default=2)
    parser.add_argument("--results", type=Path, default=Path("gpu-results"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    options.binary, options.results = options.binary.resolve(), options.results.resolve()
    options.results.mkdir(parents=True, exist_ok=True)
    results = run_checks(options, checks_of(options))
    failed = sum(not result["passed"] for result in results)
    (options.results / "strategies.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print_table(results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
