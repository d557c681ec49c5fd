"""When Python's garbage collector runs: seldom while a command starts, as usual once it serves, not at its end."""

from __future__ import annotations

import subprocess
import sys

COUNTED = """
import atexit, gc
from server import collector

passes = []
gc.callbacks.append(lambda phase, info: passes.append(info["generation"]) if phase == "start" else None)
usual = gc.get_threshold()

class Old:
    pass

def passed_in(make):
    passes.clear()
    make()
    return len(passes)

def many():
    return [[] for _ in range(40_000)]

assert passed_in(many) > 10
collector.put_off()
assert passed_in(many) == 0
collector.begin()
assert gc.get_threshold() == usual
assert gc.get_freeze_count() > 1000
assert passed_in(many) > 10

cycle = Old()
cycle.itself = cycle
del cycle
assert gc.collect() >= 1  # what came later is collected
kept = [[] for _ in range(10)]
before = gc.get_freeze_count()
atexit._run_exitfuncs()
assert gc.get_freeze_count() > before
"""


def test_it_is_put_off_while_a_command_starts_and_collects_as_usual_from_then_on() -> None:
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
