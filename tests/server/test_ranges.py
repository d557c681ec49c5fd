"""What /info tells of every number's ends is what a request is checked by."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from server.ranges import ranges
from server.schemas import GenerationCreate

FIELDS = sorted(ranges())


def asking(field: str, value: float) -> dict[str, Any]:
    """A request with that one number."""
    first, *inner = field.split(".")
    given: Any = value
    for name in reversed(inner):
        given = {name: given}
    body: dict[str, Any] = {"prompt": "a cat", first: given}
    if field == "early_stop.score.patience":
        body["early_stop"]["score"]["scorer"] = "lift"
    if field == "min_rounds":
        body["max_rounds"] = max(0, value)
    if field == "output_compression":
        body["output_format"] = "webp"
    return body


def test_the_numbers_that_the_page_asks_for_are_told() -> None:
    assert ranges()["max_rounds"] == {"minimum": 0, "maximum": 8}
    assert {"n", "previews", "early_stop.confirmations", "refine.cfg_img_scale", "reason.temperature"} <= set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_the_ends_are_taken_and_what_lies_beyond_is_refused(field: str) -> None:
    least, most = ranges()[field]["minimum"], ranges()[field]["maximum"]
    for value in (least, most):
        GenerationCreate.model_validate(asking(field, value))
    for value in (least - 1, most + 1):
        with pytest.raises(ValidationError) as refused:
            GenerationCreate.model_validate(asking(field, value))
        assert field.rpartition(".")[2] in [fault["loc"][-1] for fault in refused.value.errors()]
