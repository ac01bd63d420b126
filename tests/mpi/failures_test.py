"""What the ranks do when one of them fails: failures_test.py PROGRAM MPIRUN [mpirun's arguments]."""

import re
import subprocess
import sys
import time
import unittest

PROGRAM, MPIRUN = sys.argv[1], sys.argv[2:]
LINE = re.compile(r"^rank (\d) ends after ([\d.]+) ms: (.*) \[(-?\d+) (-?\d+)\]$", re.MULTILINE)


def run(*arguments, ranks=4):
    """The program's exit status, its output, and its lines as {rank: (milliseconds, text, named rank, known rank)}."""
    start = time.monotonic()
    done = subprocess.run([*MPIRUN, "-n", str(ranks), PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=60)
    seconds = time.monotonic() - start
    assert seconds < 10, f"{seconds} s: {done.stdout}"
    lines = {int(rank): (float(ms), text, int(named), int(known)) for rank, ms, text, named, known
             in LINE.findall(done.stdout)}
    return done.returncode, done.stdout, lines


class Failures(unittest.TestCase):
    def expect(self, way, text, most_ms, victim=1, ranks=4):
        status, output, lines = run(way, str(victim), "patient", ranks=ranks)
        self.assertNotEqual(status, 0)
        if way == "stops":
            lines.pop(victim, None)  # mpirun lets it go on to end it
        self.assertEqual(sorted(lines), [rank for rank in range(ranks) if rank != victim], output)
        for milliseconds, said, named, known in lines.values():
            self.assertEqual(said, f"rank {victim} failed: {text}")
            self.assertEqual((named, known), (victim, victim))
            self.assertLess(milliseconds, most_ms)

    # The limits on time are for machines that are busy with other tests; without such work it takes about a
    # millisecond.
    def test_killed(self):
        self.expect("killed", "its process has ended", 1000)

    def test_killed_while_idle(self):
        self.expect("idle", "its process has ended", 1000)

    def test_throws(self):
        self.expect("throws", "out of memory", 1000)

    def test_hangs(self):
        self.expect("hangs", "it did not come to a collective operation within 0.7 s", 5000)

    def test_stopped_while_it_waits(self):
        # The other of its pair waits for it, and the rest for both.
        for victim in (4, 5, 7):
            with self.subTest(victim=victim):
                self.expect("stops", "it did not come to a collective operation within 0.7 s", 5000, victim, 8)

    def test_killed_and_mpirun_ends_the_others(self):
        # Whichever is faster names the rank: another rank, or mpirun.
        status, output, _ = run("killed", "1")
        self.assertNotEqual(status, 0)
        self.assertRegex(output, r"rank 1 failed: its process has ended|process rank 1 .* exited on signal 9")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
