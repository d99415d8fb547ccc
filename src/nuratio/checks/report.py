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

__all__ = [
    "Calibration",
    "Check",
    "CheckReport",
    "Closure",
    "Coefficients",
    "Curve",
    "Distances",
    "Ranking",
    "Shifts",
    "Sizes",
    "VariedRatio",
    "averaged",
    "worst",
]

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

    @property
    def used(self) -> float:
        """The value as a share of what it may be: above 1 where the check fails, infinite where it is no number."""
        allowed = self.threshold + _SIGMAS * self.error
        if self.value == 0:
            return 0.0
        used = abs(self.value) / allowed if allowed > 0 else math.inf
        return math.inf if math.isnan(used) else used


def averaged(checks: Iterable[Check]) -> Iterator[Check]:
    """Independent checks of the same name and sample as one, in the order of the first."""
    same: dict[tuple[str, str], list[Check]] = {}
    for check in checks:
        same.setdefault((check.name, check.sample), []).append(check)
    for (first, *rest), n in ((found, len(found)) for found in same.values()):
        error = math.sqrt(math.fsum(c.error**2 for c in (first, *rest))) / n
        yield replace(first, value=math.fsum(c.value for c in (first, *rest)) / n, error=error)


def worst(checks: Iterable[Check]) -> Check:
    """Of checks of one kind the one that is closest to failing, or fails by most; it passes if all of them do."""
    return max(checks, key=lambda check: check.used)


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


@dataclass(frozen=True, eq=False)
class Sizes:
    """What each of K nuisances does to a part: a table.

    Attributes
    ----------
    sample : str
        The part.
    nuisances : tuple of str
    kept : ndarray of bool, shape (K,)
        Whether the fit has their shape; of those that are pruned it has the rate alone.
    up, down : ndarray, shape (K,)
        Rms over nominal events of the learned ln[p(x|alpha) / p(x|0)] at alpha = 1 and -1.
    up_seen, up_error, down_seen, down_error : ndarray, shape (K,)
        The same along what was learned, as simulated events tell that the networks have not seen, and its statistical
        error; NaN where nothing was simulated or learned.
    rate_up, rate_down : ndarray, shape (K,)
        Yield at alpha = 1 and -1 relative to the nominal one; NaN where nothing was simulated.
    normalisation : ndarray, shape (K,)
        Error of the cumulant form of ln Z within two sigma of this nuisance alone; NaN where it is not known.
    note : str
        What else is to be said.
    """

    sample: str
    nuisances: tuple[str, ...]
    kept: NDArray[np.bool_]
    up: Floats
    up_seen: Floats
    up_error: Floats
    down: Floats
    down_seen: Floats
    down_error: Floats
    rate_up: Floats
    rate_down: Floats
    normalisation: Floats
    note: str


@dataclass(frozen=True, eq=False)
class VariedRatio:
    """The shape of a variation over the nominal one, in bins of a feature.

    Attributes
    ----------
    sample, point, feature : str
        ``point`` is that of the nuisances: ``jes = +1``.
    nuisances : tuple of str
        Those that are varied.
    edges : ndarray, shape (b + 1,)
    simulated, learned : ndarray, shape (b,)
        Varied over nominal shares, and reweighted over nominal ones.
    error : ndarray, shape (b,)
        Of the difference of these two: what the events that they share have in common is not in it.
    product : ndarray, shape (b,)
        The same with the one-nuisance shapes alone, of several nuisances; empty for a single one.
    chi2, bins : float, int
        Of reweighted and varied shares, and its degrees of freedom: summed over folds, each compared by itself.
    """

    sample: str
    point: str
    feature: str
    nuisances: tuple[str, ...]
    edges: Floats
    simulated: Floats
    learned: Floats
    error: Floats
    product: Floats
    chi2: float
    bins: int


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients D_1, D_2, ... of a nuisance in bins of a feature: what of nominal events is between them.

    Attributes
    ----------
    sample, nuisance, feature : str
    edges : ndarray, shape (b + 1,)
    powers : tuple of int
        Of alpha, one for each of T coefficients.
    mean, low, high : ndarray, shape (T, b)
        Mean, and the quantiles 16% and 84%.
    """

    sample: str
    nuisance: str
    feature: str
    edges: Floats
    powers: tuple[int, ...]
    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False)
class Ranking:
    """Impacts of K nuisances on a parameter, on Asimov data of the nominal model, in units of its uncertainty.

    Attributes
    ----------
    parameter : str
    nuisances : tuple of str
        The largest impact first.
    constraint : ndarray, shape (K,)
        Post-fit over pre-fit uncertainty of the nuisance.
    impact, prefit : ndarray, shape (K,)
        Shift of the parameter with the nuisance, by its post-fit and by its pre-fit uncertainty.
    shapes : ndarray, shape (K,)
        What of ``impact`` there would not be without the nuisance's shapes per event, its rates being the same.
    """

    parameter: str
    nuisances: tuple[str, ...]
    constraint: Floats
    impact: Floats
    prefit: Floats
    shapes: Floats


Curve = Closure | Calibration | Distances | Shifts | Sizes | VariedRatio | Coefficients | Ranking


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
        width = max([34, *(len(c.name) for c in self.checks)])
        lines = [f"{'check':{width}s} {'sample':20s} {'value':>9s} {'error':>9s} {'allowed':>9s}"]
        lines += [
            f"{c.name:{width}s} {c.sample:20s} {c.value:9.4f} {c.error:9.4f} {c.threshold:9.4f}  "
            f"{'pass' if c.passed else 'FAIL: ' + c.meaning}"
            for c in self.checks
        ]
        lines += [f"{c.sample}: {c.note}" for c in self.curves if isinstance(c, Sizes) and c.note]
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    """A JSON value; what is no number is null."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
