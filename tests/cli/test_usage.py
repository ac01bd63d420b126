"""Help, mistakes in the command line, and exit statuses: 0 done, 1 unusable files, 2 wrong usage."""

import re
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import BINARY, GOLDEN, MODEL

COMMANDS = ["serve", "generate", "tokenize", "check", "eval", "logits", "plan", "compare", "bench"]


def assert_one_message(result, status, *parts):
    assert result.returncode == status
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0].startswith("chorale: ")
    # After a mistake in usage a second line says where the help is.
    assert len(lines) == (2 if status == 2 else 1), result.stderr
    for part in parts:
        assert part in lines[0]


def test_help_groups_commands_and_flags(chorale):
    result = chorale("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", result.stdout, re.MULTILINE), command
    for group in ("Serving:", "Without a server:", "Model:", "Execution:", "Memory and scheduling:", "Server:"):
        assert f"\n{group}\n" in result.stdout
    assert "--model-path" in result.stdout
    assert "[OPTIONS] COMMAND" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(chorale, command):
    result = chorale(command, "--help")
    assert result.returncode == 0
    assert result.stdout.splitlines()[0]
    assert f"Usage: chorale {command}" in result.stdout


def test_version(chorale):
    result = chorale("--version")
    assert result.returncode == 0
    assert re.fullmatch(r"chorale \d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize(
    ("arguments", "flag", "suggestion"),
    [
        (["serve", "--modle-path", "x"], "--modle-path", "--model-path"),
        (["serve", "--model-path", "x", "--prot=1"], "--prot", "--port"),
        (["serve", "--model-path", "x", "--max-total-token", "64"], "--max-total-token", "--max-total-tokens"),
        (["serve", "--model-path", "x", "--disable-radix-cahce"], "--disable-radix-cahce", "--disable-radix-cache"),
        (["generate", "--model-path", "x", "--prompt", "y", "--temprature", "1"], "--temprature", "--temperature"),
        (["logits", "--model-path", "x", "--input_ids", "1"], "--input_ids", "--input-ids"),
        (["check", "x", "--jsn"], "--jsn", "--json"),
        (["--versoin"], "--versoin", "--version"),
    ],
)
def test_unknown_flag_suggests_the_nearest(chorale, arguments, flag, suggestion):
    assert_one_message(chorale(*arguments), 2, f"unknown flag {flag};", f"did you mean {suggestion}?")


def test_unknown_flag_without_a_near_one(chorale):
    result = chorale("serve", "--model-path", "x", "--zzzzzzzz")
    assert_one_message(result, 2, "unknown flag --zzzzzzzz")
    assert "did you mean" not in result.stderr


def test_unknown_command_suggests_the_nearest(chorale):
    assert_one_message(chorale("sevre"), 2, 'unknown command "sevre"', "did you mean serve?")
    assert_one_message(chorale("generat", "--prompt", "x"), 2, 'unknown command "generat"', "did you mean generate?")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([], ["command"]),
        (["serve"], ["--model-path", "required"]),
        (["serve", "--model-path"], ["--model-path"]),
        (["serve", "--model-path", "x", "--port", "70000"], ["--port", "70000"]),
        (["serve", "--model-path", "x", "--port", "web"], ["--port", "web"]),
        (["serve", "--model-path", "x", "--dtype", "int8"], ["--dtype", "int8", "bfloat16"]),
        (["serve", "--model-path", "x", "--kv-cache-dtype", "fp8"], ["--kv-cache-dtype", "fp8", "int8"]),
        (["serve", "--model-path", "x", "--load-format", "gguf"], ["--load-format", "gguf", "dummy"]),
        (["serve", "--model-path", "x", "--mem-fraction-static", "1.5"], ["--mem-fraction-static", "1.5"]),
        (["serve", "--model-path", "x", "--chunked-prefill-size", "0"], ["--chunked-prefill-size"]),
        (["serve", "--model-path", "x", "--max-total-tokens", "-5"], ["--max-total-tokens"]),
        (["serve", "--model-path", "x", "extra"], ["extra"]),
        (["generate", "--model-path", "x"], ["--prompt", "required"]),
        (["generate", "--model-path", "x", "--prompt", "y", "--no-thinking"], ["--no-thinking", "--chat"]),
        (["generate", "--model-path", "x", "--prompt", "y", "--stop", ""], ["--stop"]),
        (["logits", "--model-path", "x", "--output", "y"], ["--input-ids", "--text"]),
        (["logits", "--model-path", "x", "--output", "y", "--input-ids", "1", "--text", "z"], ["--text"]),
        (["eval", "--model-path", "x", "--text-file", "y", "--window", "1"], ["--window"]),
    ],
)
def test_wrong_usage_exits_with_2(chorale, arguments, parts):
    assert_one_message(chorale(*arguments), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--model-path", "/no/such/model"], ["/no/such/model"]),
        (["generate", "--model-path", "/no/such/model", "--prompt", "x"], ["/no/such/model"]),
        (["tokenize", "--model-path", "/no/such/model", "--text", "x"], ["/no/such/model"]),
        (["eval", "--model-path", MODEL, "--text-file", "/no/such/text"], ["/no/such/text"]),
        (["logits", "--model-path", MODEL, "--output", "/tmp/x", "--input-ids", "1,4096"], ["4096", "0 to 4095"]),
        (["logits", "--model-path", MODEL, "--output", "/tmp/x", "--input-ids", "1,,2"], ["--input-ids"]),
        (["logits", "--model-path", MODEL, "--output", "/no/such/folder/x", "--input-ids", "1"], ["/no/such/folder"]),
        (
            ["logits", "--model-path", MODEL, "--output", "/tmp/x", "--context-length", "2", "--input-ids", "1,2,3"],
            ["3 tokens", "context has 2"],
        ),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--temperature", "-1"], ["temperature"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--top-p", "7"], ["top_p"]),
        (["generate", "--model-path", MODEL, "--prompt", ""], ["--prompt"]),
    ],
)
def test_unusable_files_and_values_exit_with_1(chorale, arguments, parts):
    assert_one_message(chorale(*arguments), 1, *parts)


