"""Checks the sizes that CONTRIBUTING.md states, of every file and function under src/.

usage: check_budgets.py REPOSITORY

A file has at most 500 lines, a function at most 60 of code and six parameters; on a device 80 and eight, because what
a launch copies there and what is inlined into it are single values. What is larger stands in budgets.txt
with the size that it may have and the reason. Reports, and exits 1 for: what is larger than its budget; an entry that
allows more than there is, so that the table only shrinks; and one of something that does not exist or needs no entry.
"""

import re
import sys
from pathlib import Path

from check_layers import SOURCE_SUFFIXES

BUDGETS = {"lines": 500, "body": 60, "parameters": 6}
DEVICE_BUDGETS = {"lines": 500, "body": 80, "parameters": 8}
ENTRY = re.compile(r"^(\w+)[ \t]+(\d+)[ \t]+(\S+)[ \t]+(\S.*)$")

# Comments, literals and preprocessor lines, which hold no structure; line breaks stay.
NO_CODE = re.compile(
    r"//[^\n]*|/\*.*?\*/|R\"(?P<end>[^(\s\\]*)\(.*?\)(?P=end)\"|\"(?:\\.|[^\"\\\n])*\"|(?<![\w])'(?:\\.|[^'\\\n])+'"
    r"|^[ \t]*#(?:\\\n|[^\n])*",
    re.DOTALL | re.MULTILINE,
)
# A name and "(", which may begin the parameters of a function.
CALL = re.compile(r"(?:operator[ \t]*[^\s\w(]+|operator\(\)|~?[A-Za-z_]\w*)[ \t\n]*\(")
NOT_FUNCTIONS = {"if", "for", "while", "switch", "catch", "return", "sizeof", "alignof", "decltype", "noexcept",
                 "requires", "alignas", "static_assert", "throw", "new", "delete", "co_await", "defined"}
# What may stand between ")" and the body: qualifiers, a type behind "->", and the members of a constructor.
BEFORE_BODY = re.compile(r"(?:\s|const\b|noexcept\b|override\b|final\b|mutable\b|&|->[^;{}()=]*)*")


def only_code(text):
    return NO_CODE.sub(lambda match: '""' * match[0].startswith(('"', "R")) + "\n" * match[0].count("\n"), text)


def closing(code, opening):
    """Where the bracket at `opening` is closed; the end of the text when it is not."""
    depth = 0
    for at in range(opening, len(code)):
        if code[at] in "([{":
            depth += 1
        elif code[at] in ")]}":
            depth -= 1
            if depth == 0:
                return at
    return len(code) - 1


def count_parameters(inside):
    """How many parameters the text between a function's parentheses declares."""
    if inside.strip() in ("", "void"):
        return 0
    depth, angles, count = 0, 0, 1
    for at, character in enumerate(inside):
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "<" and depth == 0:
            angles += 1
        elif character == ">" and depth == 0 and inside[at - 1] != "-":
            angles -= 1
        elif character == "," and depth == 0 and angles <= 0:
            count += 1
    return count


def skip_initializers(code, at):
    """From the ":" of a constructor to the brace of its body."""
    at += 1
    while True:
        match = re.compile(r"\s*[\w:<>, \t\n]+?\s*(?=[({])").match(code, at)
        if not match:
            return at
        at = closing(code, match.end()) + 1
        rest = re.compile(r"(?:\.\.\.)?\s*").match(code, at).end()
        if code[rest:rest + 1] != ",":
            return rest
        at = rest + 1


def functions(text):
    """(name, line, parameters, lines of the body with code) of every function that `text` defines."""
    code = only_code(text)
    for match in CALL.finditer(code):
        name = match[0][:-1].strip()
        if name in NOT_FUNCTIONS or name.isupper():
            continue
        opening = match.end() - 1
        close = closing(code, opening)
        at = BEFORE_BODY.match(code, close + 1).end()
        if code[at:at + 1] == ":" and code[at:at + 2] != "::":
            at = skip_initializers(code, at)
        if code[at:at + 1] != "{":
            continue
        # A declarator stands behind a type or a qualified name, or begins a line; "f({...})" and "a = f(b) {" do not.
        before = code[:match.start()].rstrip()
        if before.endswith((".", "->", "=", "(", ",", "return", "+", "-", "?", "!", "<<", "new")):
            continue
        body = code[at:closing(code, at) + 1]
        yield (name, code.count("\n", 0, match.start()) + 1, count_parameters(code[opening + 1:close]),
               sum(1 for line in body.splitlines() if line.strip()))


def budget_of(what, name):
    """The budget for `what` in a file, or in a function "path:function"."""
    on_device = Path(name.split(":")[0]).suffix in (".cu", ".cuh")
    return (DEVICE_BUDGETS if on_device else BUDGETS)[what]


def measure(root):
    """{(what, path or path:function): size} of all that counts, the largest where a name stands for several."""
    sizes = {}
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in SOURCE_SUFFIXES or not path.is_file():
            continue
        text, name = path.read_text(encoding="utf-8"), str(path.relative_to(root))
        sizes["lines", name] = text.count("\n")
        for function, _, parameters, body in functions(text):
            for what, size in (("parameters", parameters), ("body", body)):
                key = what, f"{name}:{function}"
                sizes[key] = max(sizes.get(key, 0), size)
    return sizes


def check(root):
    """All that is over its budget, or wrong in the table, as printable lines."""
    sizes, allowed, problems = measure(root), {}, []
    table = (root / "tests/layering/budgets.txt").read_text(encoding="utf-8")
    for number, line in enumerate(table.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = ENTRY.match(line)
        if not match or match[1] not in BUDGETS:
            problems.append(f'budgets.txt:{number}: expected "lines|body|parameters SIZE NAME REASON", found "{line}"')
            continue
        key, most = (match[1], match[3]), int(match[2])
        size = sizes.get(key, 0)
        if size <= budget_of(*key):
            problems.append(f"budgets.txt:{number}: {match[3]} needs no entry for {match[1]}: it has {size}")
        elif size < most:
            problems.append(f"budgets.txt:{number}: {match[3]} has only {size} {match[1]} left: lower the entry")
        allowed[key] = most
    for (what, name), size in sizes.items():
        most = allowed.get((what, name), budget_of(what, name))
        if size > most:
            problems.append(f"{name}: {size} {what}, at most {most}")
    return problems


def main():
    if len(sys.argv) != 2:
        print("usage: check_budgets.py REPOSITORY", file=sys.stderr)
        return 2
    problems = check(Path(sys.argv[1]))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
