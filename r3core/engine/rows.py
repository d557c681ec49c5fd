"""How many cache rows and batch rows a step takes: counting only, no tensors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from r3core.checkpoint import Description
from r3core.engine.batch import MemoryPlan, Need
from r3core.engine.looking import Prompt
from r3core.errors import InvalidRequest, OutOfCapacity, PromptTooLong
from r3core.judge import LOOKING, Scorer
from r3core.loop import looks_at
from r3core.model.bagel import ModelConfig
from r3core.model.image_processing import resize_to
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import PromptStrings
from r3core.schedule import branches_per_step
from r3core.steps import Compare, Describe, Generate, Judge, Reason, Reconstruct, Refine, Reflect, Step
from r3core.types import ImageSampling, Request, TextSampling, Trajectory

MARKERS: Final = 2  # <|vision_start|> and <|vision_end|> around every picture
_Size = tuple[int, int]


class RowCounter:
    """Counts in tokens of this checkpoint. The scheduler may lend the plan's cache rows; a forward should have its
    batch rows, and never has more than its forward rows where one trajectory alone needs them.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        description: Description,
        model: ModelConfig,
        plan: MemoryPlan,
        strings: PromptStrings,
    ) -> None:
        self._tokenizer, self._description, self._model, self._strings = tokenizer, description, model, strings
        self.cache_rows, self._forward_rows = plan.kv_cache_rows, plan.forward_rows
        self.max_batch_rows = plan.batch_rows
        self._generate_system = len(tokenizer.segment(strings.generate_system))
        self._reflect_system = len(tokenizer.segment(strings.reflect_system))

    def check(self, trajectory: Trajectory) -> None:
        """Raise InvalidRequest for a size beyond the position tables, and PromptTooLong or OutOfCapacity where a step
        of this trajectory could never get its rows.
        """
        request = trajectory.request
        self._check_scorers(request)
        for size in _sizes(trajectory):
            self._check_grids(request, size)
        most = min(self._description.max_context_tokens - 1, self.cache_rows)  # a picture stands where its text ends
        for what, rows, written in self._contexts(trajectory):
            if rows > most:
                raise PromptTooLong(
                    f"{what} would take {rows} tokens and {most} fit; shorten the prompt or lower max_tokens"
                )
            if rows - written > self._forward_rows:
                at_once, fit = rows - written, self._forward_rows
                raise PromptTooLong(f"{what} would take {at_once} tokens at once and {fit} fit; shorten the prompt")
        self._check_judging(trajectory)
        if _edits(request):
            self._check_edits(request)

    def need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
        """Cache rows, prefill rows and denoising rows of a step. Raises OutOfCapacity where no forward has room."""
        need = self._need(step, trajectory, keeps=keeps)
        if need.prefill_rows > self._forward_rows:
            raise OutOfCapacity(
                f"the next step takes {need.prefill_rows} rows at once and {self._forward_rows} were planned at start; "
                "ask for shorter texts or a smaller size"
            )
        if (end := self._end(step, trajectory)) > self._description.max_context_tokens:
            raise OutOfCapacity(
                f"a text that the model wrote takes {end} positions with the picture of it, and it has "
                f"{self._description.max_context_tokens}; ask for shorter texts"
            )
        return need

    def _end(self, step: Step, trajectory: Trajectory) -> int:
        """One more than the position of a picture that is drawn from what the model itself wrote."""
        match step:
            case Reconstruct():
                return len(self._tokenizer.segment(trajectory.description or "")) + 1
            case Refine(instruction=instruction):  # the picture takes a position as latents and one as patches
                return 2 + len(self._tokenizer.segment(instruction)) + 1
            case _:
                return 0

    def _need(self, step: Step, trajectory: Trajectory, *, keeps: bool) -> Need:
        request = trajectory.request
        size = (request.width, request.height)
        match step:
            case Reason():
                prompt = len(self._tokenizer.segment(request.prompt))
                return Need((self._generate_system + prompt + request.reason.max_tokens + 1,), prompt + 1)
            case Reflect():
                size = self._looked_at(step, trajectory)[0]
                rows = self._reflect_rows(request.prompt, size, request.reflect)
                return Need((rows,), 1 if keeps else rows - request.reflect.max_tokens)
            case Describe():
                rows = self._describe_rows(request, self._looked_at(step, trajectory)[0])
                return Need((rows,), rows - request.describe.max_tokens)
            case Judge(scorers=scorers):
                return self._judge_need(request.prompt, scorers, self._looked_at(step, trajectory))
            case Generate(candidates=candidates):
                prompt = 1 if keeps else len(self._tokenizer.segment(request.prompt))
                return Need((prompt,), prompt, len(candidates) * self._draw_rows(size, request.generate, edit=False))
            case Reconstruct():
                prompt = len(self._tokenizer.segment(trajectory.description or ""))
                return Need((prompt,), prompt, self._draw_rows(size, request.generate, edit=False))
            case Refine(instruction=instruction, candidates=candidates):
                spans = self._refine_spans(request, instruction)
                draws = len(candidates) * self._draw_rows(size, request.refine, edit=True)
                return Need(spans, sum(spans), draws)
            case Compare():
                return Need((), 0)

    def _judge_need(self, prompt: str, scorers: tuple[Scorer, ...], sizes: list[_Size]) -> Need:
        """A span for each picture of a turn: as many as a forward holds with what is asked of them."""
        said = Prompt.of(prompt, self._tokenizer, self._strings)
        largest, once = max(self._seen_rows(size) for size in sizes), said.prior_rows(scorers)
        each = largest + sum(said.texts(scorers))
        count = max(1, min(len(sizes), (self.max_batch_rows - once) // each, self.cache_rows // largest))
        return Need((largest,) * count, count * each + once)

    def _contexts(self, trajectory: Trajectory) -> Iterator[tuple[str, int, int]]:
        """The contexts that this trajectory is sure to need, the most rows that each may take, and how many of them are
        written token by token.
        """
        request, size = trajectory.request, _sizes(trajectory)[0]
        prompt = len(self._tokenizer.segment(request.prompt))
        draws, tokens = request.kind in ("generate", "roundtrip") and not request.given_image, request.reason.max_tokens
        if request.think and draws:
            yield "the prompt with its plan", self._generate_system + prompt + tokens + 1, tokens
        elif draws:
            yield "the prompt", prompt, 0
        for size in _sizes(trajectory):
            if _reflects(request):
                rows = self._reflect_rows(request.prompt, size, request.reflect)
                yield "the reflection on a picture", rows, request.reflect.max_tokens
            if scorers := _looking(request):
                said = Prompt.of(request.prompt, self._tokenizer, self._strings)
                yield "the judging of a picture", self._seen_rows(size) + max(said.texts(scorers)), 0
        if request.kind in ("describe", "roundtrip"):
            yield "the description of a picture", self._describe_rows(request, size), request.describe.max_tokens
        if request.instruction is not None:
            yield "the instruction", sum(self._refine_rows(request.instruction, size)), 0

    def _check_edits(self, request: Request) -> None:
        """What is wrong with a picture may be said in as many tokens as a reflection has."""
        spans = self._refine_spans(request, "")
        rows = sum(spans) + len(spans) * request.reflect.max_tokens
        for what, planned in (("cache rows", self.cache_rows), ("rows at once", self._forward_rows)):
            if rows > planned:
                raise OutOfCapacity(
                    f"refining a picture of {request.width}x{request.height} takes {rows} {what} and {planned} were "
                    "planned; ask for a smaller size or fewer max_tokens of reflections, or give the worker more memory"
                )

    def _check_judging(self, trajectory: Trajectory) -> None:
        """All that is asked of a picture goes into one forward."""
        request = trajectory.request
        if not (scorers := _looking(request)):
            return
        for size in _sizes(trajectory):
            rows = self._judge_need(request.prompt, scorers, [size]).prefill_rows
            if rows > self._forward_rows:
                raise PromptTooLong(
                    f"judging a picture by {', '.join(scorers)} would take {rows} tokens at once and "
                    f"{self._forward_rows} fit; shorten the prompt or leave a scorer out"
                )

    def _check_scorers(self, request: Request) -> None:
        """A mean over no tokens is no number."""
        if _looking(request) and not self._tokenizer.encode(request.prompt):
            raise InvalidRequest("an empty prompt cannot be judged against a picture; say what it should show")

    def _check_grids(self, request: Request, size: _Size) -> None:
        """Beyond its table a position would silently be another's, and then none at all."""
        model = self._model
        stride, side = model.latent_stride, model.latent_side
        grids = []
        if request.kind in ("generate", "roundtrip"):
            grids.append(("latent tokens to draw", (size[0] // stride, size[1] // stride), side))
        if request.kind == "generate" and request.max_rounds:
            grids.append(("latent tokens to look at", self._grid(size, "vae", stride), side))
        if request.kind != "generate" or request.max_rounds or request.scorers:
            grids.append(("patches", self._grid(size, "vit", model.vit.patch), min(model.vit.side, model.vit_side)))
        for what, (columns, rows), most in grids:
            if not 1 <= min(columns, rows) <= max(columns, rows) <= most:
                raise InvalidRequest(
                    f"a picture of {size[0]}x{size[1]} has {columns} x {rows} {what}, and the model's table has "
                    f"1 x 1 to {most} x {most}; ask for another size"
                )

    def _grid(self, size: _Size, which: str, cell: int) -> tuple[int, int]:
        """(columns, rows) of a picture once it went through a transform."""
        width, height = resize_to(size, self._description.transforms[which])
        return width // cell, height // cell

    def _grid_rows(self, size: _Size, which: str, cell: int) -> int:
        columns, rows = self._grid(size, which, cell)
        return columns * rows + MARKERS

    def _looked_at(self, step: Step, trajectory: Trajectory) -> list[_Size]:
        """The sizes of a step's pictures, which where they are only judged are their own."""
        sizes = [(image.width, image.height) for image in looks_at(trajectory, step)]
        for size in sizes:
            self._check_grids(trajectory.request, size)
        return sizes

    def _seen_rows(self, size: _Size) -> int:
        return self._grid_rows(size, "vit", self._model.vit.patch)

    def _describe_rows(self, request: Request, size: _Size) -> int:
        question = len(self._tokenizer.segment(request.question or self._strings.describe_question))
        return self._seen_rows(size) + question + request.describe.max_tokens + 1

    def _reflect_rows(self, prompt: str, size: _Size, sampling: TextSampling) -> int:
        question = len(self._tokenizer.segment(self._strings.reflect_question(prompt)))
        return self._reflect_system + self._seen_rows(size) + question + sampling.max_tokens + 1

    def _refine_rows(self, instruction: str, size: _Size) -> tuple[int, int]:
        """Rows of the context with the picture, and of the one without."""
        text = len(self._tokenizer.segment(instruction))
        return self._grid_rows(size, "vae", self._model.latent_stride) + self._seen_rows(size) + text, text

    def _refine_spans(self, request: Request, instruction: str) -> tuple[int, ...]:
        """Rows of each context that the guidance of a refinement takes."""
        rows_of = self._refine_rows(instruction, (request.width, request.height))
        wants_image = max(branches_per_step(request.refine, edit=True)) == 3
        return rows_of if wants_image else rows_of[:1]

    def _draw_rows(self, size: _Size, settings: ImageSampling, *, edit: bool) -> int:
        stride = self._model.latent_stride
        tokens = (size[0] // stride) * (size[1] // stride) + MARKERS
        return tokens * max(branches_per_step(settings, edit=edit))


def _sizes(trajectory: Trajectory) -> list[_Size]:
    """Of the pictures that a task is given, as far as they are known; of all others the request's."""
    request = trajectory.request
    if request.kind == "score" and trajectory.rounds:
        return [(p.image.width, p.image.height) for p in trajectory.rounds[0].pictures]
    return [(request.width, request.height)]


def _looking(request: Request) -> tuple[Scorer, ...]:
    return tuple(scorer for scorer in request.scorers if scorer in LOOKING)


def _reflects(request: Request) -> bool:
    """Whether any picture is looked at for what to say of it: an instruction of the caller's is carried out without."""
    return request.kind == "reflect" or "verdict" in request.scorers or _edits(request)


def _edits(request: Request) -> bool:
    """Whether what is said of a picture may be carried out."""
    return request.kind == "generate" and request.max_rounds > (request.instruction is not None)
