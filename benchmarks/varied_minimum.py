"""The five-dimensional example of `minimum.py` with its nuisances: densities, simulations, derivatives.

x = k SCALE z + m RES e with the response k = 1 +- 0.1, the resolution m = 1 +- 0.25, and a theory shift of the two
narrow signal means by +-(0.35, -0.20, 0.30, 0.15, -0.25) in z. Variations are the same generated z and e, so that
events link.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import minimum
import numpy as np
from minimum import CUT, MIXTURES, RESOLUTION, RESPONSE, YIELDS, Component
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample

Floats = NDArray[np.float64]

WIDTHS = {"response": 0.1, "resolution": 0.25}
THEORY = np.array([0.35, -0.20, 0.30, 0.15, -0.25])
NUISANCES = {"signal": ("response", "resolution", "theory"), "background": ("response", "resolution")}
REACH = 0.3  # of response and resolution in fits: further out the second order of ln Z of the background is not enough


@dataclass(frozen=True)
class Fitted:
    """mu-hat, its uncertainty with all nuisances profiled, and 2 Delta ln L of a given mu."""

    mu: float
    sigma: float
    rise: float = np.nan


def shift_of(sample: str, component: Component, alpha: Mapping[str, float]) -> Floats:
    """Of the latent mean."""
    narrow = sample == "signal" and component is not minimum.BROAD
    return THEORY * alpha.get("theory", 0.0) * narrow


def density(x: Floats, sample: str, alpha: Mapping[str, float]) -> Floats:
    """Before the cut, shape (n,)."""
    k, m = (1 + WIDTHS[name] * alpha.get(name, 0.0) for name in WIDTHS)
    total = np.zeros(len(x))
    for component in MIXTURES[sample]:
        covariance = component.latent * np.outer(RESPONSE, RESPONSE) * k**2 + np.diag((m * RESOLUTION) ** 2)
        whiten = np.linalg.inv(np.linalg.cholesky(covariance))
        u = (x - k * RESPONSE * (component.mean + shift_of(sample, component, alpha))) @ whiten.T
        peak = component.fraction * np.diag(whiten).prod() / (2 * np.pi) ** 2.5
        total += peak * np.exp(-0.5 * np.einsum("ij,ij->i", u, u))
    return total


def generate(
    rng: np.random.Generator, sample: str, n: int, points: Sequence[Mapping[str, float]]
) -> list[NDArray[np.float32]]:
    """The same n generated events, before the cut, at some points of the nuisances; shape (n, 5) each."""
    mixture = MIXTURES[sample]
    counts = rng.multinomial(n, [c.fraction for c in mixture])
    found: list[list[NDArray[np.float32]]] = [[] for _ in points]
    for component, some in zip(mixture, counts, strict=True):
        z = component.mean + rng.standard_normal((some, 5)) @ np.linalg.cholesky(component.latent).T
        e = RESOLUTION * rng.standard_normal((some, 5))
        for alpha, parts in zip(points, found, strict=True):
            k, m = (1 + WIDTHS[name] * alpha.get(name, 0.0) for name in WIDTHS)
            x = k * RESPONSE * (z + shift_of(sample, component, alpha)) + m * e
            parts.append(x.astype(np.float32))
    order = rng.permutation(n)  # a part of them is to be a mixture, too
    return [np.concatenate(parts)[order] for parts in found]


def passing(x: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The cut, on the nominal densities."""
    return np.asarray(minimum.inclusive_ratio(x.astype(np.float64)) >= CUT)


def simulate(rng: np.random.Generator, sample: str, n: int) -> tuple[EventSample, list[VariedSample]]:
    """About n events after the cut, and their variations by one standard deviation."""
    points = [{}, *({name: a} for name in NUISANCES[sample] for a in (1.0, -1.0))]
    efficiency = YIELDS[sample] / {"signal": 1_100, "background": 1_000_000}[sample]
    generated = generate(rng, sample, int(n / efficiency), points)
    ids, samples = np.arange(len(generated[0])), []
    for x in generated:
        kept = passing(x)
        samples.append(EventSample(x[kept], event_ids=ids[kept]))
    nominal, *varied = samples
    return nominal, [VariedSample(alpha, events) for alpha, events in zip(points[1:], varied, strict=True)]


def derivatives(x: NDArray[np.float32], sample: str, nuisance: str) -> tuple[Floats, Floats]:
    """First and half the second derivative of ln p(x | alpha), the cut included but for its normalisation."""
    h = 1.0 if nuisance == "theory" else 0.1
    found = np.empty((2, len(x)))
    for start in range(0, len(x), 200_000):
        some = x[start : start + 200_000].astype(np.float64)
        up, mid, down = (np.log(density(some, sample, {nuisance: a})) for a in (h, 0.0, -h))
        found[:, start : start + len(some)] = (up - down) / (2 * h), (up + down - 2 * mid) / (2 * h**2)
    return found[0], found[1]
