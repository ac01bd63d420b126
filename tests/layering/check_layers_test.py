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
# The layer `app` has rooms: `deep`, on which `front` stands, and its own files on top of both.
ROOMS = LAYERS + "app/deep: base\napp/front: io app/deep\napp: base model app/deep app/front\ntop: app\n"
HOUSE = {
    "app/deep/deep.h": '#include "base/error.h"\n',
    "app/deep/cellar/barrel.h": '#include "app/deep/deep.h"\n',
    "app/front/front.cpp": '#include "app/front/front.h"\n#include "app/deep/cellar/barrel.h"\n#include "io/file.h"\n',
    "app/front/front.h": "",
    "app/app.h": '#include "app/front/front.h"\n#include "app/deep/deep.h"\n#include "model/model.h"\n',
    "app/app.cpp": '#include "app/app.h"\n',
    "top/main.cpp": '#include "app/app.h"\n#include "app/deep/deep.h"\n',
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

    def room_problems(self, changes=None, layers=ROOMS):
        return self.problems({**HOUSE, **(changes or {})}, layers)

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

    def test_line_without_a_folder_fails(self):
        self.assert_one(self.problems(layers=LAYERS + "engine: model\n"), "layers.txt", "src/engine")

    def test_an_inner_folder_is_for_its_own_layer(self):
        layers = LAYERS + "inner: io/deep\n"
        files = {"io/deep/er.h": '#include "io/file.h"\n', "io/io.cpp": '#include "io/deep/er.h"\n'}
        self.assertEqual(self.problems(files, layers), [])
        problems = self.problems({**files, "model/model.h": '#include "io/deep/er.h"\n'}, layers)
        self.assert_one(problems, "src/model/model.h:1", "only io may include")
        self.assert_one(self.problems(layers=layers), "no folder src/io/deep")

    def test_permitted_edges_between_rooms_pass(self):
        self.assertEqual(self.room_problems(), [])

    def test_upward_edge_between_rooms_fails(self):
        problems = self.room_problems({"app/deep/deep.h": '#include "app/front/front.h"\n'})
        self.assert_one(problems, "src/app/deep/deep.h:1", "app/deep must not include app/front")

    def test_a_folder_in_a_room_is_the_room(self):
        problems = self.room_problems({"app/deep/cellar/barrel.h": '#include "app/front/front.h"\n'})
        self.assert_one(problems, "src/app/deep/cellar/barrel.h:1", "app/deep must not include app/front")

    def test_edge_from_a_room_to_its_layer_fails(self):
        problems = self.room_problems({"app/front/front.h": '#include "app/app.h"\n'})
        self.assert_one(problems, "app/front must not include app (")

    def test_a_room_has_its_own_lower_layers(self):
        problems = self.room_problems({"app/deep/deep.h": '#include "io/file.h"\n'})
        self.assert_one(problems, "app/deep must not include io")

    def test_a_layer_does_not_permit_its_rooms_to_itself(self):
        layers = ROOMS.replace("app: base model app/deep app/front", "app: base model app/front")
        self.assert_one(self.room_problems(layers=layers), "src/app/app.h:2", "app must not include app/deep")

    def test_permitting_a_room_permits_that_room_alone(self):
        layers = ROOMS.replace("top: app", "top: app/front")
        problems = self.room_problems({"top/main.cpp": '#include "app/front/front.h"\n'}, layers)
        self.assertEqual(problems, [])
        problems = self.room_problems({"top/main.cpp": '#include "app/app.h"\n'}, layers)
        self.assert_one(problems, "top must not include app (")

    def test_unlisted_folder_in_a_layer_with_rooms_fails(self):
        self.assert_one(self.room_problems({"app/shed/readme.txt": ""}), "src/app/shed", "not listed")

    def test_line_without_a_room_fails(self):
        layers = ROOMS.replace("app: ", "app/attic: base\napp: ")
        self.assert_one(self.room_problems(layers=layers), "src/app/attic")

    def test_rooms_must_be_one_way(self):
        layers = ROOMS.replace("app/deep: base", "app/deep: base app/front")
        self.assert_one(self.room_problems(layers=layers), "app/deep permits app/front", "not listed above")

    def test_a_room_may_stand_on_the_files_outside_rooms_and_sees_no_other_room(self):
        layers = ROOMS.replace("top: ", "app/late: app\ntop: ")
        late = {"app/late/late.h": '#include "app/app.h"\n'}
        self.assertEqual(self.room_problems(late, layers), [])
        late = {"app/late/late.h": '#include "app/deep/deep.h"\n'}
        self.assert_one(self.room_problems(late, layers), "app/late must not include app/deep")

    def test_a_room_below_what_permits_its_layer_fails(self):
        problems = self.room_problems({"app/late/late.h": ""}, ROOMS + "app/late: top\n")
        self.assert_one(problems, "app/late is listed below top, which permits app")


if __name__ == "__main__":
    unittest.main()
