"""Pictures sent at once: each waits for its turn, so that their memory does not add up."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from r3core.checkpoint import Description
from server import start_image
from server.pictures import StartPicture, start_picture
from tests.server.api.running import RunningApi
from tests.server.api.test_api_generate import PICTURE

pytestmark = pytest.mark.row("F3")


def test_of_many_pictures_sent_at_once_two_are_decoded_at_a_time(
    api: RunningApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, now, most = threading.Lock(), [0], [0]

    def slowly(data: bytes, description: Description) -> StartPicture:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.1)
        try:
            return start_picture(data, description)
        finally:
            with lock:
                now[0] -= 1

    monkeypatch.setattr(start_image, "start_picture", slowly)
    with ThreadPoolExecutor(8) as senders:
        jobs = list(senders.map(lambda _: api.submit(image=PICTURE), range(8)))
    assert len({job["id"] for job in jobs}) == 8
    assert most[0] == 2
