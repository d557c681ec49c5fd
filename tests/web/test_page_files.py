"""What the page consists of: whole, from nowhere else, under a strict policy, and looked at anew by every browser."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from server.app import create_app
from server.routes.page import asset_names
from server.settings import Settings

PROJECT = Path(__file__).parents[2]
CLIENT = PROJECT / "server" / "web" / "client"
VENDORED = [PROJECT / "server" / "web" / "htm", PROJECT / "tests" / "web" / "axe"]


@pytest.fixture(scope="module")
def client() -> TestClient:
    """The app, of which nothing runs behind its routes: files need nothing."""
    return TestClient(create_app(Settings.model_construct()), base_url="http://127.0.0.1:8000")


@pytest.mark.parametrize("folder", VENDORED, ids=lambda folder: folder.name)
def test_the_vendored_files_are_those_of_the_readme(folder: Path) -> None:
    named = dict(re.findall(r"\| `([^`]+)` \| `([0-9a-f]{64})` \|", (folder / "README.md").read_text()))
    assert set(named) == {path.name for path in folder.iterdir()} - {"README.md"}
    for name, digest in named.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("path", ["/", f"/j/job_{'0' * 32}"])
def test_the_page_is_under_a_policy_that_allows_nothing_inline_and_no_other_host(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in str(policy)
    assert "http" not in str(policy)
    assert "://" not in answer.text
    assert not re.search(r"<style|style=|<script(?![^>]* src=)|\son\w+=", answer.text)


def test_swagger_keeps_a_policy_of_its_own(client: TestClient) -> None:
    assert client.get("/docs").headers["content-security-policy"] != client.get("/").headers["content-security-policy"]


def test_every_file_that_a_file_names_is_there_and_is_what_it_says(client: TestClient) -> None:
    seen: set[str] = set()
    wanted = set(re.findall(r'(?:src|href)="/assets/([^"]+)"', client.get("/").text))
    while new := wanted - seen:
        name = new.pop()
        seen.add(name)
        answer = client.get(f"/assets/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
        assert answer.headers["content-type"].startswith(kind)
        wanted |= set(re.findall(r'from "\./([^"]+)"', answer.text))
    assert seen == asset_names(), "a file that nothing names"


def test_nothing_comes_from_another_host() -> None:
    for path in CLIENT.iterdir():
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|\burl\(|@import|eval\(|innerHTML|dangerouslySetInnerHTML", text), path.name


def test_a_browser_asks_anew_and_is_told_that_nothing_has_changed(client: TestClient) -> None:
    for path in ("/", "/assets/app.js"):
        first = client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["README.md", "nope.js", "start.js", "index.html"])
def test_no_other_file_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/assets/{name}").status_code == 404


def test_files_are_small_enough_to_read() -> None:
    for path in CLIENT.iterdir():
        assert len(path.read_text().splitlines()) <= 300, path.name
