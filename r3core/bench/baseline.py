"""The straightforward way to run the loop, as a baseline: one trajectory at a time, one forward for each thing.

Built from r3core's own parts (model, feeds, packing, flow, sampling, the loop itself), not from the engine's runner:
what differs is only when and how often they are called. A way is a rung of a ladder, each with one thing more:

    every branch          three forwards at every step, whether they count or not, as other servers run BAGEL
    straightforward       the baseline: only the branches that count, as the reference runs them
    shared contexts       nothing is computed twice
    packed branches       one forward a step
    (the engine)          contexts in one forward too, and what else it does; then many loops at once

The reference is sen-ye/R3 (train/rollout_controller.py is RC, modeling/bagel/bagel.py is BG). What it does twice is
done twice here until contexts are shared; what merely costs time by the way it is written (deep copies, index lists,
waiting for the device) is not imitated, nor that it goes on with a loop that has stopped (RC:922, RC:954).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from r3core.bench.contexts import Contexts
from r3core.engine.batch import Picture
from r3core.engine.packing import Cursor, Feed
from r3core.loop import advance, next_step
from r3core.model import flow, vae
from r3core.model.sampling import NOT_A_NUMBER, Choice, choose, generator, noise
from r3core.model.tokenizer import TextStream
from r3core.model.vit import grid_ids
from r3core.prompts import PromptStrings
from r3core.runtime import Runtime
from r3core.schedule import branches, timesteps
from r3core.steps import Drew, Generate, Outcome, Reason, Refine, Reflect, Step, Wrote
from r3core.types import Image, ImageSampling, Request, TextSampling, Trajectory, Usage

if TYPE_CHECKING:
    from r3core.events import Pixels


@dataclass(frozen=True)
class Way:
    """A rung of the ladder."""

    name: str
    every_branch: bool = False
    shares_contexts: bool = False
    packs_branches: bool = False


STRAIGHTFORWARD: Final = Way("straightforward")
WAYS: Final = (
    Way("every branch", every_branch=True),
    STRAIGHTFORWARD,
    Way("shared contexts", shares_contexts=True),
    Way("packed branches", shares_contexts=True, packs_branches=True),
)


@dataclass(frozen=True)
class Ran:
    """A trajectory at its end, its pictures, and the tokens of each of its texts."""

    trajectory: Trajectory
    pictures: list[Pixels]
    texts: list[int]


class Baseline:
    """Runs one trajectory at a time in one of the ways."""

    def __init__(self, runtime: Runtime, way: Way) -> None:
        self.way = way
        model = runtime.loaded.model
        self._bagel, self._vae, self._config = model.bagel, model.vae, model.config
        with torch.inference_mode():
            self._contexts = Contexts(runtime, keeps=way.shares_contexts)
        self._tokenizer, self._feeder = self._contexts.tokenizer, self._contexts.feeder
        self._strings = PromptStrings()
        self._plan: tuple[Cursor, Cursor, Cursor] | None = None  # after the plan, the system prompt, and the prompt

    def run(self, trajectory: Trajectory) -> Ran:
        """The whole loop, by its own rules."""
        pictures: list[Pixels] = []
        texts: list[int] = []
        self._plan = None
        with torch.inference_mode():
            self._contexts.begin(trajectory.request)
            while (step := next_step(trajectory)) is not None:
                if not isinstance(step, Generate) or trajectory.reasoning is None:  # it goes on from its plan
                    self._contexts.begin_step()
                outcome, spent = self._run(step, trajectory, pictures)
                if spent.text_tokens:
                    texts.append(spent.text_tokens)
                trajectory = advance(trajectory, step, outcome)
                trajectory = replace(trajectory, usage=trajectory.usage + spent)
        return Ran(trajectory, pictures, texts)

    def _run(self, step: Step, trajectory: Trajectory, pictures: list[Pixels]) -> tuple[Outcome, Usage]:
        request = trajectory.request
        match step:
            case Reason():
                return self._reason(trajectory)
            case Reflect(round=index):
                return self._reflect(trajectory, step, _picture(trajectory, index, pictures))
            case Generate():
                views = self._views_of_first(request)
                drawn = self._draw(trajectory, request.generate, views, 0, edit=False)
            case Refine(round=index, instruction=instruction, base=base):
                picture = _picture(trajectory, base, pictures)
                views = self._views_of_edit(picture, instruction, request.refine)
                drawn = self._draw(trajectory, request.refine, views, index, edit=True)
            case _:
                raise NotImplementedError(f"the baseline runs the loop alone; it has no {type(step).__name__}")
        pixels, spent = drawn
        pictures.append(pixels)
        image = Image(f"picture {len(pictures) - 1}", request.width, request.height)
        return Drew(image, spent.forwards), spent

    # --- texts: a forward a token

    def _reason(self, trajectory: Trajectory) -> tuple[Outcome, Usage]:
        """The system prompt's K/V are computed for every request (RC.generate_image_with_think); the branch without
        text is a copy of them there, and of the plan its K/V are kept as they were generated.
        """
        request = trajectory.request
        system = self._contexts.system(self._strings.generate_system)
        asked = self._contexts.text(system, request.prompt)
        text, tokens, end = self._write(trajectory, asked, request.reason, "reason", 0)
        self._plan = end, system, asked
        return Wrote(text), Usage(text_tokens=tokens)

    def _reflect(self, trajectory: Trajectory, step: Reflect, picture: Picture) -> tuple[Outcome, Usage]:
        """System prompt and ViT anew for every reflection (RC.get_edit_think_and_operation, RC:659 and RC:661)."""
        request = trajectory.request
        system = self._contexts.system(self._strings.reflect_system)
        seen = self._contexts.eye(system, picture)
        asked = self._contexts.text(seen, self._strings.reflect_question(request.prompt))
        text, tokens, _ = self._write(trajectory, asked, request.reflect, "reflect", step.round, step.attempt)
        return Wrote(text), Usage(text_tokens=tokens)

    def _write(
        self, trajectory: Trajectory, at: Cursor, sampling: TextSampling, stage: str, round_: int, attempt: int = 0
    ) -> tuple[str, int, Cursor]:
        """The text, its tokens, and where the context stands after it. The end goes in too, whether it is needed or
        not (BG:1370-1385).
        """
        draws = generator(trajectory.seed, round_, stage, attempt)
        stream, tokens, id_ = TextStream(self._tokenizer), 0, self._tokenizer.im_start
        while True:
            feed = self._feeder.text(at, [id_])
            hidden = self._contexts.forward([feed])[0]
            at = at.after(feed)
            if tokens and id_ == self._tokenizer.im_end:
                stream.finish()
                return stream.whole, tokens, at
            tokens += 1
            if tokens >= sampling.max_tokens:
                id_ = self._tokenizer.im_end
            else:
                uniform = float(draws.random()) if sampling.temperature else 0.0
                id_ = choose(self._bagel.logits(hidden[-1:]), [Choice(sampling, uniform)])[0]
                assert id_ != NOT_A_NUMBER, "the model gave no numbers to choose by"
            if id_ != self._tokenizer.im_end:
                stream.push(id_)

    # --- pictures: a forward a branch, or a step

    def _views_of_first(self, request: Request) -> list[Cursor]:
        """Conditional and without text; where every branch is run, the prompt without its plan, which a first picture
        has no use for.
        """
        if self._plan is not None:
            views = list(self._plan)
        else:
            said = self._contexts.text(self._contexts.fresh(), request.prompt)
            views = [said, self._contexts.fresh(), said]
        return views if self.way.every_branch else views[:2]

    def _views_of_edit(self, picture: Picture, instruction: str, settings: ImageSampling) -> list[Cursor]:
        """RC.edit_image: what the picture is to the model is computed for the conditional branch, and then all of it
        again, VAE and ViT as well, for the branch without text (RC:747, RC:751).
        """
        seen = self._contexts.picture(picture)
        views = [self._contexts.text(seen, instruction)]
        if self.way.shares_contexts:
            views.append(seen)
        elif self.way.every_branch or settings.cfg_text_scale > 1:
            views.append(self._contexts.picture(picture))
        if self.way.every_branch or settings.cfg_img_scale > 1:
            views.append(self._contexts.text(self._contexts.fresh(), instruction))
        return views

    def _draw(
        self, trajectory: Trajectory, settings: ImageSampling, views: list[Cursor], round_: int, *, edit: bool
    ) -> tuple[Pixels, Usage]:
        """The picture, and what was run for it."""
        stride, side = self._config.latent_stride, self._config.latent_side
        grid = trajectory.request.height // stride, trajectory.request.width // stride
        ids = grid_ids(*grid, side, self._bagel.device)
        times = timesteps(settings.num_timesteps, settings.timestep_shift)
        device_times = torch.from_numpy(np.array(times, dtype=np.float32)).to(self._bagel.device)
        draws = generator(trajectory.seed, round_, "refine" if edit else "generate")
        x = noise(draws, grid[0] * grid[1], self._config.token_channels).to(self._bagel.device)
        forwards = 0
        for i in range(len(times) - 1):
            count = branches(times[i], settings, edit=edit)
            rows = self._bagel.embed_latents(x, device_times[i : i + 1], ids)
            run = views if self.way.every_branch else views[:count]
            found = self._velocities(run, rows)
            forwards += len(run)
            v = flow.guide(settings, *found[:count])
            x = flow.euler(x, v, times[i], times[i + 1])
        latent = vae.unpack(x, grid, self._config.latent_patch)[None]
        pixels = vae.to_uint8(self._vae.decode(latent))[0].cpu().numpy()
        return pixels, Usage(denoise_steps=settings.num_timesteps - 1, forwards=forwards)

    def _velocities(self, views: list[Cursor], rows: Tensor) -> list[Tensor]:
        """A forward for each branch (BG:1027, BG:1043, BG:1059), or one for all of them."""
        feeds = [Feed(view, self._feeder.markers, rows, stored=False) for view in views]
        if not self.way.packs_branches:
            return [self._velocity([feed])[0] for feed in feeds]
        return self._velocity(feeds)

    def _velocity(self, feeds: list[Feed]) -> list[Tensor]:
        hidden, packed = self._contexts.forward(feeds)
        velocities = self._bagel.velocity(hidden[packed.rows.und :])
        return list(torch.split(velocities, velocities.shape[0] // len(feeds)))


def _picture(trajectory: Trajectory, index: int, pictures: list[Pixels]) -> Picture:
    return Picture(trajectory.rounds[index].image, pictures[index])
