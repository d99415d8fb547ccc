"""Whether learned shapes stay tame where nothing was simulated: in the tails of the pool, and beyond +-1.

An exponent of 5 is a factor of 150 in a density. Far above 30 the likelihood is a matter of a few events, and its
exponentials leave the range of numbers.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.linked import LinkedPart
from nuratio.checks.report import Check
from nuratio.data.varied import monomial
from nuratio.workspace.train import Trained

__all__ = ["smoothness_checks"]

Floats = NDArray[np.float64]

_LARGE, _FATAL = 5.0, 30.0  # exponents: of one nuisance within two sigma, and of all, or of one further out
_EVEN = 1.0  # of the odd part
_SMALL = 0.02  # rms per sigma of an odd part below which the even one does not matter
_REACH, _FAR = 2.0, 3.0  # standard deviations
_DRAWS = 40
_CHUNK = 65536
_SEED = 0x5E


def smoothness_checks(part: LinkedPart, trained: Trained, kept: Sequence[str]) -> Iterator[Check]:
    """Largest exponents on the events of all parts, and how far the even part of a shape dominates the odd one.

    Parameters
    ----------
    part : LinkedPart
    trained : Trained
        With all parts: the fit evaluates the shapes of each of them at the events of all.
    kept : sequence of str
        Nuisances whose shape the fit has.
    """
    names = [name for name in kept if name not in part.factor.codes]
    if not names:
        return
    single, together = _largest(part, trained, names)
    name = max(names, key=lambda name: single[name])
    meaning = f"largest exponent of a nuisance within {_REACH:g} sigma at an event of the pool: {name}"
    yield Check("exponent", part.name, single[name], 0.0, _LARGE, meaning)
    meaning = f"largest exponent of all nuisances at random within {_REACH:g} sigma, or of one at {_FAR:g}"
    yield Check("exponent, all together", part.name, together, 0.0, _FATAL, meaning)
    dominance = {name: _even_over_odd(part, name) for name in names}
    name = max(names, key=lambda name: dominance[name])
    meaning = (
        f"rms of the part of a shape that is even in alpha over the odd part (of at least {_SMALL:.0%} per sigma), at "
        f"{_REACH:g} sigma: {name}; above 1 both directions change the shape alike"
    )
    yield Check("curvature", part.name, dominance[name], 0.0, _EVEN, meaning)


def _largest(part: LinkedPart, trained: Trained, names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Largest absolute exponents on the pool: of each nuisance within two sigma, and of any beyond or together."""
    rng = np.random.default_rng(_SEED)
    draws = [dict(zip(names, row.tolist(), strict=True)) for row in rng.uniform(-_REACH, _REACH, (_DRAWS, len(names)))]
    near, far = ([{name: side * reach} for name in names for side in (-1, 1)] for reach in (_REACH, _FAR))
    points = [*near, *far, *draws]
    phi = np.array([[monomial(term, alpha) for term in part.factor.terms] for alpha in points])
    largest = np.zeros(len(points))
    for events in trained.parts.values():
        for start in range(0, len(events), _CHUNK):
            some = slice(start, start + _CHUNK)
            d = part.shape.coefficients(events.features[some], event_ids=events.ids[some])
            exponents = phi @ np.array([d[term] for term in part.factor.terms])
            largest = np.fmax(largest, np.abs(exponents).max(axis=1))
    of_one = largest[: len(near)].reshape(-1, 2).max(axis=1).tolist()
    return dict(zip(names, of_one, strict=True)), float(largest[len(near) :].max())


def _even_over_odd(part: LinkedPart, name: str) -> float:
    up, down = (part.factor.exponent(part.d, {name: side * _REACH}) for side in (1, -1))
    even, odd = (_rms(values, part.weights) for values in ((up + down) / 2, (up - down) / 2))
    return even / max(odd, _REACH * _SMALL)


def _rms(values: Floats, share: Floats) -> float:
    """About the mean."""
    return float(np.sqrt(share @ (values - share @ values) ** 2))
