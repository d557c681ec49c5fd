"""What the phases of one loop take at the least: from a finished trajectory, and how many tokens each text had.

Counted as the engine should run it: constant prefixes are there already, a picture is encoded and looked at once, a
context is computed once whatever branches see it, and only those branches run that count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from r3core.bench.counting import MARKERS, Counter, Forward, Size, Work, drawn, seen, text, total
from r3core.checkpoint import Description
from r3core.engine.looking import Prompt
from r3core.model.image_processing import resize_to
from r3core.model.tokenizer import Tokenizer
from r3core.prompts import SATISFIED_ANSWER, PromptStrings
from r3core.schedule import branches_per_step
from r3core.types import ImageSampling, Request, Round, Trajectory

PHASES: Final = ("reason", "generate", "reflect", "refine")


class LoopCounter:
    """Counts loops of one checkpoint."""

    def __init__(self, count: Counter, tokenizer: Tokenizer, description: Description) -> None:
        self.count, self._tokenizer, self._description = count, tokenizer, description
        strings = PromptStrings()
        self._strings = strings
        self._generate_system = self.rows_of(strings.generate_system)
        self._reflect_system = self.rows_of(strings.reflect_system)

    def rows_of(self, said: str) -> int:
        """Rows of a text segment, its markers with it."""
        return len(self._tokenizer.segment(said))

    def latents(self, size: Size) -> int:
        """Latent tokens of a picture that is drawn."""
        stride = self.count.config.latent_stride
        return (size[0] // stride) * (size[1] // stride)

    def seen_latents(self, size: Size) -> int:
        """Latent tokens of a picture that is looked at."""
        return self.latents(self._as_drawn(size))

    def patches(self, size: Size) -> int:
        """ViT patches of a picture that is looked at."""
        width, height = resize_to(size, self._description.transforms["vit"])
        patch = self.count.config.vit.patch
        return (width // patch) * (height // patch)

    def phases(self, trajectory: Trajectory, texts: Sequence[int]) -> list[tuple[str, Work]]:
        """Each phase in its order. `texts` are the tokens of the plan, where there is one, and of each reflection."""
        request, left = trajectory.request, iter(texts)
        plan = next(left) if request.think else None
        found = [] if plan is None else [("reason", self.reason(request, plan))]
        for round_ in trajectory.rounds:
            if round_.index:
                found.append(("refine", self.refine(request, round_)))
            else:
                found.append(("generate", self.generate(request, plan)))
            found += [("reflect", self.reflect(request, next(left))) for _ in round_.reflections]
        return found

    def loop(self, trajectory: Trajectory, texts: Sequence[int]) -> Work:
        """All phases together."""
        return total(work for _, work in self.phases(trajectory, texts))

    def reason(self, request: Request, tokens: int) -> Work:
        """A plan of so many tokens, its end among them; the first comes of the forward that reads the prompt."""
        rows = self.rows_of(request.prompt) + 1
        first = self.count.forward(text(self._generate_system, rows, logits=1))
        return first + self.count.written(self._generate_system + rows, tokens - 1)

    def generate(self, request: Request, plan: int | None) -> Work:
        """The first picture, from the prompt alone or from a plan of so many tokens after it."""
        size = request.width, request.height
        prompt = self.rows_of(request.prompt)
        if plan is None:
            before, contexts = text(0, prompt), (prompt, 0)
        else:
            whole = self._generate_system + prompt + 1 + plan
            before, contexts = text(whole - 1, 1), (whole, self._generate_system)
        return self.count.forward(before) + self._steps(size, request.generate, contexts, edit=False)

    def reflect(self, request: Request, tokens: int) -> Work:
        """A picture looked at, and so many tokens said of it."""
        patches, at, question = self._asked(request)
        first = seen(self._reflect_system, patches) + text(at, question, logits=1)
        answer = self.count.written(at + question, tokens - 1)
        return self.count.look(patches) + self.count.forward(first) + answer

    def reflected_token(self, request: Request, tokens: int, batch: int) -> Work:
        """One token of a reflection, halfway through it, where `batch` of them are written together."""
        _, at, question = self._asked(request)
        together = sum([text(at + question + tokens // 2, 1, logits=1)] * batch, Forward())
        return self.count.forward(together) * (1 / batch)

    def judge(self, request: Request, scorers: Sequence[str]) -> Work:
        """A picture looked at, and scored."""
        patches = self.patches((request.width, request.height))
        return self.count.look(patches) + self.count.forward(self.asked_for(request, scorers))

    def asked_for(self, request: Request, scorers: Sequence[str]) -> Forward:
        """A picture, and what is asked after it for scores; the prompt's own likelihood with it."""
        patches = self.patches((request.width, request.height))
        said = Prompt.of(request.prompt, self._tokenizer, self._strings)
        taken = seen(0, patches)
        for rows in said.texts(scorers):
            taken += text(patches + MARKERS, rows)
        if prior := said.prior_rows(scorers):
            taken += text(0, prior, logits=2 * len(said.ids))  # of the prompt without the picture, and with it
        if "vqa" in scorers:
            taken += Forward(logits=sum(map(len, said.answers)))
        return taken

    def verdict(self, request: Request, tokens: int) -> Work:
        """A reflection of so many tokens, and how likely its satisfied end was."""
        _, at, question = self._asked(request)
        answer = len(self._tokenizer.encode(SATISFIED_ANSWER))
        asked = text(at + question + tokens - 1, answer, logits=answer)
        return self.reflect(request, tokens) + self.count.forward(asked)

    def refine(self, request: Request, made: Round) -> Work:
        """A picture edited; what the eye makes of it is at hand from the reflection, if there was one."""
        size, said = (request.width, request.height), made.instruction or ""
        contexts = self._views_of_edit(size, said)
        first = self.image_context(size) + text(contexts[1], contexts[2])
        if max(branches_per_step(request.refine, edit=True)) == 3:
            first += text(0, contexts[2])
        work = self.count.encode(self._as_drawn(size)) + self.count.forward(first)
        if request.instruction is not None and made.index == 1:
            work += self.count.look(self.patches(size))
        return work + self._steps(size, request.refine, contexts, edit=True)

    def guided_step(self, request: Request, batch: int) -> Work:
        """One guided step of one picture, where `batch` of them are drawn together: of an edit where the request names
        an instruction, else of a first picture without a plan.
        """
        size, edit = (request.width, request.height), request.instruction is not None
        contexts = self._views_of_edit(size, request.instruction or "") if edit else (self.rows_of(request.prompt), 0)
        settings = request.refine if edit else request.generate
        views = contexts[: max(branches_per_step(settings, edit=edit))]
        return self.count.denoise([(self.latents(size), views)] * batch) * (1 / batch)

    def image_context(self, size: Size) -> Forward:
        """The rows of a picture's latents and of its patches, in one forward."""
        latents = self.seen_latents(size)
        return drawn(0, latents) + seen(latents + MARKERS, self.patches(size))

    def _asked(self, request: Request) -> tuple[int, int, int]:
        """Of the question about a picture: the picture's patches, the rows before it, and its own."""
        patches = self.patches((request.width, request.height))
        question = self.rows_of(self._strings.reflect_question(request.prompt)) + 1
        return patches, self._reflect_system + patches + MARKERS, question

    def _views_of_edit(self, size: Size, instruction: str) -> tuple[int, int, int]:
        """What each branch of an edit sees, in rows."""
        said, shared = self.rows_of(instruction), self.seen_latents(size) + self.patches(size) + 2 * MARKERS
        return shared + said, shared, said

    def _as_drawn(self, size: Size) -> Size:
        return resize_to(size, self._description.transforms["vae"])

    def _steps(self, size: Size, settings: ImageSampling, contexts: tuple[int, ...], *, edit: bool) -> Work:
        """All denoising steps of one picture, and its way back to pixels."""
        latents = self.latents(size)
        each = (self.count.denoise([(latents, contexts[:n])]) for n in branches_per_step(settings, edit=edit) if n)
        return total(each) + self.count.decode(size)
