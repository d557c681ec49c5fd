"""Webhooks from a job's end to a real receiver: at least once, always the same id, never again after a 2xx, signed."""

from __future__ import annotations

import asyncio
import json
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import redis
import structlog
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import WebhookVerificationError

from server import hook_delivery
from server.authority import Authority
from server.hook_delivery import GIVE_UP_S, Deliveries, retry_delay_s
from server.hook_rules import Allowed
from server.hook_sender import Sender
from server.images import ImageStore, StoreAway
from server.queue import Queue
from server.queue_records import Ending
from server.queue_worker import WorkerQueue
from server.settings import Settings
from tests.server.delivering import TLS, cancelled, due, made, turn, waiting
from tests.server.jobs import leased, picture_done, submitted
from tests.server.receiving import Receiver, receiving

pytestmark = pytest.mark.row("W2")


def outcomes(deliveries: Deliveries) -> dict[str, float]:
    """The counter."""
    return {
        sample.labels["outcome"]: sample.value
        for metric in deliveries._outcomes.collect()
        for sample in metric.samples
        if sample.name == "r3_webhooks_total"
    }


async def secret_of(queue: Queue, tenant: str = "local") -> str:
    [secret] = await queue.hooks.signing_secrets(tenant)
    return secret


async def test_a_finished_job_is_told_signed_as_the_api_shows_it(
    queue: Queue, worker: WorkerQueue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis
) -> None:
    sent = await submitted(queue, webhook={"url": receiver.url, "events": None}, metadata={"order": "7"})
    lease = leased(worker)
    assert worker.checkpoint(sent, lease.token, picture_done(lease, 1, ending=Ending("succeeded"))) == "ok"
    await turn(deliveries)
    [got] = receiver.received
    assert got.path == "/path-secret?token=query-secret"
    said = got.verified(await secret_of(queue))
    assert said["type"] == "job.succeeded"
    assert said["timestamp"] == said["data"]["finished_at"]
    stored = await queue.job(sent)
    assert stored is not None
    shown = await deliveries._presenter.job(stored)
    assert said["data"] == json.loads(json.dumps(shown))
    assert said["data"]["metadata"] == {"order": "7"}
    assert said["data"]["trajectories"][0]["rounds"][0]["image"]["url"] == "/images/img_0_0"
    assert (got.headers["content-type"], waiting(db)) == ("application/json", [])
    assert outcomes(deliveries) == {"delivered": 1}


async def test_links_are_signed_though_no_request_came_before(
    queue: Queue, worker: WorkerQueue, store: ImageStore, receiver: Receiver
) -> None:
    authority = Authority(Settings(auth="keys"))
    authority.connect(queue)
    await submitted(queue, webhook={"url": receiver.url, "events": None})
    lease = leased(worker)
    worker.checkpoint(lease.id, lease.token, picture_done(lease, 1, ending=Ending("succeeded")))
    await turn(made(queue, store, authority=authority))
    said = json.loads(receiver.received[0].body)["data"]
    assert "?token=" in said["links"]["self"]
    assert "?token=" in said["trajectories"][0]["rounds"][0]["image"]["url"]


@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_other_ends_are_told_too(
    queue: Queue, worker: WorkerQueue, deliveries: Deliveries, receiver: Receiver, status: str, db: redis.Redis
) -> None:
    sent = await submitted(queue, webhook={"url": receiver.url, "events": [f"job.{status}"]})
    if status == "failed":  # three workers lost: poison
        for _ in range(3):
            leased(worker)
            db.zadd("{r3}:lease:tiny", {sent: 1.0})
        assert worker.lease("tiny", 1, 0) == []
    else:
        await queue.cancel(sent)
    await turn(deliveries)
    said = receiver.received[0].verified(await secret_of(queue))
    assert (said["type"], said["data"]["id"], said["data"]["status"]) == (f"job.{status}", sent, status)
    assert (said["data"]["error"] or {}).get("code") == ("poison_job" if status == "failed" else None)


