"""What pictures are to the eye and to the hand: computed once, or ahead, and kept for as long as that pays."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future

from torch import Tensor

from r3core.engine.aside import Aside
from r3core.engine.batch import Begin, Picture
from r3core.engine.feeds import Feeder
from r3core.engine.state import State
from r3core.steps import Reflect


class Sight:
    """Of the pictures of all `states`, which keep as many as `kept_rows` rows of the decoder's space."""

    def __init__(self, feeder: Feeder, aside: Aside, states: Mapping[str, State], kept_rows: int) -> None:
        self._feeder, self._aside, self._states, self._kept_rows = feeder, aside, states, kept_rows

    def rows(self, state: State, picture: Picture) -> Tensor:
        """The decoder's rows of a picture, [n, H]; kept while it may be looked at again, if there is room: many
        candidates may be more than was planned for.
        """
        rows = state.vit_rows.get(picture.image.id)
        if rows is None:
            rows = self._feeder.look(picture.pixels)
            kept = sum(other.shape[0] for own in self._states.values() for other in own.vit_rows.values())
            if kept + rows.shape[0] <= self._kept_rows:
                state.vit_rows[picture.image.id] = rows
        return rows

    def latent(self, state: State, picture: Picture) -> Tensor:
        """What the VAE makes of a picture, [z, h, w]."""
        ahead: Future[Tensor] | None = state.latents.pop(picture.image.id, None)
        if ahead is None or ahead.exception() is not None:
            with self._aside.computing(None):
                return self._feeder.latent(picture.pixels)
        return ahead.result()

    def encode_ahead(self, state: State, begin: Begin) -> None:
        """Begin to encode a picture that will probably be edited, on a core that has nothing to do while what is wrong
        with it is written.
        """
        step, request, picture = begin.step, begin.trajectory.request, begin.picture
        assert isinstance(step, Reflect)
        goes_on = request.kind == "generate" and step.round < request.max_rounds
        if self._aside.is_free and goes_on and picture.image.id not in state.latents:
            state.latents[picture.image.id] = self._aside.start(self._feeder.latent, picture.pixels)


def forget(state: State, at_hand: Collection[str]) -> None:
    """Keep nothing of pictures but those with these ids."""
    state.vit_rows = {id_: rows for id_, rows in state.vit_rows.items() if id_ in at_hand}
    state.latents = {id_: latent for id_, latent in state.latents.items() if id_ in at_hand}
