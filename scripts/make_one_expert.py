#!/usr/bin/env python3
"""Writes a one-expert sibling of a Qwen3-MoE checkpoint: make_one_expert.py SOURCE DESTINATION.

Of every layer it keeps expert 0 and the router's row for it; all other weights are copied as they are. The weights go
into one file, model.safetensors; the tokenizer and whatever else is small comes along. DESTINATION must not exist.

This is a model to measure and to test with, not one to talk to: nothing makes up for the experts that are left out.
Needs nothing but Python 3.
"""

import json
import re
import shutil
import struct
import sys
from pathlib import Path

EXPERT = re.compile(r"\.mlp\.experts\.(\d+)\.")
ROUTER = re.compile(r"\.mlp\.gate\.weight$")
WEIGHT_FILES = re.compile(r"\.(safetensors|safetensors\.index\.json|bin|bin\.index\.json|pt|pth|gguf)$")
MAX_HEADER_BYTES = 100 << 20  # as the format allows
COPY_BYTES = 1 << 20


class Problem(Exception):
    """Told to the person at the terminal."""


def read_json(path):
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Problem(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise Problem(f"{path}: expected a JSON object")
    return value


def read_header(path):
    """The tensors of a safetensors file, and where their data begins."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise Problem(f"{path}: not a safetensors file (a header of {length} bytes)")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise Problem(f"{path}: the header is not JSON: {error}") from error
    header.pop("__metadata__", None)
    return header, 8 + length


def kept_tensors(folder):
    """For each tensor of the sibling: its name, type, shape, and the file and range of bytes that hold its data."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise Problem(f"{folder}: there is no .safetensors file")
    for path in files:
        header, data_start = read_header(path)
        for name, tensor in header.items():
            expert = EXPERT.search(name)
            if expert and expert.group(1) != "0":
                continue
            try:
                dtype, shape = tensor["dtype"], tensor["shape"]
                begin, end = (data_start + offset for offset in tensor["data_offsets"])
                if ROUTER.search(name):  # [experts, hidden]: the first row comes first
                    end = begin + (end - begin) // shape[0]
                    shape = [1, *shape[1:]]
            except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
                raise Problem(f"{path}: the entry of {name} is damaged") from error
            yield name, dtype, shape, path, begin, end


def write_weights(source, file):
    tensors = list(kept_tensors(source))
    if not any(EXPERT.search(name) for name, *_ in tensors):
        raise Problem(f"{source}: no weight is an expert's (*.mlp.experts.0.*)")
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, _, begin, end in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + end - begin]}
        offset += end - begin
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the data is aligned
    with file.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, _, _, path, begin, end in tensors:
            with path.open("rb") as data:
                data.seek(begin)
                for left in range(end - begin, 0, -COPY_BYTES):
                    piece = data.read(min(left, COPY_BYTES))
                    if len(piece) != min(left, COPY_BYTES):
                        raise Problem(f"{path}: the file ends within {name}")
                    out.write(piece)


def make_sibling(source, destination):
    if destination.exists():
        raise Problem(f"{destination} is there already")
    config = read_json(source / "config.json")
    if not isinstance(config.get("num_experts"), int) or config["num_experts"] < 1:
        raise Problem(f"{source / 'config.json'}: num_experts is {config.get('num_experts')}; expected at least 1")
    config["num_experts"] = config["num_experts_per_tok"] = 1

    unfinished = destination.with_name(destination.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        for entry in sorted(source.iterdir()):
            if entry.is_file() and not WEIGHT_FILES.search(entry.name) and entry.name not in ("config.json", "README.md"):
                shutil.copyfile(entry, unfinished / entry.name)
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        write_weights(source, unfinished / "model.safetensors")
        unfinished.rename(destination)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def main():
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        print("usage: make_one_expert.py SOURCE DESTINATION", file=sys.stderr)
        return 2
    try:
        make_sibling(Path(sys.argv[1]), Path(sys.argv[2]))
    except (Problem, OSError) as problem:
        print(f"make_one_expert: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
