"""Checks that an instruction set's object files define nothing that other code could be linked to.

usage: check_isa_symbols.py NM OBJECT...

Of the objects, those of kernels/cpu/isa_NAME.cpp are looked at. What one defines for the linker must be in the
namespace chorale::isa_NAME. Anything else, such as an inline function of the standard library or of base/ that was
not inlined, is a weak symbol of which the linker keeps one copy for the whole program: it could be the one that was
compiled for AVX-512, on a processor without it. Reports and exits 1 for such a symbol, or where there is no object.
"""

import re
import subprocess
import sys
from pathlib import Path


def shared_symbols(name, listing):
    """The symbols of `nm --extern-only --defined-only` that are not in the namespace of instruction set `name`."""
    namespace = f"isa_{name}"
    own = re.compile(rf"_ZNK?7chorale{len(namespace)}{namespace}")
    symbols = [line.split()[-1] for line in listing.splitlines() if line.strip()]
    return [symbol for symbol in symbols if not own.match(symbol)]


def main(nm, objects):
    checked = 0
    problems = []
    for path in objects:
        match = re.match(r"isa_(\w+)\.cpp\.o", Path(path).name)
        if not match:
            continue
        checked += 1
        listing = subprocess.run(
            [nm, "--extern-only", "--defined-only", path], check=True, capture_output=True, text=True
        ).stdout
        problems += [f"{path}: {symbol} is not the instruction set's own" for symbol in shared_symbols(match[1], listing)]
    if checked == 0:
        problems.append("no object of an instruction set")
    print("\n".join(problems) if problems else f"{checked} instruction sets share no symbol")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
