"""Adds up test reports: count_tests.py FOLDER REPORT...

FOLDER holds ctest.xml (ctest --output-junit), gtest/*.xml (one report per GoogleTest binary) and pytest's *.xml.
The REPORTs named must be there, each with at least one case. Names what failed, then prints "N passed, N failed";
exits 1 when anything failed. A skipped case is counted on neither side and named.
"""

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path


def count_cases(report, counts, prefix=""):
    """Counts the cases of one report, JUnit's or GoogleTest's, and prints those that did not pass."""
    for case in ElementTree.parse(report).iter("testcase"):
        name = f"{prefix}{case.get('classname', '')}.{case.get('name', '')}"
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = "failed"
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            outcome = "skipped"
        else:
            outcome = "passed"
        counts[outcome] += 1
        if outcome != "passed":
            print(f"{outcome}: {name}")


def count_ctest(folder, counts):
    """ctest's tests: a GoogleTest binary by its own report, everything else as one case."""
    for test in ElementTree.parse(folder / "ctest.xml").iter("testcase"):
        name = test.get("name", "")
        ok = test.get("status") == "run" and test.find("failure") is None
        report = folder / "gtest" / f"{name}_tests.xml"
        before = counts["failed"]
        if report.is_file():
            count_cases(report, counts, f"{name}: ")
        elif ok:
            counts["passed"] += 1
        # A binary that crashed has no report, or one in which nothing failed.
        if not ok and counts["failed"] == before:
            counts["failed"] += 1
            print(f"failed: {name} (the test program itself)")


def main():
    folder, expected = Path(sys.argv[1]), sys.argv[2:]
    counts = Counter()
    for name in expected:
        before = counts.total()
        try:
            if name == "ctest.xml":
                count_ctest(folder, counts)
            else:
                count_cases(folder / name, counts)
        except (OSError, ElementTree.ParseError) as error:
            print(f"failed: {name}: {error}")
            counts["failed"] += 1
        if counts.total() == before:
            print(f"failed: {name} has no test cases")
            counts["failed"] += 1
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
