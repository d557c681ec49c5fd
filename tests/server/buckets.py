"""A real server of the S3 protocol, moto's, in a thread of the test's process; its objects outlive a stop."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import boto3  # type: ignore[import-untyped]
import httpx
from moto.server import ThreadedMotoServer

from tests.server.processes import free_port

REGION: Final = "eu-west-3"
NAME: Final = "pictures"
SECRET: Final = "a-secret-that-nobody-may-see"
# As a user sets them. No other variable of AWS's, and no file of this machine, has a say.
ENVIRONMENT: Final = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}


class Bucket:
    """A bucket in a region of its own; `stop` and `start` take the server away and bring it back."""

    def __init__(self) -> None:
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._server: ThreadedMotoServer | None = None
        self.start()
        httpx.post(f"{self.endpoint}/moto-api/reset", trust_env=False).raise_for_status()  # of those before it
        self._client: Any = boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION)
        self._client.create_bucket(Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": REGION})

    def settings(self, folder: str) -> dict[str, str]:
        """The settings of a store in a folder of it."""
        return {
            "image_store": f"s3://{NAME}/{folder}",
            "image_store_endpoint": self.endpoint,
            "image_store_region": REGION,
        }

    def keys(self, folder: str) -> list[str]:
        """The objects in a folder, by the words of the server itself."""
        found = self._client.list_objects_v2(Bucket=NAME, Prefix=f"{folder}/")
        return [entry["Key"].removeprefix(f"{folder}/") for entry in found.get("Contents", [])]

    @contextmanager
    def may_only(self, *actions: str) -> Iterator[None]:
        """The environment has the key of a user who may do this alone, and the server asks for rights."""
        where = {"endpoint_url": self.endpoint, "region_name": REGION}
        users = boto3.client("iam", **where)
        users.create_user(UserName="r3")
        key = users.create_access_key(UserName="r3")["AccessKey"]
        allowed = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
        users.put_user_policy(UserName="r3", PolicyName="r3", PolicyDocument=document)
        told = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}
        self._ask_for_rights("0")
        try:
            with patch.dict(os.environ, told):
                yield
        finally:
            self._ask_for_rights("inf")
            users.delete_user_policy(UserName="r3", PolicyName="r3")
            users.delete_access_key(UserName="r3", AccessKeyId=key["AccessKeyId"])
            users.delete_user(UserName="r3")
            users.close()

    def _ask_for_rights(self, after_requests: str) -> None:
        where = f"{self.endpoint}/moto-api/reset-auth"
        httpx.post(where, content=after_requests, trust_env=False).raise_for_status()

    def start(self) -> None:
        """Answer."""
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line a request
        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        """Answer no more: connections are refused."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Refuses connections for as long as the block lasts."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Takes connections and never answers, for as long as the block lasts."""
        self.stop()
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            silent.bind(("127.0.0.1", self.port))
            silent.listen(1024)
            try:
                yield
            finally:
                silent.close()
                self.start()

    def close(self) -> None:
        """End it, however it stands."""
        self._client.close()
        self.stop()


@contextmanager
def a_bucket() -> Iterator[Bucket]:
    """A server with a bucket, and the environment that a user has."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with patch.dict(os.environ, {**plain, **ENVIRONMENT}, clear=True):
        bucket = Bucket()
        try:
            yield bucket
        finally:
            bucket.close()
