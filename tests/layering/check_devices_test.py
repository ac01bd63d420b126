"""check_devices.py finds what it is there to find."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from check_devices import check  # noqa: E402


class CheckDevicesTest(unittest.TestCase):
    def problems(self, files, table=""):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = Path(folder) / "src" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check(Path(folder), table)

    def assert_one(self, problems, *parts):
        self.assertEqual(len(problems), 1, problems)
        for part in parts:
            self.assertIn(part, problems[0])

    def test_what_does_not_look_passes(self):
        code = "// cpu::backend() and x.row<float>(0)\nstd::vector<int> v; v.data(); narrow<float>(x);\n"
        self.assertEqual(self.problems({"model/model.cpp": code, "kernels/op.cpp": "cpu::op(x.data<float>());"}), [])

    def test_a_backend_that_is_named_fails(self):
        for name in ("cpu", "cuda", "ref", "ref_device"):
            problems = self.problems({"engine/engine.cpp": f"\nauto& b = {name}::backend();\n"})
            self.assert_one(problems, "src/engine/engine.cpp:2", f"{name}::")

    def test_every_look_into_a_tensor_fails(self):
        for look in ("x.data<float>()", "x->row<int32_t>(2)", "x.device_data<bf16>()", "x.device_bytes()"):
            self.assert_one(self.problems({"tools/tool.cpp": f"f({look});"}), "src/tools/tool.cpp:1", "looks into")

    def test_an_entry_permits_its_file_or_folder(self):
        files = {"tools/fit/fit.cpp": "x.row<float>(0);"}
        for entry in ("tools/fit", "tools/fit/fit.cpp"):
            self.assertEqual(self.problems(files, f"# comment\n{entry}  runs on the CPU\n"), [])
        self.assert_one(self.problems(files, "tools/fi  runs on the CPU\n")[:1], "looks into")

    def test_an_entry_permits_no_backend(self):
        self.assert_one(self.problems({"tools/t.cpp": "cpu::f(x.row<float>(0));"}, "tools/t.cpp  why\n"), "cpu::")

    def test_an_entry_that_is_not_needed_fails(self):
        self.assert_one(self.problems({"tools/t.cpp": ""}, "tools/t.cpp  why\n"), "needs no entry")

    def test_an_entry_without_a_reason_fails(self):
        self.assertIn("expected", self.problems({}, "tools/t.cpp\n")[0])


if __name__ == "__main__":
    unittest.main()