async def test_a_receiver_that_is_down_three_times_is_sent_it_again_with_the_same_id_and_then_never_more(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis
) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True

    receiver.answers = [500, hang_up, 302]
    sent = await cancelled(queue, receiver.url)
    tries = []
    for _ in range(4):
        due(db, sent)
        await turn(deliveries)
        tries.append(db.hget(f"{{r3}}:job:{sent}", "hook_tries"))
    assert tries == ["1", "2", "3", "3"]
    for _ in range(3):
        due(db, sent)
        await turn(deliveries)
    assert len(receiver.received) == 4
    assert {got.id for got in receiver.received} == {f"msg_{sent.removeprefix('job_')}"}
    for got in receiver.received:
        assert got.verified(await secret_of(queue))["data"]["id"] == sent
    assert (waiting(db), outcomes(deliveries)) == ([], {"delivered": 1, "failed": 3})


async def test_where_nobody_listens_it_is_tried_again(queue: Queue, deliveries: Deliveries, db: redis.Redis) -> None:
    with receiving() as gone:
        url = gone.url
    sent = await cancelled(queue, url)
    await turn(deliveries)
    assert waiting(db) == [sent]
    with receiving() as back:
        db.hset(f"{{r3}}:job:{sent}", "webhook", json.dumps({"url": back.url}))
        due(db, sent)
        await turn(deliveries)
        assert len(back.received) == 1


async def test_after_a_rotation_old_and_new_secret_verify(
    queue: Queue, deliveries: Deliveries, receiver: Receiver
) -> None:
    old = await queue.hooks.show_secret("local")
    new = await queue.hooks.rotate_secret("local")
    await cancelled(queue, receiver.url)
    await turn(deliveries)
    [got] = receiver.received
    assert got.verified(new) == got.verified(old or "")
    with pytest.raises(WebhookVerificationError):
        got.verified(await secret_of(queue, "another"))


async def test_the_verification_in_the_docs_tells_right_from_wrong(
    queue: Queue, deliveries: Deliveries, receiver: Receiver
) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text("utf-8")
    [_, code] = docs.split("```python\n")
    told: dict[str, Any] = {}
    exec(code.partition("```")[0], told)
    secret = await queue.hooks.rotate_secret("local")
    await queue.hooks.rotate_secret("local")
    await cancelled(queue, receiver.url)
    await turn(deliveries)
    [got] = receiver.received
    assert told["genuine"](secret, got.headers, got.body) == got.verified(secret)
    for headers, body in (
        (got.headers, got.body + b" "),
        ({**got.headers, "webhook-id": "msg_1"}, got.body),
        ({**got.headers, "webhook-timestamp": "1767225600"}, got.body),
    ):
        with pytest.raises(ValueError, match="message"):
            told["genuine"](secret, headers, body)


async def test_tenants_sign_with_their_own_secrets(queue: Queue, deliveries: Deliveries, receiver: Receiver) -> None:
    for tenant in ("acme", "other"):
        await cancelled(queue, receiver.url, tenant)
        await turn(deliveries)
    first, second = receiver.received
    first.verified(await secret_of(queue, "acme"))
    second.verified(await secret_of(queue, "other"))
    with pytest.raises(WebhookVerificationError):
        second.verified(await secret_of(queue, "acme"))


async def test_a_job_deleted_meanwhile_ends_the_delivery(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis
) -> None:
    receiver.answers = [500]
    sent = await cancelled(queue, receiver.url)
    await turn(deliveries)
    assert await queue.delete(sent) == "deleted"
    due(db, sent)
    await turn(deliveries)
    assert (len(receiver.received), waiting(db)) == (1, [])


async def test_a_receiver_that_is_gone_for_good_ends_the_delivery(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis
) -> None:
    receiver.answers = [410]
    await cancelled(queue, receiver.url)
    await turn(deliveries)
    assert (waiting(db), outcomes(deliveries)) == ([], {"dropped": 1})


