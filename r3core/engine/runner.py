"""ModelRunner: computes the scheduler's batches with the model.

What a trajectory holds here: its contexts (spans of the K/V cache, lent by the scheduler), the text it writes, the
pictures that it judges or draws, and the ViT rows of those that it may look at again, which serve the scores of a
picture, the reflection on it and its refinement.
One turn runs one forward over all texts, new contexts and noisy latents: the understanding expert, which also computes
the markers around latents, is read once. Only where that is more than a forward should hold does it run further ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r3core.checkpoint import Description
from r3core.engine.aside import Aside, helps, wait_for_one
from r3core.engine.batch import (
    Batch,
    Begin,
    Likened,
    Looked,
    MemoryPlan,
    Need,
    Stepped,
    Took,
    Working,
)
from r3core.engine.beginning import Beginner, Prefixes
from r3core.engine.devices import device_of
from r3core.engine.drafting import Phrases, texts_of
from r3core.engine.drawing import Branches, Drawing, Moved, moved
from r3core.engine.feeds import Feeder
from r3core.engine.forwards import Forward, Found, forwards_of
from r3core.engine.isolation import Isolation, Outputs
from r3core.engine.likeness import Likeness
from r3core.engine.packing import Cursor, Feed, Layouts, Packed, pack
from r3core.engine.pictures import Pictures, awaited, give_up
from r3core.engine.rows import MARKERS, RowCounter
from r3core.engine.sight import Sight
from r3core.engine.state import Places, State, Turn, places_of
from r3core.engine.stopwatch import Timed
from r3core.engine.threads import Threads
from r3core.engine.writing import Writer, judged
from r3core.model.attention import Attention, LayerCache
from r3core.model.bagel import Model, laid_out_bytes
from r3core.model.sampling import generator, noise
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import PromptStrings
from r3core.steps import Compare, Step
from r3core.types import Trajectory

if TYPE_CHECKING:
    from r3core.similarity import Similarity


class ModelRunner:
    """The Runner interface over a loaded model.

    A replay of recorded numbers (r3core.verify) brings other prompt strings and its own noise, and looks on.
    """

    prompt_strings = PromptStrings()

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        description: Description,
        attention: Attention,
        plan: MemoryPlan,
        similarities: Sequence[Similarity] = (),
    ) -> None:
        self._bagel, self._vae, self._config = model.bagel, model.vae, model.config
        self._tokenizer, self._description, self._attention = tokenizer, description, attention
        self._plan = plan
        self.max_batch_rows = plan.batch_rows
        self._states: dict[str, State] = {}
        self._device = device_of(model.bagel.device)
        self._isolation = Isolation(self._device.free_memory, self._device.answers)
        self._text: Timed  # the last text forward
        strings = self.prompt_strings
        systems = [tokenizer.segment(text) for text in (strings.generate_system, strings.reflect_system)]
        # The two system prompts never change: their K/V stand in the cache's last rows for good.
        self._reserved = sum(len(ids) for ids in systems)
        self.cache_rows = plan.kv_cache_rows
        self._counter = RowCounter(tokenizer, description, model.config, plan, strings)
        self._aside = Aside(_threads(model) if helps(model.bagel.device) else None)
        self._is_alone = False  # whether a single trajectory has a turn
        self._pictures = Pictures(model, self._device.stopwatch, self._aside)
        self._layouts = Layouts()
        self.phrases = Phrases()  # of the checkpoint's own texts
        self._cache: list[LayerCache] = model.bagel.new_cache(self.cache_rows + self._reserved)
        with torch.inference_mode():
            model.bagel.fuse()
            self._device.free_memory()  # where the parts of what is joined now lay: 17 GB at the true size
            self._feeder = Feeder(model, tokenizer, description.transforms)
            prefixes = Prefixes(
                self._cache,
                generate_system=self._store_prefix(systems[0], self.cache_rows),
                reflect_system=self._store_prefix(systems[1], self.cache_rows + len(systems[0])),
            )
        self._sight = Sight(self._feeder, self._aside, self._states, plan.kept_rows)
        self._beginner = Beginner(model, tokenizer, self._feeder, strings, prefixes, self.phrases, self._sight)
        self._writer = Writer(tokenizer, self._feeder)
        self._likeness = Likeness(self._feeder, similarities)

    def plan(self) -> MemoryPlan:
        """What the device holds."""
        return self._plan

    def check(self, trajectory: Trajectory) -> None:
        """Raise InvalidRequest, PromptTooLong or OutOfCapacity where the trajectory could never be served."""
        self._counter.check(trajectory)

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
        """Cache rows, prefill rows and denoising rows of a step."""
        return self._counter.need(step, trajectory, keeps=keeps)

    def run(self, batch: Batch) -> Outputs:
        """Compute one turn; a failure stays with its own trajectory. Raises DeviceError."""
        outputs: Outputs = {}
        self._is_alone = len({*(b.key for b in batch.begin), *batch.text, *batch.draw}) == 1
        with torch.inference_mode(), self._aside.computing(0):
            for begin in batch.begin:
                outputs |= self._isolation.alone(begin.key, lambda b=begin: self._begun(b))  # type: ignore[misc]
            text = [k for k in batch.text if k not in outputs]
            drawing = [k for k in batch.draw if k not in outputs]
            decoding = [k for k in drawing if self._states[k].decoded]
            draw = [k for k in drawing if k not in decoding]
            both = list(dict.fromkeys((*text, *draw)))  # who begins to draw is in both
            outputs |= self._isolation.together(both, partial(self._advance, frozenset(text), frozenset(draw)))
            outputs |= self._decoded(decoding, is_all=not both)
            self._device.turned()
        return outputs

    def free(self, key: str) -> None:
        """Drop all that is held for a trajectory."""
        if (state := self._states.pop(key, None)) is not None:
            give_up(state)

    def remember(self, trajectory: Trajectory) -> None:
        """Draft later texts from those of a trajectory that shows nobody's words but the checkpoint's own."""
        for text in texts_of(trajectory):
            self.phrases.learn([*self._tokenizer.encode(text), self._tokenizer.im_end])

    def took(self) -> list[Took]:
        """What was computed since this was last asked, as far as the device has come."""
        return self._device.stopwatch.took()

    def memory_used_bytes(self) -> int | None:
        """Memory of the device that is taken, by whomever; None for a CPU."""
        return self._device.memory_used_bytes()

    # --- steps begin

    def _begun(self, begin: Begin) -> Outputs:
        """Be ready for a step, of which there is nothing to show yet; a comparison is done at once."""
        if isinstance(begin.step, Compare):
            return {begin.key: Likened(self._likeness.of(*(picture.pixels for picture in begin.pictures)))}
        self._begin(begin)
        return {}

    def _begin(self, begin: Begin) -> None:
        self._beginner.begin(self._states.setdefault(begin.key, State()), begin, self._noise, is_alone=self._is_alone)

    def _noise(self, begin: Begin, stage: str, round_: int, tokens: int, candidate: int) -> Tensor:
        """Where a picture starts from, [tokens, d]."""
        draws = generator(begin.trajectory.seed, round_, stage, candidate=candidate)
        return noise(draws, tokens, self._config.token_channels)

    # --- a turn: new contexts, the next tokens of all that write, what is asked of pictures and texts, and the next
    # step of all that draw

    def _advance(self, text: frozenset[str], draw: frozenset[str], keys: list[str]) -> Outputs:
        """A turn of these trajectories. Nothing of them changes before all forwards are computed."""
        turns = self._turns({key: self._states[key] for key in keys if key in text})
        drawings = [(key, drawing) for key in keys if key in draw for drawing in self._states[key].drawings]
        found = Found()
        judging = [key for key in turns if self._states[key].looking is not None]
        for forward in forwards_of(turns, judging, drawings, self.max_batch_rows, MARKERS):
            self._compute(forward, found)
        for key in turns:
            state = self._states[key]
            if key in found.chosen and state.writing is not None and not state.prefill:
                state.writing.cursor = state.writing.cursor.past(1)
            state.prefill = []
        outputs: Outputs = {}
        # Once: a second try would go on from the tokens of the first.
        for key, chosen in found.chosen.items():
            outputs |= self._isolation.once(key, partial(self._wrote, key, chosen, turns[key].drafted))
        for key, own in found.likelihoods.items():
            outputs |= self._isolation.once(key, partial(self._read, key, own))
        for key, drawn in found.velocities.items():
            outputs |= self._isolation.alone(key, partial(self._stepped, key, drawn))
        return outputs

    def _turns(self, states: Mapping[str, State]) -> dict[str, Turn]:
        """What each puts into the text forward, in their order. Of those that judge pictures only as many as fill one:
        what is asked of pictures is made before it is computed, and no cache bounds how much that is.
        """
        texts = sum(state.writing is not None for state in states.values())
        written = self._writer.turns({key: state.text for key, state in states.items() if state.goes_on}, texts)
        turns, asked = {}, 0
        for key, state in states.items():
            if state.looking is None or asked < self.max_batch_rows:
                turns[key] = written.get(key) or self._turn(state)
                asked += turns[key].rows if state.looking is not None else 0
        return turns

    def _turn(self, state: State) -> Turn:
        """What looks, begins, or is asked at its end."""
        if state.looking is not None:
            return Turn(*state.looking.turn(self._feeder, lambda picture: self._sight.rows(state, picture)))
        if state.prefill:
            return Turn(state.prefill)
        assert state.text.ended is not None
        return Turn([], [state.text.ended[1]])

    def _compute(self, forward: Forward, found: Found) -> None:
        """One packed forward, and what is read from it."""
        feeds = [feed for turn in forward.turns.values() for feed in turn.feeds]
        drawings = [drawing for _, drawing in forward.drawings]
        branches = sum(len(drawing.views_now()) for drawing in drawings)
        with ExitStack() as timing:
            if forward.turns:
                self._text = timing.enter_context(self._device.stopwatch.timing("text"))
            if drawings:
                timing.enter_context(self._device.stopwatch.timing("denoise", len(drawings), branches))
            for drawing in drawings:
                rows = self._bagel.latent_rows(drawing.x, drawing.clock[drawing.step], drawing.places)
                feeds += [Feed(view, self._feeder.markers, rows, stored=False) for view in drawing.views_now()]
            packed = pack(feeds) if forward.turns else self._layouts.pack(feeds)
            hidden = self._forward(packed)
            if drawings:
                latents = sum(drawing.x.shape[0] * len(drawing.views_now()) for drawing in drawings)
                found.add(forward.drawings, self._bagel.velocity(hidden[packed.rows.total - latents :]))
            if forward.turns:  # last, for the host waits for what comes of it
                places = places_of(forward.turns, packed.firsts)
                found.chosen |= self._chosen(hidden, forward.turns, places)
                found.likelihoods |= self._likelihoods(hidden, forward.turns, places)

    def _chosen(self, hidden: Tensor, turns: dict[str, Turn], places: dict[str, Places]) -> dict[str, list[int]]:
        """The ids after each row that writes; one copy of them to the host a turn, for the stop must be known."""
        drafted = {
            key: turn.drafted for key, turn in turns.items() if self._states[key].writing is not None and not turn.asked
        }
        if not drafted:
            return {}
        rows = [places[key].end - n for key, own in drafted.items() for n in range(len(own), -1, -1)]
        return self._choose(drafted, self._bagel.logits(hidden[self._feeder.ids(rows)]))

    def _likelihoods(
        self, hidden: Tensor, turns: dict[str, Turn], places: dict[str, Places]
    ) -> dict[str, list[list[float]]]:
        asked = {key: turn.asked for key, turn in turns.items() if turn.asked}
        if not asked:
            return {}
        each = [(one, place) for key, own in asked.items() for one, place in zip(own, places[key].asked, strict=True)]
        rows = [place + i for one, place in each for i in range(len(one.ids))]
        ids = [id_ for one, _ in each for id_ in one.ids]
        numbers = iter(self._bagel.likelihoods(hidden[self._feeder.ids(rows)], self._feeder.ids(ids)).tolist())
        return {key: [[next(numbers) for _ in one.ids] for one in own] for key, own in asked.items()}

    def _choose(self, drafted: Mapping[str, Sequence[int]], logits: Tensor) -> dict[str, list[int]]:
        """What each text goes on with, and would after each token that is drafted of it: logits [n, V] of all."""
        texts = [(self._states[key].text, own) for key, own in drafted.items()]
        return dict(zip(drafted, self._writer.choose(texts, logits), strict=True))

    def _wrote(self, key: str, chosen: Sequence[int], drafted: Sequence[int]) -> Outputs:
        """One more token, and one more for each that was drafted and is chosen."""
        writing = self._states[key].text
        before = writing.tokens
        output = self._writer.wrote(writing, drafted, chosen)
        self._text.size += writing.tokens - before
        return {key: output}

    def _read(self, key: str, likelihoods: list[list[float]]) -> Outputs:
        """What a picture's or a text's likelihoods come to."""
        state = self._states[key]
        if state.looking is None:
            return {key: judged(state.text, likelihoods[0])}
        state.looking.read(likelihoods)
        state.prior = state.looking.prior
        return {key: Looked(tuple(state.looking.done)) if state.looking.is_done else Working()}

    def _stepped(self, key: str, drawn: Sequence[Branches]) -> Outputs:
        """All candidates of a step after one more forward; nothing of them changes before all have come so far."""
        state = self._states[key]
        all_moved = [(drawing, self._moved(drawing, own)) for drawing, own in drawn]
        first, step = all_moved[0][0], all_moved[0][1].step  # they go together
        is_last = step == first.steps
        previews = [(drawing, self._pictures.previews(drawing, after.clean)) for drawing, after in all_moved]
        finals = [(drawing, after.x) for drawing, after in all_moved if is_last]
        decoded = self._pictures.finish(finals, is_alone=self._is_alone)
        for drawing, after in all_moved:
            drawing.x, drawing.step, drawing.computed = after.x, step, after.computed
            drawing.forwards += after.forwards
        for drawing, begun in previews:
            drawing.decoding += begun
        if not is_last:
            return {key: Stepped(step, first.steps, self._pictures.shown(first))}
        state.decoded = decoded
        if awaited(state):
            return {key: Working(is_drawn=True)}
        # By itself: what was done above must not be done again.
        return self._isolation.alone(key, partial(self._drawn, key))

    def _drawn(self, key: str) -> Outputs:
        return {key: self._pictures.drawn(self._states[key])}

    def _moved(self, drawing: Drawing, own: tuple[Tensor, ...]) -> Moved:
        """What comes of a drawing by the velocities of its branches."""
        return moved(drawing, own)

    def _decoded(self, keys: list[str], *, is_all: bool) -> Outputs:
        """Those of finished pictures that are decoded by now; where there is nothing else to do, one of them at least
        is.
        """
        states = {key: self._states[key] for key in keys}
        if keys and is_all and not self._pictures.help(states.values()):
            wait_for_one(future for state in states.values() for future in awaited(state))
        outputs: Outputs = {}
        for key in (key for key, state in states.items() if not awaited(state)):
            outputs |= self._isolation.alone(key, partial(self._drawn, key))
        return outputs

    # --- pieces

    def _forward(self, packed: Packed) -> Tensor:
        """The transformer over packed rows: what comes out of its last layer."""
        with self._aside.computing(packed.rows.total):
            hidden: Tensor = self._bagel(
                packed.hidden, packed.rows, packed.positions, self._cache, packed.packing, self._attention
            )
        return hidden

    def _store_prefix(self, ids: list[int], row: int) -> Cursor:
        """Compute a constant prefix into the cache for good."""
        feed = self._feeder.text(Cursor(row), ids)
        self._forward(pack([feed]))
        return feed.at.after(feed)


def _threads(model: Model) -> Threads:
    bagel, decoder = model.bagel, model.config.decoder
    return Threads(decoder.layer_weights, varies=laid_out_bytes(decoder, bagel.device, bagel.dtype) > 0)
