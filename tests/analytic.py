"""Models with known densities: what the likelihood tests are made of.

x in [0, 10]: an exponential background, a Gaussian signal of strength mu, and a binned control region that shares the
background's normalisation. All ratios are analytic, the pool is drawn from the reference, the mean of both densities.
"""

import numpy as np
import pytest
from scipy.integrate import quad

from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

SLOPE, PEAK, WIDTH = 5.0, 5.0, 1.0
NORM = SLOPE * (1 - np.exp(-10 / SLOPE))


def background(x):
    return np.exp(-x / SLOPE) / NORM


def signal(x):
    return np.exp(-0.5 * ((x - PEAK) / WIDTH) ** 2) / (WIDTH * np.sqrt(2 * np.pi))


def draw_background(rng, n):
    return -SLOPE * np.log(1 - rng.uniform(size=n) * NORM / SLOPE)


def tilt(x):
    """D1 and D2 of the background's shape nuisance."""
    return 0.1 * (x - 5) / 5, -0.02 * x / 5


def tilt_cumulants():
    def mean(f):
        return quad(lambda x: f(x) * background(x), 0, 10)[0]

    d = [lambda x: tilt(x)[0], lambda x: tilt(x)[1]]
    m = [mean(f) for f in d]
    covariance = [[mean(lambda x, f=f, g=g: f(x) * g(x)) - mean(f) * mean(g) for g in d] for f in d]
    return m, covariance


def normsys(name, hi, lo=None):
    return {"name": name, "type": "normsys", "data": {"hi": hi, "lo": 2 - hi if lo is None else lo}}


def columns(x, **extra):
    q = (background(x) + signal(x)) / 2
    d1, d2 = tilt(x)
    values = {"background": background(x) / q, "signal": signal(x) / q, "d1": d1, "d2": d2}
    return RatioTable.from_columns(values | extra, np.float64)


