"""How well the planner predicts: runs chorale compare with a machine's file for several models and workloads.

usage: planner_check.py CHORALE [--machine FILE] [--output FOLDER] [--quick]

Without --machine the machine is calibrated first. Models are both bundled ones, and the shape of one expert of
Qwen3-30B-A3B with six layers and random weights; each gets three workloads and the strategies of compare --config all.
Exits 1 where the errors are beyond the limits: of output tokens per second a median of 15% and a worst of 40%, in each
comparison a Kendall's tau of 0.8, and the strategy that is predicted best within 5% of the best. Nothing else should
run meanwhile.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["random:64x128+64", "random:8x256+32", "random:32x16+96"]
LARGE = ["random:8x64+16", "random:16x32+8", "random:2x128+16"]
ONE_EXPERT = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "vocab_size": 151936,
              "hidden_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 32, "num_key_value_heads": 4,
              "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768, "num_experts": 1,
              "num_experts_per_tok": 1, "norm_topk_prob": True, "max_position_embeddings": 40960,
              "rope_theta": 1000000.0, "rms_norm_eps": 1e-6}


def compare(program, model, workload, machine, folder, dummy):
    command = [program, "compare", "--model-path", str(model), "--workload", workload, "--machine", str(machine),
               "--output", str(folder), "--device", "cpu", "--json"]
    if dummy:
        command += ["--load-format", "dummy"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def errors_of(report):
    found = []
    for row in report["strategies"]:
        if "predicted" in row:
            measured = row["output_tokens_per_second"]
            found.append((abs(row["predicted"]["output_tokens_per_second"] / measured - 1), row["name"]))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("chorale")
    parser.add_argument("--machine", type=Path)
    parser.add_argument("--output", type=Path, default=Path("out/planner"))
    parser.add_argument("--quick", action="store_true", help="the bundled models with one workload each")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    machine = arguments.machine
    if machine is None:
        machine = arguments.output / "machine.json"
        subprocess.run([arguments.chorale, "calibrate", "--output", str(machine)], check=True)

    errors, within = [], True
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(ONE_EXPERT))
        models = [("tales-moe", ROOT / "models/tales-moe", SMALL), ("tales-moe-1e", ROOT / "models/tales-moe-1e", SMALL),
                  ("one expert, 6 layers", Path(scratch), LARGE)]
        if arguments.quick:
            models = [(name, path, workloads[:1]) for name, path, workloads in models[:2]]
        for name, path, workloads in models:
            for i, workload in enumerate(workloads):
                folder = arguments.output / f"{name.replace(' ', '-').replace(',', '')}-{i}"
                report = compare(arguments.chorale, path, workload, machine, folder, path == Path(scratch))
                found = errors_of(report)
                errors += [error for error, _ in found]
                result = report["prediction"]
                within = within and result["kendall_tau"] >= 0.8 and result["first_behind_best"] <= 0.05
                print(f"{name:<22} {workload:<18} median {result['median_error']:6.1%}  worst {result['worst_error']:6.1%}"
                      f" ({max(found)[1]})  tau {result['kendall_tau']:5.2f}  first behind {result['first_behind_best']:6.1%}",
                      flush=True)
    print(f"all: median {statistics.median(errors):.1%} (limit 15%), worst {max(errors):.1%} (limit 40%)")
    within = within and statistics.median(errors) <= 0.15 and max(errors) <= 0.4
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
