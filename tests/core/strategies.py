"""Hypothesis strategies for requests and for what a model may answer."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from r3core.judge import SCORERS, Counts, ScoreStop
from r3core.types import EarlyStop, ImageSampling, Request, TextSampling

EDIT = "<think>One hat is missing.</think> Add a hat."
SATISFIED = "<think>All is there.</think> No further edit needed."
MALFORMED = "There is nothing to enclose."
EMPTY = "<think>Hm.</think>  "
ANSWERS = (EDIT, SATISFIED, MALFORMED, EMPTY)

answers = st.sampled_from(ANSWERS)
seeds = st.integers(0, 2**53 - 1)
text_samplings = st.builds(
    TextSampling,
    max_tokens=st.integers(1, 2048),
    temperature=st.floats(0, 2),
    top_p=st.floats(0, 1, exclude_min=True),
    top_k=st.integers(0, 1000),
)
image_samplings = st.builds(
    ImageSampling,
    num_timesteps=st.integers(2, 200),
    cfg_text_scale=st.floats(0, 20),
    cfg_img_scale=st.floats(0, 20),
    cfg_interval=st.tuples(st.floats(0, 0.5), st.floats(0.5, 1, exclude_min=True)),
    cfg_renorm_type=st.sampled_from(["global", "channel", "text_channel"]),
    cfg_renorm_min=st.floats(0, 1),
    timestep_shift=st.floats(0, 10, exclude_min=True),
    step_cache=st.integers(1, 4),
)


some_prompts = st.text(min_size=1, max_size=20)


@st.composite
def requests(draw: st.DrawFn, prompts: st.SearchStrategy[str] = some_prompts) -> Request:
    """Any request that the service would let through."""
    given_image = draw(st.booleans())
    max_rounds = draw(st.integers(1 if given_image else 0, 8))
    return Request(
        prompt=draw(prompts),
        width=draw(st.sampled_from([64, 112])),
        height=draw(st.sampled_from([64, 96])),
        seed=draw(seeds),
        max_rounds=max_rounds,
        min_rounds=draw(st.integers(0, max_rounds)),
        early_stop=EarlyStop(draw(st.booleans()), draw(st.integers(1, 5))),
        think=draw(st.booleans()),
        n=draw(st.integers(1, 4)),
        given_image=given_image,
        instruction=draw(st.none() | st.text(max_size=20)) if given_image else None,
        reason=draw(text_samplings),
        reflect=draw(text_samplings),
        generate=draw(image_samplings),
        refine=draw(image_samplings),
        previews=draw(st.integers(0, 20)),
    )


@st.composite
def judged_requests(draw: st.DrawFn) -> Request:
    """Any request that scores its pictures."""
    asked = draw(requests())
    scorers = tuple(draw(st.lists(st.sampled_from(SCORERS), min_size=1, max_size=4, unique=True)))
    rules = st.builds(
        ScoreStop,
        scorer=st.sampled_from(scorers),
        at_least=st.none() | st.floats(-2, 2),
        min_gain=st.sampled_from([0.0, 0.5]),
        patience=st.integers(1, 8),
    )
    return replace(
        asked,
        scorers=scorers,
        early_stop=replace(asked.early_stop, score=draw(st.none() | rules), all=draw(st.booleans())),
        choose=draw(st.sampled_from(["last", "best"])),
        on_regression=draw(st.sampled_from(["keep", "backtrack"])),
        candidates=Counts(draw(st.integers(1, 8)), draw(st.integers(1, 4))),
        max_images=draw(st.none() | st.integers(asked.n, 40)),
    )
