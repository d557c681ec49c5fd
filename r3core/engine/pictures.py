"""From latents to pictures: those that are finished, and previews of those that are not.

Where there is a core for it (r3core.engine.aside) they are decoded beside the next turns, in the order in which they
were begun, and shown as soon as they are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from r3core.engine.aside import Aside, at_once
from r3core.engine.batch import Drawn, Shown
from r3core.engine.drawing import Drawing, Unshown
from r3core.engine.isolation import is_of_memory
from r3core.engine.state import State
from r3core.errors import StepFailed
from r3core.model import vae

if TYPE_CHECKING:
    from r3core.engine.stopwatch import Stopwatch
    from r3core.events import Pixels
    from r3core.model.bagel import Model


class Pictures:
    """Decodes what drawings come to. Where memory ran out it is tried once more when it is asked for."""

    def __init__(self, model: Model, stopwatch: Stopwatch, aside: Aside) -> None:
        self._vae, self._patch = model.vae, model.config.latent_patch
        self._stopwatch, self._aside = stopwatch, aside

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Pixels:
        """Tokens [n, d] of a picture on a grid of (rows, columns) -> its pixels.

        Raises StepFailed where what comes is no numbers, of which a picture would be made all the same, a black one.
        """
        with self._stopwatch.timing("decode", 1):
            latent = vae.unpack(tokens, grid, self._patch)[None]
            image = self._vae.decode(latent)
            pixels = vae.to_uint8(image)[0]
            are_numbers = image.isfinite().all().to(pixels.dtype)
            told = torch.cat((pixels.flatten(), are_numbers[None])).cpu().numpy()  # a device is waited for once
        if not told[-1]:
            raise StepFailed("what was drawn is no finite numbers; the checkpoint's weights may be damaged")
        picture: Pixels = told[:-1].reshape(tuple(pixels.shape))
        return picture

    def previews(self, drawing: Drawing, all_clean: Iterable[tuple[int, Tensor]]) -> list[Unshown]:
        """Begin to decode what a drawing would come to after some steps, `clean` [n, d] each. While one of it is being
        decoded another is decoded now, so that they never line up. Raises nothing.
        """
        begun: list[Unshown] = []
        for step, clean in all_clean:
            if self._aside.has_thread and all(other.pixels.done() for other in (*drawing.decoding, *begun)):
                pixels = self._aside.start(self.decode, clean, drawing.grid)
            else:
                pixels = self._kept(clean, drawing.grid)
            begun.append(Unshown(step, clean, pixels))
        return begun

    def shown(self, drawing: Drawing) -> tuple[Shown, ...]:
        """The previews that are there and not shown yet, the oldest first. Raises nothing: one that failed is left out,
        for it is no result.
        """
        there = list(takewhile(lambda preview: preview.pixels.done(), drawing.decoding))
        del drawing.decoding[: len(there)]
        made = ((preview.step, self._pixels_of(preview, drawing)) for preview in there)
        return tuple(Shown(step, pixels) for step, pixels in made if pixels is not None)

    def _pixels_of(self, preview: Unshown, drawing: Drawing) -> Pixels | None:
        future = preview.pixels
        if (fault := future.exception()) is not None and is_of_memory(fault):
            future = self._kept(preview.clean, drawing.grid)
        return None if future.exception() is not None else future.result()

    def finish(self, finals: Sequence[tuple[Drawing, Tensor]], *, is_alone: bool) -> list[Future[Pixels]]:
        """Begin to decode drawings from the tokens [n, d] that they ended with; where nobody else goes on meanwhile,
        every core helps.
        """
        if is_alone and len(finals) == 1:
            return [at_once(self._here, tokens, drawing.grid) for drawing, tokens in finals]
        return [self._aside.start(self.decode, tokens, drawing.grid) for drawing, tokens in finals]

    def _here(self, tokens: Tensor, grid: tuple[int, int]) -> Pixels:
        with self._aside.computing(None):
            return self.decode(tokens, grid)

    def help(self, states: Iterable[State]) -> bool:
        """Decode one that is wanted and not begun yet, the last, if there is any."""
        for state in reversed(list(states)):
            for i, future in reversed(list(enumerate(state.decoded))):
                if future.cancel():
                    state.decoded[i] = self._kept(state.drawings[i].x, state.drawings[i].grid)
                    return True
            for drawing in state.drawings:
                for i, preview in enumerate(drawing.decoding):
                    if preview.pixels.cancel():
                        drawing.decoding[i] = replace(preview, pixels=self._kept(preview.clean, drawing.grid))
                        return True
        return False

    def _kept(self, tokens: Tensor, grid: tuple[int, int]) -> Future[Pixels]:
        """What comes of decoding it now, or what goes wrong."""
        future: Future[Pixels] = Future()
        try:
            future.set_result(self._here(tokens, grid))
        except Exception as fault:  # noqa: BLE001 - as it would in another thread
            future.set_exception(fault)
        return future

    def drawn(self, state: State) -> Drawn:
        """What a step has drawn, once nothing is `awaited` any more. Where memory ran out this may be called once
        more.
        """
        failed = [(i, fault) for i, future in enumerate(state.decoded) if (fault := future.exception()) is not None]
        for i, fault in failed:
            if is_of_memory(fault):
                state.decoded[i] = self._aside.start(self.decode, state.drawings[i].x, state.drawings[i].grid)
        if failed:
            raise failed[0][1]
        pixels = tuple(future.result() for future in state.decoded)
        first = state.drawings[0]
        state.decoded = []
        return Drawn(pixels, first.steps, first.forwards, self.shown(first))


def awaited(state: State) -> list[Future[Pixels]]:
    """What is not decoded yet of a step that is drawn: its pictures and their previews."""
    previews = (preview.pixels for drawing in state.drawings for preview in drawing.decoding)
    return [future for future in (*state.decoded, *previews) if not future.done()]


def give_up(state: State) -> None:
    """Begin nothing more of what a trajectory wanted."""
    for decoded in awaited(state):
        decoded.cancel()
    for encoded in state.latents.values():
        encoded.cancel()
