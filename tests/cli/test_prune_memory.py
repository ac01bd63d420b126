"""chorale prune on a checkpoint of 20 GB: how much memory it takes at most."""

import json
import os
import shutil
import struct
import subprocess

import pytest

from conftest import BINARY, GOLDEN, MODEL

LAYERS, EXPERTS, HIDDEN, INNER = 50, 64, 1024, 1024
EXPERT_BYTES = 3 * HIDDEN * INNER * 2
LAYER_BYTES = EXPERTS * EXPERT_BYTES
GB = 1_000_000_000


@pytest.fixture(scope="module")
def large_model(tmp_path_factory):
    """Weights of zeros, in files with holes: 20 GB that take no room on disk."""
    folder = tmp_path_factory.mktemp("large") / "model"
    folder.mkdir()
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    config |= {"num_hidden_layers": LAYERS, "num_experts": EXPERTS, "hidden_size": HIDDEN,
               "moe_intermediate_size": INNER}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(MODEL / name, folder)

    heads, kv_heads, head = (config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim"))
    vocab = config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocab, HIDDEN), "lm_head.weight": (vocab, HIDDEN)}
    shapes["model.norm.weight"] = (HIDDEN,)
    for layer in range(LAYERS):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,),
                "self_attn.q_proj": (heads * head, HIDDEN), "self_attn.k_proj": (kv_heads * head, HIDDEN),
                "self_attn.v_proj": (kv_heads * head, HIDDEN), "self_attn.o_proj": (HIDDEN, heads * head),
                "self_attn.q_norm": (head,), "self_attn.k_norm": (head,), "mlp.gate": (EXPERTS, HIDDEN),
            }.items()
        }  # fmt: skip
        for expert in range(EXPERTS):
            prefix = f"model.layers.{layer}.mlp.experts.{expert}"
            shapes[f"{prefix}.gate_proj.weight"] = shapes[f"{prefix}.up_proj.weight"] = (INNER, HIDDEN)
            shapes[f"{prefix}.down_proj.weight"] = (HIDDEN, INNER)

    files = 5
    index = {}
    names = list(shapes)
    for number in range(files):
        file = folder / f"model-{number + 1:05}-of-{files:05}.safetensors"
        header, offset = {}, 0
        for name in names[number * len(names) // files : (number + 1) * len(names) // files]:
            size = 2
            for extent in shapes[name]:
                size *= extent
            header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [offset, offset + size]}
            offset += size
            index[name] = file.name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with file.open("wb") as out:
            out.write(struct.pack("<Q", len(text)) + text)
            out.truncate(8 + len(text) + offset)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    assert sum(file.stat().st_size for file in folder.iterdir()) >= 20 * GB
    yield folder
    shutil.rmtree(folder)


def peak_memory(*flags):
    """Runs chorale prune; the most memory that was resident in the process, in bytes, mapped files included."""
    process = subprocess.Popen([BINARY, "prune", "--log-level", "warn", *map(str, flags)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def test_without_calibration_memory_is_bounded(large_model, tmp_path):
    output = tmp_path / "out"
    flags = ("--model-path", large_model, "--output", output, "--method", "first")
    peak = peak_memory(*flags, "--experts", 16)
    print(f"{peak / 1e6:.0f} MB at most, to prune 20 GB to a quarter")
    assert peak <= 2 * GB + LAYER_BYTES
    shards = sorted(output.glob("*.safetensors"))
    assert len(shards) >= 2
    assert all(shard.stat().st_size <= 4 * GB for shard in shards)
    assert sum(shard.stat().st_size for shard in shards) > LAYERS * 16 * EXPERT_BYTES
    shutil.rmtree(output)


def test_with_calibration_one_layer_is_in_memory(large_model, tmp_path):
    peak = peak_memory(
        "--model-path", large_model, "--output", tmp_path / "out", "--method", "reap", "--experts", 1,
        "--calibration-file", GOLDEN / "calibration.txt", "--calibration-tokens", 64, "--window", 64,
        "--dtype", "bfloat16",
    )  # fmt: skip
    print(f"{peak / 1e6:.0f} MB at most, to score and prune 20 GB")
    assert peak <= 2 * GB + LAYER_BYTES
    shutil.rmtree(tmp_path / "out")
