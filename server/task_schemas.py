"""The bodies of the jobs beside POST /generate: what the model says of a picture, and a picture's way through its own
description. What every job's body has stands in schemas.py.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from server.schemas import (
    MAX_PROMPT_CHARS,
    SIZE,
    GenerateSamplingCreate,
    JobCreate,
    OutputFormat,
    ResponseFormat,
    Scorers,
    TextSamplingCreate,
    size_text,
)

MAX_PICTURES = 16

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]
_PICTURE = "PNG, JPEG or WebP as base64 or data URL, or the id of an image of yours."
_BYTES = "b64_json: answers hold the pictures' bytes too."


class ScoreCreate(JobCreate):
    """How well pictures show a prompt, by what the model itself makes of them."""

    prompt: Prompt = Field(description="What the pictures should show.")
    image: str | None = Field(None, description=f"The picture: {_PICTURE}")
    images: Annotated[list[str], Field(min_length=1, max_length=MAX_PICTURES)] | None = Field(
        None, description="In place of image: several pictures, each as image may be."
    )
    scorers: Scorers = Field(["lift"], description="verdict has every picture reflected on.")
    reflect: TextSamplingCreate = Field(TextSamplingCreate(), description="With verdict.")
    response_format: ResponseFormat = Field("url", description=_BYTES)


class ReflectCreate(JobCreate):
    """How to edit a picture so that it shows a prompt."""

    prompt: Prompt = Field(description="What the picture should show.")
    image: str = Field(description=f"The picture: {_PICTURE}")
    reflect: TextSamplingCreate = TextSamplingCreate()
    response_format: ResponseFormat = Field("url", description=_BYTES)


class DescribeCreate(JobCreate, TextSamplingCreate):
    """What a picture shows."""

    image: str = Field(description=f"The picture: {_PICTURE}")
    question: Prompt | None = Field(None, description="Answer this in place of describing the picture.")
    response_format: ResponseFormat = Field("url", description=_BYTES)


class RoundtripCreate(JobCreate):
    """A picture, its description, a picture of that description alone, and how alike the two are."""

    prompt: Prompt | None = Field(None, description="In place of image: the first picture is drawn from it.")
    image: str | None = Field(None, description=f"The picture: {_PICTURE}")
    think: bool = Field(True, description="With prompt: write a reasoning text before the first picture.")
    size: Annotated[str, AfterValidator(size_text), Field(json_schema_extra={"pattern": SIZE.pattern})] | None = Field(
        None, description="With prompt: WIDTHxHEIGHT in pixels; /info says the checkpoint's default."
    )
    reason: TextSamplingCreate = TextSamplingCreate()
    describe: TextSamplingCreate = TextSamplingCreate()
    generate: GenerateSamplingCreate = GenerateSamplingCreate()
    previews: Annotated[int, Field(ge=0, le=20)] = Field(0, description="Previews per picture, evenly spaced.")
    response_format: ResponseFormat = Field("url", description=_BYTES)
    output_format: OutputFormat = "png"
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = Field(
        None, description="Quality of webp and jpeg, 100 the best; refused with png."
    )
