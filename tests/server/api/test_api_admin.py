"""/admin: the queues, pausing, everyone's jobs, and another try; each act leaves its one line."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from structlog.testing import capture_logs

from r3core.checkpoint import describe
from server.admin_views import OperatorJobList, OperatorJobView, QueueView
from server.embedded import EmbeddedServer
from server.keys import Scope, TenantLimits
from server.queue_records import Ending
from tests.server.api.by_hand import TINY, HandWorker, png
from tests.server.api.keyed import KeyedApi
from tests.server.api.running import RunningApi, running_api
from tests.server.api.test_api_generate import problem

PICTURE = base64.b64encode(png((10, 200, 30), (320, 256))).decode()
CHECKPOINT = Path(__file__).parents[2] / "golden" / "checkpoint"


def post(api: RunningApi, path: str, body: Any = None) -> Any:
    return api.client.post(f"/admin{path}", **({} if body is None else {"json": body}))


def good(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def acts(capsys: pytest.CaptureFixture[str], *events: str) -> list[str]:
    """The lines of the audit log since the last look, of those acts or of all."""
    lines = re.findall(r"^who=.*$", capsys.readouterr().out, re.MULTILINE)
    return [line for line in lines if not events or any(f"event='{event}'" in line for event in events)]


def failed_job(api: RunningApi, worker: HandWorker, **body: Any) -> dict[str, Any]:
    job = api.submit(**body)
    worker.takes().fails("step_failed", "it broke")
    return api.job(job["id"])


# the queues


def test_the_queue_shows_models_and_workers(api: RunningApi, worker: HandWorker) -> None:
    api.submit()
    api.submit()
    worker.takes()
    worker.queue.heartbeat({"model": TINY.name, "version": "1", "room": 3, "holding": 1, "started_at_s": 1})
    shown = good(api.client.get("/admin/queue"))
    QueueView.model_validate(shown)
    [model], [one] = shown["models"], shown["workers"]
    assert (model["model"], model["waiting"], model["running"], model["workers"]) == ("tiny", 1, 1, 1)
    assert (model["paused"], model["seconds_left"], shown["all_paused"]) == (False, None, False)
    assert (one["model"], one["room"], one["holding"], one["draining"]) == ("tiny", 3, 1, False)
    assert one["started_at"] == "1970-01-01T00:00:01.000Z"


@pytest.mark.parametrize("body", [{}, {"model": "tiny"}, {"model": None}])
def test_a_pause_holds_back_what_waits_and_takes_what_comes(
    api: RunningApi, worker: HandWorker, body: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    paused = good(post(api, "/queue/pause", body))
    QueueView.model_validate(paused)
    assert (paused["models"][0]["paused"], paused["all_paused"]) == (True, not body.get("model"))
    job = api.submit()
    assert (job["status"], job["eta_s"]) == ("queued", None)
    assert worker.queue.lease(TINY.name, 4, 0) == []
    assert good(api.client.get("/readyz"))["status"] == "ready"
    assert 'r3_queue_paused{model="tiny"} 1.0' in api.client.get("/metrics").text
    assert not good(post(api, "/queue/resume", body))["models"][0]["paused"]
    assert worker.takes().lease.id == job["id"]
    of = body.get("model") or "all"
    lines = acts(capsys)
    who = "who='local' from_='127.0.0.1' tenant='local'"
    said = [f"{who} model='{of}' event='queue {act}'" for act in ("paused", "resumed")]
    assert [line.partition(" request_id=")[0] for line in lines] == said


@pytest.mark.parametrize("act", ["pause", "resume"])
def test_a_model_that_nobody_knows_is_neither_paused_nor_resumed(
    api: RunningApi, act: str, capsys: pytest.CaptureFixture[str]
) -> None:
    body = problem(post(api, f"/queue/{act}", {"model": "tyni"}), 404, "model_not_found")
    assert "tiny" in body["detail"]
    assert acts(capsys) == []


def test_a_model_that_is_served_no_more_can_be_forgotten(
    api: RunningApi, worker: HandWorker, database: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    forget = {"model": "tiny"}
    job = api.submit()
    assert "jobs for tiny wait or run" in problem(post(api, "/queue/forget", forget), 409, "model_in_use")["detail"]
    running = worker.takes()
    problem(post(api, "/queue/forget", forget), 409, "model_in_use")
    running.draws()
    running.ends("max_rounds")
    worker.queue.heartbeat({"model": TINY.name, "version": "1", "room": 3, "holding": 1, "started_at_s": 1})
    assert "was heard from" in problem(post(api, "/queue/forget", forget), 409, "model_in_use")["detail"]
    database.delete("{r3}:workers")
    good(post(api, "/queue/pause", forget))
    assert acts(capsys)[-1].startswith("who='local' from_='127.0.0.1' tenant='local' model='tiny' event='queue paused'")
    assert good(post(api, "/queue/forget", forget))["models"] == []
    assert "model='tiny' event='model forgotten'" in acts(capsys)[-1]
    problem(api.client.post("/generate", json={"prompt": "a cat"}), 503, "model_unknown")
    assert api.job(job["id"])["status"] == "succeeded", "its jobs and pictures stay"
    problem(post(api, "/queue/forget", forget), 404, "model_not_found")
    worker.queue.register(TINY.to_json())
    assert not good(api.client.get("/admin/queue"))["models"][0]["paused"]
    assert api.submit()["status"] == "queued"


def test_the_model_that_the_apis_own_checkpoint_describes_is_not_forgotten(
    valkey: EmbeddedServer, worker: HandWorker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be known again at once: jobs for it would be taken, and nobody would run them."""
    own = describe(CHECKPOINT)
    worker.queue.register(own.to_json())
    with running_api(valkey.url, tmp_path, checkpoint=CHECKPOINT) as api:
        refused = problem(post(api, "/queue/forget", {"model": own.name}), 409, "model_in_use")
        assert f"{own.name} is the one that R3_CHECKPOINT of the API describes" in refused["detail"]
        assert acts(capsys, "model forgotten") == []
        left = good(post(api, "/queue/forget", {"model": TINY.name}))["models"]
        assert [one["model"] for one in left] == [own.name]


