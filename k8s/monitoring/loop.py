"""The second dashboard: where does a job's time go, how often does the loop stop early, what does a picture cost."""

from __future__ import annotations

from typing import Final

from k8s.monitoring.grafana import Dashboard, Panel, Query, Row, Variable
from k8s.monitoring.queries import MODEL, NAMESPACE, OF, RATE, mean, median_and_p95, quantile, rate, within

PRICE: Final = Variable("gpu_hour", "Price of a GPU hour", text="3")
_LOOP: Final = f'{OF}, phase=~"reason|generate|judge|reflect|refine"'
_BESIDE: Final = f'{OF}, phase=~"decode|encode|store"'
_SATISFIED: Final = f'{OF}, reason="satisfied"'
_MALFORMED: Final = f'{OF}, reason="malformed"'
_ENDED: Final = f'{OF}, outcome=~"succeeded|failed|cancelled"'
_BUSY_S: Final = within("r3_engine_step_seconds_sum")
# A worker is there for as long as it tells its model: looked at once an interval of the picture's own width.
_WORKER_S: Final = f"sum(sum_over_time(r3_model_info{{{OF}}}[$__range:$__interval])) * $__interval_ms / 1000"
_IMAGES: Final = within("r3_images_total")

TIME: Final = Row(
    "Where does a job's time go?",
    (
        Panel(
            "To the first token, the first picture, the end",
            "Since submission, waiting included.",
            "s",
            median_and_p95(
                ("r3_time_to_first_token_seconds", "first token"),
                ("r3_time_to_first_image_seconds", "first picture"),
                ("r3_e2e_request_latency_seconds", "end"),
            ),
            width=12,
        ),
        Panel(
            "Time of a job, by phase",
            "What a job that ended spent in each, on average: waiting, then the loop. Trajectories of one job go on "
            "side by side, so that for n above 1 this is more than the job took.",
            "s",
            (
                Query(mean("r3_request_queue_time_seconds"), "queue"),
                Query(
                    f"{rate('r3_phase_seconds_sum', 'phase', _LOOP)}"
                    f" / scalar({rate('r3_jobs_total', selected=_ENDED)})",
                    "{{phase}}",
                ),
            ),
            width=12,
            stacked="normal",
        ),
        Panel(
            "One phase, on average",
            "Of one trajectory, company's steps included: more trajectories in the engine make each phase longer.",
            "s",
            (
                Query(
                    mean("r3_phase_seconds", "phase", _LOOP),
                    "{{phase}}",
                ),
            ),
        ),
        Panel(
            "A finished picture, 95 %",
            "decode: the VAE, between two steps. encode and store: beside the engine, which waits only where they "
            "cannot keep up.",
            "s",
            (Query(quantile(0.95, "r3_phase_seconds", "phase", _BESIDE), "{{phase}}"),),
        ),
        Panel(
            "From submission to the end",
            "Jobs by how long they took.",
            "none",
            (
                Query(
                    f"sum by (le) (increase(r3_e2e_request_latency_seconds_bucket{{{OF}}}{RATE}))",
                    "{{le}}",
                    of_buckets=True,
                ),
            ),
            "heatmap",
        ),
    ),
)
STOPS: Final = Row(
    "How often does the loop stop early?",
    (
        Panel(
            "Stopped early",
            "The share of loops that ended because the model was satisfied, over the time shown.",
            "percentunit",
            (Query(f"{within('r3_stops_total', _SATISFIED)} / {within('r3_stops_total')}"),),
            "stat",
            8,
        ),
        Panel(
            "Edits of a loop",
            "On average, over the time shown.",
            "none",
            (Query(f"{within('r3_rounds_sum')} / {within('r3_rounds_count')}"),),
            "stat",
            8,
        ),
        Panel(
            "Lost their form",
            "The share of loops that ended as malformed. Alert: R3LoopBroken.",
            "percentunit",
            (Query(f"{within('r3_stops_total', _MALFORMED)} / {within('r3_stops_total')}"),),
            "stat",
            8,
            bad_from=0.2,
        ),
        Panel(
            "Why loops end",
            "satisfied is the early stop; max_rounds means that more edits were wanted than were asked for.",
            "percentunit",
            (Query(rate("r3_stops_total", "reason"), "{{reason}}"),),
            width=12,
            stacked="percent",
        ),
        Panel(
            "Loops by number of edits",
            "Over the time shown.",
            "none",
            (Query(f"sum by (le) (increase(r3_rounds_bucket{{{OF}}}[$__range]))", "{{le}}", of_buckets=True),),
            "bargauge",
            12,
        ),
    ),
)
COST: Final = Row(
    "What does a picture cost?",
    (
        Panel(
            "Engine time of a picture",
            "Seconds that engines were busy, by pictures finished, over the time shown; thrown-away work is in it.",
            "s",
            (Query(f"{_BUSY_S} / {_IMAGES}"),),
            "stat",
            6,
        ),
        Panel(
            "1,000 pictures, while busy",
            "At the price of a GPU hour named above, if engines were never idle.",
            "none",
            (Query(f"1000 * $gpu_hour / 3600 * {_BUSY_S} / {_IMAGES}"),),
            "stat",
            6,
        ),
        Panel(
            "1,000 pictures, idle time included",
            "At the same price, all workers paid for all the time shown.",
            "none",
            (Query(f"1000 * $gpu_hour / 3600 * {_WORKER_S} / {_IMAGES}"),),
            "stat",
            6,
        ),
        Panel(
            "Pictures of a job",
            "First ones and edits, by jobs that ended, over the time shown.",
            "none",
            (Query(f"{_IMAGES} / {within('r3_jobs_total', _ENDED)}"),),
            "stat",
            6,
        ),
        Panel(
            "Pictures drawn",
            "Per second: first ones, and edits.",
            "cps",
            (Query(rate("r3_images_total", "phase"), "{{phase}}"),),
        ),
        Panel(
            "Guidance branches of a picture",
            "At R3's settings 90 for a first picture and 131 for an edit; more is work that was thrown away.",
            "none",
            (Query(f"{rate('r3_branch_forwards_total')} / {rate('r3_images_total')}", "branches"),),
        ),
        Panel(
            "Tokens of a picture",
            "Plans and reflections, by pictures finished.",
            "none",
            (Query(f"{rate('r3_generation_tokens_total')} / {rate('r3_images_total')}", "tokens"),),
        ),
    ),
)
ENGINE: Final = Row(
    "The engine",
    (
        Panel(
            "Forwards",
            "One packed forward over all pictures, or all texts. On CUDA by the device's clock.",
            "s",
            median_and_p95(("r3_denoise_step_seconds", "denoising"), ("r3_text_step_seconds", "text")),
        ),
        Panel(
            "Pictures in a denoising forward",
            "The mean. Company makes a step longer and a picture cheaper.",
            "none",
            (Query(mean("r3_denoise_batch_size", "model"), "{{model}}"),),
        ),
        Panel(
            "Throughput",
            "Tokens, denoising steps of pictures, and guidance branches, each per second.",
            "cps",
            (
                Query(rate("r3_generation_tokens_total"), "tokens"),
                Query(rate("r3_denoise_steps_total"), "steps"),
                Query(rate("r3_branch_forwards_total"), "branches"),
            ),
        ),
        Panel(
            "How busy each engine is",
            "The share of time in which it has something to compute.",
            "percentunit",
            (Query(f"rate(r3_engine_step_seconds_sum{{{OF}}}{RATE})", "{{instance}}"),),
        ),
        Panel(
            "K/V cache in use",
            "Of what was planned at the start. Full for long, with room for trajectories: R3_KV_CACHE_GB is too small.",
            "percentunit",
            (Query(f"r3_kv_cache_used_bytes{{{OF}}} / r3_kv_cache_planned_bytes{{{OF}}}", "{{instance}}"),),
        ),
        Panel(
            "GPU memory in use",
            "By whomever; without a GPU there is nothing here.",
            "percentunit",
            (Query(f"r3_gpu_memory_used_bytes{{{OF}}} / (r3_gpu_memory_bytes{{{OF}}} > 0)", "{{instance}}"),),
        ),
        Panel(
            "What is served",
            "One line a worker: model, hash of its weights, version of the build.",
            "none",
            (Query(f"r3_model_info{{{OF}}}"),),
            "table",
            16,
        ),
        Panel(
            "Loading the model",
            "How long it took, by worker.",
            "s",
            (Query(f"r3_load_seconds{{{OF}}}", "{{instance}}"),),
            "bargauge",
            8,
        ),
    ),
)
LOOP: Final = Dashboard(
    "r3-loop",
    "R3 model and loop",
    "Where does a job's time go? How often does the loop stop early? What does a picture cost?",
    (NAMESPACE, MODEL, PRICE),
    (TIME, STOPS, COST, ENGINE),
    links_to=(("R3 fleet", "r3-fleet"),),
)
