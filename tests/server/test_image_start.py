"""What is said at the start, and by `r3 doctor`, of a place for pictures that cannot be used; with S3's protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.doctor import run_doctor
from server.settings import Settings
from tests.server.buckets import NAME, SECRET, Bucket, a_bucket
from tests.server.test_cli import Environment, refusal


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with a_bucket() as one:
        yield one


@pytest.fixture
def environment(bucket: Bucket, tmp_path: Path) -> Environment:
    """What a user of the bucket sets, and the fake model."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    told = {f"R3_{name.upper()}": value for name, value in bucket.settings("r3").items()}
    ours = {"R3_DATA_DIR": str(tmp_path / "data"), "R3_RUNNER": "fake", "R3_PORT": "0", "R3_WORKER_PORT": "0"}
    return {**plain, **told, **ours, "R3_REDIS_URL": "redis://127.0.0.1:1"}


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_bucket_that_is_not_there_is_refused_with_the_remedy(command: str, environment: Environment) -> None:
    line = refusal(command, environment={**environment, "R3_IMAGE_STORE": "s3://nobodys/r3"})
    assert "R3_IMAGE_STORE=s3://nobodys/r3 cannot be opened" in line
    assert "NoSuchBucket" in line
    assert "make the bucket" in line
    assert SECRET not in line


@pytest.mark.parametrize("command", ["api", "worker"])
def test_without_credentials_it_is_said_how_they_are_given(command: str, environment: Environment) -> None:
    lacking = {name: value for name, value in environment.items() if not name.startswith("AWS_ACCESS")}
    del lacking["AWS_SECRET_ACCESS_KEY"]
    line = refusal(command, environment=lacking)
    assert "R3_IMAGE_STORE=" in line
    assert "AWS_ACCESS_KEY_ID" in line
    assert "AWS_WEB_IDENTITY_TOKEN_FILE" in line


def test_half_of_a_key_is_refused_and_not_shown(environment: Environment) -> None:
    del environment["AWS_ACCESS_KEY_ID"]
    line = refusal("api", environment=environment)
    assert "R3_IMAGE_STORE=" in line
    assert SECRET not in line


def test_where_s3fs_is_missing_its_extra_is_named(environment: Environment, tmp_path: Path) -> None:
    """A module of its name that cannot be imported stands in front of it."""
    (tmp_path / "s3fs.py").write_text("raise ImportError('there is no s3fs')\n")
    line = refusal("api", environment={**environment, "PYTHONPATH": f"{tmp_path}:{environment.get('PYTHONPATH', '')}"})
    assert "pip install 'r3-server[s3]'" in line


def test_credentials_in_the_url_are_refused_and_not_shown(environment: Environment) -> None:
    line = refusal("api", environment={**environment, "R3_IMAGE_STORE": f"s3://me:{SECRET}@{NAME}/r3"})
    assert "come from the environment" in line
    assert SECRET not in line


def test_an_endpoint_beside_a_folder_is_refused(environment: Environment, tmp_path: Path) -> None:
    line = refusal("api", environment={**environment, "R3_IMAGE_STORE": str(tmp_path / "pictures")})
    assert "R3_IMAGE_STORE_ENDPOINT=" in line
    assert "s3://BUCKET/FOLDER" in line


@pytest.mark.parametrize(
    ("name", "value"), [("R3_IMAGE_STORE_ENDPOINT", "minio:9000"), ("R3_IMAGE_STORE_REGION", "Paris, I think")]
)
def test_what_is_no_endpoint_or_region_is_refused_by_name(name: str, value: str, environment: Environment) -> None:
    assert f"{name}={value} is refused" in refusal("api", environment={**environment, name: value})


# r3 doctor


def told_of_pictures(settings: Settings, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_doctor(settings) in (0, 1)
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.split()[1] == "pictures"]
    return line


def doctored(bucket: Bucket, tmp_path: Path, **changes: str) -> Settings:
    return Settings.model_validate(
        {"data_dir": tmp_path, "device": "cpu", "runner": "fake", **bucket.settings("doctor"), **changes}
    )


def test_the_doctor_writes_reads_and_deletes(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = told_of_pictures(doctored(bucket, tmp_path), capsys)
    assert line.startswith("ok ")
    assert f"s3://{NAME}/doctor: written, read and deleted" in line
    assert bucket.keys("doctor") == []


def test_the_doctor_finds_a_bucket_that_is_gone_and_a_store_that_is_away(
    bucket: Bucket, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = told_of_pictures(doctored(bucket, tmp_path, image_store="s3://nobodys/r3"), capsys)
    assert gone.startswith("broken ")
    assert "make the bucket" in gone
    with bucket.away():
        away = told_of_pictures(doctored(bucket, tmp_path), capsys)
    assert away.startswith("broken ")
    assert "does not answer" in away
