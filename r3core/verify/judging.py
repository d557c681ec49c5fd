"""Verdicts: what was computed against what was recorded, one row a case.

    float32     1e-4 of the recorded tensor's largest magnitude; pictures within 1 of 255; texts and ids identical
    bfloat16    at most 4 times the error that the reference itself has in bf16, where the set says it; else only shown
Values that no arithmetic of the model touches (ids, schedules, sizes, pixels) are judged alike in both.
A case is computed several ways (alone, in a batch), and its row holds the worst of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import torch
from torch import Tensor

from r3core.errors import DeviceError, R3Error
from r3core.verify.golden import dumped

RELATIVE_TOLERANCE: Final = 1e-4
UINT8_TOLERANCE: Final = 1.0
BF16_FACTOR: Final = 4.0
# A loop that runs on its own pictures: one flipped pixel feeds back through VAE and ViT.
FREE_LATENT_TOLERANCE: Final = 5e-3
FREE_UINT8_TOLERANCE: Final = 2.0

T = TypeVar("T")
Ways = Mapping[str, T]  # the same result computed several ways, by the way's name
Verdict = Literal["holds", "fails", "shown", "informational"]


@dataclass(frozen=True)
class Row:
    """One line of the report. `error` and `tolerance` are None for what must be identical; two verdicts count."""

    case: str
    verdict: Verdict
    error: float | None = None
    tolerance: float | None = None
    note: str = ""

    def __str__(self) -> str:
        error = "" if self.error is None else f"{self.error:.3g}"
        tolerance = "" if self.tolerance is None else f"{self.tolerance:.3g}"
        return f"{self.case:<52} {error:>10} {tolerance:>10}  {self.verdict}{self.note and '  ' + self.note}"


HEADER: Final = f"{'case':<52} {'largest':>10} {'tolerance':>10}  verdict"


@dataclass(frozen=True)
class Report:
    """All rows of a replay."""

    rows: tuple[Row, ...]

    @property
    def failures(self) -> tuple[Row, ...]:
        """What does not hold."""
        return tuple(row for row in self.rows if row.verdict == "fails")

    @property
    def judged(self) -> int:
        """How many rows were judged."""
        return sum(row.verdict in ("holds", "fails") for row in self.rows)

    @property
    def holds(self) -> bool:
        """Whether the set holds: something was judged, and nothing failed."""
        return not self.failures and self.judged > 0

    def __str__(self) -> str:
        return f"{self.judged - len(self.failures)} of {self.judged} cases hold"


@dataclass
class Judge:
    """Collects rows. `honest_errors` are the reference's own errors in bf16, by case, or None in a float32 replay."""

    honest_errors: Mapping[str, float] | None = None
    on_row: Callable[[Row], None] | None = None
    rows: list[Row] = field(default_factory=list)
    used_errors: set[str] = field(default_factory=set)

    @property
    def exact(self) -> bool:
        """Whether this is a float32 replay."""
        return self.honest_errors is None

    def add(self, row: Row) -> None:
        """Put a row into the report."""
        self.rows.append(row)
        if self.on_row is not None:
            self.on_row(row)

    def fail(self, case: str, note: str) -> None:
        """A case that could not be compared."""
        self.add(Row(case, "fails", note=note))

    def inform(self, case: str, note: str = "") -> None:
        """Something recorded that is not a target."""
        self.add(Row(case, "informational", note=note))

    @contextmanager
    def case(self, name: str, *, judged: bool = True) -> Iterator[None]:
        """Let a fault inside fail this case by name, and the replay go on."""
        try:
            yield
        except DeviceError:
            raise
        except (R3Error, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            note = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.add(Row(name, "fails" if judged else "shown", note=note))

    def same(self, case: str, got: Ways[Any], want: object, *, judged: bool = True) -> None:
        """Values that must be identical."""
        for way, value in got.items():
            if value != want:
                note = f"{way}: {dumped(value)} is not {dumped(want)}"
                self.add(Row(case, "fails" if judged else "shown", note=note))
                return
        self.add(Row(case, "holds" if judged else "shown"))

    def close(
        self,
        case: str,
        got: Ways[Tensor],
        want: Tensor,
        *,
        tolerance: float | None = None,
        judged: bool = True,
        of_model: bool = True,
    ) -> None:
        """Numbers. `tolerance` is that of float32 where it is not the relative one; numbers that are not `of_model`
        come from no weights and are judged alike in bf16.
        """
        if self.honest_errors is not None and of_model:
            honest = self.honest_errors.get(case)
            self.used_errors.add(case)
            judged = judged and honest is not None
            tolerance = None if honest is None else BF16_FACTOR * honest
        self._numbers(case, got, want, tolerance, judged=judged)

    def pixels(
        self, case: str, got: Ways[Tensor], want: Tensor, *, tolerance: float = UINT8_TOLERANCE, judged: bool = True
    ) -> None:
        """uint8 pictures."""
        self.close(case, got, want, tolerance=tolerance, judged=judged)

    def expects(self, case: str) -> bool:
        """Whether the set says how far bf16 may be off in this case."""
        return self.honest_errors is not None and case in self.honest_errors

    def _numbers(self, case: str, got: Ways[Tensor], want: Tensor, tolerance: float | None, *, judged: bool) -> None:
        whole = not want.is_floating_point()
        limit = (0.0 if whole else RELATIVE_TOLERANCE * _largest(want)) if tolerance is None else tolerance
        worst, note = 0.0, ""
        for way, value in got.items():
            if value.shape != want.shape:
                note = f"{way}: shape {list(value.shape)} is not {list(want.shape)}"
                self.add(Row(case, "fails" if judged else "shown", note=note))
                return
            error = _largest(value.double() - want.double())
            if error > worst:
                worst, note = error, way
        if not judged:
            self.add(Row(case, "shown", worst))
            return
        holds = worst <= limit < float("inf")
        self.add(Row(case, "holds" if holds else "fails", worst, limit, "" if holds else note))


def _largest(value: Tensor) -> float:
    """The largest magnitude; infinite where any number is not finite, so that it can never pass for a small error."""
    if value.numel() == 0:
        return 0.0
    magnitude = value.double().abs()
    return float(magnitude.max()) if bool(torch.isfinite(magnitude).all()) else float("inf")
