"""chorale chat: lines of standard input, and a terminal."""

import os
import pty
import re
import select
import subprocess
import time

import pytest

from conftest import BINARY, MODEL

FLAGS = ("--temperature", "0", "--max-new-tokens", "12")


def chat(lines, *flags, model=MODEL, sampling=FLAGS):
    command = [BINARY, "chat", model, *sampling, "--no-thinking", *flags]
    return subprocess.run([*map(str, command)], input=lines, capture_output=True, text=True, timeout=120)


def answers(lines, *flags, **more):
    result = chat(lines, *flags, **more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def generated(chorale, prompt, *flags):
    """What `generate` says to a prompt that is written out."""
    return chorale.json("generate", "--model-path", MODEL, *FLAGS, *flags, "--prompt", prompt)["text"]


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>\n"


OPEN = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_answers_are_those_of_the_whole_conversation(chorale):
    first = generated(chorale, turn("user", "Tell me a story.") + OPEN)
    history = turn("user", "Tell me a story.") + turn("assistant", first.strip())
    second = generated(chorale, history + turn("user", "Go on.") + OPEN)
    assert first != second
    assert answers("Tell me a story.\n\nGo on.\n") == f"{first}\n{second}\n"
    # Neither the line break at the end nor that of Windows is needed, and /exit ends it before that.
    assert answers("Tell me a story.\r\nGo on.") == f"{first}\n{second}\n"
    assert answers("Tell me a story.\n/exit\nGo on.\n") == f"{first}\n"
    # Anew, the same words come again at temperature 0, and the history is the same as before.
    assert answers("Tell me a story.\n/regen\nGo on.\n") == f"{first}\n{first}\n{second}\n"
    assert answers("Go on.\n/clear\nTell me a story.\nGo on.\n").endswith(f"\n{first}\n{second}\n")


def test_system_prompt(chorale):
    brief = generated(chorale, turn("system", "A dragon lived in a cave.") + turn("user", "Tell me a story.\nNow.") + OPEN)
    for lines in ("/system A dragon lived in a cave.\nTell me a story.\\\nNow.\n", "/system x\n/system A dragon lived in a cave.\n/new\nTell me a story.\\\nNow.\n"):
        assert answers(lines) == f"{brief}\n"
    assert answers("Tell me a story.\\\nNow.\n", "--system-prompt", "A dragon lived in a cave.") == f"{brief}\n"
    plain = generated(chorale, turn("user", "Tell me a story.\nNow.") + OPEN)
    assert plain != brief
    assert answers("/system\nTell me a story.\\\nNow.\n", "--system-prompt", "A dragon lived in a cave.") == f"{plain}\n"


def test_sampling(chorale):
    sampling = ("--temperature", "1", "--seed", "5", "--max-new-tokens", "12")
    once, twice = (answers("Tell me a story.\n" + more, sampling=sampling) for more in ("", "/regen\n"))
    assert answers("Tell me a story.\n/regen\n", sampling=sampling) == twice
    assert twice.startswith(once) and twice != once * 2  # what is made anew has another seed
    whole = answers("Tell me a story.\n")
    stop = whole[10:14]
    assert answers("Tell me a story.\n", "--stop", stop) == whole[: whole.index(stop)] + "\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("/regne\n", "there is no command /regne; did you mean /regen?"),
        ("/zzzzzz\nTell me a story.\n", "there is no command /zzzzzz; /help lists them"),
        ("/regen\n", "there is no message to answer anew"),
        ("Tell me a story.\n" + "on and " * 60, "conversation has .* tokens with this message, the model's context 64; /clear"),
    ],
)
def test_a_script_sees_what_is_wrong(lines, message):
    result = chat(lines, "--context-length", "64")
    assert result.returncode == 1
    assert re.search(message, result.stderr), result.stderr


def test_a_model_without_a_chat_template(model_copy):
    (model_copy / "chat_template.jinja").unlink(missing_ok=True)
    config = model_copy / "tokenizer_config.json"
    config.write_text(re.sub(r'"chat_template":\s*"(\\.|[^"\\])*",?', "", config.read_text()))
    result = chat("Hello\n", model=model_copy)
    assert result.returncode == 1
    assert "no chat template; use chorale generate" in result.stderr


class Terminal:
    """`chorale chat` at a terminal of its own."""

    def __init__(self, *flags, model=MODEL, **environment):
        self.pid, self.file = pty.fork()
        if self.pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the progress of loading
            environment = {**os.environ, "TERM": "xterm", **environment}
            os.execve(BINARY, [str(BINARY), "chat", str(model), *flags], environment)
        self.text = ""

    def wait_for(self, pattern, seconds=60):
        """Reads until the pattern matches what came since the last call; gives that."""
        deadline = time.monotonic() + seconds
        while not (match := re.search(pattern, self.text)) and time.monotonic() < deadline:
            if select.select([self.file], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self.file, 4096).decode(errors="replace").replace("\r\n", "\n")
                except OSError:  # it has ended
                    break
        assert match, self.text
        seen, self.text = self.text[: match.end()], self.text[match.end() :]
        return seen

    def write(self, text):
        os.write(self.file, text.encode())

    def end(self):
        """The exit status."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.file)
        return status


def test_a_terminal():
    terminal = Terminal("--no-thinking", "--ignore-eos")
    assert re.search(r"tales-moe, a context of 2048 tokens.*/help", terminal.wait_for(r"\n> "))
    terminal.write("/help\n")
    assert "answer the last message anew" in terminal.wait_for(r"\n> ")
    terminal.write("Tell me a story.\n")
    terminal.wait_for(r"story\.\n[^>]*[a-z]{3,} [a-z]{2,}")  # it streams
    terminal.write("\x03")  # Ctrl-C ends the answer alone
    terminal.wait_for(r"\n> ")
    terminal.write("/regne\n/exi")
    terminal.write("\x7ft\n/exit\n")
    assert terminal.end() == 0


THINKS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n"
)


@pytest.mark.parametrize(
    ("environment", "begin", "end"),
    [({}, "\x1b[2m", "\x1b[0m\n> "), ({"NO_COLOR": "1"}, "[Start thinking]\n", "\n[End thinking]\n> ")],
    ids=["dimmed", "marked"],
)
def test_reasoning_at_a_terminal(model_copy, environment, begin, end):
    (model_copy / "chat_template.jinja").write_text(THINKS)
    # A model that cannot close its reasoning, so that all that it says is that.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        file = model_copy / name
        file.write_text(file.read_text().replace('"</think>"', '"</thought>"'))
    terminal = Terminal("--temperature", "0", "--max-new-tokens", "12", model=model_copy, **environment)
    terminal.wait_for(r"\n> ")
    terminal.write("Tell me a story.\n")
    said = terminal.wait_for(r"\n> ")
    terminal.write("\x04")  # Ctrl-D
    assert terminal.end() == 0
    assert said.startswith("Tell me a story.\n" + begin)
    assert said.endswith(end)
    plain = chat("Tell me a story.\n", model=model_copy)
    assert plain.stdout.startswith("[Start thinking]\n") and plain.stdout.endswith("\n[End thinking]\n")
