"""Links for who cannot send a key, an <img> or an EventSource: signed, good for one job's reading, for a while."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.embedded import EmbeddedServer
from server.links import Links
from server.queue_records import ROOT
from tests.server.api.by_hand import Hand
from tests.server.api.events import check_whole, events_of
from tests.server.api.keyed import Holder, KeyedApi, keyed_api
from tests.server.api.running import RunningApi, running_api
from tests.server.api.test_api_generate import PICTURE, problem, while_it_waits
from tests.server.waiting import until

HOUR = 3600


@pytest.fixture(scope="module")
def holder(module_keyed: KeyedApi) -> Holder:
    return module_keyed.holder("one")


def finished(keyed: KeyedApi, holder: Holder, **body: Any) -> dict[str, Any]:
    job = holder.submit(**body)
    keyed.worker.takes().whole_run()
    done: dict[str, Any] = holder.client.get(f"/jobs/{job['id']}").json()
    return done


def token_of(url: str) -> str:
    return url.partition("?token=")[2]


def in_redis_names(keyed: KeyedApi) -> str:
    return str(keyed.db.keys("*"))


def pictures(job: dict[str, Any]) -> list[str]:
    return [made["image"]["url"] for trajectory in job["trajectories"] for made in trajectory["rounds"]]


def test_what_a_key_is_answered_can_be_read_on_without_it(keyed: KeyedApi, holder: Holder) -> None:
    job = finished(keyed, holder)
    links = [job["links"]["self"], job["links"]["events"], *pictures(job)]
    assert len(links) == 4
    assert len({token_of(link) for link in links}) == 1
    for link in links:
        assert keyed.stranger.get(link).status_code == 200
        assert keyed.stranger.head(link).status_code == 200
        assert keyed.stranger.get(link.partition("?")[0]).status_code == 401
    assert keyed.stranger.get(job["links"]["self"]).json() == job, "the links of a link's answer are the same"
    assert keyed.stranger.get(f"{pictures(job)[0]}&download=1").headers["content-disposition"]
    assert "token" not in job["links"]["cancel"] + job["links"]["stop"]


def test_every_answer_and_every_event_carries_tokens(keyed: KeyedApi, holder: Holder) -> None:
    job = finished(keyed, holder)
    [listed] = holder.client.get("/jobs").json()["jobs"]
    assert (listed["links"], listed["trajectories"]) == (job["links"], job["trajectories"])
    events = events_of(holder.client.get(f"/jobs/{job['id']}/events"))
    check_whole(events)
    made = [event.data["image"]["url"] for event in events if event.name in ("image", "trajectory.done")]
    assert [token_of(url) for url in made] == [token_of(job["links"]["self"])] * 3
    assert events[-1].data["job"]["links"] == job["links"]
    keyed.db.delete(f"{ROOT}ev:{job['id']}")
    reset, last = events_of(keyed.stranger.get(job["links"]["events"]))
    assert (reset.name, reset.data["job"]["links"]) == ("stream.reset", job["links"])
    assert last.data["job"]["trajectories"] == job["trajectories"]


def test_live_frames_and_a_waited_answer_carry_tokens(keyed: KeyedApi, holder: Holder) -> None:
    def act(hand: Hand) -> None:
        hand.draws()
        hand.ends("max_rounds")

    for body in ({"stream": True}, {}):
        thread = while_it_waits(keyed.worker, act)
        answer = holder.client.post("/generate", json={"prompt": "a", **body})
        thread.join()
        urls = [part for part in answer.text.split('"') if part.startswith("/images/")]
        assert len(urls) >= 2
        assert all(keyed.stranger.get(url).status_code == 200 for url in urls)


def test_links_stay_equal_within_the_hour_so_that_a_browser_keeps_its_pictures(keyed: KeyedApi, holder: Holder) -> None:
    job = finished(keyed, holder)
    again = holder.client.get(f"/jobs/{job['id']}").json()
    if time.time() % HOUR < HOUR - 5:
        assert again["links"] == job["links"]
    answer = keyed.stranger.get(pictures(job)[0])
    assert answer.headers["cache-control"] == "private, max-age=86400, immutable"


def test_nothing_that_is_signed_is_stored(keyed: KeyedApi, holder: Holder) -> None:
    job = finished(keyed, holder, image=PICTURE)
    token = token_of(job["links"]["self"])
    stored = [str(keyed.db.hgetall(f"{ROOT}job:{job['id']}")), str(keyed.db.xrange(f"{ROOT}ev:{job['id']}"))]
    stored += [str(keyed.db.get(name)) for name in keyed.db.keys(f"{ROOT}img:*")]
    assert "/images/img_" in str(stored)
    assert token not in str(stored)
    assert "token=" not in str(stored)


def test_a_token_is_good_for_its_own_job_alone(keyed: KeyedApi, holder: Holder) -> None:
    first, second = finished(keyed, holder), finished(keyed, holder)
    other = finished(keyed, keyed.holder("other"))
    token = token_of(first["links"]["self"])
    for job in (second, other):
        problem(keyed.stranger.get(f"/jobs/{job['id']}?token={token}"), 404, "job_not_found")
        problem(keyed.stranger.get(f"/jobs/{job['id']}/events?token={token}"), 404, "job_not_found")
        problem(keyed.stranger.get(f"{pictures(job)[0].partition('?')[0]}?token={token}"), 404, "image_not_found")
    for path in ("/jobs", "/info", "/metrics", f"/jobs/{first['id']}/share"):
        assert keyed.stranger.get(f"{path}?token={token}").status_code == 401


def test_a_token_cannot_be_carried_over_to_another_tenant(keyed: KeyedApi, holder: Holder) -> None:
    """Neither by an admin's parameter, nor by a token of that tenant's own making."""
    job = finished(keyed, holder)
    token = token_of(job["links"]["self"])
    answer = keyed.stranger.get(f"/jobs/{job['id']}?token={token}&tenant=other")
    problem(answer, 403, "forbidden")
    secret = str(keyed.db.get(f"{ROOT}token_secret"))
    forged = Links(secret, HOUR).token("other", job["id"], time.time())
    problem(keyed.stranger.get(f"/jobs/{job['id']}?token={forged}"), 404, "job_not_found")


def test_a_token_that_is_over_forged_or_sent_twice_leads_nowhere(keyed: KeyedApi, holder: Holder) -> None:
    job = finished(keyed, holder)
    good = token_of(job["links"]["self"])
    secret = str(keyed.db.get(f"{ROOT}token_secret"))
    over = Links(secret, HOUR).token("one", job["id"], time.time() - 3 * HOUR)
    forged = Links("x" * 64, HOUR).token("one", job["id"], time.time())
    for query in (
        f"token={over}",
        f"token={forged}",
        f"token={good}x",
        f"token={good}&token={good}",
        "token=",
        "token=.",
    ):
        problem(keyed.stranger.get(f"/jobs/{job['id']}?{query}"), 404, "job_not_found")
        assert keyed.stranger.get(f"{pictures(job)[0].partition('?')[0]}?{query}").status_code == 404
        assert holder.client.get(f"/jobs/{job['id']}?{query}").status_code == 200, "a key that is sent too is enough"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/cancel"), ("POST", "/stop"), ("POST", "/share"), ("DELETE", "/share"), ("DELETE", "")],
)
def test_nothing_is_written_by_token(keyed: KeyedApi, holder: Holder, method: str, path: str) -> None:
    job = finished(keyed, holder)
    token = token_of(job["links"]["self"])
    url = f"/jobs/{job['id']}{path}?token={token}"
    problem(keyed.stranger.request(method, url), 401, "unauthorized")
    problem(holder.client.request(method, url), 422, "invalid_request")
    problem(keyed.stranger.post(f"/generate?token={token}", json={"prompt": "a"}), 401, "unauthorized")
    problem(holder.client.post(f"/generate?token={token}", json={"prompt": "a"}), 422, "invalid_request")
    assert keyed.stranger.get(job["links"]["self"]).status_code == 200


def test_links_that_were_made_by_hand_go_on_working_beside_keys(keyed: KeyedApi, holder: Holder) -> None:
    job = finished(keyed, holder)
    problem(keyed.stranger.post(f"/jobs/{job['id']}/share", json={"expires_s": 60}), 401, "unauthorized")
    url = holder.client.post(f"/jobs/{job['id']}/share", json={"expires_s": 60}).json()["url"]
    read = keyed.stranger.get(url).json()
    assert read["links"]["self"] == url
    assert {token_of(link) for link in pictures(read)} == {token_of(url)}
    assert keyed.stranger.get(pictures(read)[0]).status_code == 200
    check_whole(events_of(keyed.stranger.get(read["links"]["events"])))
    assert holder.client.delete(f"/jobs/{job['id']}/share").status_code == 204
    problem(keyed.stranger.get(url), 404, "job_not_found")


def test_every_api_process_knows_the_others_links(keyed: KeyedApi, holder: Holder, tmp_path: Path) -> None:
    job = finished(keyed, holder)
    with running_api(keyed.url, tmp_path, auth="keys") as second, httpx.Client(base_url=second.url) as stranger:
        assert stranger.get(job["links"]["self"]).json()["links"] == job["links"]


def test_processes_agree_on_another_secret_where_the_one_in_redis_is_lost(keyed: KeyedApi, tmp_path: Path) -> None:
    holder = keyed.holder("one")
    job = finished(keyed, holder)
    with running_api(keyed.url, tmp_path, auth="keys") as second, httpx.Client(base_url=second.url) as stranger:
        assert stranger.get(job["links"]["self"]).status_code == 200
        keyed.db.delete(f"{ROOT}token_secret")
        keyed.holder("two")  # a change, so that all look again
        until(lambda: keyed.stranger.get(job["links"]["self"]).status_code == 404)
        until(lambda: stranger.get(job["links"]["self"]).status_code == 404)
        fresh = holder.client.get(f"/jobs/{job['id']}").json()["links"]["self"]
        assert (keyed.stranger.get(fresh).status_code, stranger.get(fresh).status_code) == (200, 200)


def test_a_secret_of_the_operators_signs_in_place_of_that_in_redis(valkey: EmbeddedServer, tmp_path: Path) -> None:
    def shown(api: RunningApi, path: str) -> int:
        with httpx.Client(base_url=api.url) as stranger:
            return stranger.get(path).status_code

    with keyed_api(valkey.url, tmp_path, token_secret="a" * 32) as keyed:
        job = finished(keyed, keyed.holder("one"))
        assert shown(keyed.api, job["links"]["self"]) == 200
        assert not keyed.db.exists(f"{ROOT}token_secret")
        for secret, status in (("a" * 32, 200), ("b" * 32, 404)):
            with running_api(keyed.url, tmp_path, auth="keys", token_secret=secret) as second:
                assert shown(second, job["links"]["self"]) == status


@pytest.mark.parametrize("ttl_s", [60, 10 * HOUR])
def test_links_are_good_for_as_long_as_the_operator_says_and_on_to_the_next_full_hour(
    valkey: EmbeddedServer, tmp_path: Path, ttl_s: int
) -> None:
    secret = "a" * 32
    with keyed_api(valkey.url, tmp_path, token_secret=secret, link_ttl_s=ttl_s) as keyed:
        holder, asked_at_s = keyed.holder("one"), time.time()
        job = holder.submit()
    token, links = token_of(job["links"]["self"]), Links(secret, 0)
    assert links.read(token, asked_at_s + ttl_s - 1) == ("one", job["id"])
    assert links.read(token, time.time() + ttl_s + HOUR) is None


def test_without_keys_no_link_carries_a_token(valkey: EmbeddedServer, tmp_path: Path) -> None:
    with keyed_api(valkey.url, tmp_path, auth="auto") as keyed:
        job = keyed.api.submit()
        keyed.worker.takes().whole_run()
        assert "token=" not in keyed.api.client.get(f"/jobs/{job['id']}").text
        assert "token=" not in keyed.api.client.get(f"/jobs/{job['id']}/events").text
        assert "token_secret" not in in_redis_names(keyed)


def test_a_token_is_in_no_log_line(keyed: KeyedApi, holder: Holder, capsys: pytest.CaptureFixture[str]) -> None:
    job = finished(keyed, holder)
    token = token_of(job["links"]["self"])
    for path in (f"/jobs/{job['id']}", f"/jobs/{job['id']}/events", f"/jobs/{job['id']}/cancel", "/nope"):
        keyed.stranger.get(f"{path}?token={token}")
        keyed.stranger.post(f"{path}?token={token}")
    logged = capsys.readouterr().out
    assert "request" in logged
    assert token not in logged


def test_a_link_that_is_looked_at_too_often_is_refused_and_no_other(valkey: EmbeddedServer, tmp_path: Path) -> None:
    with keyed_api(valkey.url, tmp_path, requests_per_min=40) as keyed:
        holder = keyed.holder("one", requests_per_min=1000)
        first, second = finished(keyed, holder), finished(keyed, holder)
        for _ in range(40):
            assert keyed.stranger.get(first["links"]["self"]).status_code == 200
        until(lambda: keyed.stranger.get(first["links"]["self"]).status_code == 429, timeout_s=5)
        assert keyed.stranger.get(second["links"]["self"]).status_code == 200
        assert holder.client.get(f"/jobs/{first['id']}").status_code == 200


def test_nobodys_link_is_counted_nowhere(keyed: KeyedApi) -> None:
    assert keyed.stranger.get(f"/jobs/job_{'0' * 32}?token=x").status_code == 404
    assert "bucket:link:" not in in_redis_names(keyed)
