"""The built program, the bundled model, and how ranks start as processes: what tests/cli and tests/e2e share."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BINARY = Path(os.environ.get("CHORALE_BINARY", ROOT / "build" / "chorale"))
MODEL = ROOT / "models" / "tales-moe"
MPIRUN = ("mpirun", "--allow-run-as-root", "--oversubscribe", "-n")


@pytest.fixture(scope="session")
def mpi(tmp_path_factory):
    """Skips where there is no MPI to start processes with; setup.sh installs it."""
    if shutil.which("mpirun") is None:
        pytest.skip("there is no mpirun")
    file = tmp_path_factory.mktemp("mpi") / "logits.safetensors"
    flags = ("--model-path", MODEL, "--input-ids", "1", "--output", file, "--communicator", "mpi")
    if "this build has no MPI" in subprocess.run([BINARY, "logits", *flags], capture_output=True, text=True).stderr:
        pytest.skip("this build has no MPI")
