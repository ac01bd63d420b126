"""Starts the real server as a process of its own, and reads its ready line and its metrics."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from program import BINARY, MODEL, MPIRUN, ROOT, mpi  # noqa: E402, F401

# Flags of every server, such as "--device cuda".
MORE_ARGUMENTS = shlex.split(os.environ.get("CHORALE_E2E_ARGS", ""))
ON_A_GPU = "cuda" in MORE_ARGUMENTS
KV_BLOCK = 64 if ON_A_GPU else 32  # tokens
# What a server says that such flags rule out.
CPU_ALONE = re.compile(r"--device \S+: .*on the CPU alone.*")

SECONDS_TO_END = 10  # from a failure to the end of everything
READY = re.compile(r"Chorale is ready: (http://\S+)")


class Server:
    """`chorale serve` on a free port. Its log is in .log, one line per element.

    `launcher` is what starts it, such as (*MPIRUN, "8"); then .process is the launcher's.
    """

    def __init__(self, *arguments, model=MODEL, launcher=()):
        assert BINARY.is_file(), f"{BINARY} is not built; run make build"
        self.process = subprocess.Popen(
            [*launcher, BINARY, "serve", "--model-path", model, "--port", "0", *MORE_ARGUMENTS, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
        self.log = []
        self.url = None
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        self._ready.wait(120)
        if MORE_ARGUMENTS and self.url is None and (refusal := CPU_ALONE.search("".join(self.log))):
            pytest.skip(refusal[0])
        assert self.url, "not ready; log:\n" + "".join(self.log)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)
            if (match := READY.search(line)) and self.url is None:
                self.url = match[1]
                self._ready.set()
        self._ready.set()

    @property
    def port(self):
        return int(self.url.rsplit(":", 1)[1])

    def post(self, path, body, **more):
        return httpx.post(self.url + path, json=body, timeout=120, **more)

    def ask(self, path, body):
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    def generate(self, text=None, input_ids=None, **sampling_params):
        body = {"sampling_params": sampling_params}
        body |= {"text": text} if input_ids is None else {"input_ids": input_ids}
        return self.ask("/generate", body)

    def stream(self, path, body):
        """The messages of a stream as JSON; [DONE] is checked and left out."""
        with httpx.stream("POST", self.url + path, json=body | {"stream": True}, timeout=120) as response:
            assert response.status_code == 200, response.read()
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def metrics(self):
        """{name with labels but for model_name: value}"""
        text = httpx.get(self.url + "/metrics").text
        found = re.findall(r'^(\w+)\{model_name="[^"]*",?([^}]*)\} (\S+)$', text, re.MULTILINE)
        return {name + (f"{{{labels}}}" if labels else ""): float(value) for name, labels, value in found}

    def wait_until_empty(self, seconds=10):
        """Until no request is left and no KV block is held by one."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            metrics = self.metrics()
            held = [metrics["chorale_" + name] for name in
                    ("num_requests_running", "num_requests_waiting", "kv_cache_tokens_used")]
            if not any(held):
                return
            time.sleep(0.02)
        raise AssertionError(f"still held: {held}")

    def client(self):
        return openai.OpenAI(base_url=self.url + "/v1", api_key="none", timeout=120, max_retries=0)

    def stop(self, number=signal.SIGTERM):
        """Sends the signal unless the process has ended, and gives the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        return status


def ranks_of(server):
    """{rank: process id} of the processes that mpirun has started."""
    pid = server.process.pid
    found = {}
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        (rank,) = (entry for entry in environment if entry.startswith(b"OMPI_COMM_WORLD_RANK="))
        found[int(rank.partition(b"=")[2])] = int(child)
    return dict(sorted(found.items()))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for_the_end(server, pids, begin):
    """The exit status, once the launcher and all ranks have ended; fails unless that is within the time."""
    deadline = begin + SECONDS_TO_END
    try:
        status = server.process.wait(max(deadline - time.monotonic(), 0.1))
    except Exception:
        raise AssertionError(f"still running after {SECONDS_TO_END} s; log:\n" + "".join(server.log[-30:])) from None
    while left := [rank for rank, pid in pids.items() if is_running(pid)]:
        assert time.monotonic() < deadline, f"ranks left behind: {left}"
        time.sleep(0.02)
    server.stop()  # reads the rest of the log
    return status


@pytest.fixture
def serve():
    """Starts servers with flags of their own; what is still running at the end of the test is stopped."""
    started = []

    def start(*arguments, **more):
        started.append(Server(*arguments, **more))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def small_model(tmp_path):
    """A folder with a config.json alone, for --load-format dummy: small enough for the reference device, which is slow."""
    config = json.loads((MODEL / "config.json").read_text(encoding="utf-8"))
    config |= {"hidden_size": 32, "head_dim": 8, "moe_intermediate_size": 16, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="session")
def server():
    """One server in the default mode for all tests that leave it as it is."""
    server = Server()
    yield server
    server.wait_until_empty()
    assert server.stop() == 0, "".join(server.log[-20:])


@pytest.fixture(scope="session")
def client(server):
    return server.client()


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id
