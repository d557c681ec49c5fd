"""The engine that serves, on recorded noise and with its eyes open.

Everything runs through Engine and ModelRunner; here is only the looking.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from r3core.checkpoint import describe
from r3core.config import EngineConfig
from r3core.engine.batch import Begin, MemoryPlan
from r3core.engine.drawing import Drawing, Moved
from r3core.engine.engine import Engine
from r3core.engine.isolation import Outputs
from r3core.engine.runner import ModelRunner
from r3core.engine.state import Places, Turn
from r3core.errors import R3Error, StepFailed
from r3core.events import Event, Failed
from r3core.memory_plan import plan_memory
from r3core.model import flow
from r3core.model.attention import Packing, choose
from r3core.model.bagel import Model
from r3core.model.layers import Rows
from r3core.model.weights import Loaded, load
from r3core.prompts import PromptStrings
from r3core.runtime import pick_device, pick_dtype, set_up_torch
from r3core.steps import Reason, Reflect
from r3core.verify.golden import GoldenSet
from r3core.verify.traces import Drawn, Job, Likelihoods, Pass, Seen, Trace, Written

AT_ONCE: Final = 8  # trajectories that share a batch


class ReplayRunner(ModelRunner):
    """The runner that serves, on recorded noise; it writes down what it sees."""

    def __init__(self, replay: Replay, plan: MemoryPlan) -> None:
        self.prompt_strings = replay.strings
        self.traces: dict[str, Trace] = {}
        self.system: list[Pass] = []  # the system prompts of drawing and of looking
        self._owner: dict[int, str] = {}  # by first cache row
        self._steps: dict[str, str] = {}
        self._beginning = ""
        self._logits: dict[str, Tensor] = {}  # of each text's last forward, on the host
        bagel = replay.model.bagel
        bagel.register_forward_hook(self._saw_forward)
        bagel.vit_model.register_forward_hook(self._saw_picture)
        super().__init__(replay.model, replay.tokenizer, replay.description, replay.attention.attention, plan)

    def _begin(self, begin: Begin) -> None:
        self._beginning = begin.key
        self._owner.update({span.start: begin.key for span in begin.spans})
        match begin.step:
            case Reason():
                self._write_down(begin.key, "reason")
            case Reflect(round=round_):
                self._write_down(begin.key, f"reflect {round_}")
            case _:
                pass
        super()._begin(begin)

    def _write_down(self, key: str, stage: str) -> None:
        self._steps[key] = stage
        self.traces[key].texts[stage] = Written([self._tokenizer.im_start])

    def _noise(self, begin: Begin, stage: str, round_: int, tokens: int, candidate: int) -> Tensor:
        noise = self.traces[begin.key].job.noise.get(round_)
        if noise is None:
            noise = super()._noise(begin, stage, round_, tokens, candidate)
        elif noise.shape != (tokens, self._config.token_channels):
            wanted = [tokens, self._config.token_channels]
            raise StepFailed(f"the recorded noise is {list(noise.shape)} and the picture takes {wanted}")
        grid = self._grid_of(begin)
        self.traces[begin.key].drawn[round_] = Drawn([noise.float()], grid)
        return noise.float()

    def _grid_of(self, begin: Begin) -> tuple[int, int]:
        request, stride = begin.trajectory.request, self._config.latent_stride
        return request.height // stride, request.width // stride

    def _choose(self, drafted: Mapping[str, Sequence[int]], logits: Tensor) -> dict[str, list[int]]:
        each = torch.split(logits.cpu(), [1 + len(own) for own in drafted.values()])
        self._logits.update(zip(drafted, each, strict=True))
        return super()._choose(drafted, logits)

    def _wrote(self, key: str, chosen: Sequence[int], drafted: Sequence[int]) -> Outputs:
        writing, written = self._states[key].text, self.traces[key].texts[self._steps[key]]
        tokens, ids = writing.tokens, len(writing.ids)
        outputs = super()._wrote(key, chosen, drafted)
        new = writing.ids[ids:]
        read = writing.tokens - tokens
        written.ids += new if len(new) == read else [*new, self._tokenizer.im_end]
        written.logits += self._logits[key][:read]
        return outputs

    def _likelihoods(
        self, hidden: Tensor, turns: dict[str, Turn], places: dict[str, Places]
    ) -> dict[str, list[list[float]]]:
        found = super()._likelihoods(hidden, turns, places)
        for key, own in found.items():
            asked = zip(turns[key].asked, own, strict=True)
            self.traces[key].scored += [Likelihoods(one.ids, likelihoods) for one, likelihoods in asked]
        return found

    def _moved(self, drawing: Drawing, own: tuple[Tensor, ...]) -> Moved:
        trace = self._trace_of(drawing)
        seen = trace.drawn[max(trace.drawn)]
        if trace.job.keep and not trace.context:
            view = drawing.views[0]
            rows = slice(view.start, view.start + view.length)
            # Copies: the rows are lent to somebody else when this job ends.
            trace.context = [(layer.keys[rows].clone(), layer.values[rows].clone()) for layer in self._cache]
        seen.velocities.append(flow.guide(drawing.settings, *own).float().cpu())
        seen.branches.append(tuple(v.cpu() for v in own))
        moved = super()._moved(drawing, own)
        seen.x.append(moved.x.float().cpu())
        return moved

    def _trace_of(self, drawing: Drawing) -> Trace:
        return next(self.traces[k] for k, state in self._states.items() if any(d is drawing for d in state.drawings))

    def _saw_picture(self, _module: nn.Module, given: tuple[Any, ...], features: Tensor) -> None:
        patches, ids = given
        self.traces[self._beginning].seen.append(Seen(patches.cpu(), ids.cpu(), features.float().cpu()))

    def _saw_forward(self, _module: nn.Module, given: tuple[Any, ...], out: Tensor) -> None:
        hidden, rows, positions, packing = given[0], given[1], given[2], given[4]
        assert isinstance(rows, Rows)
        assert isinstance(packing, Packing)
        order = torch.arange(rows.total, device=hidden.device) if packing.order is None else packing.order
        first = 0
        for piece in packing.pieces:
            own = order[first : first + piece.rows]
            first += piece.rows
            key = self._owner.get(piece.start, "")
            trace = self.traces.get(key)
            keep = piece.stored and (trace is None or (trace.job.keep and piece.rows > 1 and self._begins(key)))
            seen = Pass(
                past=piece.past,
                causal=piece.causal,
                stored=piece.stored,
                positions=positions[own].tolist(),
                drawn=(own >= rows.und).tolist(),
                given=hidden[own] if keep else None,
                out=out[own] if keep else None,
            )
            (self.system if trace is None else trace.passes).append(seen)

    def _begins(self, key: str) -> bool:
        """Whether a job's new contexts are in this forward; else what it stores are tokens of an answer."""
        return bool(self._states[key].prefill)


