"""Checks every #include "..." under src/ against layers.txt.

usage: check_layers.py REPOSITORY

Reports, and exits 1 for: a folder that layers.txt does not list; an include of a
folder that is not permitted; a quoted include that names no file of src/; and an order in layers.txt that is not
one-way.
"""

import re
import sys
from pathlib import Path

SOURCE_SUFFIXES = {".h", ".hpp", ".cpp", ".cc", ".c", ".inl", ".cu", ".cuh"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
LAYER_LINE = re.compile(r"^([a-z0-9_]+):((?:[ \t]+[a-z0-9_]+)*)[ \t]*$")


def read_layers(text):
    """layers.txt as {folder: set of permitted folders}, and what is wrong with it."""
    layers, problems = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = LAYER_LINE.match(line)
        if not match:
            problems.append(f'layers.txt:{number}: expected "folder: permitted folders", found "{line}"')
            continue
        folder, permitted = match.group(1), match.group(2).split()
        if folder in layers:
            problems.append(f"layers.txt:{number}: {folder} is listed twice")
        # A folder may only name folders above it, which is what makes the arrows one-way.
        for name in permitted:
            if name not in layers:
                problems.append(f"layers.txt:{number}: {folder} permits {name}, which is not listed above it")
        layers[folder] = set(permitted) | {folder}
    return layers, problems


def check(root):
    """All violations in the repository at `root`, as printable lines."""
    source = root / "src"
    layers, problems = read_layers((root / "layers.txt").read_text(encoding="utf-8"))
    folders = {path.name for path in source.iterdir() if path.is_dir()}
    problems += [f"src/{name}: this folder is not listed in layers.txt" for name in sorted(folders - set(layers))]

    for path in sorted(source.rglob("*")):
        if path.suffix not in SOURCE_SUFFIXES or not path.is_file():
            continue
        relative = path.relative_to(source)
        if len(relative.parts) < 2:
            problems.append(f"src/{relative}: sources belong in a folder of layers.txt")
            continue
        permitted = layers.get(relative.parts[0], set())
        text = path.read_text(encoding="utf-8")
        for match in INCLUDE.finditer(text):
            included = match.group(1)
            line = text.count("\n", 0, match.start()) + 1
            where = f"src/{relative}:{line}"
            if not (source / included).is_file() or ".." in Path(included).parts:
                problems.append(f'{where}: "{included}" is not a path of a file from src/')
            elif Path(included).parts[0] not in permitted:
                problems.append(
                    f'{where}: {relative.parts[0]} must not include {Path(included).parts[0]} ("{included}")'
                )
    return problems


def main():
    if len(sys.argv) != 2:
        print("usage: check_layers.py REPOSITORY", file=sys.stderr)
        return 2
    problems = check(Path(sys.argv[1]))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
