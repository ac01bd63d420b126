"""Help, mistakes in the command line, and exit statuses: 0 done, 1 unusable files, 2 wrong usage."""

import re
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file

from conftest import BINARY, GOLDEN, MODEL

COMMANDS = ["serve", "chat", "generate", "tokenize", "check", "eval", "logits", "plan", "calibrate", "compare", "simulate", "bench"]


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
    for group in ("Serving:", "Without a server:"):
        assert f"\n{group}\n" in result.stdout
    assert "--model-path" not in result.stdout  # the flags are the commands' own
    assert "[OPTIONS] COMMAND" in result.stdout


def test_help_of_serve_groups_its_flags(chorale):
    result = chorale("serve", "--help")
    for group in ("Model:", "Execution:", "Parallel strategy:", "Memory and scheduling:", "Server:", "Logs and metrics:"):
        assert f"\n{group}\n" in result.stdout
    for flag in ("--model-path", "--cors-origins", "--sse-ping-interval", "--clip-max-tokens"):
        assert flag in result.stdout


def help_of(chorale, *command):
    result = chorale(*command)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["prune"], ["bench", "serve"]], ids=" ".join)
def test_help_fits_a_terminal_and_hides_what_is_for_tests(chorale, command):
    text = help_of(chorale, *command, "--help")
    assert max(map(len, text.splitlines())) <= 80
    assert "For tests" not in text and "--inject-fault" not in text
    assert help_of(chorale, "help", *command) == text


def test_help_of_an_unknown_command(chorale):
    assert_one_message(chorale("help", "sevre"), 2, 'unknown command "sevre"', "did you mean serve?")


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


@pytest.mark.parametrize(
    ("arguments", "flag", "suggestion"),
    [
        (["serve", "x", "--ctx-size=4096"], "--ctx-size", "--context-length"),
        (["serve", "x", "-c", "4096"], "-c", "--context-length"),
        (["serve", "x", "--gpu-memory-utilization", "0.9"], "--gpu-memory-utilization", "--mem-fraction-static"),
        (["serve", "x", "-np", "8"], "-np", "--max-running-requests"),
        (["chat", "x", "-sys", "Hi"], "-sys", "--system-prompt"),
        (["generate", "x", "-p", "Hi"], "-p", "--prompt"),
    ],
)
def test_other_servers_flags_are_hinted(chorale, arguments, flag, suggestion):
    assert_one_message(chorale(*arguments), 2, f"unknown flag {flag};", f"did you mean {suggestion}?")


