"""What a worker measures; tally.py says when. docs/metrics.md lists it, and is made from here.

Names are vLLM's where it measures the same. Once the model is loaded every series carries its name, so that a fleet
that serves several can be told apart without a join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Final, Literal, get_args

from prometheus_client import Counter, Gauge, Histogram

from r3core.engine.batch import MemoryPlan, Took
from r3core.types import StopReason
from server.exposition import Exposition

Phase = Literal["reason", "generate", "judge", "reflect", "refine", "describe", "decode", "encode", "store"]
Outcome = Literal["succeeded", "failed", "cancelled", "given_back", "lost"]

# A step of the small model on two cores takes 20 ms; of R3 on an H200, by the roofline, 30 ms alone and 300 in company.
_STEP_BUCKETS: Final = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_BATCH_BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_PHASE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
# Waiting is in these: from a moment to an hour.
_LATENCY_BUCKETS: Final = (
    *(0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0),
    *(120.0, 300.0, 600.0, 1800.0, 3600.0),
)


class WorkerMetrics:
    """The counters and gauges of one worker process."""

    def __init__(self) -> None:
        self.exposition = Exposition()
        registry = self.exposition.registry
        self.jobs = Counter(
            "r3_jobs",
            "Jobs that left this worker, by how; an end counts once it is written",
            ["outcome"],
            registry=registry,
        )
        self.failures = Counter(
            "r3_failures", "Trajectories, or whole jobs, that failed here, by error code", ["code"], registry=registry
        )
        self.stops = Counter("r3_stops", "Trajectories that ended, by stop reason", ["reason"], registry=registry)
        self.rounds = Histogram(
            "r3_rounds", "Refinements of an ended trajectory", buckets=tuple(range(9)), registry=registry
        )
        self.images = Counter("r3_images", "Pictures finished, by what drew them", ["phase"], registry=registry)
        self.candidates = Counter(
            "r3_candidates",
            "Pictures finished of rounds that have several, of which the best goes on",
            registry=registry,
        )
        self.discarded = Counter(
            "r3_images_discarded", "Pictures drawn that the result was not made from, at the end", registry=registry
        )
        self.live_dropped = Counter(
            "r3_live_events_dropped", "Progress and previews left out to keep up with the engine", registry=registry
        )
        self.running = Gauge("r3_trajectories_running", "Trajectories in the engine", registry=registry)
        self.room = Gauge("r3_trajectories_room", "Trajectories that the engine could take in", registry=registry)
        # Not told before the model is loaded: until then Redis is not asked, and a 0 would call it away.
        self.redis_up = Gauge("r3_queue_up", "Whether Redis answered", registry=None)
        self._add_times()
        self._add_engine()
        for outcome in get_args(Outcome):
            self.jobs.labels(outcome)
        for reason in get_args(StopReason):
            if reason != "done":  # that of what is no generation, which has no rounds to stop
                self.stops.labels(reason)
        for drawn in ("generate", "refine"):
            self.images.labels(drawn)

    def _add_times(self) -> None:
        def since_submission(name: str, told: str) -> Histogram:
            return Histogram(name, told, buckets=_LATENCY_BUCKETS, registry=self.exposition.registry)

        self.queue_time_s = since_submission(
            "r3_request_queue_time_seconds", "From submission to the first time that a worker took it"
        )
        self.first_token_s = since_submission(
            "r3_time_to_first_token_seconds",
            "From submission to the first token, of jobs that one worker began and wrote",
        )
        self.first_image_s = since_submission(
            "r3_time_to_first_image_seconds", "From submission to the first picture that was drawn"
        )
        self.latency_s = since_submission(
            "r3_e2e_request_latency_seconds", "From submission to the end, of jobs that ended here"
        )
        self.inference_s = since_submission(
            "r3_request_inference_time_seconds", "From being taken to leaving this worker, however it left"
        )
        self.phase_s = Histogram(
            "r3_phase_seconds",
            "A phase of one trajectory from its beginning to its end, company's steps included (reason, generate, "
            "judge, reflect, refine, describe; decode, the VAE's part, is within generate and refine), and what is "
            "done with a finished picture beside the engine (encode, store)",
            ["phase"],
            buckets=_PHASE_BUCKETS,
            registry=self.exposition.registry,
        )
        for phase in get_args(Phase):
            self.phase_s.labels(phase)

    def _add_engine(self) -> None:
        registry = self.exposition.registry
        self.tokens = Counter("r3_generation_tokens", "Tokens decoded, also of what was thrown away", registry=registry)
        self.denoise_steps = Counter(
            "r3_denoise_steps",
            "Denoising steps of pictures computed (a step cache leaves some out), also of what was thrown away",
            registry=registry,
        )
        self.forwards = Counter("r3_branch_forwards", "Guidance branches run over noisy latents", registry=registry)
        self.step_s = Histogram(
            "r3_engine_step_seconds",
            "One turn of the engine, by the host's clock: their sum is the time that it was busy",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.text_step_s = Histogram(
            "r3_text_step_seconds",
            "One packed text forward: a token of each text in it, and contexts that begin",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.denoise_step_s = Histogram(
            "r3_denoise_step_seconds",
            "One packed denoising forward: a step of each picture in it",
            buckets=_STEP_BUCKETS,
            registry=registry,
        )
        self.denoise_batch = Histogram(
            "r3_denoise_batch_size", "Pictures in one denoising forward", buckets=_BATCH_BUCKETS, registry=registry
        )
        self.kv_planned = Gauge("r3_kv_cache_planned_bytes", "Bytes of the K/V cache", registry=registry)
        self.kv_used = Gauge("r3_kv_cache_used_bytes", "Bytes of the K/V cache that steps hold", registry=registry)
        self.gpu_total = Gauge("r3_gpu_memory_bytes", "Memory of the GPU; 0 where there is none", registry=registry)
        self.gpu_used = Gauge("r3_gpu_memory_used_bytes", "Memory of the GPU that is taken", registry=registry)
        self.load_s = Gauge("r3_load_seconds", "How long loading the model took", registry=registry)
        self.info = Gauge("r3_model_info", "The model served; always 1", ["hash", "version"], registry=registry)

    def loaded(self, model: str, model_hash: str, version: str, load_s: float) -> None:
        """Say which model is served."""
        self.exposition.labels = {"model": model}
        self.exposition.registry.register(self.redis_up)
        self.info.labels(model_hash, version).set(1)
        self.load_s.set(load_s)

    def planned(self, plan: MemoryPlan, used_bytes: Callable[[], int | None]) -> None:
        """Say what was planned, and ask what the device holds at each scrape."""
        self.kv_planned.set(plan.kv_cache_bytes)
        self.gpu_total.set(plan.total_bytes or 0)

        def used() -> float:
            try:
                return used_bytes() or 0
            except RuntimeError:  # the device is lost; the rest can be told all the same
                return float("nan")

        self.gpu_used.set_function(used)

    def took(self, parts: Iterable[Took]) -> None:
        """Count what the engine computed."""
        for part in parts:
            if part.part == "text":
                self.tokens.inc(part.size)
                self.text_step_s.observe(part.seconds)
            elif part.part == "denoise":
                self.denoise_steps.inc(part.size)
                self.forwards.inc(part.branches)
                self.denoise_step_s.observe(part.seconds)
                self.denoise_batch.observe(part.size)
            else:
                self.phase_s.labels("decode").observe(part.seconds)

    def timing(self, phase: Phase) -> AbstractContextManager[object]:
        """Time what the block does as a phase."""
        return self.phase_s.labels(phase).time()
