"""scripts/check_sass.py finds what it is there to find."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from check_sass import check, parse  # noqa: E402

RESOURCES = """
Fatbin elf code:
Resource usage:
 Function _ZN1a10mma_kernelIfEEvPf:
  REG:90 STACK:0 SHARED:1024 LOCAL:0 CONSTANT[0]:544 TEXTURE:0 SURFACE:0 SAMPLER:0
 Function _ZN1a10add_kernelEPf:
  REG:12 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:544 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
SASS = """
\t\tFunction : _ZN1a10mma_kernelIfEEvPf
\t.headerflags\t@"EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;             /* 0x00000a00ff017b82 */
                                                                      /* 0x000fe20000000800 */
        /*0010*/               @P0 HGMMA.64x64x16.F32.BF16 R24, gdesc[UR4], RZ ; /* 0x0 */
\t\tFunction : _ZN1a10add_kernelEPf
        /*0000*/              @!UP1 LDG.E.128 R4, [R2] ;              /* 0x0 */
"""


def table(**kernels):
    return {"default": {"registers": 96, "stack": 0, "without": ["LDL", "STL"]}, "kernels": kernels}


class CheckSassTest(unittest.TestCase):
    def problems(self, rules, resources=RESOURCES, sass=SASS):
        return check(rules, parse(resources, sass))

    def assert_one(self, problems, *parts):
        self.assertEqual(len(problems), 1, problems)
        for part in parts:
            self.assertIn(part, problems[0])

    def test_what_holds_passes(self):
        self.assertEqual(self.problems(table(mma_kernel={"with": ["HGMMA"]}, add_kernel={"with": ["LDG.E.128"]})), [])

    def test_missing_instruction_fails(self):
        self.assert_one(self.problems(table(add_kernel={"with": ["HGMMA"]})), "add_kernel", "no HGMMA")

    def test_instruction_that_no_kernel_of_the_name_has_fails(self):
        self.assertEqual(self.problems(table(add_kernel={"somewhere": ["LDG.E.128"]})), [])
        self.assert_one(self.problems(table(add_kernel={"somewhere": ["STG"]})), "named add_kernel has STG")

    def test_spill_instruction_fails_anywhere(self):
        sass = SASS.replace("LDG.E.128 R4", "STL.64 R4")
        self.assert_one(self.problems(table(), sass=sass), "add_kernel", "has STL")

    def test_stack_fails(self):
        resources = RESOURCES.replace("REG:12 STACK:0", "REG:12 STACK:8")
        self.assert_one(self.problems(table(), resources), "add_kernel", "8 stack")

    def test_registers_fail(self):
        self.assert_one(self.problems(table(mma_kernel={"registers": 89})), "mma_kernel", "90 registers", "89")

    def test_a_name_is_whole(self):
        self.assert_one(self.problems(table(dd_kernel={})), "no kernel is named dd_kernel")
        self.assert_one(self.problems(table(mma={})), "no kernel is named mma")

    def test_what_cannot_be_read_fails(self):
        self.assert_one(self.problems(table(), "", ""), "no kernels were found")
        self.assertEqual(len(self.problems(table(), sass="")), 2)

    def test_unknown_field_fails(self):
        self.assert_one(self.problems(table(add_kernel={"register": 3})), "unknown field", "register")


if __name__ == "__main__":
    unittest.main()
