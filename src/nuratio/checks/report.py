"""What checks find: values with their errors and verdicts, and the curves behind them.

A threshold is the size of an effect, not a significance, because with enough simulation every network is wrong by many
standard errors; a value may exceed it by three of its errors.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Calibration", "Check", "CheckReport", "Closure", "Distances", "Shifts", "averaged"]

Floats = NDArray[np.float64]

_SIGMAS = 3.0


@dataclass(frozen=True)
class Check:
    """One check of one sample.

    Attributes
    ----------
    name, sample : str
    value, error : float
        What was found, and its statistical error.
    threshold : float
        |value| may exceed it by three errors.
    meaning : str
        What the value is, in words.
    """

    name: str
    sample: str
    value: float
    error: float
    threshold: float
    meaning: str

    @property
    def passed(self) -> bool:
        """Whether the value is within its threshold, and a number."""
        return bool(abs(self.value) <= self.threshold + _SIGMAS * self.error)


def averaged(checks: Iterable[Check]) -> Iterator[Check]:
    """Independent checks of the same name and sample as one, in the order of the first."""
    same: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        same.setdefault((check.name, check.sample), []).append(check)
    for (first, *rest), n in ((found, len(found)) for found in same.values()):
        error = math.sqrt(math.fsum(c.error**2 for c in (first, *rest))) / n
        yield replace(first, value=math.fsum(c.value for c in (first, *rest)) / n, error=error)


@dataclass(frozen=True, eq=False)
class Closure:
    """A histogram of the reweighted reference and of the sample itself, as shares of their totals.

    Attributes
    ----------
    sample, quantity : str
    edges : ndarray, shape (b + 1,)
    reference, reweighted, target : ndarray, shape (b,)
    error, target_error : ndarray, shape (b,)
        Statistical errors of ``reweighted`` and ``target``.
    training_error : ndarray, shape (b,)
        Of ``reweighted``, from the spread of the networks; zero where there is one only.
    chi2 : float
        Of the difference, all three errors included: the mean over the halves of all folds, each compared by itself.
    bins : int
        That are not empty.
    """

    sample: str
    quantity: str
    edges: Floats
    reference: Floats
    reweighted: Floats
    target: Floats
    error: Floats
    target_error: Floats
    training_error: Floats
    chi2: float
    bins: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """The true ratio in bins of the learned one.

    Attributes
    ----------
    sample : str
    learned, true, error : ndarray, shape (b,)
    """

    sample: str
    learned: Floats
    true: Floats
    error: Floats


@dataclass(frozen=True, eq=False)
class Distances:
    """Sliced Wasserstein distance of the reweighted reference to the sample, and what it is if they are equal.

    Attributes
    ----------
    sample : str
    learned, unlearned : float
        With and without the learned ratio.
    null : ndarray, shape (n,)
        Distances of statistical fluctuations alone.
    """

    sample: str
    learned: float
    unlearned: float
    null: Floats


@dataclass(frozen=True, eq=False)
class Shifts:
    """Where the minimum of the likelihood goes if one network takes the place of the mean of all.

    Attributes
    ----------
    parameter : str
    shifts : ndarray, shape (folds, members)
        In units of the fit's uncertainty.
    """

    parameter: str
    shifts: Floats


Curve = Closure | Calibration | Distances | Shifts


@dataclass(frozen=True)
class CheckReport:
    """All checks of an estimator, or of an analysis.

    Attributes
    ----------
    checks : tuple of Check
    curves : tuple
        What to draw.
    """

    checks: tuple[Check, ...]
    curves: tuple[Curve, ...] = field(default=(), repr=False)

    @property
    def passed(self) -> bool:
        """Whether all of them passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the checks with their verdicts, and the curves."""
        rows = [{k: _plain(v) for k, v in asdict(c).items()} | {"passed": c.passed} for c in self.checks]
        curves = [{"type": type(c).__name__.lower()} | {k: _plain(v) for k, v in vars(c).items()} for c in self.curves]
        return {"passed": self.passed, "checks": rows, "curves": curves}

    def to_json(self) -> str:
        """The same as text."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    def __str__(self) -> str:
        lines = [f"{'check':34s} {'sample':20s} {'value':>9s} {'error':>9s} {'allowed':>9s}"]
        lines += [
            f"{c.name:34s} {c.sample:20s} {c.value:9.4f} {c.error:9.4f} {c.threshold:9.4f}  "
            f"{'pass' if c.passed else 'FAIL: ' + c.meaning}"
            for c in self.checks
        ]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A JSON value; what is no number is null."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
