"""The command line: light to import, and every mistake of the operator's is one clear line and exit code 2."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from r3core.checkpoint import describe
from server.misconfigured import EXIT_MISCONFIGURED
from server.settings import Settings, default_checkpoint

Environment = dict[str, str]


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with no R3_ variable but a data directory and the fake model."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("R3_")}
    return {**plain, "R3_DATA_DIR": str(tmp_path / "data"), "R3_RUNNER": "fake", "R3_PORT": "0", "R3_WORKER_PORT": "0"}


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def r3(*arguments: str, environment: Environment) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "server.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def refusal(*arguments: str, environment: Environment) -> str:
    """The one line that a refused command says."""
    ended = r3(*arguments, environment=environment)
    assert ended.returncode == 2, ended.stderr
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("r3: ")
    return lines[0]


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("server.cli", ["torch", "transformers", "diffusers", "fastapi", "redis", "PIL", "numpy", "structlog"]),
        ("server.api", ["torch", "transformers", "diffusers", "xformers", "accelerate"]),
        ("server.serve", ["torch", "transformers", "diffusers", "fastapi", "PIL", "numpy"]),
        ("server.pictures", ["torch", "fastapi", "starlette", "structlog", "redis"]),
    ],
)
def test_a_process_loads_nothing_heavy_that_it_does_not_use(module: str, heavy: list[str]) -> None:
    script = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "api",
        "worker",
        "generate",
        "submit",
        "score",
        "roundtrip",
        "bench",
        "verify",
        "openapi",
        "doctor",
        "keys",
        "jobs",
        "queue",
    ],
)
def test_every_command_has_help(command: str, environment: Environment) -> None:
    ended = r3(command, "--help", environment=environment)
    assert ended.returncode == 0
    assert "Usage" in ended.stdout


def test_the_version_is_the_installed_one(environment: Environment) -> None:
    assert r3("--version", environment=environment).stdout.startswith("r3 0.")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here, which is a full disk")
@pytest.mark.parametrize("command", [("--help",), ("keys", "hash", "a"), ("doctor",)])
def test_an_output_that_cannot_be_written_is_one_line(command: tuple[str, ...], environment: Environment) -> None:
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-P", "-m", "server.cli", *command]
        done = subprocess.run(line, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "r3: the output cannot be written (No space left on device); make room, or mend it\n"


def test_a_reader_that_has_gone_is_no_fault(environment: Environment) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "server.cli", "keys", "list"]
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("command", [("--version",), ("keys", "hash", "a"), ("keys", "list")])
def test_without_any_output_a_command_ends_as_ever(command: tuple[str, ...], environment: Environment) -> None:
    line = f"{sys.executable} -P -m server.cli {' '.join(command)} >&-"
    done = subprocess.run(["sh", "-c", line], env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_fails_beside_the_output_is_told_as_it_is(environment: Environment, tmp_path: Path) -> None:
    script = "import errno, server.cli as c; c.app = lambda: (_ for _ in ()).throw(OSError(errno.EIO, 'a disk', 'b'))"
    line = [sys.executable, "-c", f"{script}; c.main()"]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "OSError: [Errno 5] a disk: 'b'" in done.stderr


def test_a_proxy_that_needs_another_package_is_one_line(environment: Environment) -> None:
    line = refusal(
        *("submit", "a cat", "--url", "http://r3.invalid"),
        environment={**environment, "ALL_PROXY": "socks5://a.invalid"},
    )
    assert "pip install socksio, or unset it" in line


def test_a_bad_option_is_named_with_its_value(environment: Environment) -> None:
    assert "--port=eighty is refused" in refusal("serve", "--port", "eighty", environment=environment)


def test_a_bad_variable_is_named_with_its_value(environment: Environment) -> None:
    line = refusal("serve", environment={**environment, "R3_DTYPE": "fp8"})
    assert "R3_DTYPE=fp8 is refused" in line
    assert "'bf16' or 'fp32'" in line


def test_a_variable_out_of_range_says_its_default(environment: Environment) -> None:
    line = refusal("serve", environment={**environment, "R3_LEASE_S": "-1"})
    assert "R3_LEASE_S=-1 is refused" in line
    assert "15.0" in line


@pytest.mark.parametrize(
    "given", [{"R3_LEASE_S": "2"}, {"R3_RENEW_S": "5", "R3_LEASE_S": "14"}, {"R3_LEASE_S": "2.9", "R3_RENEW_S": "1"}]
)
def test_a_lease_that_one_late_renewal_would_lose_is_refused(given: Environment, environment: Environment) -> None:
    line = refusal("serve", environment={**environment, **given})
    assert "at least three times as long" in line
    assert "R3_LEASE_S" in line
    assert "R3_RENEW_S" in line


def test_what_is_no_setting_is_told_once_with_what_it_may_mean(environment: Environment) -> None:
    ended = r3("serve", environment={**environment, "R3_CHEKPOINT": "x", "R3_LEASE_S": "-1"})
    told, _ = ended.stderr.splitlines()
    assert "R3_CHEKPOINT" in told
    assert "did you mean R3_CHECKPOINT?" in told


def test_renewals_come_often_enough_for_readiness(environment: Environment) -> None:
    line = refusal("serve", environment={**environment, "R3_LEASE_S": "60", "R3_RENEW_S": "5.1"})
    assert "R3_RENEW_S=5.1 is refused" in line
    assert "less than or equal to 5" in line


@pytest.mark.parametrize("command", ["serve", "api"])
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_an_address_that_others_reach_is_refused(command: str, host: str, environment: Environment) -> None:
    asked = {**environment, "R3_REDIS_URL": "redis://127.0.0.1:1"}
    assert "--insecure" in refusal(command, "--host", host, environment=asked)


def test_an_address_of_another_machine_is_refused(environment: Environment) -> None:
    line = refusal("serve", "--host", "192.0.2.1", "--insecure", environment=environment)
    assert "no address of this machine" in line
    assert "--host/R3_HOST" in line


@pytest.mark.parametrize("option", ["port", "worker-port"])
def test_a_port_in_use_is_refused(option: str, taken_port: int, environment: Environment) -> None:
    line = refusal("serve", f"--{option}", str(taken_port), environment=environment)
    assert f"port {taken_port} of 127.0.0.1 is in use" in line
    assert f"--{option}/R3_" in line


def test_one_port_for_api_and_worker_is_refused(environment: Environment) -> None:
    line = refusal("serve", "--port", "8765", "--worker-port", "8765", environment=environment)
    assert "cannot both listen on port 8765" in line
    assert "--worker-port/R3_WORKER_PORT" in line


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
@pytest.mark.parametrize("store", ["s4://me:secret@bucket", "/dev/null/images"])
def test_an_image_store_that_cannot_be_opened_is_refused(command: str, store: str, environment: Environment) -> None:
    asked = {**environment, "R3_IMAGE_STORE": store}
    if command != "serve":
        asked["R3_REDIS_URL"] = "redis://127.0.0.1:1"
    line = refusal(command, environment=asked)
    assert "R3_IMAGE_STORE=" in line
    assert "cannot be opened" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("R3_CORS_ORIGINS", "*", "such as https://app.example"),
        ("R3_CORS_ORIGINS", "https://app.example/page", "such as https://app.example"),
        ("R3_ALLOWED_HOSTS", "r3.example,https://r3.example", "without scheme"),
        ("R3_ALLOWED_HOSTS", "r3.example/api", "without scheme, port or path"),
        ("R3_ALLOWED_HOSTS", "r3.example:8000", "port"),
    ],
)
def test_hosts_and_origins_that_would_never_match_or_always_are_refused(
    name: str, value: str, remedy: str, environment: Environment
) -> None:
    line = refusal("api", environment={**environment, name: value})
    assert f"{name}={value} is refused" in line
    assert remedy in line
    assert "leave it out for" not in line


def test_a_refusal_does_not_offer_a_default_that_is_none(environment: Environment) -> None:
    assert "None" not in refusal("serve", environment={**environment, "R3_DTYPE": "fp8"})


@pytest.mark.parametrize("name", ["checkpoint", "base_checkpoint", "data_dir", "port", "redis_url"])
def test_an_empty_variable_is_an_unset_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(f"R3_{name.upper()}", raising=False)
    plain = getattr(Settings(), name)
    monkeypatch.setenv(f"R3_{name.upper()}", "")
    assert getattr(Settings(), name) == plain


def test_a_default_model_that_serve_does_not_serve_is_refused_by_both_names(environment: Environment) -> None:
    asked = {**environment, "R3_RUNNER": "model", "R3_DEFAULT_MODEL": "another"}
    line = refusal("serve", environment=asked)
    served = describe(default_checkpoint()).name
    assert f"R3_DEFAULT_MODEL=another is not what is served, {served}" in line


def test_a_missing_checkpoint_is_refused(environment: Environment, tmp_path: Path) -> None:
    line = refusal(
        "serve", "--checkpoint", str(tmp_path / "nowhere"), environment={**environment, "R3_RUNNER": "model"}
    )
    assert f"{tmp_path / 'nowhere'} does not exist" in line


def test_a_broken_checkpoint_is_refused(environment: Environment, tmp_path: Path) -> None:
    for name in ("llm_config.json", "vit_config.json", "tokenizer.json"):
        (tmp_path / name).write_text("{}")
    for name in ("ae.safetensors", "ema.safetensors"):
        (tmp_path / name).write_bytes(b"not a header")
    line = refusal("serve", "--checkpoint", str(tmp_path), environment={**environment, "R3_RUNNER": "model"})
    assert "ema.safetensors cannot be read as safetensors" in line


def test_a_device_without_a_meaning_is_refused(environment: Environment) -> None:
    assert "device 'tpu' is not known; give cpu" in refusal("serve", "--device", "tpu", environment=environment)


@pytest.mark.parametrize("command", ["serve", "api", "worker"])
def test_a_malformed_redis_url_is_refused(command: str, environment: Environment) -> None:
    line = refusal(command, "--redis-url", "http://me:secret@127.0.0.1", environment=environment)
    assert "no Redis URL" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("R3_REDIS_URL", "redis://:pass/secret@127.0.0.1:1/0"),
        ("R3_REDIS_URL", "rediss:/:secret@127.0.0.1"),
        ("R3_IMAGE_STORE", "s3://AKIDME:pass/secret@bucket/folder"),
        ("R3_IMAGE_STORE", "s3://AKIDME:secret/word@bucket/folder"),
        ("R3_IMAGE_STORE_ENDPOINT", "http://me:secret@minio:9000"),
        ("R3_PUBLIC_URL", "https://me:p@secret@r3.example"),
        ("R3_CORS_ORIGINS", "https://me:secret@r3.example"),
    ],
)
def test_a_url_that_is_refused_is_repeated_without_its_secret(name: str, value: str, environment: Environment) -> None:
    line = refusal("api", environment={**environment, "R3_REDIS_URL": "redis://127.0.0.1:1", name: value})
    assert "***@" in line or "do not belong into it" in line
    assert "secret" not in line


def test_a_redis_that_does_not_answer_is_refused_by_serve(environment: Environment) -> None:
    line = refusal("serve", "--redis-url", "redis://:secret@127.0.0.1:1/0", environment=environment)
    assert "no answer from Redis" in line
    assert "secret" not in line


@pytest.mark.parametrize("command", ["api", "worker"])
def test_a_process_alone_needs_its_queue_named(command: str, environment: Environment) -> None:
    assert "--redis-url/R3_REDIS_URL" in refusal(command, environment=environment)


def test_a_data_directory_that_is_a_file_is_refused(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refusal("serve", "--data-dir", str(tmp_path / "file" / "data"), environment=environment)
    assert "cannot be written" in line
    assert "--data-dir/R3_DATA_DIR" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_without_permission_is_refused(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    line = refusal("serve", "--data-dir", str(tmp_path / "closed" / "data"), environment=environment)
    assert "cannot be written" in line


def test_openapi_says_when_the_file_is_not_up_to_date(environment: Environment, tmp_path: Path) -> None:
    pytest.importorskip("server.app")
    file = tmp_path / "openapi.yaml"
    assert r3("openapi", "--check", "--output", str(file), environment=environment).returncode == 1
    assert r3("openapi", "--output", str(file), environment=environment).returncode == 0
    elsewhere = r3("openapi", "--output", str(tmp_path / "nowhere" / "file"), environment=environment)
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (EXIT_MISCONFIGURED, 1)
    assert r3("openapi", "--check", "--output", str(file), environment=environment).returncode == 0
    file.write_text(file.read_text() + "# stale\n")
    drifted = r3("openapi", "--check", "--output", str(file), environment=environment)
    assert drifted.returncode == 1
    assert "make openapi" in drifted.stderr
