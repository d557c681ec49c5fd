"""ModelRunner: computes the scheduler's batches with the model. The only file that puts tensors on the device.

What a trajectory holds here: its contexts (spans of the K/V cache, lent by the scheduler), the text it writes or the
picture it draws, and the ViT rows of its newest picture, which serve both the reflection on it and its refinement.
One turn runs at most two forwards: one over all texts and new contexts, one over all noisy latents.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from r3core.checkpoint import Description
from r3core.engine.batch import (
    Batch,
    Begin,
    Drawn,
    MemoryPlan,
    Need,
    Output,
    Picture,
    Piece,
    Stepped,
    Text,
    Took,
)
from r3core.engine.device_stopwatch import DeviceStopwatch
from r3core.engine.isolation import Isolation, Outputs
from r3core.engine.packing import Cursor, Feed, Packed, pack
from r3core.engine.rows import RowCounter
from r3core.engine.stopwatch import Stopwatch
from r3core.loop import Generate, Reason, Refine, Reflect, Step
from r3core.model import flow, vae
from r3core.model.attention import Attention, LayerCache
from r3core.model.bagel import Model
from r3core.model.image_processing import preprocess
from r3core.model.placing import to_device
from r3core.model.sampling import generator, noise, sample
from r3core.model.tokenizer import TextStream, Tokenizer
from r3core.model.vit import grid_ids, patchify
from r3core.prompts import PromptStrings
from r3core.schedule import branches, preview_steps, timesteps
from r3core.types import ImageSampling, TextSampling, Trajectory

if TYPE_CHECKING:
    from r3core.events import Pixels


@dataclass
class _Writing:
    """A text that is being decoded. `prompt` is where its first token went in, so that it can be asked again."""

    cursor: Cursor
    sampling: TextSampling
    draws: np.random.Generator
    stream: TextStream
    prompt: Cursor
    tokens: int = 0
    last: int | None = None  # the id to feed next


@dataclass
class _Drawing:
    """A picture that is being drawn: latent tokens x [n, d] at times[step], and what each branch sees."""

    x: Tensor
    grid: tuple[int, int]
    ids: Tensor
    times: list[float]
    device_times: Tensor  # the same, where the model is
    settings: ImageSampling
    edit: bool
    views: tuple[Cursor, ...]  # conditional, without text, without picture (an edit's only)
    previews: frozenset[int]
    step: int = 0
    forwards: int = 0

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def views_now(self) -> tuple[Cursor, ...]:
        """The branches of this step, only those that count."""
        return self.views[: branches(self.times[self.step], self.settings, edit=self.edit)]


@dataclass
class _State:
    """All that is held for one trajectory."""

    prefill: list[Feed] = field(default_factory=list)
    writing: _Writing | None = None
    drawing: _Drawing | None = None
    vit_rows: tuple[str, Tensor] | None = None  # (image id, rows [n, H])


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
        max_batch_rows: int,
    ) -> None:
        self._bagel, self._vae, self._config = model.bagel, model.vae, model.config
        self._tokenizer, self._description, self._attention = tokenizer, description, attention
        self._plan = plan
        self.max_batch_rows = max_batch_rows
        self._states: dict[str, _State] = {}
        self._device = model.bagel.device
        self._isolation = Isolation(self._free_memory, self._answers)
        self._stopwatch = DeviceStopwatch(self._device) if self._device.type == "cuda" else Stopwatch()
        strings = self.prompt_strings
        systems = [tokenizer.segment(text) for text in (strings.generate_system, strings.reflect_system)]
        # The two system prompts never change: their K/V stand in the cache's last rows for good.
        self._reserved = sum(len(ids) for ids in systems)
        self.cache_rows = plan.kv_cache_rows
        self._counter = RowCounter(tokenizer, description, model.config, plan.kv_cache_rows, strings)
        self._cache: list[LayerCache] = model.bagel.new_cache(self.cache_rows + self._reserved)
        with torch.inference_mode():
            self._markers = self._bagel.embed_text(self._ids([tokenizer.vision_start, tokenizer.vision_end]))
            self._generate_system = self._store_prefix(systems[0], self.cache_rows)
            self._reflect_system = self._store_prefix(systems[1], self.cache_rows + len(systems[0]))

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
        """Compute one turn; a failure stays with its own trajectory."""
        outputs: Outputs = {}
        with torch.inference_mode():
            for begin in batch.begin:
                outputs |= self._isolation.alone(begin.key, lambda b=begin: self._begun(b))  # type: ignore[misc]
            for keys, act in ((batch.text, self._write), (batch.draw, self._draw)):
                outputs |= self._isolation.together([k for k in keys if k not in outputs], act)
        return outputs

    def free(self, key: str) -> None:
        """Drop all that is held for a trajectory."""
        self._states.pop(key, None)

    def took(self) -> list[Took]:
        """What was computed since this was last asked, as far as the device has come."""
        return self._stopwatch.took()

    def memory_used_bytes(self) -> int | None:
        """Memory of the device that is taken, by whomever; None for a CPU."""
        if self._device.type != "cuda":
            return None
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    def _free_memory(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _answers(self) -> bool:
        """Whether the device still computes: after a fault that it cannot shake off every call to it fails."""
        try:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        except Exception:  # noqa: BLE001 - whatever it says, it says it instead of an answer
            return False
        return True

    # --- steps begin

    def _begun(self, begin: Begin) -> Outputs:
        """Be ready for a step, of which there is nothing to show yet."""
        self._begin(begin)
        return {}

    def _begin(self, begin: Begin) -> None:
        # May be called again where memory ran out, so what it goes on from is not forgotten before the end.
        state = self._states.setdefault(begin.key, _State())
        request = begin.trajectory.request
        state.prefill = []
        match begin.step:
            case Reason():
                start = self._copy_prefix(self._generate_system, begin.spans[0].start)
                ids = [*self._tokenizer.segment(request.prompt), self._tokenizer.im_start]
                self._ask(state, begin, start, request.reason, "reason", ids)
            case Reflect(attempt=attempt):
                self._begin_reflect(state, begin, attempt)
            case Generate():
                self._begin_generate(state, begin)
            case Refine(instruction=instruction):
                self._begin_refine(state, begin, instruction)

    def _begin_reflect(self, state: _State, begin: Begin, attempt: int) -> None:
        request = begin.trajectory.request
        before = state.writing
        if attempt and before is not None:  # the same question once more: only its first token goes in again
            self._ask(state, begin, before.prompt, request.reflect, "reflect", [self._tokenizer.im_start], attempt)
            return
        start = self._copy_prefix(self._reflect_system, begin.spans[0].start)
        eye = self._vit_feed(start, self._vit_rows(state, begin.picture))
        state.prefill.append(eye)
        question = self._tokenizer.segment(self.prompt_strings.reflect_question(request.prompt))
        ids = [*question, self._tokenizer.im_start]
        self._ask(state, begin, start.after(eye), request.reflect, "reflect", ids, attempt)

    def _ask(
        self,
        state: _State,
        begin: Begin,
        at: Cursor,
        sampling: TextSampling,
        stage: str,
        ids: list[int],
        attempt: int = 0,
    ) -> None:
        """Feed ids, whose last is the start of the answer, and be ready to decode it."""
        feed = self._text_feed(at, ids)
        state.prefill.append(feed)
        round_ = begin.step.round if isinstance(begin.step, Reflect) else 0
        state.writing = _Writing(
            cursor=at.after(feed),
            sampling=sampling,
            draws=generator(begin.trajectory.seed, round_, stage, attempt),
            stream=TextStream(self._tokenizer),
            prompt=Cursor(at.start, at.length + len(ids) - 1, at.position + len(ids) - 1),
        )

    def _begin_generate(self, state: _State, begin: Begin) -> None:
        request = begin.trajectory.request
        start = begin.spans[0].start
        if state.writing is not None:  # the plan's K/V, as it was generated; its end goes in now
            feed = self._text_feed(state.writing.cursor, [self._tokenizer.im_end])
            without_text = Cursor(start, self._generate_system.length, self._generate_system.position)
        else:
            feed = self._text_feed(Cursor(start), self._tokenizer.segment(request.prompt))
            without_text = Cursor(start)
        state.prefill.append(feed)
        views = (feed.at.after(feed), without_text)
        state.drawing = self._drawing(begin, request.generate, views, "generate", 0)
        state.writing = None  # last, for where it stands was read above

    def _begin_refine(self, state: _State, begin: Begin, instruction: str) -> None:
        request, step, picture = begin.trajectory.request, begin.step, begin.picture
        assert isinstance(step, Refine)
        assert picture is not None
        ids = self._tokenizer.segment(instruction)
        start = Cursor(begin.spans[0].start)
        drawn = self._vae_feed(start, picture.pixels)
        eye = self._vit_feed(start.after(drawn), self._vit_rows(state, picture))
        shared = eye.at.after(eye)  # both branches that see the picture begin with these rows
        text = self._text_feed(shared, ids)
        state.prefill = [drawn, eye, text]
        views = [shared.after(text), shared]
        if len(begin.spans) > 1:
            alone = self._text_feed(Cursor(begin.spans[1].start), ids)
            state.prefill.append(alone)
            views.append(alone.at.after(alone))
        state.writing = None
        state.drawing = self._drawing(begin, request.refine, tuple(views), "refine", step.round)

    def _drawing(
        self, begin: Begin, settings: ImageSampling, views: tuple[Cursor, ...], stage: str, round_: int
    ) -> _Drawing:
        trajectory, stride = begin.trajectory, self._config.latent_stride
        width, height = trajectory.request.width, trajectory.request.height
        if begin.picture is not None:
            width, height = begin.picture.image.width, begin.picture.image.height
        grid = height // stride, width // stride
        times = timesteps(settings.num_timesteps, settings.timestep_shift)
        return _Drawing(
            x=self._noise(begin, stage, round_, grid[0] * grid[1]).to(self._device),
            grid=grid,
            ids=grid_ids(*grid, self._config.latent_side, self._device),
            times=times,
            device_times=to_device(np.array(times, dtype=np.float32), self._device),
            settings=settings,
            edit=stage == "refine",
            views=views,
            previews=preview_steps(settings.num_timesteps - 1, trajectory.request.previews),
        )

    def _noise(self, begin: Begin, stage: str, round_: int, tokens: int) -> Tensor:
        """Where a picture starts from, [tokens, d]."""
        return noise(generator(begin.trajectory.seed, round_, stage), tokens, self._config.token_channels)

    # --- the text forward: new contexts and one token for each that writes

    def _write(self, keys: list[str]) -> Outputs:
        feeds: list[Feed] = []
        last_feed: dict[str, int] = {}
        for key in keys:
            feeds += self._feeds(self._states[key])
            last_feed[key] = len(feeds) - 1
        writers = [k for k in keys if self._states[k].writing is not None]
        logits: list[Tensor] = []
        with self._stopwatch.timing("text", len(writers)):
            packed = pack(feeds)
            hidden = self._forward(packed)
            if writers:
                last = [packed.firsts[last_feed[k]] + feeds[last_feed[k]].und.shape[0] - 1 for k in writers]
                # One copy to the host a turn: the stop must be known.
                logits = list(self._bagel.logits(hidden[self._ids(last)]).cpu())
        outputs: Outputs = {}
        for key in keys:
            state = self._states[key]
            if state.writing is not None and not state.prefill:
                state.writing.cursor = state.writing.cursor.after(feeds[last_feed[key]])
            state.prefill = []
        for key, row in zip(writers, logits, strict=True):
            # Once: a second try would take another of its random numbers.
            outputs |= self._isolation.once(key, lambda k=key, r=row: {k: self._wrote(k, self._choose(k, r))})  # type: ignore[misc]
        return outputs

    def _feeds(self, state: _State) -> list[Feed]:
        if state.prefill:
            return state.prefill
        writing = state.writing
        assert writing is not None
        assert writing.last is not None
        return [self._text_feed(writing.cursor, [writing.last])]

    def _choose(self, key: str, logits: Tensor) -> int:
        writing = self._states[key].writing
        assert writing is not None
        if writing.tokens + 1 >= writing.sampling.max_tokens:
            return self._tokenizer.im_end  # forced at the last permitted choice, as in the reference
        uniform = float(writing.draws.random()) if writing.sampling.temperature else 0.0
        return sample(logits, writing.sampling, uniform)

    def _wrote(self, key: str, id_: int) -> Output:
        writing = self._states[key].writing
        assert writing is not None
        writing.tokens += 1
        writing.last = id_
        if id_ != self._tokenizer.im_end:
            return Piece(writing.stream.push(id_))
        rest = writing.stream.finish()
        return Text(writing.stream.whole, rest, writing.tokens)

    # --- the denoising forward: every branch of every picture

    def _draw(self, keys: list[str]) -> Outputs:
        outputs: Outputs = {}
        for key, (drawing, own) in self._velocities(keys).items():
            outputs |= self._isolation.alone(key, lambda k=key, d=drawing, v=own: {k: self._euler(d, v)})  # type: ignore[misc]
        return outputs

    def _velocities(self, keys: list[str]) -> dict[str, tuple[_Drawing, tuple[Tensor, ...]]]:
        """Each picture with the velocity of each of its branches; all else of the forward is let go."""
        drawings = {k: d for k in keys if (d := self._states[k].drawing) is not None}
        feeds: list[Feed] = []
        with self._stopwatch.timing("denoise", len(drawings), sum(len(d.views_now()) for d in drawings.values())):
            for drawing in drawings.values():
                time = drawing.device_times[drawing.step : drawing.step + 1]
                rows = self._bagel.embed_latents(drawing.x, time, drawing.ids)
                feeds += [Feed(view, self._markers, rows, stored=False) for view in drawing.views_now()]
            packed = pack(feeds)
            velocities = self._bagel.velocity(self._forward(packed)[packed.rows.und :])
        found = {}
        first = 0
        for key, drawing in drawings.items():
            size, count = drawing.x.shape[0], len(drawing.views_now())
            found[key] = drawing, torch.split(velocities[first : first + count * size], size)
            first += count * size
        return found

    def _euler(self, drawing: _Drawing, own: tuple[Tensor, ...]) -> Output:
        v = flow.guide(drawing.settings, own[0], *_optional(own[1:]))
        t, t_next = drawing.times[drawing.step], drawing.times[drawing.step + 1]
        done = drawing.step + 1
        x = flow.euler(drawing.x, v, t, t_next)
        preview = pixels = None
        if done == drawing.steps:
            pixels = self._decode(x, drawing.grid)
        elif done in drawing.previews:
            preview = self._decode(flow.clean(drawing.x, v, t), drawing.grid)
        drawing.x, drawing.step, drawing.forwards = x, done, drawing.forwards + len(own)
        if pixels is not None:
            return Drawn(pixels, drawing.steps, drawing.forwards)
        return Stepped(done, drawing.steps, preview)

    # --- pieces

    def _forward(self, packed: Packed) -> Tensor:
        """The transformer over packed rows: what comes out of its last layer."""
        hidden: Tensor = self._bagel(
            packed.hidden, packed.rows, packed.positions, self._cache, packed.packing, self._attention
        )
        return hidden

    def _decode(self, tokens: Tensor, grid: tuple[int, int]) -> Pixels:
        with self._stopwatch.timing("decode", 1):
            latent = vae.unpack(tokens, grid, self._config.latent_patch)[None]
            return vae.to_uint8(self._vae.decode(latent))[0].cpu().numpy()

    def _vit_rows(self, state: _State, picture: Picture | None) -> Tensor:
        """The decoder's rows of a picture, computed once and kept until there is a newer one."""
        assert picture is not None
        if state.vit_rows is None or state.vit_rows[0] != picture.image.id:
            state.vit_rows = (picture.image.id, self._look(picture.pixels))
        return state.vit_rows[1]

    def _look(self, pixels: Pixels) -> Tensor:
        image = torch.from_numpy(preprocess(pixels, self._description.transforms["vit"])).to(self._device)
        patch = self._config.vit.patch
        rows, columns = image.shape[1] // patch, image.shape[2] // patch
        learned = grid_ids(rows, columns, self._config.vit.side, self._device)
        fixed = grid_ids(rows, columns, self._config.vit_side, self._device)
        return self._bagel.embed_vit(self._bagel.vit_model(patchify(image, patch), learned), fixed)

    def _vae_feed(self, at: Cursor, pixels: Pixels) -> Feed:
        image = torch.from_numpy(preprocess(pixels, self._description.transforms["vae"])).to(self._device)
        latent = self._vae.encode(image[None])[0]
        tokens = vae.pack(latent, self._config.latent_patch)
        grid = latent.shape[1] // self._config.latent_patch, latent.shape[2] // self._config.latent_patch
        clean = torch.zeros(1, device=self._device)
        ids = grid_ids(*grid, self._config.latent_side, self._device)
        return Feed(at, self._markers, self._bagel.embed_latents(tokens, clean, ids))

    def _vit_feed(self, at: Cursor, rows: Tensor) -> Feed:
        return Feed(at, torch.cat((self._markers[:1], rows, self._markers[1:])))

    def _text_feed(self, at: Cursor, ids: Sequence[int]) -> Feed:
        return Feed(at, self._bagel.embed_text(self._ids(ids)), causal=True)

    def _ids(self, ids: Iterable[int]) -> Tensor:
        return to_device(np.array(list(ids), dtype=np.int64), self._device)

    def _store_prefix(self, ids: list[int], row: int) -> Cursor:
        """Compute a constant prefix into the cache for good."""
        feed = self._text_feed(Cursor(row), ids)
        self._forward(pack([feed]))
        return feed.at.after(feed)

    def _copy_prefix(self, prefix: Cursor, start: int) -> Cursor:
        """Begin a context with a constant prefix, a few dozen rows."""
        source, target = slice(prefix.start, prefix.start + prefix.length), slice(start, start + prefix.length)
        for layer in self._cache:
            layer.keys[target] = layer.keys[source]
            layer.values[target] = layer.values[source]
        return Cursor(start, prefix.length, prefix.position)


def _optional(branches_: tuple[Tensor, ...]) -> tuple[Tensor | None, Tensor | None]:
    without_text = branches_[0] if branches_ else None
    without_image = branches_[1] if len(branches_) > 1 else None
    return without_text, without_image
