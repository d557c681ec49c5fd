"""The contexts of the baseline: segments put into a K/V cache of its own, one forward each.

With `keeps`, what never changes or is asked for again is computed once: the system prompts, and what the eye makes of a
picture. Without it every context is computed anew from nothing.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from r3core.engine.batch import Picture
from r3core.engine.feeds import Feeder
from r3core.engine.packing import Cursor, Feed, Packed, pack
from r3core.model.image_processing import resize_to
from r3core.prompts import PromptStrings
from r3core.runtime import Runtime
from r3core.types import Request

_CONTEXTS: Final = 3  # that a step may have: an edit's branches
_MARKERS: Final = 32  # more than those around all segments of a context


class Contexts:
    """Hands out spans of a cache, from its beginning for each step, and fills them."""

    def __init__(self, runtime: Runtime, *, keeps: bool) -> None:
        model = runtime.loaded.model
        self._model, self._attention, self._keeps = model, runtime.attention.attention, keeps
        self._transforms = runtime.description.transforms
        self.tokenizer = runtime.loaded.tokenizer
        self.feeder = Feeder(model, self.tokenizer, self._transforms)
        self._strings = PromptStrings()
        self._systems: dict[str, Cursor] = {}
        self._eyes: dict[str, Tensor] = {}
        self._first = self._span = self._handed = 0
        self._cache = model.bagel.new_cache(0)

    def begin(self, request: Request) -> None:
        """Make room for this request's longest contexts, where there is none, and forget the pictures of others."""
        self._eyes = {}
        if (rows := self._rows(request)) <= self._span:
            return
        systems = (self._strings.generate_system, self._strings.reflect_system)
        lengths = [len(self.tokenizer.segment(said)) for said in systems]
        self._first, self._span, self._handed = sum(lengths), rows, 0
        self._cache = self._model.bagel.new_cache(self._first + _CONTEXTS * rows)
        if self._keeps:
            starts = (0, lengths[0])
            ends = [self.text(Cursor(start), said) for start, said in zip(starts, systems, strict=True)]
            self._systems = dict(zip(systems, ends, strict=True))

    def begin_step(self) -> None:
        """Contexts of the step before may be written over."""
        self._handed = 0

    def fresh(self) -> Cursor:
        """An empty context."""
        self._handed += 1
        assert self._handed <= _CONTEXTS, "a step has no more contexts than an edit"
        return Cursor(self._first + (self._handed - 1) * self._span)

    def system(self, said: str) -> Cursor:
        """A context that begins with a system prompt."""
        at, kept = self.fresh(), self._systems.get(said)
        if kept is None:
            return self.text(at, said)
        for layer in self._cache:
            for rows in (layer.keys, layer.values):
                rows[at.start : at.start + kept.length] = rows[kept.start : kept.start + kept.length]
        return Cursor(at.start, kept.length, kept.position)

    def text(self, at: Cursor, said: str) -> Cursor:
        """A text segment after what stands there."""
        return self._put(self.feeder.text(at, self.tokenizer.segment(said)))

    def eye(self, at: Cursor, picture: Picture) -> Cursor:
        """A picture as the eye sees it."""
        rows = self._eyes.get(picture.image.id)
        if rows is None:
            rows = self.feeder.look(picture.pixels)
        if self._keeps:
            self._eyes[picture.image.id] = rows
        return self._put(self.feeder.vit(at, rows))

    def picture(self, picture: Picture) -> Cursor:
        """A context that begins with a picture, as its latents and as the eye sees it."""
        return self.eye(self._put(self.feeder.vae(self.fresh(), self.feeder.latent(picture.pixels))), picture)

    def forward(self, feeds: list[Feed]) -> tuple[Tensor, Packed]:
        """The transformer over some feeds."""
        packed = pack(feeds)
        hidden: Tensor = self._model.bagel(
            packed.hidden, packed.rows, packed.positions, self._cache, packed.packing, self._attention
        )
        return hidden, packed

    def _put(self, feed: Feed) -> Cursor:
        self.forward([feed])
        return feed.at.after(feed)

    def _rows(self, request: Request) -> int:
        """Of the longest context, whatever is written: a picture, and every text that may stand beside one."""
        config, size = self._model.config, (request.width, request.height)
        picture = 0
        for which, cell in (("vae", config.latent_stride), ("vit", config.vit.patch)):
            width, height = resize_to(size, self._transforms[which])
            picture += (width // cell) * (height // cell)
        said = (
            self._strings.generate_system,
            self._strings.reflect_system,
            self._strings.reflect_question(request.prompt),
        )
        texts = sum(len(self.tokenizer.segment(text)) for text in said)
        # An instruction may come back from its text as other tokens than it was written in, a few to a byte at most.
        written = max(request.reason.max_tokens, 4 * request.reflect.max_tokens)
        return picture + texts + written + _MARKERS
