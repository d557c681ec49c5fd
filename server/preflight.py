"""What is looked at before anything starts, so that a mistake of the operator's is one clear line and no traceback.

Each check raises `Misconfigured`, whose message says the value and the remedy; the command line prints it and ends with
exit code 2.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import PydanticUndefined
from pydantic_settings import SettingsError

from server.misconfigured import Misconfigured, shown_url
from server.other_variables import Connection
from server.settings import Settings

_DEVICE: Final = re.compile(r"cpu|cuda(:\d+)?")


def load_settings(given: dict[str, Any]) -> Settings:
    """The settings: what was given on the command line, else the environment, else the defaults."""
    for strange in Settings.unknown_variables(os.environ):
        # Said and not refused: Kubernetes puts variables of its own making into every container.
        sys.stderr.write(f"r3: {strange}\n")
    try:
        return Settings(**given)
    except ValidationError as error:
        raise Misconfigured("; ".join(_fault(fault, given) for fault in error.errors())) from error
    except SettingsError as error:
        raise Misconfigured(_not_json(error)) from error


def load_connection(given: dict[str, Any]) -> Connection:
    """Where a running server is: what was given on the command line, else the environment, else the defaults."""
    try:
        return Connection(**given)
    except ValidationError as error:
        raise Misconfigured("; ".join(_fault(fault, given) for fault in error.errors())) from error


def check_serve(settings: Settings) -> str | None:
    """All that `r3 serve` needs on this machine besides its data directory, which it looks at and locks first.

    The name of the model that will be served, None for the fake one.
    """
    if settings.port == settings.worker_port != 0:
        raise Misconfigured(
            f"API and worker cannot both listen on port {settings.port}; "
            "give one of them another with --port/R3_PORT or --worker-port/R3_WORKER_PORT"
        )
    check_port(settings.host, settings.port, "port")
    check_port(settings.worker_host, settings.worker_port, "worker-port")
    check_metrics_port(settings)
    check_image_store(settings)
    check_webhooks(settings)
    model = check_model(settings)
    if model is not None and settings.default_model not in (None, model):
        raise Misconfigured(
            f"R3_DEFAULT_MODEL={settings.default_model} is not what is served, {model}; "
            "leave it out, or give that model's --checkpoint/R3_CHECKPOINT"
        )
    if settings.redis_url is not None:
        check_redis_answers(check_redis_url(settings))
    return model


def check_api(settings: Settings) -> None:
    """All that `r3 api` needs; a queue that does not answer yet is waited for by the process itself."""
    check_exposure(settings)
    check_redis_url(settings)
    check_port(settings.host, settings.port, "port")
    check_metrics_port(settings)
    check_image_store(settings)
    check_webhooks(settings)


def check_worker(settings: Settings) -> None:
    """All that `r3 worker` needs, its model's files among it; the queue is waited for by the process itself."""
    check_redis_url(settings)
    check_port(settings.worker_host, settings.worker_port, "worker-port")
    check_image_store(settings)
    check_model(settings)


def check_exposure(settings: Settings) -> None:
    """Refuse an address that others reach where callers may not be asked who they are, and a wrong keys file."""
    if settings.insecure and settings.auth == "keys":
        raise Misconfigured("--insecure/R3_INSECURE asks nobody for a key and R3_AUTH=keys everyone; leave out one")
    if not settings.is_loopback and settings.auth_mode != "keys" and not settings.insecure:
        raise Misconfigured(
            f"host {settings.host} can be reached from other machines and R3_AUTH={settings.auth} may ask no caller "
            "for a key; set R3_AUTH=keys (`r3 keys create` makes one), leave out --host/R3_HOST to listen on "
            "127.0.0.1, or say --insecure where a proxy in front does the asking"
        )
    check_keys_file(settings)


def check_keys_file(settings: Settings) -> None:
    """Refuse a keys file that cannot be read or is not in form."""
    if settings.keys_file is None:
        return
    if settings.auth_mode == "none":
        how = "--insecure/R3_INSECURE" if settings.insecure else "R3_AUTH=none"
        raise Misconfigured(
            f"R3_KEYS_FILE={settings.keys_file} names keys and {how} asks nobody for one; leave out one"
        )
    from server.keys_file import KeysFileError, read_keys_file

    try:
        read_keys_file(settings.keys_file)
    except KeysFileError as error:
        raise Misconfigured(f"R3_KEYS_FILE={error}") from error


def check_port(host: str, port: int, option: str) -> None:
    """Refuse an address that cannot be listened on; `option` is its option's name, such as "port". 0 is any port."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen()
    except OSError as error:
        raise Misconfigured(_cannot_listen(error, host, port, option)) from error


def check_metrics_port(settings: Settings) -> None:
    """Refuse a port for metrics alone that is another's, or cannot be listened on."""
    if settings.metrics_port is None:
        return
    if settings.metrics_port == settings.port:
        raise Misconfigured(f"API and metrics cannot both listen on port {settings.port}; give another R3_METRICS_PORT")
    check_port(settings.metrics_host or settings.host, settings.metrics_port, "metrics-port")


def check_redis_url(settings: Settings) -> str:
    """The queue's URL, which must be given and well formed; whether a server answers there is another question."""
    if settings.redis_url is None:
        raise Misconfigured(
            "no queue is named; give --redis-url/R3_REDIS_URL, such as redis://127.0.0.1:6379/0, "
            "or run `r3 serve`, which brings a private one"
        )
    from redis import Redis  # a tenth of a second that --help need not wait

    try:
        Redis.from_url(settings.redis_url).close()
    except ValueError as error:
        raise Misconfigured(f"{shown_url(settings.redis_url)} is no Redis URL; {_REDIS_REMEDY}") from error
    return settings.redis_url


