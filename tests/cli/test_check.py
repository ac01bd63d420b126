"""chorale check, and the same damage seen by the commands that load a model."""

import json
import shutil
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from conftest import BINARY, MODEL

SHARD = "model-00001-of-00003.safetensors"


def edit_json(path, edit):
    value = json.loads(path.read_text(encoding="utf-8"))
    edit(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def read_raw(file):
    """A safetensors file as its header and its data."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_raw(file, header, data):
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def rewrite(model, edit):
    """Rewrites the first shard: edit(tensors) changes {name: [dtype, shape, bytes]}; the index follows."""
    file = model / SHARD
    header, data = read_raw(file)
    metadata = header.pop("__metadata__", None)
    tensors = {name: [t["dtype"], t["shape"], data[slice(*t["data_offsets"])]] for name, t in header.items()}
    before = set(tensors)
    edit(tensors)
    new_header, blobs, offset = ({"__metadata__": metadata} if metadata else {}), [], 0
    for name, (dtype, shape, blob) in tensors.items():
        new_header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(blob)]}
        blobs.append(blob)
        offset += len(blob)
    write_raw(file, new_header, b"".join(blobs))

    def follow(index):
        for name in before - set(tensors):
            del index["weight_map"][name]
        for name in set(tensors) - before:
            index["weight_map"][name] = SHARD

    edit_json(model / "model.safetensors.index.json", follow)


def first_norm(tensors):
    return next(name for name in tensors if name.endswith("input_layernorm.weight"))


def test_the_bundled_model_is_fine(chorale):
    report = chorale.json("check", MODEL)
    assert report["ok"] is True
    assert report["errors"] == []
    assert report["warnings"] == []
    with safe_open(MODEL / SHARD, "np") as shard:
        assert report["tensors"] > len(shard.keys())
    assert report["tokenizer_vocab_size"] == 4090
    assert report["config"]["num_experts"] == 16
    assert report["chat_template"] is True
    assert 13.8e6 < report["parameters"] < 14e6
    text = chorale("check", MODEL)
    assert text.returncode == 0
    assert text.stdout.endswith("\nok\n")
    assert {token["text"] for token in report["end_tokens"]} == {"<|im_end|>", "<|endoftext|>"}
    assert "end with <|im_end|> (4066), <|endoftext|> (4064)" in text.stdout


def test_the_tokens_that_end_an_answer(chorale, model_copy):
    def ends(generation, config, tokenizer):
        (model_copy / "generation_config.json").write_text(json.dumps({} if generation is None else {"eos_token_id": generation}))
        edit_json(model_copy / "config.json", lambda value: value.update(eos_token_id=config))
        edit_json(model_copy / "tokenizer_config.json", lambda value: value.update(eos_token=tokenizer))
        report = chorale.json("check", model_copy)
        return [token["id"] for token in report["end_tokens"]], len(report["warnings"])

    assert ends(4064, None, "<|im_end|>") == ([4064, 4066], 0)
    assert ends(4064, 5, {"content": "<|im_end|>"}) == ([4064, 4066], 0)
    assert ends(None, 4064, "<|im_end|>") == ([4064, 4066], 0)
    assert ends([4066, 4064], None, "<|im_end|>") == ([4066, 4064], 0)
    assert ends(None, None, "<|im_end|>") == ([4066], 0)
    assert ends(4064, None, None) == ([4064], 0)
    assert ends(None, None, "no token") == ([], 1)


def lfs_pointer(name):
    def damage(model):
        (model / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 9437184\n")
        return [name, "Git LFS", "git lfs pull"]

    damage.__name__ = f"lfs_pointer_{name}"
    return damage


def html_page(name):
    def damage(model):
        (model / name).write_text("<!doctype html><html><title>Sign in</title></html>")
        return [name, "HTML page"]

    damage.__name__ = f"html_page_{name}"
    return damage


def missing_tensor(model):
    def edit(tensors):
        edit.name = first_norm(tensors)
        del tensors[edit.name]

    rewrite(model, edit)
    return [edit.name]


def extra_tensor(model):
    def edit(tensors):
        tensors["model.layers.0.surprise.weight"] = ["F32", [2], b"\0" * 8]

    rewrite(model, edit)
    return ["model.layers.0.surprise.weight"]


def wrong_shape(model):
    def edit(tensors):
        edit.name = first_norm(tensors)
        dtype, _, blob = tensors[edit.name]
        tensors[edit.name] = [dtype, [255], blob[: 255 * 2]]

    rewrite(model, edit)
    return [edit.name, "256", "255"]


def transposed(model):
    def edit(tensors):
        edit.name = next(name for name in tensors if name.endswith("k_proj.weight"))
        tensors[edit.name][1] = [512, 128]

    rewrite(model, edit)
    return [edit.name, "512", "128"]


def integer_weights(model):
    def edit(tensors):
        edit.name = first_norm(tensors)
        tensors[edit.name][0] = "I16"

    rewrite(model, edit)
    return [edit.name]


def empty_shard(model):
    (model / SHARD).write_bytes(b"")
    return [SHARD]


def truncated_shard(model):
    data = (model / SHARD).read_bytes()
    (model / SHARD).write_bytes(data[:-1])
    return [SHARD]


def trailing_bytes(model):
    with (model / SHARD).open("ab") as file:
        file.write(b"\0")
    return [SHARD]


def header_beyond_the_file(model):
    data = (model / SHARD).read_bytes()
    (model / SHARD).write_bytes(struct.pack("<Q", len(data)) + data[8:])
    return [SHARD]


def header_is_not_json(model):
    data = (model / SHARD).read_bytes()
    (model / SHARD).write_bytes(data[:8] + b"[" + data[9:])
    return [SHARD]


def unknown_dtype(model):
    def edit(tensors):
        edit.name = first_norm(tensors)
        tensors[edit.name][0] = "Q4_K"

    rewrite(model, edit)
    return [SHARD, edit.name, "Q4_K"]


def overlapping_offsets(model):
    header, data = read_raw(model / SHARD)
    names = sorted((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"])
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]
    write_raw(model / SHARD, header, data)
    return [SHARD]


def shape_overflow(model):
    header, data = read_raw(model / SHARD)
    name = next(n for n in header if n != "__metadata__")
    header[name]["shape"] = [2**40, 2**40]
    write_raw(model / SHARD, header, data)
    return [SHARD, name]


def absent_shard(model):
    (model / SHARD).unlink()
    return [SHARD]


def index_names_an_outside_file(model):
    shutil.copy(model / SHARD, model.parent / "outside.safetensors")

    def edit(index):
        for name, file in index["weight_map"].items():
            if file == SHARD:
                index["weight_map"][name] = "../outside.safetensors"

    edit_json(model / "model.safetensors.index.json", edit)
    return ["../outside.safetensors"]


def tensor_in_two_shards(model):
    with safe_open(model / "model-00002-of-00003.safetensors", "np") as shard:
        name = next(iter(shard.keys()))

    def edit(tensors):
        tensors[name] = ["F32", [1], b"\0" * 4]

    rewrite(model, edit)
    return [name]


def no_config(model):
    (model / "config.json").unlink()
    return ["config.json"]


def config_field(name, value, *parts):
    def damage(model):
        edit_json(model / "config.json", lambda config: config.__setitem__(name, value))
        return ["config.json", *(parts or [name])]

    damage.__name__ = f"{name}_{value}"
    return damage


def config_without(name):
    def damage(model):
        edit_json(model / "config.json", lambda config: config.pop(name))
        return ["config.json", name]

    damage.__name__ = f"without_{name}"
    return damage


def other_architecture(model):
    edit_json(model / "config.json", lambda config: config.__setitem__("architectures", ["LlamaForCausalLM"]))
    return ["LlamaForCausalLM", "Qwen3MoeForCausalLM"]


def end_token(file, value):
    """One that is no token: beyond the embedding, or a row of it that the tokenizer does not have."""

    def damage(model):
        if file == "config.json":
            (model / "generation_config.json").unlink()
        edit_json(model / file, lambda config: config.__setitem__("eos_token_id", value))
        return [file, "eos_token_id", str(value if isinstance(value, int) else value[-1])]

    damage.__name__ = f"end_token_{value}_of_{file}"
    return damage


def many_end_tokens(model):
    edit_json(model / "generation_config.json", lambda config: config.__setitem__("eos_token_id", list(range(64))))
    return ["generation_config.json", "eos_token_id", "64", "65"]


def two_tokens_with_one_id(model):
    edit_json(model / "tokenizer.json", lambda tokenizer: tokenizer["model"]["vocab"].__setitem__("unheard-of", 70))
    return ["tokenizer.json", "70", "unheard-of"]


def added_token_with_a_taken_id(model):
    added = {"id": 70, "content": "<|new|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}  # fmt: skip
    edit_json(model / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].append(added))
    return ["tokenizer.json", "70", "<|new|>"]


def two_added_tokens_with_one_id(model):
    added = {"id": 4066, "content": "<|new|>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}  # fmt: skip
    edit_json(model / "tokenizer.json", lambda tokenizer: tokenizer["added_tokens"].append(added))
    return ["tokenizer.json", "4066", "<|im_end|>", "<|new|>"]


def no_tokenizer(model):
    (model / "tokenizer.json").unlink()
    return ["tokenizer.json"]


def broken_tokenizer(model):
    (model / "tokenizer.json").write_text('{"model": 5}')
    return ["tokenizer.json"]


def vocabulary_larger_than_the_embedding(model):
    def add(tokenizer):
        for token in range(4090, 4097):
            tokenizer["added_tokens"].append(
                {"id": token, "content": f"<|extra_{token}|>", "single_word": False, "lstrip": False,
                 "rstrip": False, "normalized": False, "special": True}
            )  # fmt: skip

    edit_json(model / "tokenizer.json", add)
    return ["tokenizer.json", "4097", "4096"]


ERRORS = [
    missing_tensor,
    extra_tensor,
    wrong_shape,
    transposed,
    integer_weights,
    empty_shard,
    truncated_shard,
    trailing_bytes,
    header_beyond_the_file,
    header_is_not_json,
    unknown_dtype,
    overlapping_offsets,
    shape_overflow,
    absent_shard,
    index_names_an_outside_file,
    tensor_in_two_shards,
    *(form(name) for form in (lfs_pointer, html_page) for name in ("config.json", SHARD, "tokenizer.json")),
    no_config,
    config_without("hidden_size"),
    config_field("hidden_size", "wide"),
    config_field("num_key_value_heads", 3),
    config_field("num_experts_per_tok", 17),
    config_field("vocab_size", 2**60),
    config_field("hidden_size", 0),
    other_architecture,
    no_tokenizer,
    broken_tokenizer,
    vocabulary_larger_than_the_embedding,
    two_tokens_with_one_id,
    added_token_with_a_taken_id,
    two_added_tokens_with_one_id,
    end_token("generation_config.json", 4095),
    end_token("generation_config.json", [4066, 4096]),
    end_token("config.json", 100000),
    many_end_tokens,
    config_field("max_position_embeddings", 1),
]


@pytest.mark.parametrize("damage", ERRORS, ids=lambda damage: damage.__name__)
def test_damage_is_named(chorale, model_copy, damage):
    parts = damage(model_copy)
    report = chorale.json("check", model_copy, status=1)
    assert report["ok"] is False
    assert len(report["errors"]) == 1, report["errors"]
    for part in parts:
        assert part in report["errors"][0]

    text = chorale("check", model_copy)
    assert text.returncode == 1
    assert "error: " in text.stdout
    assert text.stdout.endswith("\nnot usable\n")

    # The commands that load the model say the same, in one line, and do not crash.
    result = chorale("generate", "--model-path", model_copy, "--prompt", "x", "--max-new-tokens", 1)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr.startswith("chorale: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


def test_no_such_folder(chorale, tmp_path):
    report = chorale.json("check", tmp_path / "nothing", status=1)
    assert "nothing" in report["errors"][0]


def test_all_problems_are_reported_at_once(chorale, model_copy):
    no_tokenizer(model_copy)
    truncated_shard(model_copy)
    edit_json(model_copy / "config.json", lambda config: config.pop("num_experts_per_tok"))
    report = chorale.json("check", model_copy, status=1)
    assert len(report["errors"]) == 3


def test_nan_weights_are_a_warning(chorale, model_copy):
    def edit(tensors):
        edit.name = first_norm(tensors)
        values = np.frombuffer(tensors[edit.name][2], np.uint16).copy()
        values[17] = 0x7FC0  # NaN in bfloat16
        tensors[edit.name][2] = values.tobytes()

    rewrite(model_copy, edit)
    report = chorale.json("check", model_copy)
    assert report["ok"] is True
    assert len(report["warnings"]) == 1
    assert edit.name in report["warnings"][0]
    assert "NaN" in report["warnings"][0]
    # The request fails by itself, with a message.
    result = chorale("generate", "--model-path", model_copy, "--prompt", "x", "--max-new-tokens", 1)
    assert result.returncode == 1
    assert "NaN" in result.stderr.splitlines()[-1]


def test_infinite_weights_are_not_nan(chorale, model_copy):
    def edit(tensors):
        name = first_norm(tensors)
        values = np.frombuffer(tensors[name][2], np.uint16).copy()
        values[0], values[1] = 0x7F80, 0xFF80
        tensors[name][2] = values.tobytes()

    rewrite(model_copy, edit)
    assert chorale.json("check", model_copy)["warnings"] == []


def set_template(model, template):
    edit_json(model / "tokenizer_config.json", lambda config: config.__setitem__("chat_template", template))


@pytest.mark.parametrize("template", ["{% if %}", "{{ messages[0].content", "{{ raise_exception('never') }}"])
def test_broken_template_is_a_warning_and_costs_chat_alone(chorale, model_copy, template):
    set_template(model_copy, template)
    report = chorale.json("check", model_copy)
    assert report["ok"] is True
    assert report["chat_template"] is False
    assert len(report["warnings"]) == 1
    assert "chat template" in report["warnings"][0]
    flags = ("--model-path", model_copy, "--prompt", "x", "--max-new-tokens", 1)
    assert chorale("generate", *flags).returncode == 0
    result = chorale("generate", *flags, "--chat")
    assert result.returncode == 1
    assert result.stderr.startswith("chorale: --chat: ")


ENDLESS = (
    "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}"
)


def test_a_template_cannot_take_all_time(chorale, model_copy):
    set_template(model_copy, ENDLESS)
    report = chorale.json("check", model_copy)
    assert report["chat_template"] is False
    assert len(report["warnings"]) == 1
    assert "it takes more than 3 s of a processor's time" in report["warnings"][0]


def test_no_template_is_a_warning(chorale, model_copy):
    edit_json(model_copy / "tokenizer_config.json", lambda config: config.pop("chat_template"))
    report = chorale.json("check", model_copy)
    assert report["ok"] is True
    assert len(report["warnings"]) == 1
    assert "no chat template" in report["warnings"][0]


def same_answer(chorale, model):
    prompt = ("--prompt", "Once upon a time", "--temperature", 0, "--max-new-tokens", 8)
    answers = [chorale.json("generate", "--model-path", folder, *prompt)["output_ids"] for folder in (model, MODEL)]
    return answers[0] == answers[1]


def test_fused_experts(chorale, model_copy):
    """As transformers 5 keeps them: gate and up projection of all experts of a layer in one tensor."""
    header, data = {}, b""
    tensors = {}
    for file in sorted(model_copy.glob("model-*.safetensors")):
        part, blob = read_raw(file)
        part.pop("__metadata__", None)
        tensors |= {name: (t["dtype"], t["shape"], blob[slice(*t["data_offsets"])]) for name, t in part.items()}
        file.unlink()
    (model_copy / "model.safetensors.index.json").unlink()
    config = json.loads((model_copy / "config.json").read_text(encoding="utf-8"))
    experts = range(config["num_experts"])
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.mlp.experts."

        def take(expert, name, prefix=prefix):
            return tensors.pop(f"{prefix}{expert}.{name}.weight")

        parts = [[take(expert, name) for name in ("gate_proj", "up_proj", "down_proj")] for expert in experts]
        (dtype, (inner, hidden), _), _, _ = parts[0]
        tensors[prefix + "gate_up_proj"] = (dtype, [len(parts), 2 * inner, hidden], b"".join(g[2] + u[2] for g, u, _ in parts))
        tensors[prefix + "down_proj"] = (dtype, [len(parts), hidden, inner], b"".join(d[2] for _, _, d in parts))
    for name, (dtype, shape, blob) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(blob)]}
        data += blob
    write_raw(model_copy / "model.safetensors", header, data)
    report = chorale.json("check", model_copy)
    assert report["ok"] is True
    assert report["parameters"] == chorale.json("check", MODEL)["parameters"]
    assert same_answer(chorale, model_copy)


def test_what_the_index_does_not_list_is_left_alone(chorale, model_copy):
    index = (model_copy / "model.safetensors.index.json").read_bytes()
    rewrite(model_copy, lambda tensors: tensors.__setitem__("model.layers.0.surprise.weight", ["F32", [2], b"\0" * 8]))
    (model_copy / "model.safetensors.index.json").write_bytes(index)
    assert chorale.json("check", model_copy)["ok"] is True
    # A tensor that is needed is found in its shard, listed or not.
    edit_json(model_copy / "model.safetensors.index.json", lambda value: value["weight_map"].pop("model.norm.weight"))
    assert chorale.json("check", model_copy)["ok"] is True
    assert same_answer(chorale, model_copy)


def test_a_byte_order_mark_is_taken_in_all_json_files(chorale, model_copy):
    for name in ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"):
        (model_copy / name).write_bytes(b"\xef\xbb\xbf" + (model_copy / name).read_bytes())
    report = chorale.json("check", model_copy)
    assert report["ok"] is True and report["warnings"] == []
    assert same_answer(chorale, model_copy)


def test_one_file_without_an_index(chorale, model_copy, tmp_path):
    """The shards merged into model.safetensors are the same model."""
    header, data = {}, b""
    for file in sorted(model_copy.glob("model-*.safetensors")):
        part, blob = read_raw(file)
        part.pop("__metadata__", None)
        for name, tensor in part.items():
            begin, end = tensor["data_offsets"]
            header[name] = {**tensor, "data_offsets": [begin + len(data), end + len(data)]}
        data += blob
        file.unlink()
    (model_copy / "model.safetensors.index.json").unlink()
    write_raw(model_copy / "model.safetensors", header, data)
    assert chorale.json("check", model_copy)["tensors"] == len(header)

    assert same_answer(chorale, model_copy)


def shortened_after_it_was_mapped(model, *arguments):
    """Runs the command, and cuts the shard off as soon as it is mapped; None when its bytes had been read by then."""
    shard = model / SHARD
    whole = shard.read_bytes()
    process = subprocess.Popen([BINARY, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and SHARD not in maps.read_text():
        time.sleep(0.0002)
    process.send_signal(signal.SIGSTOP)
    with shard.open("r+b") as file:
        file.truncate(len(whole) // 3)
    process.send_signal(signal.SIGCONT)
    out, err = process.communicate(timeout=60)
    shard.write_bytes(whole)
    assert process.returncode in (0, 1), (process.returncode, out, err)  # no signal
    return out + err if process.returncode == 1 else None


@pytest.mark.parametrize("command", ["check", "generate"])
def test_a_shard_that_is_cut_off_while_it_is_read(model_copy, command):
    more = {"check": (), "generate": ("--prompt", "x", "--max-new-tokens", "1", "--threads", "1")}[command]
    for _ in range(20):
        told = shortened_after_it_was_mapped(model_copy, command, model_copy, *more)
        if told is not None:
            break
    assert told is not None, "the shard was always read before it was cut off"
    assert SHARD in told and "cannot read at byte" in told
