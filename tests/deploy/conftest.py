"""What the tests of deploy/ share: the repository, the built program, and servers as tests/e2e starts them."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("e2e_server", ROOT / "tests" / "e2e" / "conftest.py")
e2e = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(e2e)


@pytest.fixture(scope="module")
def server():
    server = e2e.Server("--max-total-tokens", 4096, "--threads", 1)
    yield server
    server.stop()