def check_redis_answers(url: str, timeout_s: float = 5.0) -> None:
    """Refuse a queue that does not answer, or that is older than Redis 7.0."""
    from redis import Redis, RedisError
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from server.queue_errors import ServerTooOld
    from server.queue_scripts import refuse_old_server

    once = Retry(NoBackoff(), 0)
    try:
        with Redis.from_url(url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=once) as redis:
            refuse_old_server(redis.info("server"))
    except (RedisError, OSError) as error:
        raise Misconfigured(f"no answer from Redis at {shown_url(url)} ({error}); {_REDIS_REMEDY}") from error
    except ServerTooOld as error:
        raise Misconfigured(f"{shown_url(url)}: {error}") from error


def check_data_dir(data_dir: Path) -> None:
    """Make the data directory and refuse one that cannot be written."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise Misconfigured(
            f"data directory {data_dir} cannot be written ({error.strerror}); "
            "give another with --data-dir/R3_DATA_DIR, or mend its permissions"
        ) from error


def check_image_store(settings: Settings) -> None:
    """Refuse a place for pictures that cannot be written, read and deleted in; the data directory, where they go there,
    must be writable. A store that does not answer now is waited for by whoever needs it, as Redis is.
    """
    if settings.image_store is None:
        check_data_dir(settings.data_dir)
    from server.images import StoreAway

    try:
        probe_image_store(settings)
    except StoreAway as error:
        sys.stderr.write(f"r3: R3_IMAGE_STORE={shown_url(settings.image_store_url)}: {error}; it is asked again\n")


def probe_image_store(settings: Settings) -> None:
    """An object written, read and deleted. Raises Misconfigured, and StoreAway where the store does not answer."""
    from server.images import ImageStore, StoreAway

    if settings.image_store_endpoint is not None and not (settings.image_store or "").startswith(("s3://", "s3a://")):
        raise Misconfigured(
            f"R3_IMAGE_STORE_ENDPOINT={settings.image_store_endpoint} says where S3 is, and "
            f"R3_IMAGE_STORE={shown_url(settings.image_store or '')} names no bucket; "
            "write s3://BUCKET/FOLDER, or leave the endpoint out"
        )
    try:
        ImageStore.from_settings(settings).probe()
    except StoreAway:
        raise
    except (ValueError, OSError) as error:
        raise Misconfigured(
            f"R3_IMAGE_STORE={shown_url(settings.image_store_url)} cannot be opened ({shown_url(_reason(error))}); "
            "give a folder, or a URL such as s3://BUCKET/FOLDER"
        ) from error


def check_webhooks(settings: Settings) -> None:
    """Refuse a file of certificates that cannot be used."""
    if settings.webhook_ca_file is None:
        return
    from server.hook_sender import tls_context

    try:
        tls_context(str(settings.webhook_ca_file))
    except OSError as error:
        raise Misconfigured(
            f"R3_WEBHOOK_CA_FILE={settings.webhook_ca_file} cannot be used ({_reason(error)}); "
            "give a PEM file with the certificates of the authorities that receivers' certificates come from"
        ) from error


def check_model(settings: Settings) -> str | None:
    """Refuse a checkpoint that is not there or is broken, as far as its headers tell, and a device that has no name.

    The model's name, None for the fake one. Raises CheckpointError beside Misconfigured. Whether the device is there is
    for the worker to find out.
    """
    if settings.device is not None and not _DEVICE.fullmatch(settings.device):
        raise Misconfigured(f"device {settings.device!r} is not known; give cpu, cuda or cuda:N (--device/R3_DEVICE)")
    if settings.runner == "fake":
        return None
    from r3core.checkpoint import describe

    return describe(settings.checkpoint, settings.base_checkpoint).name


_SECRETS: Final = frozenset({"api_key", "key", "token_secret"})
_REDIS_REMEDY: Final = "give --redis-url/R3_REDIS_URL as redis://HOST:6379/0, rediss://… or unix:///PATH"


def _fault(fault: Any, given: dict[str, Any]) -> str:
    field = str(fault["loc"][0]) if fault["loc"] else "settings"
    name = f"--{field.replace('_', '-')}" if field in given else f"R3_{field.upper()}"
    known = Settings.model_fields.get(field)
    default = ""
    if known is not None and known.default not in (None, (), PydanticUndefined, fault["input"]):
        default = f", or leave it out for {known.default}"
    message = str(fault["msg"]).removeprefix("Value error, ")
    shown = "***" if field in _SECRETS else shown_url(str(fault["input"]))
    return f"{name}={shown} is refused: {shown_url(message[:1].lower() + message[1:])}{default}"


def _not_json(error: SettingsError) -> str:
    field = re.search(r'field "(\w+)"', str(error))
    name = f"R3_{field[1].upper()}" if field else "a list among the R3_ variables"
    return f'{name} is not JSON; give a list such as ["one.example", "two.example"]'


def _reason(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


def _cannot_listen(error: OSError, host: str, port: int, option: str) -> str:
    name = f"--{option}/R3_{option.replace('-', '_').upper()}"
    where = f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what listens there, or give another with {name}"
    if error.errno == errno.EACCES:
        return f"port {port} may not be listened on by this user; give one above 1023 with {name}"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        host_name = name.replace("port", "host").replace("PORT", "HOST")
        return f"host {host} is no address of this machine ({error.strerror}); give another with {host_name}"
    return f"cannot listen on {where} ({error.strerror}); give another with {name}"
