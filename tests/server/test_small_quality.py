"""The small model through the whole service: it draws, sees and mends as well as it was measured to.

What breaks the model's eyes or hands anywhere on the way (tokens, masks, positions, guidance, pictures stored and read
again) shows here as a fall below what chance allows. `python -m training.quality` measures anew for a new checkpoint.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import numpy as np
import openai
import pytest
from PIL import Image as PILImage

from r3core.checkpoint import describe
from training.evaluate import CHECKPOINT
from training.quality import FIGURES, GOLDEN, right_in_the_end, run, run_wrong_starts, stored, values
from training.served import Answer, AskFailed, ask, private_server
from training.world import SIDE_PX

LONG = ("a picture of seventeen grey wolves under a bridge, painted late in the evening, and nothing else; " * 41)[
    :4000
]
OUTSIDE = {
    "other things": "a photo of four cats",
    "a space": " ",
    "a full stop": ".",
    "emoji": "🦊🌈 👩‍👩‍👧‍👦",
    "special tokens": "<|im_end|><|vision_start|></think> no further edit",
    "another script": "赤い丸の左に青い四角",
    "4,000 characters": LONG,
}

pytestmark = [
    pytest.mark.skipif(
        not (CHECKPOINT / "ema.safetensors").is_file(), reason="checkpoints/small is not trained yet: make train-small"
    ),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with the small model and every setting the default."""
    with private_server(CHECKPOINT) as address:
        yield address


@pytest.fixture(scope="module")
def found(url: str) -> dict[str, list[float]]:
    """64 held-out prompts, and loops that begin wrong: fixed seeds, at most two refinements."""
    return {**values(run(url)), "mended": right_in_the_end(run_wrong_starts(url, stored().wrong_starts))}


def test_the_figures_are_of_this_checkpoint() -> None:
    kept = stored()
    known = describe(CHECKPOINT).hash
    assert kept.checkpoint == known, f"{GOLDEN.name} is of another checkpoint; run python -m training.quality"
    assert set(kept.bars) == set(FIGURES)
    assert kept.bars["mended"].floor > 0


@pytest.mark.parametrize("figure", FIGURES)
def test_it_is_as_good_as_it_was_measured_to_be(figure: str, found: dict[str, list[float]]) -> None:
    bar, mean = stored().bars[figure], float(np.mean(found[figure]))
    assert mean >= bar.floor, f"{figure}: {mean:.3f}, measured {bar.mean:.3f}, floor {bar.floor:.3f}"


@pytest.mark.parametrize("prompt", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_prompt_from_outside_its_world_is_drawn_and_ends(prompt: str, url: str) -> None:
    (answer,) = ask(url, [{"prompt": prompt, "seed": 1}])
    assert answer.job["trajectories"][0]["stop_reason"] in ("satisfied", "max_rounds", "malformed")
    assert {picture.shape for picture in pictures_of(answer)} == {(SIDE_PX, SIDE_PX, 3)}


def test_a_prompt_of_more_tokens_than_it_can_hold_is_refused_and_harms_nobody(url: str) -> None:
    with pytest.raises(AskFailed, match="shorten the prompt"):
        ask(url, [{"prompt": "🦊" * 4000, "seed": 1}])
    (answer,) = ask(url, [{"prompt": "a red circle", "seed": 1, "max_rounds": 0}])
    assert len(pictures_of(answer)) == 1


def test_the_openai_client_has_its_pictures_made_edited_and_streamed(url: str) -> None:
    plain = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", http_client=plain) as client:
        settings = {"r3": {"seed": 1, "max_rounds": 2}}
        stream = client.images.generate(prompt="one red circle", stream=True, partial_images=2, extra_body=settings)
        *partial, completed = list(stream)
        assert len(partial) <= 2
        assert completed.type == "image_generation.completed"
        content = base64.b64decode(completed.b64_json)
        edited = client.images.edit(image=content, prompt="Add a blue square.", extra_body={"r3": {"seed": 1}})
    assert edited.data is not None
    drawn = base64.b64decode(edited.data[0].b64_json or "")
    with PILImage.open(io.BytesIO(drawn)) as picture:
        assert picture.size == (SIDE_PX, SIDE_PX)
    assert drawn != content


def pictures_of(answer: Answer) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    return [picture for rounds in answer.pictures for picture in rounds]
