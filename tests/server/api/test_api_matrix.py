"""Every route and every caller: what each may, said once here, for all that the app serves and for nothing else.

The table below must name each route with each of its methods; a route that someone adds is missing here until it is
said who may. `other` holds a key of another tenant, `link` the job's own signed link and no key.
"""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Final, Literal

import httpx
import pytest
from fastapi.routing import APIRoute

import server.routes
from tests.server.api.keyed import Holder, KeyedApi

pytestmark = pytest.mark.row("T1")

Who = Literal["stranger", "link", "read", "generate", "admin"]
WHO: Final[tuple[Who, ...]] = ("stranger", "link", "read", "generate", "admin")
# By path and method, the least that opens it; `link` is read, and what a job's own link opens too.
NEEDED: Final[dict[str, dict[str, Who]]] = {
    "/": {"GET": "stranger"},
    "/j/{job_id}": {"GET": "stranger"},
    "/assets/{name}": {"GET": "stranger"},
    "/livez": {"GET": "stranger"},
    "/healthz": {"GET": "stranger"},
    "/readyz": {"GET": "stranger"},
    "/startupz": {"GET": "stranger"},
    "/docs": {"GET": "stranger"},
    "/docs/assets/{name}": {"GET": "stranger"},
    "/openapi.json": {"GET": "stranger"},
    "/openapi.yaml": {"GET": "stranger"},
    "/info": {"GET": "read"},
    "/jobs": {"GET": "read"},
    "/jobs/{job_id}": {"GET": "link", "DELETE": "generate"},
    "/jobs/{job_id}/events": {"GET": "link"},
    "/images/{image_id}": {"GET": "link"},
    "/session": {"GET": "read", "POST": "read", "DELETE": "read"},
    "/generate": {"POST": "generate"},
    "/score": {"POST": "generate"},
    "/reflect": {"POST": "generate"},
    "/describe": {"POST": "generate"},
    "/roundtrip": {"POST": "generate"},
    "/v1/models": {"GET": "read"},
    "/v1/models/{model_id:path}": {"GET": "read"},
    "/v1/images/generations": {"POST": "generate"},
    "/v1/images/edits": {"POST": "generate"},
    "/jobs/{job_id}/cancel": {"POST": "generate"},
    "/jobs/{job_id}/stop": {"POST": "generate"},
    "/jobs/{job_id}/share": {"POST": "generate", "DELETE": "generate"},
    "/metrics": {"GET": "admin"},
    "/admin/queue": {"GET": "admin"},
    "/admin/queue/pause": {"POST": "admin"},
    "/admin/queue/resume": {"POST": "admin"},
    "/admin/queue/forget": {"POST": "admin"},
    "/admin/jobs": {"GET": "admin"},
    "/admin/jobs/{job_id}": {"GET": "admin"},
    "/admin/jobs/{job_id}/cancel": {"POST": "admin"},
    "/admin/jobs/{job_id}/retry": {"POST": "admin"},
}
EACH: Final = [
    (path, method, needed)
    for path, methods in NEEDED.items()
    for stated, needed in methods.items()
    for method in ((stated, "HEAD") if stated == "GET" else (stated,))
]
OF_NO_TENANT: Final = ("/metrics", "/admin/")  # where ?tenant= is a filter, or nothing


def routes() -> list[APIRoute]:
    modules = [import_module(f"server.routes.{found.name}") for found in iter_modules(server.routes.__path__)]
    return [route for module in modules for route in module.router.routes if isinstance(route, APIRoute)]


@pytest.fixture(scope="module")
def holders(module_keyed: KeyedApi) -> dict[str, Holder]:
    same: dict[str, Holder] = {
        "read": module_keyed.holder("one", "read"),
        "generate": module_keyed.holder("one"),
        "admin": module_keyed.holder("one", "admin"),
    }
    return {**same, "other": module_keyed.holder("other", "generate"), "boss": module_keyed.holder("boss", "admin")}


def test_the_table_names_every_route_and_no_other() -> None:
    served = {(route.path, method) for route in routes() for method in route.methods or ()}
    assert served == {(path, method) for path, method, _ in EACH}


