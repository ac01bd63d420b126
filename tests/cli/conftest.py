"""What the tests of the command line share: the binary, the bundled model, and the reference results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from program import BINARY, MODEL, MPIRUN, ROOT, mpi  # noqa: E402, F401

ONE_EXPERT = ROOT / "models" / "tales-moe-1e"
GOLDEN = ROOT / "tests" / "golden"


class Chorale:
    """Runs the binary; a result has .returncode, .stdout and .stderr."""

    def __call__(self, *arguments, timeout=240):
        return subprocess.run(
            [BINARY, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
        )

    def json(self, *arguments, status=0):
        result = self(*arguments, "--json")
        assert result.returncode == status, result.stderr
        return json.loads(result.stdout)

    def logits(self, tmp_path, *arguments):
        """The logits that `chorale logits` writes for the bundled model."""
        file = tmp_path / "logits.safetensors"
        result = self("logits", "--model-path", MODEL, "--output", file, *arguments)
        assert result.returncode == 0, result.stderr
        tensors = load_file(file)
        assert list(tensors) == ["logits"]
        return tensors["logits"]


@pytest.fixture(scope="session")
def chorale():
    assert BINARY.is_file(), f"{BINARY} is not built; run make build"
    return Chorale()


@pytest.fixture(scope="session")
def golden():
    return json.loads((GOLDEN / "demo_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def golden_tensors():
    return load_file(GOLDEN / "demo_golden.safetensors")


@pytest.fixture
def model_copy(tmp_path):
    """A copy of the bundled model that a test may damage."""
    copy = tmp_path / "model"
    shutil.copytree(MODEL, copy)
    return copy