def test_other_servers_names_of_the_same_flag_are_taken(chorale):
    answer = chorale.json("generate", "-m", MODEL, "--prompt", "Once", "--n-predict", 3, "--temp", 0, "--max-model-len", 64)
    assert answer == chorale.json("generate", MODEL, "--prompt", "Once", "--max-new-tokens", 3, "--temperature", 0)
    assert_one_message(chorale("serve", "--model", "x", "-m", "y"), 2, "--model-path")
    assert_one_message(chorale("serve", "x", "--max-num-seqs", "0"), 2, "--max-running-requests")
    text = help_of(chorale, "serve", "--help")
    assert "--model-path DIR" in text and "--alias" not in text and "--max-num-seqs" not in text


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of Hugging Face that has the bundled model as tales/moe, twice."""
    model = tmp_path / "models--tales--moe"
    for commit in ("1" * 40, "2" * 40):
        (model / "snapshots" / commit).mkdir(parents=True)
        for file in MODEL.iterdir():
            (model / "snapshots" / commit / file.name).symlink_to(file)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("2" * 40)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    return model


@pytest.mark.parametrize("command", [["plan"], ["check"], ["tokenize", "--text", "Once"], ["plan", "--model-path"]], ids=" ".join)
def test_a_model_in_the_hubs_cache_is_found_by_its_name(chorale, hub, command):
    for more in ([], ["--revision", "1111"]):
        result = chorale(*command, "tales/moe", *more)
        assert result.returncode == 0, result.stderr
    result = chorale(*command, "tales/moe", "--revision", "v9", "--json")
    assert result.returncode == 1
    assert "hf download tales/moe --revision v9" in result.stderr + result.stdout


def test_flags_come_from_a_file_and_the_environment(chorale, tmp_path, monkeypatch):
    config = tmp_path / "all.yaml"
    config.write_text(f"model-path: {MODEL}\nport: 8000\nmax_new_tokens: 2\nprompt: Once\n")
    answer = chorale.json("generate", "--config", config)
    assert answer["completion_tokens"] == 2
    monkeypatch.setenv("CHORALE_MAX_NEW_TOKENS", "3")
    assert chorale.json("generate", "--config", config)["completion_tokens"] == 3
    assert chorale.json("generate", "--config", config, "--max-new-tokens", 4)["completion_tokens"] == 4
    config.write_text("model-path: x\nprot: 8000\n")
    assert_one_message(chorale("serve", "--config", config), 2, f'{config}, line 2: unknown key "prot"; did you mean port?')
    config.write_text("model-path: x\nport: 70000\n")
    assert_one_message(chorale("serve", "--config", config), 2, f"{config}, line 2: --port")
    config.write_text("model-path: [x\n")
    assert_one_message(chorale("serve", "--config", config), 1, f"{config}, line ")
    assert_one_message(chorale("serve", "--config", "/no/such/file"), 1, "/no/such/file")
    monkeypatch.setenv("CHORALE_TP_SIZE", "two")
    assert_one_message(chorale("serve", "x"), 2, "CHORALE_TP_SIZE")


def test_a_chat_template_of_ones_own(chorale, tmp_path):
    template = tmp_path / "own.jinja"
    template.write_text("{{ messages[0].content }}")
    arguments = ("generate", MODEL, "--prompt", "Once", "--max-new-tokens", 2, "--temperature", 0, "--chat-template", template)
    assert chorale.json(*arguments, "--chat")["text"] == chorale.json(*arguments)["text"]
    template.write_text("one\n{% endfor %}\n")
    assert_one_message(chorale("serve", MODEL, "--chat-template", template), 1, str(template), "line 2")
    assert_one_message(chorale("serve", MODEL, "--chat-template", "/no/such/file"), 1, "/no/such/file")


@pytest.mark.parametrize(
    ("flag", "why"),
    [("--trust-remote-code", "no code"), ("--jinja", "template"), ("--tool-call-parser", "tool calls"), ("-ngl", "--device")],
)
def test_other_servers_flags_without_a_use_say_why(chorale, flag, why):
    assert_one_message(chorale("serve", "x", flag), 2, f"unknown flag {flag}, which is not needed", why)


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
        (["serve", "--model-path"], ["--model-path: its value is missing"]),
        (["serve", "x", "--tensor-parallel-size"], ["--tp-size: its value is missing"]),
        (["serve", "x", "--served-model-name"], ["--served-model-name: its value is missing"]),
        (["serve", "x", "--port", "1", "--port", "2"], ["--port: it was given more than once"]),
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
        (["serve", "x", "--model-path", "y"], ["twice", "x", "y"]),
        (["serve", "--port", "1"], ["--model-path", "required"]),
        (["serve", "x", "--cors-origins", "example.org"], ["--cors-origins", "origin"]),
        (["serve", "x", "--host", ""], ["--host", "expected an address"]),
        (["serve", "x", "--host="], ["--host", "expected an address"]),
        (["serve", "x", "--sse-ping-interval", "-1"], ["--sse-ping-interval"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--temperature", "-1"], ["temperature"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--top-p", "7"], ["top_p"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--top-p", "0"], ["top_p"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--top-k", "-2"], ["--top-k"]),
        (["generate", "--model-path", MODEL, "--prompt", ""], ["--prompt"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--prompt-file", "y"], ["--prompt"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--context-length", 4096], ["--context-length", "2048"]),
        (["generate", "--model-path", MODEL, "--prompt", "x", "--quantization", "gptq"], ["--quantization gptq"]),
        (["logits", "--model-path", MODEL, "--output", "/tmp/x", "--input-ids", "1,4096"], ["4096", "0 to 4095"]),
        (["logits", "--model-path", MODEL, "--output", "/tmp/x", "--input-ids", "1,,2"], ["--input-ids"]),
        (["plan", MODEL, "--tp-size", 3], ["--tp-size"]),
        (["logits", "--model-path", "x", "--output", "y"], ["--input-ids", "--text"]),
        (["logits", "--model-path", "x", "--output", "y", "--input-ids", "1", "--text", "z"], ["--text"]),
        (["eval", "--model-path", "x", "--text-file", "y", "--window", "1"], ["--window"]),
        (["bench"], ["--model-path", "--preset", "neither"]),
        (["bench", "--model-path", MODEL, "--preset", "qwen3-30b-a3b-1e"], ["--preset", "both"]),
        (["chat"], ["--model-path", "required"]),
        (["chat", MODEL, "--prompt", "x"], ["--prompt"]),
        (["chat", MODEL, "--temperature", "-1"], ["--temperature"]),
    ],
)
def test_wrong_usage_exits_with_2(chorale, arguments, parts):
    assert_one_message(chorale(*arguments), 2, *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--model-path", "/no/such/model"], ["/no/such/model"]),
        (["serve", "/no/such/model"], ["/no/such/model"]),
        (["serve", "Qwen/Qwen3-30B-A3B"], ["hf download Qwen/Qwen3-30B-A3B"]),
        (["generate", "--model-path", "/no/such/model", "--prompt", "x"], ["/no/such/model"]),
        (["generate", MODEL, "--prompt-file", "/no/such/prompt"], ["/no/such/prompt"]),
        (["tokenize", "--model-path", "/no/such/model", "--text", "x"], ["/no/such/model"]),
        (["eval", "--model-path", MODEL, "--text-file", "/no/such/text"], ["/no/such/text"]),
        (["logits", "--model-path", MODEL, "--output", "/no/such/folder/x", "--input-ids", "1"], ["/no/such/folder"]),
        (
            ["logits", "--model-path", MODEL, "--output", "/tmp/x", "--context-length", "2", "--input-ids", "1,2,3"],
            ["3 tokens", "context has 2"],
        ),
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
    assert result.returncode == 2
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


NUMBERS = ("SECONDS", "F", "T", "P", "R", "R|inf")  # how the help writes them


def flags_with_numbers(chorale, command):
    text = help_of(chorale, *command, "--help")
    return re.findall(r"^ +(?:--[a-z-]+,)?(--[a-z-]+) (\S+)", text, re.MULTILINE)


@pytest.mark.parametrize(
    "command", [["serve", MODEL], ["generate", MODEL, "--prompt", "x"], ["plan", MODEL], ["bench", "serve"]], ids=str
)
def test_no_flag_takes_what_is_not_a_number(chorale, command):
    flags = [flag for flag, kind in flags_with_numbers(chorale, [a for a in command if a in (*COMMANDS, "bench")])
             if kind in NUMBERS]
    assert flags
    for flag in flags:
        for text in ("nan", "-nan", "NaN"):
            assert_one_message(chorale(*command, f"{flag}={text}"), 2, flag)
