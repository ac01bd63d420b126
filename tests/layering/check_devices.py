"""Checks that what stands above the kernels neither names a backend nor looks into tensors.

usage: check_devices.py REPOSITORY

Tensors of a step lie on a device, which the host may be unable to follow; so `data<`, `row<` and their like are for
kernels/ and comm/. devices.txt lists the files that may look nevertheless, each with its reason. Reports, and exits 1
for: a backend's namespace in the code of another folder; a look into a tensor in a file that is not listed; and an
entry that is not needed.
"""

import re
import sys
from pathlib import Path

from check_budgets import only_code
from check_layers import SOURCE_SUFFIXES

FOLDERS = ("model", "engine", "server", "tools", "apps")
BACKEND = re.compile(r"\b(cpu|cuda|ref|ref_device)::")
LOOK = re.compile(r"(?:\.|->)(?:data|row|device_data)<|\bdevice_bytes\(")
ENTRY = re.compile(r"^(\S+)[ \t]+(\S.*)$")


def read_entries(text):
    """devices.txt as {file or folder: reason}, and what is wrong with it."""
    entries, problems = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = ENTRY.match(line)
        if match:
            entries[match.group(1)] = match.group(2)
        else:
            problems.append(f'devices.txt:{number}: expected "file reason", found "{line}"')
    return entries, problems


def places(code, pattern):
    """Where the pattern stands, as pairs of a line and what was found."""
    return [(code.count("\n", 0, match.start()) + 1, match[0]) for match in pattern.finditer(code)]


def check(root, table):
    """All violations in the repository at `root`, as printable lines."""
    entries, problems = read_entries(table)
    used = set()
    source = root / "src"
    for folder in FOLDERS:
        for path in sorted((source / folder).rglob("*")):
            if path.suffix not in SOURCE_SUFFIXES or not path.is_file():
                continue
            name = path.relative_to(source).as_posix()
            code = only_code(path.read_text(encoding="utf-8"))
            for line, found in places(code, BACKEND):
                problems.append(f"src/{name}:{line}: {found} names a backend")
            entry = next((e for e in entries if name == e or name.startswith(e + "/")), None)
            looks = places(code, LOOK)
            if entry and looks:
                used.add(entry)
            elif looks:
                line, found = looks[0]
                problems.append(f"src/{name}:{line}: {found} looks into a tensor")
    return problems + [f"devices.txt: {entry} needs no entry" for entry in entries if entry not in used]


def main():
    if len(sys.argv) != 2:
        print("usage: check_devices.py REPOSITORY", file=sys.stderr)
        return 2
    table = Path(__file__).with_name("devices.txt").read_text(encoding="utf-8")
    problems = check(Path(sys.argv[1]), table)
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
