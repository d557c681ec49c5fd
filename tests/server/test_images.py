"""The image store, on a folder and on an fsspec URL."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from server.images import ImageMissing, ImageStore

JOB = f"job_{'0' * 32}"


@pytest.fixture(params=["folder", "url"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    if request.param == "folder":
        return ImageStore(tmp_path / "images")
    return ImageStore(f"memory://{tmp_path.name}/images")


def test_what_is_put_can_be_got_by_its_hash(store: ImageStore) -> None:
    digest = store.put("local", JOB, b"bytes")
    assert digest == hashlib.sha256(b"bytes").hexdigest()
    assert store.get("local", JOB, digest) == b"bytes"


def test_the_same_bytes_are_one_object(store: ImageStore) -> None:
    assert store.put("local", JOB, b"bytes") == store.put("local", JOB, b"bytes")
    [folder] = store.jobs()
    assert folder.size_bytes == len(b"bytes")


def test_what_was_never_put_is_missing(store: ImageStore) -> None:
    with pytest.raises(ImageMissing):
        store.get("local", JOB, "0" * 64)


def test_deleting_a_job_deletes_its_pictures_and_no_others(store: ImageStore) -> None:
    first, second = store.put("local", JOB, b"1"), store.put("local", "job_b", b"2")
    store.delete_job("local", JOB)
    with pytest.raises(ImageMissing):
        store.get("local", JOB, first)
    assert store.get("local", "job_b", second) == b"2"
    store.delete_job("local", JOB)


def test_jobs_are_told_with_their_size_and_age(store: ImageStore) -> None:
    store.put("local", JOB, b"1")
    store.put("local", JOB, b"22")
    store.put("other", "job_b", b"333")
    found = {(folder.tenant, folder.job): folder for folder in store.jobs()}
    assert {key: folder.size_bytes for key, folder in found.items()} == {("local", JOB): 3, ("other", "job_b"): 3}
    assert all(abs(folder.newest_s - time.time()) < 60 for folder in found.values())


def test_all_but_some_pictures_of_a_job_can_be_removed(store: ImageStore) -> None:
    kept, gone = store.put("local", JOB, b"1"), store.put("local", JOB, b"2")
    store.keep_only("local", JOB, {kept})
    assert store.get("local", JOB, kept) == b"1"
    with pytest.raises(ImageMissing):
        store.get("local", JOB, gone)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "a\\b", "a b", "x" * 200])
def test_no_name_leads_out_of_the_store(store: ImageStore, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        store.put(name, JOB, b"bytes")
    with pytest.raises(ValueError, match="cannot name"):
        store.get("local", JOB, name)


def test_many_writers_of_one_picture_and_a_deleter_leave_no_half_of_one(tmp_path: Path) -> None:
    store, failures = ImageStore(tmp_path), list[Exception]()

    def write() -> None:
        try:
            for i in range(20):
                content = bytes([i]) * 1000
                digest = store.put("local", JOB, content)
                with suppress(ImageMissing):  # deleted meanwhile
                    assert store.get("local", JOB, digest) == content
        except (OSError, AssertionError) as error:
            failures.append(error)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        store.delete_job("local", JOB)
        time.sleep(0.002)
    assert not failures
    assert not list(tmp_path.rglob(".part-*"))


def test_a_url_of_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nosuchscheme"):
        ImageStore("nosuchscheme://bucket")
