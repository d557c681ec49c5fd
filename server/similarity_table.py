"""How alike pictures are to those drawn from their descriptions, over all of them. Pure.

Unified-Bench's protocol 1 (arXiv 2509.09666): of each model f the score s_f = 100 times the mean cosine of its
features, and overall the mean of these over the models that were used, which are named because it depends on them.
`self`, `latent` and `psnr` come from the checkpoint itself: proxies, with no published table to hold them against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

from server.tables import table

Json = dict[str, Any]
PROXIES: Final = ("self", "latent", "psnr")


def summary(similarities: Sequence[Mapping[str, float]]) -> Json:
    """The means over all pictures, of every measure that each of them has."""
    named = [name for name in (similarities[0] if similarities else ()) if all(name in one for one in similarities)]
    means = {name: fmean(one[name] for one in similarities) for name in named}
    scores = {name: 100 * mean for name, mean in means.items() if name not in PROXIES}
    return {
        "pictures": len(similarities),
        "proxies": {name: mean for name, mean in means.items() if name in PROXIES},
        "unified_bench": {
            "protocol": 1,
            "scores": scores,
            "overall": fmean(scores.values()) if scores else None,
            "over": list(scores),
        },
    }


def shown(value: Json) -> str:
    """The same for people."""
    bench = value["unified_bench"]
    rows = [(name, _proxy(name, mean), "proxy") for name, mean in value["proxies"].items()]
    rows += [(name, f"{score:.2f}", "100 x mean cosine") for name, score in bench["scores"].items()]
    if bench["over"]:
        rows.append(
            ("overall", f"{bench['overall']:.2f}", f"Unified-Bench, protocol 1, over {', '.join(bench['over'])}")
        )
    lines = [
        table(("MEASURE", "MEAN", ""), rows, right={"MEAN"}),
        f"of {value['pictures']} picture{'' if value['pictures'] == 1 else 's'}",
    ]
    if not bench["over"]:
        lines.append(
            "no score of Unified-Bench: no similarity model has seen every picture; name some for the worker "
            "(R3_SIMILARITY_MODELS), and another --out where pictures came round without them"
        )
    return "\n".join(lines)


def _proxy(name: str, mean: float) -> str:
    return f"{mean:.1f} dB" if name == "psnr" else f"{mean:.3f}"
