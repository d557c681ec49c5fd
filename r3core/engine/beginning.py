"""A step begins: what of a trajectory is fed anew, and what is made ready to be written or drawn.

Contexts are spans of the K/V cache, lent by the scheduler. Nothing is computed here but what a picture is to the eye
and to the hand (r3core.engine.sight); the rows of new contexts go into the turn's forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from r3core.engine.batch import Begin
from r3core.engine.drafting import Drafts, Phrases, texts_of
from r3core.engine.drawing import Drawing
from r3core.engine.feeds import Feeder
from r3core.engine.looking import Looking, Prompt
from r3core.engine.packing import Cursor
from r3core.engine.sight import Sight, forget
from r3core.engine.state import State, Writing
from r3core.loop import needed
from r3core.model.attention import LayerCache
from r3core.model.bagel import Model
from r3core.model.placing import to_device
from r3core.model.sampling import Uniforms, generator
from r3core.model.tokenizer import TextStream, Tokenizer
from r3core.model.vit import grid_ids
from r3core.prompts import PromptStrings
from r3core.schedule import branches_per_step, preview_steps, timesteps
from r3core.steps import Describe, Generate, Judge, Reason, Reconstruct, Refine, Reflect, draws
from r3core.types import ImageSampling, TextSampling, Trajectory

Noise = Callable[[Begin, str, int, int, int], Tensor]
"""Where a picture of a stage, a round, so many tokens and a candidate starts from, [tokens, d]."""


@dataclass(frozen=True)
class Prefixes:
    """The constant beginnings of contexts, which stand in `cache` for good."""

    cache: Sequence[LayerCache]
    generate_system: Cursor
    reflect_system: Cursor

    def copy(self, prefix: Cursor, start: int) -> Cursor:
        """Begin a context with one of them, a few dozen rows."""
        source, target = slice(prefix.start, prefix.start + prefix.length), slice(start, start + prefix.length)
        for layer in self.cache:
            layer.keys[target] = layer.keys[source]
            layer.values[target] = layer.values[source]
        return Cursor(start, prefix.length, prefix.position)


class Beginner:
    """Begins steps. `phrases` are those of the checkpoint's own texts."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        feeder: Feeder,
        strings: PromptStrings,
        prefixes: Prefixes,
        phrases: Phrases,
        sight: Sight,
    ) -> None:
        self._bagel, self._config, self._device = model.bagel, model.config, model.bagel.device
        self._tokenizer, self._feeder, self._strings = tokenizer, feeder, strings
        self._prefixes, self._phrases, self._sight = prefixes, phrases, sight

    def begin(self, state: State, begin: Begin, noise: Noise, *, is_alone: bool) -> None:
        """Make `state` ready for a step; `is_alone` says that no other trajectory has a turn now."""
        # May be called again where memory ran out, so what it goes on from is not forgotten before the end.
        state.prefill, state.looking, state.decoded = [], None, []
        forget(state, {p.image.id for p in begin.pictures} | {image.id for image in needed(begin.trajectory)})
        match begin.step:
            case Reason():
                self._begin_reason(state, begin)
            case Reflect():
                self._begin_reflect(state, begin)
                if is_alone:
                    self._sight.encode_ahead(state, begin)
            case Describe():
                self._begin_describe(state, begin)
            case Judge():
                prompt = Prompt.of(begin.trajectory.request.prompt, self._tokenizer, self._strings)
                state.looking, state.writing = Looking(begin, prompt, state.prior), None
            case Generate() | Reconstruct():
                self._begin_generate(state, begin, noise)
            case Refine(instruction=instruction):
                self._begin_refine(state, begin, instruction, noise)

    def _begin_reason(self, state: State, begin: Begin) -> None:
        request = begin.trajectory.request
        start = self._prefixes.copy(self._prefixes.generate_system, begin.spans[0].start)
        ids = [*self._tokenizer.segment(request.prompt), self._tokenizer.im_start]
        self._ask(state, begin, start, request.reason, ids)

    def _begin_reflect(self, state: State, begin: Begin) -> None:
        request = begin.trajectory.request
        before = state.writing
        if begin.keeps and before is not None:  # the same question once more: only its first token goes in again
            self._ask(state, begin, before.prompt, request.reflect, [self._tokenizer.im_start])
            return
        start = self._prefixes.copy(self._prefixes.reflect_system, begin.spans[0].start)
        eye = self._feeder.vit(start, self._sight.rows(state, begin.picture))
        state.prefill.append(eye)
        question = self._tokenizer.segment(self._strings.reflect_question(request.prompt))
        ids = [*question, self._tokenizer.im_start]
        self._ask(state, begin, start.after(eye), request.reflect, ids)

    def _begin_describe(self, state: State, begin: Begin) -> None:
        request = begin.trajectory.request
        eye = self._feeder.vit(Cursor(begin.spans[0].start), self._sight.rows(state, begin.picture))
        state.prefill.append(eye)
        question = self._tokenizer.segment(request.question or self._strings.describe_question)
        self._ask(state, begin, eye.at.after(eye), request.describe, [*question, self._tokenizer.im_start])

    def _ask(self, state: State, begin: Begin, at: Cursor, sampling: TextSampling, ids: list[int]) -> None:
        """Feed ids, whose last is the start of the answer, and be ready to decode it."""
        trajectory, step = begin.trajectory, begin.step
        feed = self._feeder.text(at, ids)
        state.prefill.append(feed)
        round_, attempt, candidate, verdict = 0, 0, 0, False
        if isinstance(step, Reflect):
            round_, attempt, candidate = step.round, step.attempt, step.candidate
            verdict = not attempt and "verdict" in trajectory.request.scorers
        state.writing = Writing(
            cursor=at.after(feed),
            sampling=sampling,
            draws=Uniforms(generator(trajectory.seed, round_, type(step).__name__.lower(), attempt, candidate)),
            stream=TextStream(self._tokenizer),
            prompt=at.past(len(ids) - 1),
            drafts=Drafts(self._phrases_of(state, trajectory)),
            verdict=verdict,
        )

    def _phrases_of(self, state: State, trajectory: Trajectory) -> Phrases:
        """What a trajectory has said so far; texts that another process wrote are read once."""
        if state.phrases is None:
            state.phrases = Phrases(self._phrases)
            for text in (trajectory.request.prompt, *texts_of(trajectory)):
                state.phrases.learn(self._tokenizer.encode(text))
        return state.phrases

    def _begin_generate(self, state: State, begin: Begin, noise: Noise) -> None:
        trajectory, start = begin.trajectory, begin.spans[0].start
        round_, prompt = 0, trajectory.request.prompt
        if isinstance(begin.step, Reconstruct):
            round_, prompt = 1, trajectory.description or ""
        if begin.keeps and state.writing is not None:  # the plan's K/V, as it was generated; its end goes in now
            feed = self._feeder.text(state.writing.cursor, [self._tokenizer.im_end])
            system = self._prefixes.generate_system
            without_text = Cursor(start, system.length, system.position)
        else:
            feed = self._feeder.text(Cursor(start), self._tokenizer.segment(prompt))
            without_text = Cursor(start)
        state.prefill.append(feed)
        views = (feed.at.after(feed), without_text)
        state.drawings = self._drawings(begin, noise, trajectory.request.generate, views, round_)
        state.writing = None  # last, for where it stands was read above

    def _begin_refine(self, state: State, begin: Begin, instruction: str, noise: Noise) -> None:
        request, step, picture = begin.trajectory.request, begin.step, begin.picture
        assert isinstance(step, Refine)
        ids = self._tokenizer.segment(instruction)
        start = Cursor(begin.spans[0].start)
        drawn = self._feeder.vae(start, self._sight.latent(state, picture))
        eye = self._feeder.vit(start.after(drawn), self._sight.rows(state, picture))
        shared = eye.at.after(eye)  # both branches that see the picture begin with these rows
        text = self._feeder.text(shared, ids)
        state.prefill = [drawn, eye, text]
        views = [shared.after(text), shared]
        if len(begin.spans) > 1:
            alone = self._feeder.text(Cursor(begin.spans[1].start), ids)
            state.prefill.append(alone)
            views.append(alone.at.after(alone))
        state.writing = None
        state.drawings = self._drawings(begin, noise, request.refine, tuple(views), step.round)

    def _drawings(
        self, begin: Begin, noise: Noise, settings: ImageSampling, views: tuple[Cursor, ...], round_: int
    ) -> list[Drawing]:
        """A drawing for each candidate: they see the same, and begin from noise of their own."""
        trajectory, stride = begin.trajectory, self._config.latent_stride
        edit = isinstance(begin.step, Refine)
        width, height = trajectory.request.width, trajectory.request.height
        if edit:
            width, height = begin.picture.image.width, begin.picture.image.height
        grid = height // stride, width // stride
        times = timesteps(settings.num_timesteps, settings.timestep_shift)
        places = self._bagel.latent_pos_embed(grid_ids(*grid, self._config.latent_side, self._device))
        clock = self._bagel.time_embedder(to_device(np.array(times[:-1], dtype=np.float32), self._device))
        counts = branches_per_step(settings, edit=edit)
        previews = preview_steps(settings.num_timesteps - 1, trajectory.request.previews)
        stage, candidates = "refine" if edit else "generate", draws(begin.step)
        return [
            Drawing(
                x=to_device(noise(begin, stage, round_, grid[0] * grid[1], candidate).numpy(), self._device),
                grid=grid,
                places=places,
                times=times,
                clock=clock,
                settings=settings,
                edit=edit,
                views=views,
                counts=counts,
                previews=previews if candidate == candidates[0] else frozenset(),
            )
            for candidate in candidates
        ]
