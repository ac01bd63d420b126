"""Checks the machine code of the CUDA kernels: check_sass.py TABLE FILE [TOOLKIT].

FILE is a library or program that holds the kernels, TOOLKIT the folder of bin/cuobjdump (default: what
scripts/cuda_toolkit.sh --print says). TABLE is JSON: "default" holds for every kernel, and "kernels" maps a kernel's name
to what differs for it:

  registers  the most a thread may take
  stack      the most bytes of stack; what spills, or is indexed at run time, lies there
  with       instructions of which each must be there, in every kernel of that name, by the first parts of their names
  somewhere  the same, in at least one kernel of that name
  without    instructions of which none may be there
  why        a reason, for the reader

Prints what does not hold and exits 1; a name that fits no kernel is a fault too. Else prints how many kernels it saw.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

FUNCTION = re.compile(r"^\s*Function\s*:?\s+(\S+?):?$")
INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
RESOURCES = re.compile(r"REG:(\d+)\s+STACK:(\d+)")
FIELDS = {"registers", "stack", "with", "somewhere", "without", "why"}


def parse(resources, sass):
    """{mangled name: {"registers", "stack", "instructions"}} of cuobjdump's two outputs."""
    kernels, current = {}, None
    for line in resources.splitlines():
        if match := FUNCTION.match(line):
            current = match.group(1)
        elif (match := RESOURCES.search(line)) and current is not None:
            kernels[current] = {"registers": int(match.group(1)), "stack": int(match.group(2)), "instructions": set()}
            current = None
    current = None
    for line in sass.splitlines():
        if match := FUNCTION.match(line):
            current = match.group(1)
        elif (match := INSTRUCTION.match(line)) and current in kernels:
            kernels[current]["instructions"].add(match.group(1))
    return kernels


def has(kernel, prefix):
    return any(name == prefix or name.startswith(prefix + ".") for name in kernel["instructions"])


def is_named(mangled, name):
    """A mangled name has each of its parts after the part's length."""
    return re.search(rf"{len(name)}{re.escape(name)}(?![a-z_0-9])", mangled) is not None


def check(table, kernels):
    """All that does not hold, as printable lines."""
    problems = []
    if not kernels:
        problems.append("no kernels were found")
    for rules in [table["default"], *table["kernels"].values()]:
        problems += [f"unknown field \"{field}\" in the table" for field in set(rules) - FIELDS]
    seen = set()
    for mangled, kernel in sorted(kernels.items()):
        names = [name for name in table["kernels"] if is_named(mangled, name)]
        seen.update(names)
        rules = dict(table["default"])
        for name in names:
            rules.update(table["kernels"][name])
        for field in ("registers", "stack"):
            if kernel[field] > rules[field]:
                problems.append(f"{mangled}: {kernel[field]} {field}, permitted {rules[field]}")
        if not kernel["instructions"]:
            problems.append(f"{mangled}: its instructions could not be read")
        problems += [f"{mangled}: no {name}" for name in rules.get("with", []) if not has(kernel, name)]
        problems += [f"{mangled}: has {name}" for name in rules["without"] if has(kernel, name)]
    problems += [f"no kernel is named {name}" for name in table["kernels"] if name not in seen]
    for name, rules in table["kernels"].items():
        alike = [kernel for mangled, kernel in kernels.items() if is_named(mangled, name)]
        for instruction in rules.get("somewhere", []):
            if alike and not any(has(kernel, instruction) for kernel in alike):
                problems.append(f"no kernel that is named {name} has {instruction}")
    return problems


def cuobjdump(toolkit, option, file):
    tools = str(Path(toolkit) / "bin")  # cuobjdump looks for nvdisasm on PATH
    environment = {**os.environ, "PATH": tools + os.pathsep + os.environ.get("PATH", "")}
    run = subprocess.run([f"{tools}/cuobjdump", option, file], env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"check_sass: cuobjdump {option} {file} failed: {run.stderr.strip()}")
    return run.stdout


def main():
    if len(sys.argv) not in (3, 4):
        print(__doc__, file=sys.stderr)
        return 2
    table = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    script = Path(__file__).resolve().parent / "cuda_toolkit.sh"
    toolkit = sys.argv[3] if len(sys.argv) == 4 else subprocess.check_output([script, "--print"], text=True).strip()
    kernels = parse(cuobjdump(toolkit, "--dump-resource-usage", sys.argv[2]), cuobjdump(toolkit, "--dump-sass", sys.argv[2]))
    problems = check(table, kernels)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{len(kernels)} kernels hold what {sys.argv[1]} asks")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
