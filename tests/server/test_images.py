"""The image store: one contract for a folder, for S3 and for any other fsspec URL; and what is S3's alone."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from server.images import ImageMissing, ImageStore, StoreAway, StoreFailed, tried_again
from server.settings import Settings
from tests.server.buckets import NAME, REGION, SECRET, Bucket, a_bucket

JOB = f"job_{'0' * 32}"


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    """A bucket for all tests of this file."""
    with a_bucket() as one:
        yield one


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ImageStore:
    if request.param == "folder":
        return ImageStore(tmp_path / "images")
    if request.param == "memory":
        return ImageStore(f"memory://{tmp_path.name}/images")
    return in_bucket(request.getfixturevalue("bucket"), tmp_path.name)


def in_bucket(bucket: Bucket, folder: str) -> ImageStore:
    return ImageStore.from_settings(Settings.model_validate(bucket.settings(folder)))


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


def test_what_another_process_wrote_or_deleted_is_seen_at_once(
    request: pytest.FixtureRequest, store: ImageStore, tmp_path: Path
) -> None:
    """Nothing is remembered of a listing: workers write what the API deletes."""
    other = ImageStore(tmp_path / "images") if (tmp_path / "images").exists() else store
    if request.node.callspec.params["store"] == "s3":
        other = in_bucket(request.getfixturevalue("bucket"), tmp_path.name)
    first = store.put("local", JOB, b"1")
    assert [folder.size_bytes for folder in store.jobs()] == [1]
    second = other.put("local", JOB, b"22")
    assert [folder.size_bytes for folder in store.jobs()] == [3]
    store.delete_job("local", JOB)
    for digest in (first, second):
        with pytest.raises(ImageMissing):
            other.get("local", JOB, digest)


def test_a_job_whose_name_begins_with_anothers_stays(store: ImageStore) -> None:
    store.put("local", "job_a", b"1")
    kept = store.put("local", "job_ab", b"2")
    store.delete_job("local", "job_a")
    store.keep_only("local", "job_a", ())
    assert store.get("local", "job_ab", kept) == b"2"


def test_a_probe_finds_nothing_wrong_and_leaves_nothing_behind(store: ImageStore) -> None:
    store.probe()
    assert list(store.jobs()) == []


@pytest.mark.parametrize(
    ("method", "answer", "told"),
    [
        ("sizes", list[object](), "cannot be read and listed as it was"),
        ("read", b"other bytes", "cannot be read and listed as it was"),
        ("remove_folder", None, "what was deleted is still there; allow DeleteObject"),
    ],
    ids=["unlisted", "changed", "undeleted"],
)
def test_a_probe_believes_no_store_that_refuses_nothing_and_does_not_do_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, answer: object, told: str
) -> None:
    store = ImageStore(tmp_path)
    monkeypatch.setattr(store._objects, method, lambda *_: answer)
    with pytest.raises(StoreFailed, match=told):
        store.probe()


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


def test_a_picture_is_written_though_its_jobs_folder_goes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, is_dir, left = ImageStore(tmp_path), Path.is_dir, [JOB]
    store.put("local", JOB, b"1")

    def deleted_first(self: Path) -> bool:
        if left:
            store.delete_job("local", left.pop())
        return is_dir(self)

    monkeypatch.setattr(Path, "is_dir", deleted_first)
    assert store.get("local", JOB, store.put("local", JOB, b"2")) == b"2"
    assert not left


def test_a_url_of_an_unknown_scheme_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nosuchscheme"):
        ImageStore("nosuchscheme://bucket")


# S3


def test_objects_lie_where_they_should_and_requests_are_signed_for_their_region(bucket: Bucket) -> None:
    store = in_bucket(bucket, "deep/down")
    digest = store.put("local", JOB, b"bytes")
    assert bucket.keys("deep/down") == [f"local/{JOB}/{digest}"]
    assert store._objects._files.s3.meta.region_name == REGION  # type: ignore[attr-defined]


def test_a_store_that_is_away_says_so_soon_and_is_used_again_when_it_is_back(bucket: Bucket, tmp_path: Path) -> None:
    store = in_bucket(bucket, tmp_path.name)
    digest = store.put("local", JOB, b"bytes")
    with bucket.away():
        asked: list[Callable[[], object]] = [
            lambda: store.get("local", JOB, digest),
            lambda: store.put("local", JOB, b"more"),
            lambda: list(store.jobs()),
            store.probe,
        ]
        for ask in asked:
            began = time.monotonic()
            with pytest.raises(StoreAway, match="does not answer"):
                ask()
            assert time.monotonic() - began < 5
        store.delete_job("local", JOB)  # left to the sweep
    assert store.get("local", JOB, digest) == b"bytes"


def test_who_waits_for_a_store_gets_its_answer_when_it_is_back(bucket: Bucket, tmp_path: Path) -> None:
    store = in_bucket(bucket, tmp_path.name)
    digest = store.put("local", JOB, b"bytes")
    bucket.stop()
    threading.Timer(4.0, bucket.start).start()
    assert tried_again(lambda: store.get("local", JOB, digest), JOB, waits=lambda: True) == b"bytes"


@pytest.mark.parametrize("method", ["get", "jobs", "put"])
def test_a_bucket_that_is_gone_is_not_a_picture_that_is_missing(bucket: Bucket, method: str) -> None:
    store = ImageStore("s3://nobodys/r3", bucket.endpoint, REGION)
    ask: Callable[[], object] = {
        "get": lambda: store.get("local", JOB, "0" * 64),
        "jobs": lambda: list(store.jobs()),
        "put": lambda: store.put("local", JOB, b"bytes"),
    }[method]
    with pytest.raises(StoreFailed, match="make the bucket, or name another in R3_IMAGE_STORE") as caught:
        ask()
    assert not isinstance(caught.value, StoreAway)


RIGHTS = ("s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket")


def test_the_rights_that_are_told_are_enough_and_each_is_needed(bucket: Bucket, tmp_path: Path) -> None:
    """As docs/operations.md tells them. A probe finds out which is missing, a refused deletion too."""
    with bucket.may_only(*RIGHTS):
        in_bucket(bucket, tmp_path.name).probe()
    for lacking in RIGHTS:
        with bucket.may_only(*(right for right in RIGHTS if right != lacking)):
            with pytest.raises(StoreFailed, match=r"AccessDenied.*allow GetObject, PutObject and DeleteObject"):
                in_bucket(bucket, tmp_path.name).probe()


def test_the_identity_of_a_pod_will_do(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token in a file, which STS takes for credentials: as EKS and others give it."""
    (tmp_path / "token").write_text("eyJhbGciOiJub25lIn0.e30.")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/r3")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", bucket.endpoint)
    in_bucket(bucket, tmp_path.name).probe()