def asked(client: httpx.Client, method: str, path: str, **query: str) -> httpx.Response:
    """A request that does no harm: a body that is none of ours, where one is read."""
    with client.stream(method, path, params=query, json=0 if method == "POST" else None) as answer:
        if answer.headers.get("content-type", "").startswith("application/problem"):
            answer.read()
        return answer


def address(path: str, ids: dict[str, str]) -> str:
    """A route's path with its parts filled in."""
    if path == "/assets/{name}":
        return "/assets/app.js"
    return path.replace(":path}", "}").format(**ids)


def made(keyed: KeyedApi, holders: dict[str, Holder]) -> dict[str, str]:
    """A finished job of tenant `one`, as parts of a path; and `token`, its own link's."""
    job = holders["generate"].submit()
    keyed.worker.takes().whole_run()
    done = holders["generate"].client.get(f"/jobs/{job['id']}").json()
    image = done["trajectories"][0]["image"]["id"]
    token = done["links"]["self"].partition("?token=")[2]
    return {"job_id": job["id"], "image_id": image, "name": "start.js", "model_id": "tiny", "token": token}


@pytest.mark.parametrize(("path", "method", "needed"), EACH)
def test_each_caller_is_let_in_where_the_table_says_so_and_nowhere_else(
    keyed: KeyedApi, holders: dict[str, Holder], path: str, method: str, needed: Who
) -> None:
    ids = made(keyed, holders)
    for who in WHO:
        if who != "stranger" and method == "DELETE":
            ids = made(keyed, holders)  # the one before has deleted it
        client = holders[who].client if who in holders else keyed.stranger
        query = {"token": ids["token"]} if who == "link" and needed != "stranger" else {}
        status = asked(client, method, address(path, ids), **query).status_code
        if needed == "link":
            allowed = who != "stranger"
        elif needed == "stranger":
            allowed = True
        else:
            allowed = who != "link" and WHO.index(who) >= WHO.index(needed)
        if allowed:
            assert status not in (401, 403, 404, 500), (who, status)
        else:
            assert status == (401 if who in ("stranger", "link") else 403), (who, status)


@pytest.mark.parametrize(
    ("path", "method"), [(p, m) for p, m, needed in EACH if "_id}" in p and needed not in ("admin", "stranger")]
)
def test_to_another_tenant_each_route_of_a_job_or_a_picture_says_what_it_says_of_none(
    keyed: KeyedApi, holders: dict[str, Holder], path: str, method: str
) -> None:
    ids = made(keyed, holders)
    none = {**ids, "job_id": f"job_{'0' * 32}", "image_id": f"img_{'0' * 32}"}
    body: dict[str, Any] = {"json": {"expires_s": 60}} if path.endswith("share") and method == "POST" else {}
    for query in ({}, {"after": "1"} if path.endswith("events") else {}):
        told = [
            holders["other"].client.request(method, address(path, which), params=query, **body) for which in (ids, none)
        ]
        assert [answer.status_code for answer in told] == [404, 404]
        texts = [re.sub(r'(job|img)_[0-9a-f]{32}|"request_id":"\w+"', "", answer.text) for answer in told]
        assert texts[0] == texts[1]
        assert told[0].headers.keys() == told[1].headers.keys()
    job = holders["generate"].client.get(f"/jobs/{ids['job_id']}")
    assert job.json()["status"] == "succeeded", "nothing was done to it"


@pytest.mark.parametrize(
    ("path", "method"), [(p, m) for p, m, n in EACH if n != "stranger" and not p.startswith(OF_NO_TENANT)]
)
def test_only_an_admin_names_a_tenant_whichever_route_is_asked(
    keyed: KeyedApi, holders: dict[str, Holder], path: str, method: str
) -> None:
    ids = made(keyed, holders)
    where = address(path, ids)
    for tenant in ("one", "nobody"):
        assert asked(holders["other"].client, method, where, tenant=tenant).status_code == 403
    if "_id}" in path:
        assert asked(holders["boss"].client, method, where).status_code in (404, 422)
    assert asked(holders["boss"].client, method, where, tenant="one").status_code not in (401, 403, 404, 500)
