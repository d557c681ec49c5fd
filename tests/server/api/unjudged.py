"""What jobs without `judge` answer and tell, as texts that can be compared: ids, times and hashes numbered in their
order, deltas of a text joined.

    PYTHONPATH=<a build> python -P tests/server/api/unjudged.py unjudged.json     what that build says
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from r3core.fake import FakeRunner
from server.settings import Settings
from tests.server.api.running import running_api
from tests.server.processes import private_server
from tests.server.waiting import until
from tests.server.working import RunningWorker

FEW: Final[dict[str, Any]] = {"generate": {"num_timesteps": 5}, "refine": {"num_timesteps": 5}}
PIXEL: Final = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"  # one red one
)
CASES: Final[dict[str, dict[str, Any]]] = {
    "plain": {"prompt": "a cat edits=2", "seed": 7, **FEW},
    "tries": {"prompt": "a cat edits=1", "seed": 2**53 - 1, "n": 2, "early_stop": False, "max_rounds": 2, **FEW},
    "malformed": {"prompt": "a cat malformed=0", "seed": 7, "metadata": {"for": "a test"}, **FEW},
    "forced": {"prompt": "a cat edits=0", "seed": 7, "min_rounds": 1, "max_rounds": 1, "output_format": "webp", **FEW},
    "confirmed": {"prompt": "a cat edits=0", "seed": 7, "early_stop": {"confirmations": 2}, "think": False, **FEW},
    "given": {"prompt": "a cat edits=2", "seed": 7, "image": PIXEL, "instruction": "Make it blue.", **FEW},
    "alone": {"prompt": "a cat", "seed": 7, "max_rounds": 0, "deadline_s": 60, "priority": "high", **FEW},
    "failed": {"prompt": "a cat raise=refine", "seed": 7, **FEW},
}
_MASKED: Final = (
    (re.compile(r"job_[0-9a-f]{32}"), "job_{}"),
    (re.compile(r"img_[0-9a-f]{32}"), "img_{}"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "hash_{}"),
    (re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z"), "now"),
    (re.compile(r'(?<="compute_s":)[0-9.e-]+'), "0"),
    (re.compile(r'(?<="eta_s":)[0-9.e-]+'), "0"),
    (re.compile(r'(?<="created":)\d+'), "0"),
    (re.compile(r'(?<="request_id":")[^"]+'), "this"),
    (re.compile(r', ?"step_cache": ?1(?=})'), ""),  # every setting is shown, one that came later too
)


def told(client: httpx.Client) -> dict[str, Any]:
    """By case the answer, the job and its events; and an answer under /v1."""
    said: dict[str, Any] = {}
    for name, body in CASES.items():
        answer = client.post("/generate", json=body)
        job_id = re.findall(r"job_[0-9a-f]{32}", answer.text)[0]
        texts = [answer.text, client.get(f"/jobs/{job_id}").text]
        events = client.get(f"/jobs/{job_id}/events").text
        # Of several trajectories at once the pieces come as the clock has it.
        texts += _joined(events) if body.get("n", 1) == 1 else []
        said[name] = _masked(texts)
    asked = {"prompt": "a cat", "response_format": "url", "r3": {"seed": 7, **FEW}}
    said["openai"] = _masked([client.post("/v1/images/generations", json=asked).text.replace(str(client.base_url), "")])
    return said


def _joined(stream: str) -> list[str]:
    """Each event's name and data, the deltas of one text as one."""
    found: list[str] = []
    pieces = ""
    for block in stream.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" not in fields:
            continue
        if fields["event"].endswith(".delta"):
            data = json.loads(fields["data"])
            pieces += data["text"]
            fields["data"] = json.dumps({**data, "text": pieces}, separators=(",", ":"))
            if found and found[-1].startswith(fields["event"]):
                found.pop()
        else:
            pieces = ""
        found.append(f"{fields['event']} {fields['data']}")
    return found


def _masked(texts: list[str]) -> list[str]:
    whole = "\n".join(texts)
    for pattern, shown in _MASKED:
        found = list(dict.fromkeys(pattern.findall(whole)))
        whole = pattern.sub(lambda match: shown.format(found.index(match[0])), whole)  # noqa: B023 - called at once
    return whole.split("\n")


@contextmanager
def serving(redis_url: str, data_dir: Path) -> Iterator[httpx.Client]:
    """An API and a worker with the fake model, for as long as the block lasts."""
    settings = Settings(redis_url=redis_url, data_dir=data_dir)
    with running_api(redis_url, data_dir) as api:
        worker = RunningWorker(settings, FakeRunner())
        try:
            until(lambda: api.client.get("/readyz?workers=1").status_code == 200)
            yield api.client
        finally:
            assert worker.leave() == 0


if __name__ == "__main__":
    with (
        private_server() as server,
        tempfile.TemporaryDirectory() as folder,
        serving(server.url, Path(folder)) as asked,
    ):
        text = json.dumps(told(asked), indent=1, ensure_ascii=False)
    Path(sys.argv[1]).write_text(f"{text}\n", encoding="utf-8")
