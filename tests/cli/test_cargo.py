"""scripts/cargo.sh: which cargo is taken, and what an older Rust is allowed, shown with programs that only say how they were called."""

import os
import re
import subprocess

import pytest

from conftest import ROOT

MINIMUM = re.search(r'^rust-version = "(1\.\d+)"$', (ROOT / "crates" / "Cargo.toml").read_text(), re.MULTILINE)[1]
OLDEST = int(MINIMUM.removeprefix("1."))


def cargo(folder, version):
    """A cargo of that version, which prints its wrapper of rustc and its arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "cargo"
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "cargo {version} (abcdef 2026-01-01)" && exit\n'
        f'echo "{version} wrapper=${{RUSTC_WRAPPER##*/}}" "$@"\n'
    )
    program.chmod(0o755)


@pytest.fixture
def run(tmp_path):
    def run(*arguments):
        environment = {"PATH": f"{tmp_path}/on path:{os.defpath}", "HOME": str(tmp_path / "home of a user")}
        result = subprocess.run(
            [ROOT / "scripts" / "cargo.sh", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        return result.returncode, result.stdout.strip(), result.stderr

    return run


def test_the_oldest_and_later_versions_are_taken(run, tmp_path):
    for version in (f"{MINIMUM}.0", f"1.{OLDEST + 1}.1", "1.87.0", "1.100.0", "2.0.0"):
        cargo(tmp_path / "on path", version)
        status, output, _ = run("fetch", "a b")
        assert (status, output.split()[0], output.endswith(" fetch a b")) == (0, version, True)


def test_the_version_on_path_comes_first_unless_it_is_too_old(run, tmp_path):
    cargo(tmp_path / "on path", "1.90.0")
    cargo(tmp_path / "home of a user" / ".cargo" / "bin", "1.95.0")
    assert run("fetch")[1].startswith("1.90.0 ")
    cargo(tmp_path / "on path", f"1.{OLDEST - 1}.9")
    assert run("fetch")[1].startswith("1.95.0 ")


def test_no_cargo_that_is_new_enough_is_an_error_that_tells_what_was_found(run, tmp_path):
    cargo(tmp_path / "on path", f"1.{OLDEST - 1}.9")
    cargo(tmp_path / "home of a user" / ".cargo" / "bin", "nonsense")
    status, output, errors = run("build")
    assert (status, output) == (127, "")
    assert f"Rust {MINIMUM} or newer" in errors and f"cargo 1.{OLDEST - 1}.9" in errors


def test_only_versions_before_1_87_get_the_wrapper(run, tmp_path):
    cargo(tmp_path / "on path", "1.86.0")
    assert run("build", "--release")[1] == "1.86.0 wrapper=rustc_before_1.87.sh build --ignore-rust-version --release"
    cargo(tmp_path / "on path", "1.87.0")
    assert run("build", "--release")[1] == "1.87.0 wrapper= build --release"


@pytest.mark.parametrize(
    ("crate", "unlocked"), [("llguidance", True), ("toktrie", True), ("derivre", False), ("build_script_build", False)]
)
def test_the_wrapper_unlocks_one_function_for_two_crates(crate, unlocked):
    script = 'echo "${RUSTC_BOOTSTRAP:-none}" "$@"'
    result = subprocess.run(
        [ROOT / "scripts" / "rustc_before_1.87.sh", "sh", "-c", script, "rustc", "a b"],
        env={"PATH": os.defpath, "CARGO_CRATE_NAME": crate},
        capture_output=True,
        text=True,
        check=True,
    )
    flags = " -Zcrate-attr=feature(unsigned_is_multiple_of) -Zallow-features=unsigned_is_multiple_of"
    assert result.stdout == (f"1 a b{flags}\n" if unlocked else "none a b\n")


def test_the_documents_name_the_oldest_version():
    named = re.findall(r"Rust (1\.\d+)", (ROOT / "README.md").read_text())
    assert named and set(named) == {MINIMUM}