@pytest.mark.parametrize(
    ("body", "pointer"), [({"model": 1}, "/model"), ({"model": ""}, "/model"), ({"modle": "tiny"}, "/modle"), ([], "")]
)
def test_a_pause_of_what_is_no_model_is_refused(api: RunningApi, body: Any, pointer: str) -> None:
    said = problem(post(api, "/queue/pause", body), 422, "invalid_request")
    assert said["errors"][0]["pointer"] == pointer


# everyone's jobs


def test_everyones_jobs_are_listed_by_tenant_status_and_page(
    api: RunningApi, worker: HandWorker, database: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = [api.submit()["id"] for _ in range(3)]
    theirs = anothers(api, database)
    listed = good(api.client.get("/admin/jobs?limit=2"))
    OperatorJobList.model_validate(listed)
    assert [job["id"] for job in listed["jobs"]] == [theirs, ours[2]]
    assert [job["tenant"] for job in listed["jobs"]] == ["another", "local"]
    rest = good(api.client.get(f"/admin/jobs?cursor={listed['next_cursor']}"))
    assert [job["id"] for job in rest["jobs"]] == [ours[1], ours[0]]
    assert [job["id"] for job in good(api.client.get("/admin/jobs?tenant=another"))["jobs"]] == [theirs]
    assert good(api.client.get("/admin/jobs?tenant=another&status=failed"))["jobs"] == []
    assert [line.count("of='another'") for line in acts(capsys)] == [0, 0, 1, 1]


def anothers(api: RunningApi, database: redis.Redis) -> str:
    """A job of another tenant's, as a key of its would have submitted it."""
    job_id: str = api.submit()["id"]
    database.hset(f"{{r3}}:job:{job_id}", "tenant", "another")
    made = database.zscore("{r3}:jobs:local", job_id)
    assert made is not None
    database.zrem("{r3}:jobs:local", job_id)
    database.zadd("{r3}:jobs:another", {job_id: made})
    database.zadd("{r3}:seen", {"another": made})
    return job_id


@pytest.mark.parametrize(
    "query",
    ["status=lost", "limit=0", "limit=101", "cursor=x", "status=poisoned&cursor=x", "x=1", "cursor=１２", "cursor=²"]
    + [f"{status}cursor={'9' * 18}" for status in ("", "status=poisoned&")],
)
def test_a_query_that_means_nothing_is_refused(api: RunningApi, query: str) -> None:
    problem(api.client.get(f"/admin/jobs?{query}"), 422, "invalid_request")


def test_anyones_job_is_read_and_cancelled_by_its_id_alone(
    api: RunningApi, worker: HandWorker, database: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = anothers(api, database)
    shown = good(api.client.get(f"/admin/jobs/{theirs}"))
    OperatorJobView.model_validate(shown)
    assert (shown["tenant"], shown["status"], shown["priority"]) == ("another", "queued", "normal")
    assert api.client.get(f"/jobs/{theirs}").status_code == 404
    assert good(post(api, f"/jobs/{theirs}/cancel"), 202)["status"] == "cancelled"
    assert good(post(api, f"/jobs/{theirs}/cancel"), 202)["status"] == "cancelled"
    lines = acts(capsys)
    assert [re.findall(r"event='([\w ]+)'", line) for line in lines] == [
        ["job read"],
        ["job cancelled"],
        ["job cancelled"],
    ]
    assert all(f"of='another' job_id='{theirs}'" in line for line in lines)


def test_what_has_ended_is_not_cancelled_and_leaves_no_line(
    api: RunningApi, worker: HandWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    job = failed_job(api, worker)
    problem(post(api, f"/jobs/{job['id']}/cancel"), 409, "already_finished")
    assert acts(capsys) == []


def test_a_job_that_ends_or_goes_just_before_its_cancel_is_said_to_have(
    api: RunningApi,
    worker: HandWorker,
    database: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    queue = api.app.state.service.queue
    cancel, before = queue.cancel, list[Callable[[], object]]()

    async def cancel_too_late(job_id: str) -> Any:
        before.pop()()
        return await cancel(job_id)

    monkeypatch.setattr(queue, "cancel", cancel_too_late)
    ends, goes = api.submit(), api.submit()
    hand = worker.takes()
    before[:] = [lambda: database.delete(f"{{r3}}:job:{goes['id']}"), lambda: hand.fails("step_failed")]
    assert "already failed" in problem(post(api, f"/jobs/{ends['id']}/cancel"), 409, "already_finished")["detail"]
    problem(post(api, f"/jobs/{goes['id']}/cancel"), 404, "job_not_found")
    assert acts(capsys) == []


@pytest.mark.parametrize("job_id", [f"job_{'0' * 32}", "nonsense", "job_*"])
@pytest.mark.parametrize(("method", "verb"), [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")])
def test_an_unknown_job_is_not_found(api: RunningApi, job_id: str, method: str, verb: str) -> None:
    problem(api.client.request(method, f"/admin/jobs/{job_id}{verb}"), 404, "job_not_found")


# another try


def test_a_failed_job_is_tried_again_as_a_new_one_whose_parent_it_is(
    api: RunningApi, worker: HandWorker, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"seed": 7, "n": 2, "metadata": {"who": "me"}, "priority": "high", "previews": 3, "deadline_s": 600}
    old = failed_job(api, worker, **given)
    answer = post(api, f"/jobs/{old['id']}/retry")
    new = good(answer, 202)
    OperatorJobView.model_validate(new)
    assert answer.headers["location"] == f"/jobs/{new['id']}"
    assert new["id"] != old["id"]
    assert new["parent"] == {"job": old["id"], "trajectory": None, "round": None}
    same = ("prompt", "params", "metadata", "model")
    assert {name: new[name] for name in same} == {name: old[name] for name in same}
    assert (new["status"], new["attempt"], new["error"], new["priority"]) == ("queued", 0, None, "high")
    hand = worker.takes()
    assert hand.lease.id == new["id"]
    hand.queue.checkpoint(new["id"], hand.lease.token, done())
    [line] = acts(capsys)
    assert all(word in line for word in ("job retried", old["id"], f"new_job_id='{new['id']}'", "of='local'"))


def done() -> Any:
    from server.queue_records import Checkpoint

    return Checkpoint(1, ending=Ending("succeeded"))


def test_asked_twice_it_is_one_new_job(api: RunningApi, worker: HandWorker) -> None:
    old = failed_job(api, worker)
    first, again = (post(api, f"/jobs/{old['id']}/retry") for _ in range(2))
    assert good(first, 202)["id"] == good(again, 202)["id"]
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"


def test_a_poisoned_job_is_listed_and_tried_again(api: RunningApi, worker: HandWorker, database: redis.Redis) -> None:
    job = api.submit()
    for _ in range(3):
        worker.takes()
        database.zadd(f"{{r3}}:lease:{TINY.name}", {job["id"]: 1.0})
        worker.queue.lease(TINY.name, 0, 0)
    [poisoned] = good(api.client.get("/admin/jobs?status=poisoned"))["jobs"]
    assert (poisoned["id"], poisoned["error"]["code"], poisoned["attempt"]) == (job["id"], "poison_job", 3)
    assert good(api.client.get("/admin/jobs?status=poisoned&tenant=another"))["jobs"] == []
    new = good(post(api, f"/jobs/{job['id']}/retry"), 202)
    assert worker.takes().lease.id == new["id"]


def test_a_cancelled_job_is_tried_again_and_others_are_not(api: RunningApi, worker: HandWorker) -> None:
    job = api.submit()
    problem(post(api, f"/jobs/{job['id']}/retry"), 409, "not_finished")
    good(post(api, f"/jobs/{job['id']}/cancel"), 202)
    good(post(api, f"/jobs/{job['id']}/retry"), 202)
    worker.takes().whole_run()
    [succeeded] = good(api.client.get("/jobs?status=succeeded"))["jobs"]
    problem(post(api, f"/jobs/{succeeded['id']}/retry"), 409, "already_finished")


def test_another_try_has_the_picture_that_the_first_began_with_and_outlives_it(
    api: RunningApi, worker: HandWorker
) -> None:
    old = failed_job(api, worker, image=PICTURE)
    new = good(post(api, f"/jobs/{old['id']}/retry"), 202)
    assert new["params"]["image"] != old["params"]["image"]
    assert api.client.delete(f"/jobs/{old['id']}").status_code == 204
    request = worker.takes().lease.job.request
    assert request["start_image"] == new["params"]["image"]
    record = request["start_record"]
    assert worker.images.get("local", new["id"], record["master_sha256"]).startswith(b"\x89PNG")
    assert api.client.get(f"/images/{request['start_image']}").status_code == 200


def test_another_try_without_its_picture_is_refused(api: RunningApi, worker: HandWorker) -> None:
    old = failed_job(api, worker, image=PICTURE)
    worker.images.delete_job("local", old["id"])
    problem(post(api, f"/jobs/{old['id']}/retry"), 404, "image_not_found")


def test_another_try_of_a_model_that_is_gone_is_refused(
    api: RunningApi, worker: HandWorker, database: redis.Redis
) -> None:
    old = failed_job(api, worker)
    database.hset(f"{{r3}}:job:{old['id']}", "model", "gone")
    problem(post(api, f"/jobs/{old['id']}/retry"), 404, "model_not_found")


# who may


EVERY_PATH = [
    ("GET", "/queue"),
    ("POST", "/queue/pause"),
    ("POST", "/queue/resume"),
    ("POST", "/queue/forget"),
    ("GET", "/jobs"),
    ("GET", f"/jobs/job_{'0' * 32}"),
    ("POST", f"/jobs/job_{'0' * 32}/cancel"),
    ("POST", f"/jobs/job_{'0' * 32}/retry"),
]


@pytest.mark.parametrize("scope", ["read", "generate"])
def test_every_path_needs_scope_admin(keyed: KeyedApi, scope: Scope) -> None:
    holder = keyed.holder("weak", scope)
    for method, path in EVERY_PATH:
        body: dict[str, Any] | None = {} if method == "POST" else None
        problem(holder.client.request(method, f"/admin{path}", json=body), 403, "forbidden")
        problem(keyed.stranger.request(method, f"/admin{path}"), 401, "unauthorized")


def test_an_admin_is_shown_links_that_open_and_is_written_down_once(keyed: KeyedApi) -> None:
    admin, holder = keyed.holder("boss", "admin"), keyed.holder("one")
    job = holder.submit()
    keyed.worker.takes().whole_run()
    with capture_logs() as lines:
        shown = good(admin.client.get(f"/admin/jobs/{job['id']}"))
    assert [(line["event"], line["who"], line["of"]) for line in lines if "who" in line] == [
        ("job read", admin.key.id, "one")
    ]
    [listed] = good(admin.client.get("/admin/jobs?tenant=one"))["jobs"]
    for one in (shown, listed):
        assert keyed.stranger.get(one["links"]["self"]).status_code == 200
        assert keyed.stranger.get(one["trajectories"][0]["image"]["url"]).status_code == 200


def test_another_try_keeps_the_tenants_bound_of_running_jobs_and_costs_none_of_its_quotas(keyed: KeyedApi) -> None:
    admin, holder = keyed.holder("boss", "admin"), keyed.holder("bound")
    job = holder.submit()
    keyed.worker.takes().fails("step_failed")
    keyed.limit("bound", TenantLimits(running=1, queued=1, jobs_per_min=1))
    assert holder.client.post("/generate", json={"prompt": "a"}, headers={"Prefer": "respond-async"}).status_code == 202
    good(admin.client.post(f"/admin/jobs/{job['id']}/retry", json={}), 202)
    assert keyed.db.hget("{r3}:load", "running:bound") == "1"
    keyed.worker.takes()
    assert keyed.worker.queue.lease("tiny", 4, 1) == []