async def test_after_24_hours_it_is_dropped_with_one_warning_and_counted(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis
) -> None:
    late, too_late = [await cancelled(queue, receiver.url) for _ in range(2)]
    db.hincrby(f"{{r3}}:job:{late}", "finished", -int(GIVE_UP_S * 1000) + 3000)
    db.hincrby(f"{{r3}}:job:{too_late}", "finished", -int(GIVE_UP_S * 1000))
    expired = await cancelled(queue, receiver.url)
    db.delete(f"{{r3}}:job:{expired}")
    receiver.answers = [500]
    with structlog.testing.capture_logs() as lines:
        await turn(deliveries)
        await turn(deliveries)
    warned = [line["job_id"] for line in lines if line["log_level"] == "warning"]
    assert sorted(warned) == sorted([late, too_late, expired])
    assert outcomes(deliveries) == {"dropped": 3, "failed": 1}
    assert (len(receiver.received), waiting(db)) == (1, [])


async def test_what_may_not_be_sent_to_any_more_is_not_sent_and_tried_again(
    queue: Queue, store: ImageStore, receiver: Receiver, db: redis.Redis
) -> None:
    async def rebound(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    deliveries = made(queue, store, Sender(Allowed.parse(["hooks.example.com"]), TLS, rebound))
    sent = await cancelled(queue, f"http://hooks.example.com:{receiver.port}/x?token=query-secret")
    with structlog.testing.capture_logs() as lines:
        await turn(deliveries)
    assert (receiver.received, waiting(db)) == ([], [sent])
    assert outcomes(deliveries) == {"refused": 1}
    [warning] = [line for line in lines if line["log_level"] == "warning"]
    assert "127.0.0.1" in warning["reason"]


async def test_no_log_line_holds_a_secret_a_path_or_a_query(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [500, 302]
    sent = await cancelled(queue, receiver.url)
    secret = await secret_of(queue)
    with caplog.at_level("DEBUG"), structlog.testing.capture_logs() as lines:
        for _ in range(3):
            due(db, sent)
            await turn(deliveries)
    text = repr(lines) + caplog.text
    assert [line["event"] for line in lines].count("webhook failed") == 2
    assert not any(word in text for word in ("path-secret", "query-secret", secret, "a cat"))


async def test_pictures_that_cannot_be_read_in_time_put_the_message_off(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(_: object) -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    monkeypatch.setattr(hook_delivery, "COMPOSE_S", 0.05)
    monkeypatch.setattr(deliveries._presenter, "job", stuck)
    sent = await cancelled(queue, receiver.url)
    await turn(deliveries)
    assert (receiver.received, waiting(db), outcomes(deliveries)) == ([], [sent], {"failed": 1})


async def test_a_message_whose_pictures_are_away_is_sent_once_they_are_back(
    queue: Queue, deliveries: Deliveries, receiver: Receiver, db: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(_: object) -> dict[str, Any]:
        raise StoreAway("the image store does not answer")

    sent = await cancelled(queue, receiver.url)
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(deliveries._presenter, "job", away)
        with structlog.testing.capture_logs() as lines:
            await turn(deliveries)
    assert [line["event"] for line in lines] == ["webhook failed"], "no traceback: it is nobody's mistake"
    assert (receiver.received, waiting(db), outcomes(deliveries)) == ([], [sent], {"failed": 1})
    due(db, sent)
    await turn(deliveries)
    assert len(receiver.received) == 1


@given(st.floats(0, 1))
def test_retries_grow_and_end_within_24_hours(luck: float) -> None:
    age_s = 0.0
    delays: list[float] = []
    while (delay_s := retry_delay_s(len(delays) + 1, age_s, luck)) is not None:
        delays.append(delay_s)
        age_s += delay_s
    assert 3 <= delays[0] <= 7
    assert delays == sorted(delays)
    assert 9 <= len(delays) <= 16
    assert 19 * 3600 < age_s < 24 * 3600
