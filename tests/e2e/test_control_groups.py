"""Limits of a control group that the test makes, version 1 or 2 as the machine has it."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import BINARY, MODEL, READY

MOUNTS = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="ascii").splitlines()]


def hierarchy(controller):
    """(where it is mounted, its version)"""
    for _, place, kind, options, *_ in MOUNTS:
        if kind == "cgroup" and controller in options.split(","):
            return Path(place), 1
    for _, place, kind, *_ in MOUNTS:
        if kind == "cgroup2" and controller in (Path(place) / "cgroup.controllers").read_text(encoding="ascii").split():
            return Path(place), 2
    pytest.skip(f"no hierarchy of control groups has {controller}")


@pytest.fixture
def group(request):
    """Makes a group below that of this process, with these settings: {file of version 1 or 2: text}."""
    made = []

    def make(controller, v1, v2):
        mount, version = hierarchy(controller)
        own = next(line.split(":", 2)[2].strip() for line in open("/proc/self/cgroup", encoding="ascii")
                   if (line.split(":")[1] == "" if version == 2 else controller in line.split(":")[1].split(",")))
        parent = mount / own.lstrip("/")
        if not parent.is_dir():  # a container sees its own group as the top
            parent = mount
        folder = parent / f"chorale_test_{os.getpid()}_{len(made)}"
        try:
            folder.mkdir()
            made.append(folder)
            for name, text in (v1 if version == 1 else v2).items():
                (folder / name).write_text(text, encoding="ascii")
        except OSError as error:
            pytest.skip(f"a group with {controller} cannot be made here: {error}")
        return folder

    yield make
    for folder in made:
        folder.rmdir()


def log_of_serve(*arguments, before):
    """What a server logs until it is ready or ends; `before` runs in its process before it begins."""
    process = subprocess.Popen([BINARY, "serve", "--model-path", MODEL, "--port", "0", *map(str, arguments)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               encoding="utf-8", preexec_fn=before)
    log = ""
    for line in process.stderr:
        log += line
        if READY.search(line):
            process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    return log


def joins(folder):
    return lambda: (folder / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


@pytest.mark.parametrize("quota, cores", [(100_000, 1), (150_000, 1), (50_000, 1)])
def test_a_quota_of_processors_counts(group, quota, cores):
    folder = group("cpu", {"cpu.cfs_quota_us": str(quota)}, {"cpu.max": f"{quota} 100000"})
    log = log_of_serve(before=joins(folder))
    assert re.search(rf"limits: {cores} core \(quota of {folder}\)", log), log
    assert re.search(rf"on {cores} thread\b", log), log


def test_a_limit_of_memory_counts(group):
    limit = 400 << 20
    folder = group("memory", {"memory.limit_in_bytes": str(limit)}, {"memory.max": str(limit)})
    log = log_of_serve(before=joins(folder))
    found = re.search(rf"limits: .*, ([\d.]+) MB of memory \(limit of {folder}\)", log)
    assert found, log
    assert 300 < float(found[1]) <= 420


@pytest.mark.parametrize("threads, warned", [(64, True), (1, False), (0, False)])
def test_many_threads_on_few_cores_are_warned_of(threads, warned):
    log = log_of_serve("--threads", threads, before=lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
    assert "limits: 1 core (affinity)" in log
    assert ("--threads: 64 threads for 1 core," in log) == warned
