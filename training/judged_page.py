"""docs/judge.md from benchmarks/results/judge.json: everything between its markers, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from training.figures import Json
from training.report import markdown, put_between

PROJECT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = PROJECT / "docs" / "judge.md"
PLOT: Final = PROJECT / "docs" / "images" / "judge.png"
BEGIN: Final = "<!-- judge:begin: written by `make judge` -->"
END: Final = "<!-- judge:end -->"


def put(text: str, record: Json) -> str:
    """The page with the figures in their place. Raises ValueError where it has none."""
    return put_between(text, f"\n{table(record)}\n", BEGIN, END)


def table(record: Json) -> str:
    """All figures in Markdown."""
    return "\n\n".join([_how(record), _scorers(record), _categories(record), _strategies(record), _advice(record)])


def _how(record: Json) -> str:
    prompts, model = record["prompts"], record["checkpoint"]
    return (
        f"Measured on {record['at'][:10]} with `{model['name']}` (`{model['hash']}`) through the API: "
        f"{prompts['test']} held-out prompts; scorer, thresholds and advice were chosen on {prompts['validation']} "
        "others. Right is exact, by a parser that the model never sees. In parentheses, 95 % intervals."
    )


def _scorers(record: Json) -> str:
    rows = [
        [
            "scorer",
            f"AUC, every round of {record['rounds']} forced edits",
            f"AUC, {record['firsts']} first pictures each",
            "AUC within a prompt",
            "wrong pictures above the middle right one",
        ],
        ["---"] * 5,
    ]
    for name, one in record["scorers"].items():
        cells = [f"{one[key]:.3f}" for key in ("auc_all_rounds", "auc_first_pictures", "auc_within_prompt")]
        rows.append([f"`{name}`", *cells, _share(one["wrong_above_median_right"])])
    any_one = next(iter(record["scorers"].values()))
    return (
        f"{markdown(rows)}\n\n"
        f"Of {any_one['pictures']} first pictures {any_one['wrong']} are wrong; {any_one['prompts_with_both']} prompts "
        "have right ones and wrong ones."
    )


def _categories(record: Json) -> str:
    scorers = record["scorers"]
    names = list(next(iter(scorers.values()))["by_category"])
    rows = [["AUC of first pictures", *names], ["---"] * (len(names) + 1)]
    for scorer, one in scorers.items():
        values = [one["by_category"][name] for name in names]
        rows.append([f"`{scorer}`", *("none wrong" if v is None else f"{v:.3f}" for v in values)])
    return markdown(rows)


def _strategies(record: Json) -> str:
    rows = [["strategy", "pictures a prompt", "right", "against text stopping at the same cost"], ["---"] * 4]
    for one in record["strategies"]:
        more = one["against_text_at_equal_cost"]
        told = "dearer than any round limit" if more is None else _points(more)
        rows.append([one["name"], f"{one['images']:.2f}", _share(one["right"]), "—" if one["kind"] == "text" else told])
    return markdown(rows)


def _advice(record: Json) -> str:
    chosen = record["chosen_on_validation"]
    named = {one["name"]: one for one in record["strategies"]}
    one = named[chosen["best_against_text"]]
    more = one["against_text_at_equal_cost"]
    seen = "dearer than any round limit measured" if more is None else f"{_points(more)} on the test prompts"
    if chosen["is_better_on_validation"]:
        return (
            f"**Recommended: {one['name']}.** On the validation prompts it was right more often than text stopping that"
            f" draws as many pictures; {seen}."
        )
    return (
        "**Recommended: plain text stopping.** No strategy was right more often than text stopping that draws as many "
        f"pictures, beyond chance, on the validation prompts. The nearest was {one['name']}: {seen}."
    )


def _share(one: Json) -> str:
    return f"{100 * one['share']:.1f} % ({100 * one['low']:.1f}–{100 * one['high']:.1f})"


def _points(one: Json) -> str:
    return f"{100 * one['mean']:+.1f} points ({100 * one['low']:+.1f} to {100 * one['high']:+.1f})"