def workspace(*, n_signal=60.0, n_background=1000.0, mu=1.0, pool=4000, seed=0, observed=None):
    """The workspace, with observed events drawn at ``mu`` (or given)."""
    rng = np.random.default_rng(seed)
    if observed is None:
        counts = rng.poisson([n_background, n_signal * mu])
        observed = np.concatenate([draw_background(rng, counts[0]), rng.normal(PEAK, WIDTH, counts[1])])
    simulated = np.concatenate([draw_background(rng, pool // 2), rng.normal(PEAK, WIDTH, pool - pool // 2)])
    tables = {
        "observed": columns(observed),
        "pool": columns(simulated, weight=np.full(pool, 1 / pool)),
        "observed features": RatioTable.from_columns({"x": observed}, np.float64),
        "pool features": RatioTable.from_columns({"x": simulated}, np.float64),
    }
    mean, covariance = tilt_cumulants()
    quadexp = {
        "name": "tilt",
        "type": "ratiosys",
        "interpcode": "quadexp",
        "data": {"d1": {"column": "d1"}, "d2": {"column": "d2"}},
    }
    spec = {
        "version": "1.0.0",
        "channels": [
            {
                "name": "CR",
                "samples": [
                    {
                        "name": "background",
                        "data": [100.0, 120.0],
                        "modifiers": [
                            normsys("norm", 1.1),
                            {"name": "stat", "type": "staterror", "data": [5.0, 6.0]},
                        ],
                    }
                ],
            },
            {
                "name": "SR",
                "samples": [
                    {
                        "name": "background",
                        "data": [n_background],
                        "modifiers": [normsys("norm", 1.1), normsys("tilt", 1.02)],
                    },
                    {
                        "name": "signal",
                        "data": [n_signal],
                        "modifiers": [{"name": "mu", "type": "normfactor", "data": None}, normsys("xs", 1.05)],
                    },
                ],
            },
        ],
        "observations": [{"name": "CR", "data": [98.0, 125.0]}, {"name": "SR", "data": [len(observed)]}],
        "measurements": [{"name": "analytic", "config": {"poi": "mu", "parameters": []}}],
        "unbinned": {
            "version": "1.0.0",
            "files": [file_entry(name, table) for name, table in tables.items()],
            "channels": [
                {
                    "name": "SR",
                    "reference": {"fractions": {"background": 0.5, "signal": 0.5}},
                    "samples": [
                        {
                            "name": "background",
                            "ratio": {"column": "background"},
                            "modifiers": [quadexp],
                            "normalisation": {
                                "type": "cumulant",
                                "parameters": ["tilt"],
                                "mean": mean,
                                "covariance": covariance,
                            },
                        },
                        {"name": "signal", "ratio": {"column": "signal"}},
                    ],
                    "events": {
                        "observed": {"file": "observed", "features": "observed features"},
                        "pool": {"file": "pool", "weight": {"column": "weight"}, "features": "pool features"},
                    },
                }
            ],
        },
    }
    return Workspace(spec, tables)


def binned_spec(*, per_bin=True):
    """A pyhf workspace with every modifier; without ``per_bin`` only those an unbinned channel can carry."""
    mu = {"name": "mu", "type": "normfactor", "data": None}

    def histosys(name, hi, lo):
        return {"name": name, "type": "histosys", "data": {"hi_data": hi, "lo_data": lo}}

    background_modifiers = [
        normsys("norm", 1.1, 0.92),
        histosys("shape", [110.0, 118.0, 99.0], [93.0, 125.0, 80.0]),
        histosys("norm", [104.0, 118.0, 99.0], [93.0, 125.0, 80.0]),
        {"name": "lumi", "type": "lumi", "data": None},
    ]
    signal_modifiers = [mu, histosys("shape", [3.0, 8.0, 9.0], [3.0, 5.0, 1.0])]
    other = [{"name": "free", "type": "normfactor", "data": None}]
    if per_bin:
        background_modifiers += [
            {"name": "stat", "type": "staterror", "data": [5.0, 0.0, 4.0]},
            {"name": "uncorrelated", "type": "shapesys", "data": [5.0, 0.0, 4.0]},
        ]
        signal_modifiers.append({"name": "stat", "type": "staterror", "data": [0.5, 0.0, 0.4]})
        other = [
            {"name": "free", "type": "shapefactor", "data": None},
            {"name": "stat_A", "type": "staterror", "data": [1.0, 2.0]},
        ]
    lumi = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.03], "bounds": [[0.5, 1.5]], "inits": [1.0]}
    return {
        "version": "1.0.0",
        "channels": [
            {
                "name": "B",
                "samples": [
                    {"name": "background", "data": [100.0, 120.0, 90.0], "modifiers": background_modifiers},
                    {"name": "signal", "data": [3.0, 5.0, 0.0], "modifiers": signal_modifiers},
                ],
            },
            {
                "name": "A",
                "samples": [
                    {"name": "signal", "data": [3.0, 5.0], "modifiers": [mu, normsys("norm", 0.9, 1.2)]},
                    {"name": "data driven", "data": [10.0, 20.0], "modifiers": other},
                ],
            },
        ],
        "observations": [{"name": "A", "data": [11, 23]}, {"name": "B", "data": [101, 130, 95]}],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": [lumi]}}],
    }


def counting(n, s=10.0, b=50.0, bounds=(0, 10)):
    """One bin without nuisances: every answer is a closed form."""
    return {
        "version": "1.0.0",
        "channels": [
            {
                "name": "bin",
                "samples": [
                    {"name": "s", "data": [s], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]},
                    {"name": "b", "data": [b], "modifiers": []},
                ],
            }
        ],
        "observations": [{"name": "bin", "data": [n]}],
        "measurements": [
            {"name": "m", "config": {"poi": "mu", "parameters": [{"name": "mu", "bounds": [list(bounds)]}]}}
        ],
    }


def random_point(model, rng, spread=0.6):
    """Parameters around the suggested ones, inside the bounds."""
    low, high = np.array(model.config.suggested_bounds()).T
    start = np.array(model.config.suggested_init())
    return np.clip(start + rng.normal(0, spread, len(start)), low + 1e-3, high - 1e-3)


def check_derivatives(likelihood, theta):
    """The gradient and the Hessian are central differences of the value and of the gradient."""
    h = 1e-5
    value, gradient, hessian = likelihood.derivatives(theta, hessian=True)
    assert value == pytest.approx(likelihood.value(theta), rel=1e-13)
    steps = h * np.eye(len(theta))
    numeric = np.array([likelihood.value(theta + s) - likelihood.value(theta - s) for s in steps]) / (2 * h)
    np.testing.assert_allclose(gradient, numeric, atol=2e-6, rtol=1e-6)
    numeric = np.array([likelihood.gradient(theta + s) - likelihood.gradient(theta - s) for s in steps]) / (2 * h)
    np.testing.assert_allclose(hessian, numeric, atol=1e-5, rtol=1e-6)


def set_at(path, value):
    """A change of a specification: the value at a path of keys and indices."""

    def change(spec):
        for key in path[:-1]:
            spec = spec[key]
        spec[path[-1]] = value

    return change


def make_kappa_the_poi(spec):
    """mu = kappa**2, and axes of the control region."""
    spec["measurements"][0]["config"]["poi"] = ""
    spec["unbinned"] |= {
        "poi": "kappa",
        "parameters": [
            {"name": "mu", "expression": "kappa ** 2"},
            {"name": "kappa", "inits": [1.0], "bounds": [[0.1, 5.0]]},
        ],
        "axes": [{"channel": "CR", "name": "x", "edges": [0.0, 1.0, 2.0]}],
    }
