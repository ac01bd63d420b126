"""The bundled model against Hugging Face transformers, through the command line."""

import json
import re

import numpy as np
import pytest

from conftest import GOLDEN, MODEL

FLOAT32 = ("--dtype", "float32")
TOLERANCE = 2e-4  # absolute, on logits and on nll


def id_list(ids):
    return ",".join(map(str, ids))


@pytest.mark.parametrize("index", range(8))
def test_float32_logits(chorale, golden, golden_tensors, tmp_path, index):
    prompt = golden["prompts"][index]
    logits = chorale.logits(tmp_path, "--input-ids", id_list(prompt["ids"]), *FLOAT32)
    assert logits.dtype == np.float32
    assert logits.shape == (len(prompt["ids"]), 4096)
    expected = golden_tensors.get(f"prompt{index}.logits")
    if expected is not None:
        assert np.abs(logits - expected).max() <= TOLERANCE
    assert np.abs(logits[-1] - golden_tensors[f"prompt{index}.last_logits"]).max() <= TOLERANCE
    # Where the best two logits are closer than the tolerance, either may come first.
    best = np.sort(logits, axis=1)[:, -2:]
    clear = best[:, 1] - best[:, 0] > 2 * TOLERANCE
    assert clear.mean() > 0.95
    assert (logits.argmax(axis=1) == prompt["argmax"])[clear].all()


def test_text_is_tokenized_as_the_reference_does(chorale, golden, tmp_path):
    for index in (0, 6):
        prompt = golden["prompts"][index]
        from_text = chorale.logits(tmp_path, "--text", prompt["text"], *FLOAT32)
        from_ids = chorale.logits(tmp_path, "--input-ids", id_list(prompt["ids"]), *FLOAT32)
        assert np.array_equal(from_text, from_ids)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_chunks_and_threads_do_not_change_a_bit(chorale, golden, tmp_path, dtype):
    ids = id_list(golden["prompts"][7]["ids"][:200])
    reference = chorale.logits(tmp_path, "--input-ids", ids, "--dtype", dtype)
    for flags in (
        ("--chunked-prefill-size", 1),
        ("--chunked-prefill-size", 7),
        ("--chunked-prefill-size", 64, "--threads", 1),
        ("--chunked-prefill-size", 199, "--threads", 3),
    ):
        other = chorale.logits(tmp_path, "--input-ids", ids, "--dtype", dtype, *flags)
        assert np.array_equal(reference.view(np.uint32), other.view(np.uint32)), flags


def test_bfloat16_agrees_on_the_top_token(chorale, golden, tmp_path):
    tokens = chorale.json(
        "tokenize", "--model-path", MODEL, "--text", (GOLDEN / "heldout_excerpt.txt").read_text(encoding="utf-8")
    )["ids"]
    sequences = [golden["prompts"][7]["ids"]] + [tokens[start : start + 512] for start in range(0, 4 * 512, 512)]
    agreements = []
    for ids in sequences:
        exact = chorale.logits(tmp_path, "--input-ids", id_list(ids), *FLOAT32)
        rounded = chorale.logits(tmp_path, "--input-ids", id_list(ids), "--dtype", "bfloat16")
        assert not np.array_equal(exact, rounded)
        best = np.sort(exact, axis=1)[:, -2:]
        clear = best[:, 1] - best[:, 0] > 0.1
        agreements.append((exact.argmax(axis=1) == rounded.argmax(axis=1))[clear])
    agreement = np.concatenate(agreements)
    assert agreement.size > 1000
    assert agreement.mean() >= 0.99


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 6, 7])
def test_greedy_continuation(chorale, golden, index):
    prompt = golden["prompts"][index]
    assert prompt["min_margin"] > 2e-3
    flags = ("--prompt", prompt["text"], "--temperature", 0, "--max-new-tokens", len(prompt["greedy"]), *FLOAT32)
    result = chorale.json("generate", "--model-path", MODEL, *flags, "--ignore-eos")
    assert result["prompt_tokens"] == len(prompt["ids"])
    assert result["output_ids"] == prompt["greedy"]
    assert result["text"] == re.sub(r"<\|\w+\|>", "", prompt["greedy_text"])  # without special tokens
    assert result["completion_tokens"] == len(prompt["greedy"])
    assert result["finish_reason"] == "length"


def test_end_of_sequence_stops(chorale, golden):
    prompt = golden["prompts"][0]
    end = prompt["greedy"].index(4066)
    result = chorale.json(
        "generate", "--model-path", MODEL, "--prompt", prompt["text"], "--temperature", 0, *FLOAT32
    )
    assert result["output_ids"] == prompt["greedy"][: end + 1]
    assert result["finish_reason"] == "stop"
    assert result["matched_stop"] == 4066
    assert result["text"] == prompt["greedy_text"].split("<|im_end|>")[0]


def held_out(chorale, *flags):
    return chorale.json(
        "eval", "--model-path", MODEL, "--text-file", GOLDEN / "heldout_excerpt.txt",
        "--window", 512, "--max-windows", 24, *flags,
    )  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-4), ("bfloat16", 0.01)])
def test_held_out_likelihood(chorale, golden, dtype, tolerance):
    result = held_out(chorale, "--dtype", dtype)
    expected = golden["heldout"]
    assert result["windows"] == expected["windows"]
    assert result["window"] == expected["window"]
    assert result["tokens"] == expected["tokens"]
    assert abs(result["nll"] - expected["nll"]) <= tolerance
    assert result["perplexity"] == pytest.approx(np.exp(result["nll"]), rel=1e-12)
    assert result["dtype"] == result["kv_cache_dtype"] == dtype


def test_an_int8_cache_hardly_changes_the_held_out_likelihood(chorale):
    exact, rounded = (held_out(chorale, "--kv-cache-dtype", dtype) for dtype in ("bf16", "int8"))
    assert (exact["kv_cache_dtype"], rounded["kv_cache_dtype"]) == ("bfloat16", "int8")
    assert exact["nll"] != rounded["nll"]
    assert abs(exact["nll"] - rounded["nll"]) <= 0.005


@pytest.mark.parametrize("command", ["eval", "plan"])
def test_an_int8_cache_needs_bfloat16(chorale, command):
    flags = ("--text-file", GOLDEN / "heldout_excerpt.txt") if command == "eval" else ()
    result = chorale(command, "--model-path", MODEL, *flags, *FLOAT32, "--kv-cache-dtype", "int8")
    assert result.returncode == 2
    assert "--kv-cache-dtype int8 needs --dtype bfloat16, found --dtype float32" in result.stderr


def test_eval_for_people(chorale, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("Once upon a time there was a king. " * 8, encoding="utf-8")
    result = chorale("eval", "--model-path", MODEL, "--text-file", file, "--window", "16")
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("nll ")
    assert result.stdout.count("\n") == 1
    as_json = json.loads(
        chorale("eval", "--model-path", MODEL, "--text-file", file, "--window", "16", "--json").stdout
    )
    assert f"{as_json['nll']:.5f}" in result.stdout
