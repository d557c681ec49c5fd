"""The jobs beside /generate with the small model, through the whole service: pictures whose contents are known."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image as PILImage

from r3client import Client
from training.evaluate import CHECKPOINT
from training.render import render
from training.served import private_server
from training.world import Thing, place

pytestmark = [
    pytest.mark.skipif(
        not (CHECKPOINT / "ema.safetensors").is_file(), reason="checkpoints/small is not trained yet: make train-small"
    ),
    pytest.mark.timeout(300),
]
PROMPT = "a photo of three red circles"


def drawn(*things: Thing) -> bytes:
    """A picture of these things."""
    out = io.BytesIO()
    PILImage.fromarray(render([things])[0]).save(out, "PNG")
    return out.getvalue()


THREE = drawn(*(place("red", "circle", cell) for cell in (0, 4, 8)))
TWO = drawn(*(place("red", "circle", cell) for cell in (0, 4)))
HEART = drawn(place("purple", "heart", 4))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a server with the small model."""
    with private_server(CHECKPOINT) as address, Client(address) as one:
        yield one


def test_every_scorer_ranks_the_right_picture_first_and_lift_says_what_lacks(client: Client) -> None:
    scored = client.score(PROMPT, [TWO, THREE, HEART], scorers=["gvu", "lift", "vqa", "verdict"], seed=1)
    for scorer in ("gvu", "lift", "vqa", "verdict"):
        values = [one.value(scorer) for one in scored.images]
        assert all(value is not None for value in values)
        assert max(range(3), key=lambda at: values[at] or 0.0) == 1, (scorer, values)
    lifts = {word.text: word.lift for word in scored.images[0].scores[1].words}
    assert list(lifts) == PROMPT.split()
    assert min(lifts, key=lambda text: lifts[text]) == "three"


def test_a_picture_scored_alone_and_in_company_has_the_same_scores(client: Client) -> None:
    [alone] = client.score(PROMPT, TWO, scorers=["gvu", "vqa"]).images
    _, among = client.score(PROMPT, [HEART, TWO], scorers=["gvu", "vqa"]).images
    for one, other in zip(alone.scores, among.scores, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-4)


def test_a_reflection_adds_what_lacks_and_leaves_what_is_right(client: Client) -> None:
    wrong, right = (client.reflect(PROMPT, picture, seed=1).reflection for picture in (TWO, THREE))
    assert wrong is not None
    assert right is not None
    assert wrong.verdict == "edit"
    assert (wrong.instruction or "").startswith("Add a red circle")
    assert right.verdict == "satisfied"


def test_a_description_says_what_is_there_and_a_question_is_answered(client: Client) -> None:
    assert client.describe(THREE).text == "three red circles"
    asked = (f'Does this figure show "{what}"? Please answer yes or no.' for what in ("a purple heart", PROMPT))
    assert [client.describe(HEART, question=question).text for question in asked] == ["yes", "no"]


def test_a_round_trip_comes_back_to_much_the_same_picture(client: Client) -> None:
    result = client.roundtrip(HEART, seed=1)
    assert result.description == "a purple heart"
    assert result.reconstruction is not None
    assert client.describe(result.reconstruction).text == "a purple heart"
    alike = result.similarities or {}
    assert alike["self"] > 0.99
    assert 10 < alike["psnr"] < 60
    drawn_first = client.roundtrip(prompt="a purple heart", seed=1)
    assert drawn_first.description == "a purple heart"
