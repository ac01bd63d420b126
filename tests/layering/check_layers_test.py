"""check_layers.py finds what it is there to find."""

import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from check_layers import check  # noqa: E402

LAYERS = "# comment\nbase:\nio: base\ntext: base\nmodel: base io\n"
GOOD = {
    "base/error.h": "#include <vector>\n",
    "io/file.h": '#include "base/error.h"\n',
    "text/text.h": '#include "base/error.h"\n',
    "model/model.cpp": '#include "model/model.h"\n  #  include "io/file.h"\n',
    "model/model.h": "",
}


class CheckLayersTest(unittest.TestCase):
    def problems(self, changes=None, layers=LAYERS):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            (root / "layers.txt").write_text(layers)
            for name, text in {**GOOD, **(changes or {})}.items():
                path = root / "src" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
            return check(root)

    def assert_one(self, problems, *parts):
        self.assertEqual(len(problems), 1, problems)
        for part in parts:
            self.assertIn(part, problems[0])

    def test_permitted_edges_pass(self):
        self.assertEqual(self.problems(), [])

    def test_upward_edge_fails(self):
        problems = self.problems({"base/error.h": '// first\n#include "model/model.h"\n'})
        self.assert_one(problems, "src/base/error.h:2", "base must not include model")

    def test_edge_between_siblings_fails(self):
        problems = self.problems({"text/text.h": '#include "io/file.h"\n'})
        self.assert_one(problems, "text must not include io")

    def test_every_source_suffix_is_read(self):
        for name in ("io/kernel.inl", "io/deep/er.cpp", "io/device.cu"):
            problems = self.problems({name: '#include "model/model.h"\n'})
            self.assert_one(problems, name, "io must not include model")

    def test_unlisted_folder_fails(self):
        self.assert_one(self.problems({"extra/readme.txt": ""}), "src/extra", "not listed")

    def test_include_relative_to_the_file_fails(self):
        self.assert_one(self.problems({"io/other.h": '#include "file.h"\n'}), '"file.h"')

    def test_include_with_dots_fails(self):
        problems = self.problems({"io/other.h": '#include "base/../model/model.h"\n'})
        self.assert_one(problems, "base/../model/model.h")

    def test_source_outside_folders_fails(self):
        self.assert_one(self.problems({"main.cpp": ""}), "src/main.cpp")

    def test_table_must_be_one_way(self):
        problems = self.problems(layers="base: io\nio: base\ntext: base\nmodel: base io\n")
        self.assert_one(problems, "layers.txt:1", "not listed above")

    def test_malformed_table_fails(self):
        problems = self.problems(layers=LAYERS + "engine model\n")
        self.assert_one(problems, "layers.txt:6", "engine model")


if __name__ == "__main__":
    unittest.main()
