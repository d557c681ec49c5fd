"""What a worker measures, in Prometheus' form, in a registry of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_STEP_BUCKETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_JOB_BUCKETS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class WorkerMetrics:
    """The counters and gauges of one worker process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.jobs = Counter("r3_jobs", "Jobs that left this worker, by how", ["outcome"], registry=registry)
        self.stops = Counter("r3_stops", "Trajectories that ended, by stop reason", ["reason"], registry=registry)
        self.rounds = Histogram(
            "r3_rounds", "Refinements of an ended trajectory", buckets=tuple(range(9)), registry=registry
        )
        self.text_tokens = Counter("r3_text_tokens", "Tokens decoded", registry=registry)
        self.denoise_steps = Counter("r3_denoise_steps", "Denoising steps done", registry=registry)
        self.forwards = Counter("r3_branch_forwards", "Guidance branches run over noisy latents", registry=registry)
        self.step_s = Histogram(
            "r3_engine_step_seconds", "One turn of the engine", buckets=_STEP_BUCKETS, registry=registry
        )
        self.encode_s = Histogram(
            "r3_encode_seconds", "Encoding of one finished picture", buckets=_STEP_BUCKETS, registry=registry
        )
        self.first_image_s = Histogram(
            "r3_time_to_first_image_seconds", "From lease to first picture", buckets=_JOB_BUCKETS, registry=registry
        )
        self.job_s = Histogram("r3_job_seconds", "From lease to a job's end", buckets=_JOB_BUCKETS, registry=registry)
        self.running = Gauge("r3_trajectories_running", "Trajectories in the engine", registry=registry)
        self.room = Gauge("r3_trajectories_room", "Trajectories that the engine could take in", registry=registry)
        self.redis_up = Gauge("r3_queue_up", "Whether Redis answered last", registry=registry)
        self.load_s = Gauge("r3_load_seconds", "How long loading the model took", registry=registry)
        self.kv_cache = Gauge("r3_kv_cache_planned_bytes", "Bytes of the K/V cache", registry=registry)
        self.info = Gauge("r3_model_info", "The model served", ["model", "hash", "version"], registry=registry)

    def spent(self, usage: Mapping[str, float]) -> None:
        """Count what a checkpoint says was spent."""
        self.text_tokens.inc(usage.get("text_tokens", 0))
        self.denoise_steps.inc(usage.get("denoise_steps", 0))
        self.forwards.inc(usage.get("forwards", 0))

    def exposition(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
