"""From latents to pictures: those that are finished, and previews of those that are not.

Where there is a core for it (r3core.engine.aside) they are decoded beside the next turns, in the order in which they
were begun, and shown as soon as they are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from itertools import takewhile
from typing import TYPE_CHECKING

from torch import Tensor

from r3core.engine.aside import Aside, at_once
from r3core.engine.batch import Drawn, Shown
from r3core.engine.drawing import Drawing, Unshown
from r3core.engine.state import State
from r3core.model import vae

if TYPE_CHECKING:
    from r3core.engine.device_stopwatch import DeviceStopwatch
    from r3core.engine.stopwatch import Stopwatch
    from r3core.events import Pixels
    from r3core.model.bagel import Model


class Pictures:
    """Decodes what drawings come to. Nothing of a drawing or a state is changed by what fails."""

    def __init__(self, model: Model, stopwatch: Stopwatch | DeviceStopwatch, aside: Aside) -> None:
        self._vae, self._patch = model.vae, model.config.latent_patch
        self._stopwatch, self._aside = stopwatch, aside

    def decode(self, tokens: Tensor, grid: tuple[int, int]) -> Pixels:
        """Tokens [n, d] of a picture on a grid of (rows, columns) -> its pixels."""
        with self._stopwatch.timing("decode", 1):
            latent = vae.unpack(tokens, grid, self._patch)[None]
            return vae.to_uint8(self._vae.decode(latent))[0].cpu().numpy()

    def preview(self, drawing: Drawing, step: int, clean: Tensor) -> Unshown:
        """Begin to decode what a drawing would come to from here, `clean` [n, d], as it is after `step` steps."""
        return Unshown(step, clean, self._aside.start(self.decode, clean, drawing.grid))

    def shown(self, drawing: Drawing, *, all_of_them: bool = False) -> tuple[Shown, ...]:
        """The previews that are there and not shown yet, the oldest first."""
        there = list(takewhile(lambda preview: all_of_them or preview.pixels.done(), drawing.decoding))
        shown = tuple(Shown(preview.step, self._pixels_of(preview, drawing)) for preview in there)
        del drawing.decoding[: len(there)]
        return shown

    def _pixels_of(self, preview: Unshown, drawing: Drawing) -> Pixels:
        if preview.pixels.exception() is None:
            return preview.pixels.result()
        return self._here(preview.clean, drawing.grid)  # once more, for memory may have run out

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
        """Decode one that is finished and waits for its turn, the last, if there is any; what goes wrong shows when it
        is asked for.
        """
        for state in reversed(list(states)):
            for i, future in reversed(list(enumerate(state.decoded))):
                if future.cancel():
                    drawing = state.drawings[i]
                    state.decoded[i] = self._kept(drawing)
                    return True
        return False

    def _kept(self, drawing: Drawing) -> Future[Pixels]:
        """What came of decoding it now, or what went wrong."""
        future: Future[Pixels] = Future()
        try:
            future.set_result(self._here(drawing.x, drawing.grid))
        except Exception as fault:  # noqa: BLE001 - as it would in another thread
            future.set_exception(fault)
        return future

    def drawn(self, state: State) -> Drawn:
        """What a step has drawn, once all of it is decoded. Where memory ran out this may be called once more."""
        for i, (future, drawing) in enumerate(zip(state.decoded, state.drawings, strict=True)):
            if future.exception() is not None:
                state.decoded[i] = self._aside.start(self.decode, drawing.x, drawing.grid)
                future.result()
        pixels = tuple(future.result() for future in state.decoded)
        first = state.drawings[0]
        shown = self.shown(first, all_of_them=True)
        state.decoded = []
        return Drawn(pixels, first.steps, first.forwards, shown)
