"""The least and the most of the numbers that a job can be asked with, read from the schema that checks them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from server.schemas import GenerationCreate

Json = dict[str, Any]


@cache
def ranges() -> Mapping[str, Json]:
    """Field to its ends, both allowed: {"max_rounds": {"minimum": 0, "maximum": 8}, "refine.num_timesteps": ...}.

    A field that has not both, or may not be one of them (`top_p` above 0), is left out.
    """
    schema = GenerationCreate.model_json_schema()
    return dict(_of(schema["properties"], schema["$defs"], ""))


def _of(properties: Mapping[str, Json], parts: Mapping[str, Json], prefix: str) -> Iterator[tuple[str, Json]]:
    for name, field in properties.items():
        for form in _forms(field):
            if "minimum" in form and "maximum" in form:
                yield prefix + name, {"minimum": form["minimum"], "maximum": form["maximum"]}
            if "$ref" in form:
                part = parts[form["$ref"].rpartition("/")[2]]
                yield from _of(part["properties"], parts, f"{prefix}{name}.")


def _forms(field: Json) -> Iterator[Json]:
    """A field's schema, and every one that it may have instead."""
    yield field
    for form in field.get("anyOf", ()):
        yield from _forms(form)