def test_text_that_is_not_utf8(chorale, tmp_path):
    file = tmp_path / "latin1.txt"
    file.write_bytes(b"caf\xe9 au lait")
    result = chorale("eval", "--model-path", MODEL, "--text-file", file)
    assert_one_message(result, 1, "latin1.txt", "UTF-8")
    result = subprocess.run(
        [BINARY, "tokenize", "--model-path", MODEL, "--text", b"caf\xe9"], capture_output=True, check=False
    )
    assert result.returncode == 1
    assert b"--text" in result.stderr


def test_eval_of_a_text_that_is_too_short(chorale, tmp_path):
    file = tmp_path / "short.txt"
    for text in ("", "a"):
        file.write_text(text)
        result = chorale("eval", "--model-path", MODEL, "--text-file", file)
        assert_one_message(result, 1, "at least 2")


def test_logits_leaves_nothing_behind_when_it_fails(chorale, tmp_path):
    chorale("logits", "--model-path", MODEL, "--output", tmp_path / "x", "--input-ids", "1,5000")
    assert list(tmp_path.iterdir()) == []


def test_dummy_weights_need_the_config_alone(chorale, tmp_path):
    model = tmp_path / "dummy"
    model.mkdir()
    (model / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    outputs = []
    for name in ("a", "b"):
        result = chorale.json(
            "logits", "--model-path", model, "--load-format", "dummy", "--output", tmp_path / name, "--input-ids", "1,2,3"
        )
        assert result["tokens"] == 3
        outputs.append(load_file(tmp_path / name)["logits"])
    assert outputs[0].shape == (3, 4096)
    assert np.isfinite(outputs[0]).all()
    assert outputs[0].std() > 0
    assert np.array_equal(*outputs)  # the weights are seeded

    answer = chorale.json(
        "generate", "--model-path", model, "--load-format", "dummy", "--prompt", "Hello", "--max-new-tokens", 8,
        "--ignore-eos",
    )  # fmt: skip
    assert answer["prompt_tokens"] == len("Hello")  # the stand-in tokenizer has one token per byte
    assert answer["completion_tokens"] == 8
    assert chorale("generate", "--model-path", model, "--prompt", "x").returncode == 1


def test_results_stay_clean_with_full_logging(chorale):
    result = chorale(
        "eval", "--model-path", MODEL, "--text-file", GOLDEN / "heldout_excerpt.txt", "--max-windows", 1, "--window", 32,
        "--log-level", "debug", "--json",
    )  # fmt: skip
    assert result.returncode == 0
    assert result.stdout.count("\n") == 1
    assert result.stdout.startswith("{")
    assert result.stderr != ""


def test_results_that_cannot_be_written_are_a_failure():
    with open("/dev/full", "w") as full:
        process = subprocess.run([BINARY, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
    assert process.returncode == 1
    assert process.stderr.startswith(b"chorale: standard output")
