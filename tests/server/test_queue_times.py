"""How the scripts write a moment: Lua has no dates in Redis, so that theirs are reckoned there."""

from __future__ import annotations

import random
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import redis

from server.queue_scripts import script

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def moments() -> list[datetime]:
    """The first and the last millisecond of each month and of each day around leap days, and some thousands between."""
    firsts = [datetime(year, month, 1, tzinfo=UTC) for year in range(2000, 2101) for month in range(1, 13)]
    leap = [datetime(year, 2, 27, tzinfo=UTC) + timedelta(days=i) for year in range(2000, 2101) for i in range(4)]
    some = random.Random(0)
    between = [first + (then - first) // MS * some.random() * MS for first, then in pairwise(firsts) for _ in range(3)]
    return [moment - ms for moment in (*firsts, *leap) for ms in (MS, 0 * MS)] + between


def test_the_scripts_write_every_moment_of_the_century_as_rfc_3339_has_it(db: redis.Redis) -> None:
    found = re.search(r"^local function rfc3339\(.*?^end$", script("publish").text, re.MULTILINE | re.DOTALL)
    assert found is not None
    program = (
        f"{found[0]}\nlocal told = {{}}\nfor i, ms in ipairs(ARGV) do told[i] = rfc3339(tonumber(ms)) end return told"
    )
    asked = [(moment - EPOCH) // MS for moment in moments()]
    told = db.eval(program, 0, *asked)
    expected = [(EPOCH + ms * MS).isoformat(timespec="milliseconds").replace("+00:00", "Z") for ms in asked]
    assert len(expected) > 5000
    assert told == expected