class Replay:
    """A loaded checkpoint, a set of recorded numbers, and an engine for the jobs that replay it."""

    def __init__(self, config: EngineConfig, golden: GoldenSet) -> None:
        device = pick_device(config.device)
        dtype = pick_dtype(config.dtype, device)
        set_up_torch(config)
        self.golden = golden
        self.strings: PromptStrings = golden.prompt_strings()
        self.loaded: Loaded = load(config.checkpoint, config.base_checkpoint, device=device, dtype=dtype)
        # The set's transforms, whatever r3.json says: its pictures went through these.
        self.description = replace(describe(config.checkpoint, config.base_checkpoint), transforms=golden.transforms())
        self.tokenizer = self.loaded.tokenizer
        self.attention = choose(device, dtype, config.attention, self.model.config.decoder.attended)
        plan = plan_memory(config, self.model.config, self.description, str(device), dtype, self.loaded.weights_bytes)
        self.runner = ReplayRunner(self, plan)

    @property
    def model(self) -> Model:
        """The loaded model."""
        return self.loaded.model

    @property
    def is_bf16(self) -> bool:
        """Whether the model computes in bf16, so that other tolerances hold."""
        return self.model.bagel.dtype == torch.bfloat16

    def play(self, jobs: Iterable[Job], at_once: int) -> dict[str, Trace]:
        """Run jobs through the engine, at most `at_once` of them in a batch."""
        engine = Engine(self.runner, at_once)
        waiting = deque(jobs)
        traces = {job.key: Trace(job) for job in waiting}
        self.runner.traces = traces
        while waiting or engine.has_work:
            while waiting and engine.room:
                self._add(engine, traces[waiting.popleft().key])
            for key, event in engine.step():
                self._note(engine, traces[key], event)
        return traces

    def both_ways(self, jobs: Iterable[Job]) -> dict[str, dict[str, Trace]]:
        """The traces of jobs that ran one at a time, and of the same jobs in shared batches."""
        wanted = list(jobs)
        return {"single": self.play(wanted, 1), "batched": self.play(wanted, AT_ONCE)}

    def _add(self, engine: Engine, trace: Trace) -> None:
        try:
            engine.add(trace.job.key, trace.job.trajectory, () if trace.job.picture is None else (trace.job.picture,))
        except R3Error as error:
            trace.error = error

    def _note(self, engine: Engine, trace: Trace, event: Event) -> None:
        trace.events.append(event)
        if isinstance(event, Failed):
            trace.error = event.error
        if trace.job.until is not None and isinstance(event, trace.job.until):
            engine.abort(trace.job.key)

    # --- what only the model's functions can say

    def logits(self, out: Tensor) -> Tensor:
        """The logits [n, V] of rows of the understanding expert."""
        with torch.inference_mode():
            return self.model.bagel.logits(out).cpu()

    def normed(self, seen: Pass) -> Tensor:
        """A segment's rows after the final norm of each row's own expert, in sequence order."""
        decoder = self.model.bagel.language_model.model
        drawn = torch.tensor(seen.drawn, device=seen.hidden.device)
        with torch.inference_mode():
            both = decoder.norm(seen.hidden), decoder.norm_moe_gen(seen.hidden)
            return torch.where(drawn[:, None], both[1], both[0]).float().cpu()
