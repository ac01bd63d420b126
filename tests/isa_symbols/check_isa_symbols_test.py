"""check_isa_symbols.py finds what it is there to find."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from check_isa_symbols import main, shared_symbols  # noqa: E402

OWN = """0000000000000000 D _ZN7chorale10isa_avx5128kKernelsE
0000000000000000 W _ZN7chorale10isa_avx51218accumulate_roundedEPlNS0_3VecE
"""


class CheckIsaSymbolsTest(unittest.TestCase):
    def test_own_symbols(self):
        self.assertEqual(shared_symbols("avx512", OWN), [])

    def test_an_inline_function_of_another_namespace(self):
        shared = "_ZNK7chorale10ThreadPool4sizeEv"
        self.assertEqual(shared_symbols("avx512", f"{OWN}0000000000000000 W {shared}\n"), [shared])

    def test_an_instruction_set_whose_name_begins_alike(self):
        self.assertEqual(len(shared_symbols("avx512_bf16", OWN)), 2)
        self.assertEqual(shared_symbols("avx512", "0 T _ZN7chorale15isa_avx512_bf163addEv"),
                         ["_ZN7chorale15isa_avx512_bf163addEv"])

    def test_no_object(self):
        self.assertEqual(main("nm", ["rows.cpp.o"]), 1)


if __name__ == "__main__":
    unittest.main()
