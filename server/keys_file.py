"""R3_KEYS_FILE: keys and tenants' limits as a file, for whoever keeps a cluster's state in version control.

    keys:
      - id: r3_0123456789abcdef
        name: ci
        tenant: team-a
        scopes: [generate]
        sha256: <64 hex digits: `r3 keys hash` makes the entry and shows the key once>
        requests_per_min: 600        # may be left out
    tenants:                         # may be left out
      team-a: {weight: 2, queued: 50, running: 4, jobs_per_min: 30}

YAML, and so JSON too. It holds no key, so that who reads it can do nothing; who writes it can let anyone in. All of it
is good or none: a file with one mistake is not half a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from server.keys import DIGEST, KEY_ID, MAX_LIMIT, Key, KeysUnreadable, TenantLimits, scopes_named, tenant_name

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_TIME_MS: Final = 253_402_300_799_000  # the end of the year 9999


class KeysFileError(KeysUnreadable):
    """The file cannot be read, or is not in form; the message says where and what to do."""


@dataclass(frozen=True)
class KeysFile:
    """What the file says."""

    keys: Mapping[str, Key] = field(default_factory=dict)
    tenants: Mapping[str, TenantLimits] = field(default_factory=dict)


def read_keys_file(path: Path) -> KeysFile:
    """The file as it stands. Raises KeysFileError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeysFileError(f"{path} cannot be read ({error.strerror})") from error
    if len(content) > MAX_BYTES:
        raise KeysFileError(f"{path} has more than {MAX_BYTES:,} bytes")
    try:
        value = yaml.load(content.decode("utf-8"), _Loader)  # noqa: S506 -- a SafeLoader
        form = _File.model_validate({} if value is None else value)
    except UnicodeDecodeError as error:
        raise KeysFileError(f"{path} is not UTF-8 at byte {error.start}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise KeysFileError(f"{path} is not YAML: {_where(error)}") from error
    except ValidationError as error:
        raise KeysFileError(f"{path}: {_faults(error)}") from error
    return _checked(path, form)


def entry(key: Key) -> str:
    """What the file says of a key, ready to be put under `keys:`."""
    values = {name: value for name, value in asdict(key).items() if value is not None}
    values["scopes"] = list(key.scopes)
    text: str = yaml.safe_dump([values], sort_keys=False, default_flow_style=None, width=1000)
    return text


class _Loader(yaml.SafeLoader):
    """YAML in which a name stands once: of two, PyYAML would take the last and say nothing."""

    def compose_mapping_node(self, anchor: dict[str, yaml.Node]) -> yaml.MappingNode:
        """As ever, unless a name is there twice."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        names = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode):
                if name.value in names:  # which it is, is not said: it may be a key that was put in by mistake
                    raise yaml.composer.ComposerError(None, None, "this name is there twice", name.start_mark)
                names.add(name.value)
        return node


def _key_id(text: str) -> str:
    if not KEY_ID.fullmatch(text):
        raise ValueError("must be r3_ and 16 hex digits, as `r3 keys hash` writes it")
    return text


def _digest(text: str) -> str:
    if not DIGEST.fullmatch(text):
        raise ValueError("must be the 64 lower-case hex digits of the key's SHA-256, as `r3 keys hash` writes them")
    return text


def _scopes(names: list[str]) -> list[str]:
    return list(scopes_named(names))


_Name = Annotated[str, AfterValidator(tenant_name)]
_Limit = Annotated[int, Field(ge=1, le=MAX_LIMIT)] | None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _Key(_Strict):
    id: Annotated[str, AfterValidator(_key_id)]
    name: _Name
    tenant: _Name
    scopes: Annotated[list[str], AfterValidator(_scopes)]
    sha256: Annotated[str, AfterValidator(_digest)]
    requests_per_min: _Limit = None
    created_ms: Annotated[int, Field(ge=0, le=MAX_TIME_MS)] | None = None


class _Tenant(_Strict):
    jobs_per_min: _Limit = None
    queued: _Limit = None
    running: _Limit = None
    weight: float = 1.0


class _File(_Strict):
    keys: list[_Key] = []
    tenants: dict[_Name, _Tenant] = {}


def _checked(path: Path, form: _File) -> KeysFile:
    keys: dict[str, Key] = {}
    for one in form.keys:
        if one.id in keys:
            raise KeysFileError(f"{path}: key {one.id} is there twice; make another with `r3 keys hash`")
        keys[one.id] = Key(**{**one.model_dump(), "scopes": scopes_named(one.scopes)})
    try:
        tenants = {name: TenantLimits(**limits.model_dump()) for name, limits in form.tenants.items()}
    except ValueError as error:
        raise KeysFileError(f"{path}: {error}") from error
    return KeysFile(keys, tenants)


def _where(error: Exception) -> str:
    mark: Any = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it is nested too deep"
    return str(problem) if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _faults(error: ValidationError) -> str:
    """Each fault with its place; values are left out, for one may be a key that was put in by mistake."""
    return "; ".join(
        f"{'.'.join(str(part) for part in fault['loc']) or 'the file'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors(include_input=False, include_url=False)[:10]
    )
