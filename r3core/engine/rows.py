"""How many cache rows and batch rows a step takes: counting only, no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from r3core.checkpoint import Description
from r3core.engine.batch import Need
from r3core.errors import InvalidRequest, OutOfCapacity, PromptTooLong
from r3core.loop import Generate, Reason, Refine, Reflect, Step
from r3core.model.bagel import ModelConfig
from r3core.model.image_processing import resize_to
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import PromptStrings
from r3core.schedule import branches_per_step
from r3core.types import ImageSampling, Request, TextSampling, Trajectory

_MARKERS: Final = 2  # <|vision_start|> and <|vision_end|> around every picture


class RowCounter:
    """Counts in tokens of this checkpoint; `cache_rows` is all that the scheduler may lend."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        description: Description,
        model: ModelConfig,
        cache_rows: int,
        strings: PromptStrings,
    ) -> None:
        self._tokenizer, self._description, self._model, self._strings = tokenizer, description, model, strings
        self.cache_rows = cache_rows
        self._generate_system = len(tokenizer.segment(strings.generate_system))
        self._reflect_system = len(tokenizer.segment(strings.reflect_system))

    def check(self, trajectory: Trajectory) -> None:
        """Raise InvalidRequest for a size beyond the position tables, and PromptTooLong or OutOfCapacity where a step
        of this trajectory could never get its rows.
        """
        request = trajectory.request
        self._check_grids(request)
        most = min(self._description.max_context_tokens, self.cache_rows)
        for what, rows in self._contexts(request):
            if rows > most:
                raise PromptTooLong(
                    f"{what} would take {rows} tokens and {most} fit; shorten the prompt or lower max_tokens"
                )
        size = (request.width, request.height)
        edits = 2 * request.reflect.max_tokens + sum(self._refine_rows("", size))
        if _reflects(request) and edits > self.cache_rows:
            raise OutOfCapacity(
                f"refining a picture of {size[0]}x{size[1]} takes {edits} cache rows and {self.cache_rows} were "
                "planned; ask for a smaller size, or give the worker a larger K/V cache"
            )

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
        """Cache rows, prefill rows and denoising rows of a step."""
        request = trajectory.request
        size = (request.width, request.height)
        match step:
            case Reason():
                prompt = len(self._tokenizer.segment(request.prompt))
                return Need((self._generate_system + prompt + request.reason.max_tokens + 1,), prompt + 1)
            case Reflect():
                rows = self._reflect_rows(request.prompt, size, request.reflect)
                return Need((rows,), 1 if keeps else rows - request.reflect.max_tokens)
            case Generate():
                prompt = 1 if keeps else len(self._tokenizer.segment(request.prompt))
                return Need((prompt,), prompt, self._draw_rows(size, request.generate, edit=False))
            case Refine(instruction=instruction):
                rows_of = self._refine_rows(instruction, size)
                wants_image = max(branches_per_step(request.refine, edit=True)) == 3
                spans = rows_of if wants_image else rows_of[:1]
                return Need(spans, sum(spans), self._draw_rows(size, request.refine, edit=True))

    def _contexts(self, request: Request) -> Iterator[tuple[str, int]]:
        """The contexts that this request is sure to need, and the most rows that each may take."""
        size = (request.width, request.height)
        prompt = len(self._tokenizer.segment(request.prompt))
        if request.think and not request.given_image:
            yield "the prompt with its plan", self._generate_system + prompt + request.reason.max_tokens + 1
        elif not request.given_image:
            yield "the prompt", prompt
        if _reflects(request):
            yield "the reflection on a picture", self._reflect_rows(request.prompt, size, request.reflect)
        if request.instruction is not None:
            yield "the instruction", sum(self._refine_rows(request.instruction, size))

    def _check_grids(self, request: Request) -> None:
        """Beyond its table a position would silently be another's, and then none at all."""
        size, model = (request.width, request.height), self._model
        stride, side = model.latent_stride, model.latent_side
        grids = [("latent tokens to draw", (size[0] // stride, size[1] // stride), side)]
        if request.max_rounds:
            grids.append(("latent tokens to look at", self._grid(size, "vae", stride), side))
            grids.append(("patches", self._grid(size, "vit", model.vit.patch), min(model.vit.side, model.vit_side)))
        for what, (columns, rows), most in grids:
            if not 1 <= min(columns, rows) <= max(columns, rows) <= most:
                raise InvalidRequest(
                    f"a picture of {size[0]}x{size[1]} has {columns} x {rows} {what}, and the model's table has "
                    f"1 x 1 to {most} x {most}; ask for another size"
                )

    def _grid(self, size: tuple[int, int], which: str, cell: int) -> tuple[int, int]:
        """(columns, rows) of a picture once it went through a transform."""
        width, height = resize_to(size, self._description.transforms[which])
        return width // cell, height // cell

    def _grid_rows(self, size: tuple[int, int], which: str, cell: int) -> int:
        columns, rows = self._grid(size, which, cell)
        return columns * rows + _MARKERS

    def _reflect_rows(self, prompt: str, size: tuple[int, int], sampling: TextSampling) -> int:
        question = len(self._tokenizer.segment(self._strings.reflect_question(prompt)))
        seen = self._grid_rows(size, "vit", self._model.vit.patch)
        return self._reflect_system + seen + question + sampling.max_tokens + 1

    def _refine_rows(self, instruction: str, size: tuple[int, int]) -> tuple[int, int]:
        """Rows of the context with the picture, and of the one without."""
        text = len(self._tokenizer.segment(instruction))
        seen = self._grid_rows(size, "vit", self._model.vit.patch)
        return self._grid_rows(size, "vae", self._model.latent_stride) + seen + text, text

    def _draw_rows(self, size: tuple[int, int], settings: ImageSampling, *, edit: bool) -> int:
        stride = self._model.latent_stride
        tokens = (size[0] // stride) * (size[1] // stride) + _MARKERS
        return tokens * max(branches_per_step(settings, edit=edit))


def _reflects(request: Request) -> bool:
    """Whether any picture is looked at: an instruction of the caller's is carried out without a look."""
    return request.max_rounds > (request.instruction is not None)
