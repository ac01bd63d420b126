"""The simulator against a real server on this machine: the same requests, at the same times, and how far apart the results are.

    .venv/bin/python bench/simulate_check.py [--machine machine.json] [--model models/tales-moe] [--ranks 2]

Without --machine this machine is measured first. Each strategy gets two loads: requests at a rate, and as many as can be with a
number of them at a time. The server's are replayed in the simulator from what `bench serve` has recorded. Run it on a quiet machine.
The exit status is 1 where throughput is off by more than 15%, or a median of TTFT or ITL by more than 25%.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from conftest import BINARY, Server  # noqa: E402

GOALS = {"output_throughput": 15, "median_ttft_ms": 25, "median_itl_ms": 25}
ENGINE = ["--chunked-prefill-size", "512", "--max-running-requests", "64", "--max-total-tokens", "32768"]


def strategies(ranks):
    return {
        "simple": ("tp=1", []),
        "ep": (f"tp=1,dp={ranks},ep={ranks}", ["--dp-size", ranks, "--ep-size", ranks]),
        "tp": (f"tp={ranks}", ["--tp-size", ranks]),
    }


def run(*arguments):
    done = subprocess.run([str(BINARY), *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{arguments[0]} failed with status {done.returncode}:\n{done.stderr}")
    return done.stdout


def measure(server, load, args, folder):
    """What `bench serve` records of one load."""
    output = folder / "served.json"
    run("bench", "serve", "--base-url", server.url, "--num-prompts", args.requests, "--random-input-len", args.prompt,
        "--random-output-len", args.output, "--random-range-ratio", "0.5", "--seed", args.seed, "--warmup-requests", 8,
        "--flush-cache", "--output-file", output, "--output-details", *load)  # fmt: skip
    return json.loads(output.read_text())


def write_trace(served, file, as_sent):
    """The requests in the form of --trace; all at once where clients hold back."""
    lines = []
    for request in served["requests"]:
        start = 1e3 * request["start"] if as_sent else 0
        lines.append(json.dumps({"timestamp": start, "input_length": request["input_len"], "output_length": request["output_len"]}))
    file.write_text("\n".join(lines) + "\n")


def error(simulated, served):
    return 100 * (simulated - served) / served


def compare(name, served, simulated):
    """A line for each number; whether all are near enough."""
    good = True
    for field, goal in GOALS.items():
        off = error(simulated[field], served[field])
        good &= abs(off) <= goal
        print(f"{name:28} {field:20} served {served[field]:10.2f}   simulated {simulated[field]:10.2f}   {off:+7.1f}%"
              f"{'' if abs(off) <= goal else f'   beyond {goal}%'}", flush=True)  # fmt: skip
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", type=Path)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "tales-moe")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--output", type=int, default=64)
    parser.add_argument("--rate", type=float, default=4)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        machine = args.machine
        if machine is None:
            machine = folder / "machine.json"
            run("calibrate", "--output", machine)
        loads = {f"rate {args.rate}": ["--request-rate", args.rate], f"concurrency {args.concurrency}": ["--max-concurrency", args.concurrency]}
        for name, (strategy, flags) in strategies(args.ranks).items():
            server = Server(*[str(f) for f in [*flags, *ENGINE]], model=args.model)
            for what, load in loads.items():
                served = measure(server, load, args, folder)
                held = "--max-concurrency" in load
                write_trace(served, folder / "trace.jsonl", not held)
                output = run("simulate", "--model-path", args.model, "--machine", machine, "--strategy", strategy,
                             "--trace", folder / "trace.jsonl", "--json", *(load if held else []), *ENGINE)  # fmt: skip
                good &= compare(f"{name}, {what}", served, json.loads(output)["strategies"][0])
            server.stop()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
