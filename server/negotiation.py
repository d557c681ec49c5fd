"""How a request wants to be answered: as a stream, at once, or after a wait. Pure; RFC 9110 (Accept) and RFC 7240
(Prefer).

`stream` in the body decides, else Accept, else Prefer. Preferences that are malformed or not known are ignored, as
RFC 7240 says, and `Preference-Applied` says which were not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mode:
    """Stream the events, or wait `wait_s` seconds (0: not at all) and answer with the job.

    `applied` is the preference that was followed.
    """

    stream: bool = False
    wait_s: float = 0.0
    applied: str | None = None


def mode_of(stream: bool | None, accept: Sequence[str], prefer: Sequence[str], longest_wait_s: float) -> Mode:
    """The mode that the body's `stream` and all Accept and Prefer header lines ask for."""
    if stream or (stream is None and _prefers_events(accept)):
        return Mode(stream=True)
    preferences = dict(_preferences(prefer))
    seconds = preferences.get("wait", "")
    if seconds.isdecimal():
        wait_s = min(float(seconds[:9]), longest_wait_s)
        return Mode(wait_s=wait_s, applied=f"wait={wait_s:g}")
    if "respond-async" in preferences:
        return Mode(applied="respond-async")
    return Mode(wait_s=longest_wait_s)


def _prefers_events(accept: Sequence[str]) -> bool:
    """Whether an event stream is asked for by name, and JSON not rather: by quality, then by which stands first."""
    ranges = list(_media_ranges(accept))
    qualities, order = dict(reversed(ranges)), [name for name, _ in ranges]
    events, json = qualities.get("text/event-stream", 0.0), qualities.get("application/json", 0.0)
    if events == json and events > 0:
        return order.index("text/event-stream") < order.index("application/json")
    return events > json


def _media_ranges(accept: Sequence[str]) -> Iterator[tuple[str, float]]:
    for item in _items(accept):
        name, *parameters = (part.strip() for part in item.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        try:
            yield name.lower(), float(quality)
        except ValueError:
            continue


def _preferences(prefer: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and value of each preference; the first of a name counts, so they come last to first."""
    for item in reversed(list(_items(prefer))):
        name, _, value = item.partition(";")[0].partition("=")
        yield name.strip().lower(), value.strip().strip('"')


def _items(lines: Iterable[str]) -> Iterator[str]:
    return (item.strip() for line in lines for item in line.split(",") if item.strip())
