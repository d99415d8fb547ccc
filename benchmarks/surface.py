"""Two nuisances that do not factorise: interpolations of a cut efficiency, and where to simulate next.

    python benchmarks/surface.py                 # a minute or two
    python benchmarks/surface.py --draws 2       # does it still run?

An efficiency like that of a cut on missing momentum, with the jet energy scales of two jet systems as nuisances. An
invisible particle recoils against two jet systems of p_T = 190 GeV and an exponential of mean 40 GeV, equal up to a
width of 15%, at an angle of 130 degrees with a spread of 0.3. One unit of the first nuisance scales one system by 16%,
of the second the other by 13%; each component of the missing momentum has a resolution of 30 GeV, and the cut is at 250
GeV. The two scales act on one vector sum. The numbers were chosen such that the product of single responses is about
as wrong as in the reference example of derivative Gaussian processes (0.0455), whose function is not given.

The resolution is integrated event by event: an event passes with probability P(MET > 250 GeV | nu), a noncentral chi^2
probability, and the efficiency is its mean over the same 3000 events at every nu. Its gradient is the mean of the
events' own derivatives, which is what a user has who can write the weight of an event as a function of nu; where only a
cut decides, differences of the same events a little to either side take its place. There is no noise: what is seen is
interpolation alone.
"""

import argparse
import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from measure import Section, interleave
from numpy.typing import NDArray
from scipy.stats import ncx2

from nuratio.infer.fitting.fit import fit
from nuratio.model.interpolation import MULTIPLICATIVE
from nuratio.training.surface import Surface, fit_surface
from nuratio.workspace.workspace import Workspace

Floats = NDArray[np.float64]

SCALES = (0.16, 0.13)
RESOLUTION, CUT = 30.0, 250.0  # GeV
STAR = np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]], dtype=np.float64)
REACH = 2.0
EXTRA = (0, 2, 5, 10)
AXIS = np.linspace(-REACH, REACH, 41)
GRID = np.stack(np.meshgrid(AXIS, AXIS, indexing="ij"), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Events:
    """Missing momentum as a linear function of the nuisances.

    Attributes
    ----------
    nominal : ndarray, shape (n, 2)
        Transverse components before resolution, GeV.
    slopes : ndarray, shape (2, n, 2)
        Derivatives by the nuisances.
    """

    nominal: Floats
    slopes: Floats

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int) -> "Events":
        """n events."""
        first = 190 + rng.exponential(40, n)
        second = first * (1 + rng.normal(0, 0.15, n))
        angle = np.radians(130) + rng.normal(0, 0.3, n)
        jets = first[:, None] * [1.0, 0.0], second[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        return cls(-jets[0] - jets[1], np.stack([-s * j for s, j in zip(SCALES, jets, strict=True)]))

    def efficiency(self, nu: Floats) -> Floats:
        """P(MET > cut) at nu of shape (m, 2), shape (m,)."""
        return np.array([ncx2.sf((CUT / RESOLUTION) ** 2, 2, (m**2).sum(1)).mean() for m in self._momenta(nu)])

    def gradient(self, nu: Floats) -> Floats:
        """Its derivatives, shape (m, 2), from d P(chi^2_2 > x) / d lambda = density of chi^2_4 at x, lambda = m.m."""
        return np.array(
            [
                [(ncx2.pdf((CUT / RESOLUTION) ** 2, 4, (m**2).sum(1)) * 2 * (m * s).sum(1)).mean() for s in self._units]
                for m in self._momenta(nu)
            ]
        )

    @cached_property
    def _units(self) -> Floats:
        return self.slopes / RESOLUTION

    def _momenta(self, nu: Floats) -> list[Floats]:
        """In units of the resolution."""
        return [self.nominal / RESOLUTION + np.tensordot(v, self._units, 1) for v in nu]


def rmse(prediction: Floats, truth: Floats) -> float:
    """x 1000, over the grid in abs(nu) <= 2."""
    return 1000 * float(np.sqrt(((prediction - truth) ** 2).mean()))


def factorised(events: Events, combine: Callable[[Floats, Floats], Floats], code: str) -> Floats:
    """Responses of single nuisances, from points at +-1, relative to the nominal and combined on the grid."""
    y = events.efficiency(STAR)
    sides = [(y[1 + 2 * k] / y[0], y[2 + 2 * k] / y[0]) for k in range(2)]  # hi, lo
    if code == "quadratic exponential":
        logs = [(np.log(hi), np.log(lo)) for hi, lo in sides]
        one = [np.exp(AXIS * (hi - lo) / 2 + AXIS**2 * (hi + lo) / 2) for hi, lo in logs]
    else:
        ones = np.ones(len(AXIS))
        one = [MULTIPLICATIVE[code](lo * ones, hi * ones)(AXIS)[0] for hi, lo in sides]
    return np.asarray(y[0] * combine(one[0][:, None], one[1]).ravel())


def surface(events: Events, points: Floats, *, gradients: bool) -> Surface:
    """The Gaussian process on noise-free simulations."""
    return fit_surface(points, events.efficiency(points), gradients=events.gradient(points) if gradients else None)


def interpolations(events: Events) -> Section:
    """What the same few points give."""
    truth, nominal = events.efficiency(GRID), float(events.efficiency(STAR[:1])[0])
    along = [events.efficiency(np.outer(AXIS, axis)) / nominal for axis in np.eye(2)]
    found = {
        "product, code4 (HistFactory)": rmse(factorised(events, np.multiply, "code4"), truth),
        "sum, code4": rmse(factorised(events, lambda a, b: a + b - 1, "code4"), truth),
        "product, quadratic exponentials": rmse(factorised(events, np.multiply, "quadratic exponential"), truth),
        "product of the exact single responses": rmse(nominal * np.outer(*along).ravel(), truth),
    }
    for reach in (2, 1):
        for name, gradients in (("Gaussian process", False), ("Gaussian process with gradients", True)):
            found[f"{name}, axes at +-{reach}"] = rmse(
                surface(events, reach * STAR, gradients=gradients).at(GRID)[0], truth
            )
    text = (
        f"RMSE x 1000 of the efficiency over abs(nu) <= 2, where it is between {truth.min():.2f} and {truth.max():.2f} "
        f"({nominal:.2f} nominal). Codes take the nominal and +-1 on each axis, Gaussian processes as many points."
    )
    rows = tuple((name, f"{value:.2f}") for name, value in found.items())
    return Section("Five points", text, ("interpolation", "RMSE x 1000"), rows, found)


def explore(events: Events, truth: Floats, choose: Callable[[Surface], Floats], *, gradients: bool) -> list[float]:
    """RMSE x 1000 after each further point, refitted every time; the first is that of the five points."""
    points, found = REACH * STAR, []
    for step in range(max(EXTRA) + 1):
        model = surface(events, points, gradients=gradients)
        found.append(rmse(model.at(GRID)[0], truth))
        if step < max(EXTRA):
            points = np.concatenate([points, choose(model)[None]])
    return found


def further_points(events: Events, draws: int) -> Section:
    """Ten further simulations: where the surface is known least, and anywhere."""
    truth = events.efficiency(GRID)
    rows, numbers = [], {}
    for name, gradients in (("Gaussian process", False), ("with gradients", True)):
        active = explore(events, truth, lambda s: s.next_point().nu, gradients=gradients)
        random = []
        for seed in range(draws):
            rng = np.random.default_rng([1, seed])
            random.append(explore(events, truth, lambda _, rng=rng: rng.uniform(-REACH, REACH, 2), gradients=gradients))
        spread = np.array(random)
        rows.append((f"{name}, next_point()", *(f"{active[n]:.2f}" for n in EXTRA)))
        rows.append(
            (
                f"{name}, random: mean (least to largest)",
                *(f"{c.mean():.2f} ({c.min():.2f} to {c.max():.2f})" for c in spread[:, EXTRA].T),
            )
        )
        numbers |= {f"{name}, active": active[-1], f"{name}, random": float(spread[:, -1].mean())}
    text = (
        "RMSE x 1000 with further points beside the five with axes at +-2; lengths are refitted at every step. Random "
        f"points are uniform in abs(nu) <= 2, {draws} draws."
    )
    return Section("Further points", text, ("", *(f"{n} more" for n in EXTRA)), tuple(rows), numbers)


def counting(expression: str | None, normsys: list[dict[str, float]], observed: float) -> Workspace:
    """A signal and a background in one bin, whose acceptance depends on two nuisances."""
    names = ("jes1", "jes2")
    sides = normsys if expression is None else [{"hi": 1.0, "lo": 1.0}] * 2
    acceptance = [{"name": n, "type": "normsys", "data": data} for n, data in zip(names, sides, strict=True)]
    if expression is not None:
        acceptance.append({"name": "acceptance", "type": "normfactor", "data": None})
    mu = {"name": "mu", "type": "normfactor", "data": None}
    spec = {
        "version": "1.0.0",
        "channels": [
            {
                "name": "met",
                "samples": [
                    {"name": "signal", "data": [100.0], "modifiers": [mu, *copy.deepcopy(acceptance)]},
                    {"name": "background", "data": [1000.0], "modifiers": copy.deepcopy(acceptance)},
                ],
            }
        ],
        "observations": [{"name": "met", "data": [observed]}],
        "measurements": [
            {"name": "met", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [[-10, 10]]}]}}
        ],
    }
    if expression is not None:
        parameters = [{"name": "acceptance", "expression": expression}]
        spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "parameters": parameters}
    return Workspace(spec)


