"""check_budgets.py finds what it is there to find."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from check_budgets import check, functions  # noqa: E402


def found(text):
    return [(name, parameters) for name, _, parameters, _ in functions(text)]


class FunctionsTest(unittest.TestCase):
    def test_definitions_are_found_with_their_parameters(self):
        self.assertEqual(found("int f() {\n  return 1;\n}\n"), [("f", 0)])
        self.assertEqual(found("void f(void) {}\nvoid g(int a) {}"), [("f", 0), ("g", 1)])
        self.assertEqual(found("template <int N>\nauto C::f(int a, const B& b) const noexcept -> D<E, F> {}"), [("f", 2)])

    def test_commas_in_types_and_defaults_count_once(self):
        self.assertEqual(found("void f(std::map<int, B<C, D>> a, int (*b)(int, int), E c = {1, 2}) {}"), [("f", 3)])

    def test_a_constructor_has_its_members_before_its_body(self):
        text = "Pair::Pair(int a, int b) : a_(f(a, b)), b_{a, b} {\n  g();\n}\n"
        self.assertEqual([(name, parameters, body) for name, _, parameters, body in functions(text)], [("Pair", 2, 3)])

    def test_a_declaration_a_call_and_a_statement_are_not_definitions(self):
        for text in ("void f(int a);", "int x = f(a, b);", "{ if (f(a)) { g(); } }", "{ for (int i = 0;;) {} }",
                     "{ f([&](int a) { return a; }); }", "{ return f(a) + B{1}; }", "{ x.f(B{1, 2}); }"):
            self.assertEqual(found(text), [], text)

    def test_what_comments_literals_and_macros_say_does_not_count(self):
        self.assertEqual(found('// void f(int a) {\nconst char* s = "void f(int a) {";\n'), [])
        self.assertEqual(found('auto s = R"(void f() {)";\n#define F(a) void f(a) {\nvoid g(int a /* , b */) {}'), [("g", 1)])

    def test_numbers_with_separators_are_no_characters(self):
        self.assertEqual(found("int f() { return 1'000'000; }\nint g(int a) { return '{' + a; }\n"), [("f", 0), ("g", 1)])

    def test_the_body_counts_lines_with_code(self):
        (function,) = functions("void f() {\n  // said\n\n  g();\n}\n")
        self.assertEqual(function[1:], (1, 0, 3))


class CheckBudgetsTest(unittest.TestCase):
    def problems(self, text, table="", name="src/io/a.cpp"):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for name, content in {name: text, "tests/layering/budgets.txt": table}.items():
                (root / name).parent.mkdir(parents=True)
                (root / name).write_text(content)
            return check(root)

    def assert_one(self, problems, *parts):
        self.assertEqual(len(problems), 1, problems)
        for part in parts:
            self.assertIn(part, problems[0])

    def test_what_is_at_its_budget_passes(self):
        six = ", ".join(f"int {c}" for c in "abcdef")
        self.assertEqual(self.problems(f"void f({six}) {{\n" + "  g();\n" * 58 + "}\n" + "\n" * 440), [])

    def test_a_file_over_its_budget_fails(self):
        self.assert_one(self.problems("\n" * 501), "src/io/a.cpp: 501 lines, at most 500")

    def test_a_body_over_its_budget_fails(self):
        self.assert_one(self.problems("void f() {\n" + "  g();\n" * 59 + "}\n"), "src/io/a.cpp:f: 61 body, at most 60")

    def test_parameters_over_their_budget_fail(self):
        seven = ", ".join(f"int {c}" for c in "abcdefg")
        self.assert_one(self.problems(f"void C::f({seven}) {{}}\n"), "src/io/a.cpp:f: 7 parameters, at most 6")

    def test_device_code_has_budgets_of_its_own(self):
        eight = ", ".join(f"int {c}" for c in "abcdefgh")
        text = f"__global__ void k({eight}) {{\n" + "  g();\n" * 78 + "}\n"
        self.assertEqual(self.problems(text, name="src/io/a.cu"), [])
        self.assertEqual(len(self.problems(text)), 2)
        self.assert_one(self.problems(text.replace("int a", "int z, int a"), name="src/io/a.cu"), "9 parameters, at most 8")

    def test_an_entry_permits_its_size_and_no_more(self):
        table = "# why\nlines 503 src/io/a.cpp a reason\n"
        self.assertEqual(self.problems("\n" * 503, table), [])
        self.assert_one(self.problems("\n" * 504, table), "504 lines, at most 503")

    def test_an_entry_that_allows_too_much_fails(self):
        self.assert_one(self.problems("\n" * 502, "lines 503 src/io/a.cpp a reason\n"), "budgets.txt:1", "lower")

    def test_an_entry_that_nothing_needs_fails(self):
        self.assert_one(self.problems("\n" * 9, "lines 503 src/io/a.cpp a reason\n"), "budgets.txt:1", "needs no entry")
        self.assert_one(self.problems("", "lines 503 src/io/gone.cpp a reason\n"), "needs no entry")

    def test_an_entry_without_a_reason_fails(self):
        self.assertIn("expected", self.problems("\n" * 503, "lines 503 src/io/a.cpp\n")[0])


if __name__ == "__main__":
    unittest.main()
