"""scripts/count_tests.py: the closing line of make test counts what ran, and a failure cannot hide."""

import subprocess
import sys

import pytest

from conftest import ROOT

GTEST = """<testsuites tests="3" failures="{failures}" disabled="0" errors="0" name="AllTests">
<testsuite name="Suite"><testcase name="A" status="run" result="completed" classname="Suite"/>
<testcase name="B" status="run" result="completed" classname="Suite">{failure}</testcase>
<testcase name="C" status="run" result="completed" classname="Suite"/></testsuite></testsuites>"""
CTEST = """<testsuite name="all" tests="2">
<testcase name="io" classname="io" status="{io}">{failure}</testcase>
<testcase name="layering" classname="layering" status="run"/></testsuite>"""
PYTEST = """<testsuites><testsuite name="pytest"><testcase classname="t" name="a"/>
<testcase classname="t" name="b">{result}</testcase></testsuite></testsuites>"""
FAILURE = '<failure message="no"/>'


@pytest.fixture
def count(tmp_path):
    (tmp_path / "gtest").mkdir()

    def run(gtest=GTEST.format(failures=0, failure=""), ctest=CTEST.format(io="run", failure=""), pytest_xml=None):
        for name, text in (("gtest/io_tests.xml", gtest), ("ctest.xml", ctest), ("cli.xml", pytest_xml)):
            if text is not None:
                (tmp_path / name).write_text(text)
        reports = ["ctest.xml"] + (["cli.xml"] if pytest_xml is not None else [])
        result = subprocess.run(
            [sys.executable, ROOT / "scripts" / "count_tests.py", tmp_path, *reports],
            capture_output=True,
            text=True,
            check=False,
        )
        return result.returncode, result.stdout.splitlines()

    return run


def test_all_passed(count):
    status, lines = count(pytest_xml=PYTEST.format(result=""))
    assert (status, lines) == (0, ["6 passed, 0 failed"])  # 3 GoogleTest cases, layering, 2 pytest cases


def test_failed_case_is_named_and_counted_once(count):
    status, lines = count(
        gtest=GTEST.format(failures=1, failure=FAILURE), ctest=CTEST.format(io="fail", failure=FAILURE)
    )
    assert status == 1
    assert lines == ["failed: io: Suite.B", "3 passed, 1 failed"]


def test_crash_without_a_report(count):
    status, lines = count(gtest=None, ctest=CTEST.format(io="fail", failure=FAILURE))
    assert status == 1
    assert lines[-1] == "1 passed, 1 failed"


def test_crash_after_the_report(count):
    status, lines = count(ctest=CTEST.format(io="fail", failure=FAILURE))
    assert status == 1
    assert lines[-1] == "4 passed, 1 failed"


def test_binary_that_was_not_built(count):
    status, lines = count(gtest=None, ctest=CTEST.format(io="notrun", failure=""))
    assert status == 1
    assert lines[-1] == "1 passed, 1 failed"


@pytest.mark.parametrize("result", [FAILURE, '<error message="fixture"/>'])
def test_pytest_failures(count, result):
    status, lines = count(pytest_xml=PYTEST.format(result=result))
    assert (status, lines[-1]) == (1, "5 passed, 1 failed")


def test_skipped_is_named_and_not_passed(count):
    status, lines = count(pytest_xml=PYTEST.format(result="<skipped/>"))
    assert (status, lines) == (0, ["skipped: t.b", "5 passed, 0 failed"])


@pytest.mark.parametrize("report", ["", "<testsuites", "<testsuites/>"])
def test_report_that_is_absent_broken_or_empty_is_a_failure(count, report):
    status, lines = count(pytest_xml=report)
    assert (status, lines[-1]) == (1, "4 passed, 1 failed")