def fits(events: Events, rounds: int) -> Section:
    """What a surface as a normfactor costs in a fit."""
    y = events.efficiency(STAR)
    normsys = [{"hi": float(y[1 + 2 * k] / y[0]), "lo": float(y[2 + 2 * k] / y[0])} for k in range(2)]
    rng = np.random.default_rng(2)
    contenders, characters = {}, {"two normsys": 0}
    for name, more in (("two normsys", None), ("surface of 5 points", 0), ("surface of 15 points", 10)):
        text = None
        if more is not None:
            points = np.concatenate([REACH * STAR, rng.uniform(-REACH, REACH, (more, 2))])
            text = surface(events, points, gradients=True).expression(["jes1", "jes2"])
            characters[name] = len(text)
        workspace = counting(text, normsys, 1150.0)
        model = workspace.model()
        contenders[name] = partial(fit, model, workspace.data(model))
    times = interleave(contenders, rounds=rounds)
    rows = tuple((name, str(characters[name]), times.ratio(name, "two normsys")) for name in contenders)
    text = (
        "`nuratio.fit` of a counting experiment (three parameters, covariance included), surfaces with gradients. Time "
        f"in units of that with two normsys, median / best. Scale: {1000 * times.median('two normsys'):.1f} ms."
    )
    return Section("In a fit", text, ("acceptance", "characters", "time"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=3000)
    parser.add_argument("--draws", type=int, default=10, help="of random points")
    parser.add_argument("--rounds", type=int, default=200, help="of timing")
    args = parser.parse_args()
    events = Events.draw(np.random.default_rng(0), args.events)
    for section in (interpolations(events), fits(events, args.rounds), further_points(events, args.draws)):
        print(section.markdown(), flush=True)


if __name__ == "__main__":
    main()
