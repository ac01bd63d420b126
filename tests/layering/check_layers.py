"""Checks every #include "..." under src/ against layers.txt.

usage: check_layers.py REPOSITORY

A layer is a folder of src/; a room is a folder of a layer that has a line of its own. A layer with rooms lists every
folder in it, and its own line is for the files that lie in no room: below the rooms on which they stand, and above
those that use them. To other layers, to permit a layer permits its rooms; to its own rooms, those files alone.

A line "inner: layer/folder ..." lists folders that their own layer alone may include. They are not rooms.

Reports, and exits 1 for: a folder that layers.txt does not list; a line for a folder that does not exist; an include of
a folder that is not permitted; a quoted include that names no file of src/; and an order in layers.txt that is not
one-way.
"""

import re
import sys
from pathlib import Path

SOURCE_SUFFIXES = {".h", ".hpp", ".cpp", ".cc", ".c", ".inl", ".cu", ".cuh"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.MULTILINE)
FOLDER = "[a-z0-9_]+(?:/[a-z0-9_]+)?"
FOLDER_LINE = re.compile(rf"^({FOLDER}):((?:[ \t]+{FOLDER})*)[ \t]*$")


INNER_LINE = re.compile(r"^inner:((?:[ \t]+[a-z0-9_]+/[a-z0-9_]+)+)[ \t]*$")


def read_inner(text):
    """The folders that layers.txt keeps to their own layers."""
    return [name for line in text.splitlines() if INNER_LINE.match(line) for name in line.split()[1:]]


def layer_of(folder):
    return folder.split("/")[0]


def read_layers(text):
    """layers.txt as {layer or room: set of those it permits}, and what is wrong with it."""
    layers, problems = {}, []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#") or INNER_LINE.match(line):
            continue
        match = FOLDER_LINE.match(line)
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
        # What permits a layer permits its rooms; one below it would be permitted unseen by the rule above.
        layer = layer_of(folder)
        for user, names in layers.items():
            if layer in names and layer not in (folder, layer_of(user)):
                problems.append(f"layers.txt:{number}: {folder} is listed below {user}, which permits {layer}")
        layers[folder] = set(permitted)
    return layers, problems


def folder_of(path, layers):
    """The room or layer that a file belongs to, of a path relative to src/."""
    room = "/".join(path.parts[:2])
    return room if len(path.parts) > 2 and room in layers else path.parts[0]


def is_permitted(folder, other, layers):
    """Whether files of `folder` may include files of `other`."""
    if other == folder:
        return True
    permitted = layers.get(folder, set())
    layer = layer_of(other)
    return other in permitted or (layer in permitted and layer != layer_of(folder))


def check_folders(source, layers):
    """What is on disk and not in the table, and the other way round."""
    folders = {path.name for path in source.iterdir() if path.is_dir()}
    for layer in {layer_of(name) for name in layers if "/" in name}:
        folders |= {f"{layer}/{path.name}" for path in (source / layer).glob("*") if path.is_dir()}
    problems = [f"src/{name}: this folder is not listed in layers.txt" for name in sorted(folders - set(layers))]
    return problems + [f"layers.txt: there is no folder src/{name}" for name in sorted(set(layers) - folders)]


def check(root):
    """All violations in the repository at `root`, as printable lines."""
    source = root / "src"
    table = (root / "layers.txt").read_text(encoding="utf-8")
    layers, problems = read_layers(table)
    problems += check_folders(source, layers)
    inner = read_inner(table)
    problems += [f"layers.txt: there is no folder src/{name}" for name in inner if not (source / name).is_dir()]

    for path in sorted(source.rglob("*")):
        if path.suffix not in SOURCE_SUFFIXES or not path.is_file():
            continue
        relative = path.relative_to(source)
        if len(relative.parts) < 2:
            problems.append(f"src/{relative}: sources belong in a folder of layers.txt")
            continue
        folder = folder_of(relative, layers)
        text = path.read_text(encoding="utf-8")
        for match in INCLUDE.finditer(text):
            included = Path(match.group(1))
            line = text.count("\n", 0, match.start()) + 1
            where = f"src/{relative}:{line}"
            if not (source / included).is_file() or ".." in included.parts:
                problems.append(f'{where}: "{included}" is not a path of a file from src/')
                continue
            other = folder_of(included, layers)
            if not is_permitted(folder, other, layers):
                problems.append(f'{where}: {folder} must not include {other} ("{included}")')
            elif "/".join(included.parts[:2]) in inner and layer_of(folder) != included.parts[0]:
                problems.append(f'{where}: only {included.parts[0]} may include "{included}"')
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