def test_endpoint_and_region_may_stand_in_awss_own_variables(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", bucket.endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    store = ImageStore(f"s3://{NAME}/{tmp_path.name}")
    store.probe()
    assert store._objects._files.s3.meta.region_name == REGION  # type: ignore[attr-defined]


def test_a_listing_of_many_pages_is_whole_and_so_is_a_deletion(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.image_s3.PAGE", 2)
    store = in_bucket(bucket, tmp_path.name)
    for number in range(7):
        store.put("local", JOB, bytes(number + 1))
    other = store.put("other", JOB, b"1")
    assert {folder.tenant: folder.size_bytes for folder in store.jobs()} == {"local": 28, "other": 1}
    store.delete_job("local", JOB)
    assert bucket.keys(tmp_path.name) == [f"other/{JOB}/{other}"]


def test_a_bucket_without_a_folder_will_do(bucket: Bucket) -> None:
    store = ImageStore(f"s3://{NAME}", bucket.endpoint, REGION)
    digest = store.put("whole-bucket", JOB, b"bytes")
    assert ("whole-bucket", JOB) in {(folder.tenant, folder.job) for folder in store.jobs()}
    assert store.get("whole-bucket", JOB, digest) == b"bytes"
    store.delete_job("whole-bucket", JOB)
    assert not [folder for folder in store.jobs() if folder.tenant == "whole-bucket"]


def test_without_credentials_it_is_said_which(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(StoreFailed, match="AWS_ACCESS_KEY_ID"):
        in_bucket(bucket, "any").probe()


@pytest.mark.parametrize(
    ("url", "remedy"), [(f"s3://me:{SECRET}@bucket/r3", "from the environment"), ("s3://", "names no bucket")]
)
def test_a_url_that_cannot_be_meant_is_refused_without_its_secret(url: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy) as caught:
        ImageStore(url)
    assert SECRET not in str(caught.value)
