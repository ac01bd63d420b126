"""chorale generate and tokenize."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import time

import pytest

from conftest import BINARY, GOLDEN, MODEL

PROMPT = ("--model-path", MODEL, "--prompt", "Once upon a time there was a king who")


def test_text_goes_to_standard_output_alone(chorale):
    flags = (*PROMPT, "--temperature", 0, "--max-new-tokens", 12)
    plain = chorale("generate", *flags)
    assert plain.returncode == 0, plain.stderr
    answer = chorale.json("generate", *flags)
    assert plain.stdout == answer["text"] + "\n"
    assert answer["finish_reason"] == "length"
    assert answer["completion_tokens"] == len(answer["output_ids"]) == 12


def test_seed_repeats_and_differs(chorale):
    flags = (*PROMPT, "--max-new-tokens", 32, "--temperature", 1)
    texts = [chorale.json("generate", *flags, "--seed", seed)["text"] for seed in (7, 7, 8)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


def test_defaults_come_from_the_model(chorale, model_copy):
    file = model_copy / "generation_config.json"
    config = json.loads(file.read_text())
    config["do_sample"] = False
    file.write_text(json.dumps(config))
    prompt = ("--prompt", "Once upon a time there was a king who", "--max-new-tokens", 16)
    greedy = chorale.json("generate", "--model-path", MODEL, *prompt, "--temperature", 0)
    default = chorale.json("generate", "--model-path", model_copy, *prompt)
    assert default["output_ids"] == greedy["output_ids"]


def test_stop_text_ends_the_answer_before_it(chorale):
    flags = (*PROMPT, "--temperature", 0, "--max-new-tokens", 40)
    whole = chorale.json("generate", *flags)["text"]
    stop = whole[20:25]  # wherever the tokens' borders are
    answer = chorale.json("generate", *flags, "--stop", "not in the answer", "--stop", stop)
    assert answer["text"] == whole[: whole.index(stop)]
    assert answer["finish_reason"] == "stop"
    assert answer["matched_stop"] == stop


def test_chat_ends_with_the_end_of_turn(chorale):
    flags = ("--model-path", MODEL, "--prompt", "Tell me a story about a dragon.", "--chat")
    answer = chorale.json("generate", *flags, "--no-thinking", "--temperature", 0, "--max-new-tokens", 4)
    assert answer["prompt"] == (
        "<|im_start|>user\nTell me a story about a dragon.<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    assert answer["prompt_tokens"] == 24
    thinking = chorale.json("generate", *flags, "--max-new-tokens", 1)
    assert thinking["prompt"].endswith("<|im_start|>assistant\n")


def test_max_new_tokens_is_cut_to_the_context(chorale):
    answer = chorale.json(
        "generate", *PROMPT, "--temperature", 0, "--ignore-eos", "--context-length", 32, "--max-new-tokens", 1000
    )
    assert answer["finish_reason"] == "length"
    assert answer["prompt_tokens"] + answer["completion_tokens"] == 32


def test_prompt_beyond_the_context(chorale):
    result = chorale("generate", *PROMPT, "--context-length", 4)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == "chorale: --prompt: the text has 9 tokens; the model's context has 4"


def test_the_prompt_may_come_from_a_file_or_standard_input(chorale, tmp_path):
    flags = ("--model-path", MODEL, "--temperature", 0, "--max-new-tokens", 8, "--json")
    expected = chorale.json("generate", *flags[:-1], "--prompt", "Once upon\na time")
    file = tmp_path / "prompt.txt"
    for text in ("Once upon\na time", "Once upon\na time\n", "Once upon\na time\r\n"):
        file.write_text(text, newline="")
        assert chorale.json("generate", *flags[:-1], "--prompt-file", file) == expected
        for command in (["generate", *flags], ["generate", *flags, "--prompt-file", "-"]):
            result = subprocess.run([BINARY, *map(str, command)], input=text, capture_output=True, text=True, check=True)
            assert json.loads(result.stdout) == expected
    nothing = subprocess.run([BINARY, "generate", "--model-path", MODEL], input="", capture_output=True, text=True)
    assert nothing.returncode == 2
    assert "--prompt is required" in nothing.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_stops_the_answer(number):
    process = subprocess.Popen(
        [BINARY, "generate", *map(str, PROMPT), "--ignore-eos", "--max-new-tokens", "2000", "--threads", "1"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        first = os.read(process.stdout.fileno(), 1)
        assert first, process.stderr.read()
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert rest.endswith(b"\n")
    assert errors == b""


def read_terminal(terminal, pattern, timeout):
    """Reads the terminal until the pattern matches what was read, or it is closed; gives what was read."""
    output, deadline = b"", time.monotonic() + timeout
    while not re.search(pattern, output) and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                chunk = os.read(terminal, 4096)
            except OSError:  # closed on the other side
                break
            if not chunk:
                break
            output += chunk
    return output


def test_generate_streams_at_a_terminal():
    child, terminal = pty.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress of loading is not what is waited for
        options = ["--ignore-eos", "--max-new-tokens", "2000", "--threads", "1"]
        os.execv(BINARY, [str(BINARY), "generate", *map(str, PROMPT), *options])
    try:
        story = rb"\n[^\n]*[a-z]{3,} [a-z]{2,}"  # after the line that tells how the weights are loaded
        output = read_terminal(terminal, story, 60)
        assert re.search(story, output), output
        os.write(terminal, b"\x03")  # Ctrl-C
        read_terminal(terminal, rb"$.^", 30)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        os.close(terminal)


def test_tokenize_gives_the_reference_ids(chorale):
    cases = json.loads((GOLDEN / "demo_tokenizer_golden.json").read_text(encoding="utf-8"))
    for case in [case for case in cases if "\0" not in case["text"]][:12]:
        result = chorale.json("tokenize", "--model-path", MODEL, f"--text={case['text']}")
        assert result["ids"] == case["ids"]
        assert result["count"] == len(case["ids"]) == len(result["pieces"])


def test_tokenize_for_people(chorale):
    result = chorale("tokenize", "--model-path", MODEL, "--text", "a king\n")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert lines[-1] == f"{len(lines) - 1} tokens"
    pieces = "".join(re.fullmatch(r' *\d+  "(.*)"', line).group(1) for line in lines[:-1])
    assert pieces == r"a king\n"
