"""What Python's garbage collector looks through: what came since a process began to serve, and nothing at its end."""

from __future__ import annotations

import subprocess
import sys

COUNTED = """
import atexit, gc
from server import collector

class Old:
    pass

usual = gc.get_threshold()
collector.leave_out_at_end()
loaded = [[] for _ in range(2000)]
before = gc.get_freeze_count()
collector.begin()
assert gc.get_threshold() == usual
assert gc.get_freeze_count() >= before + 2000

cycle = Old()
cycle.itself = cycle
del cycle
assert gc.collect() >= 1  # what came later is collected
kept = [[] for _ in range(2000)]
before = gc.get_freeze_count()
atexit._run_exitfuncs()
assert gc.get_freeze_count() >= before + 2000
"""


def test_what_was_there_at_the_start_is_left_out_and_so_is_all_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
