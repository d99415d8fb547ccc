"""Results made by hand, with known numbers in them."""

import numpy as np

from nuratio.infer.results import FitResult, HypotestResult, LimitResult, Projection, ScanResult


def make_fit(names, bestfit, uncertainty, center, width, *, valid=True, fixed=None, minos=None):
    n = len(names)
    uncertainty = np.asarray(uncertainty, dtype=float)
    return FitResult(
        names=tuple(names),
        bestfit=np.asarray(bestfit, dtype=float),
        uncertainty=uncertainty,
        covariance=np.diag(uncertainty**2),
        twice_nll=100.0,
        valid=valid,
        message="" if valid else "did not converge",
        edm=1e-6,
        fixed=tuple(fixed or [False] * n),
        at_bound=(False,) * n,
        minos=minos or {},
        nonpositive_events=0,
        constraint_center=np.asarray(center, dtype=float),
        constraint_width=np.asarray(width, dtype=float),
    )


def make_limit(*, shift=0.0, invalid=(), level=0.05):
    """CLs = exp(-x / scale), so every limit is scale ln(1 / level); dense points near each, as root finding has."""
    scales = np.array([0.4, 0.6, 1.0, 1.4, 2.0])
    observed_scale = 1.0 + shift
    limits = -np.log(level) * np.array([observed_scale, *scales])
    dense = [x * (1 + 1e-4 * np.arange(-10, 11)) for x in limits]
    values = np.unique(np.concatenate([np.linspace(0, 1.1 * max(limits), 21), *dense, [3 * max(limits)]]))
    scan = tuple(
        HypotestResult(
            poi="mu",
            poi_value=float(x),
            test_stat="qtilde",
            statistic=1.0,
            asimov_statistic=1.0,
            CLs=float(np.exp(-x / observed_scale)),
            CLsb=0.1,
            CLb=0.5,
            CLs_expected=tuple(float(np.exp(-x / scale)) for scale in scales),
            valid=i not in invalid,
            message="",
        )
        for i, x in enumerate(values)
    )
    return LimitResult("mu", "qtilde", level, float(limits[0]), tuple(map(float, limits[1:])), scan, not invalid, "")


def make_scan(*, best=1.0, sigma=0.2, low=0.4, high=1.6, invalid=(), minos=None):
    x = np.linspace(low, high, 41)
    fit = make_fit(["mu", "jes"], [best, 0.1], [sigma, 0.9], [np.nan, 0], [np.nan, 1], minos=minos)
    valid = tuple(i not in invalid for i in range(len(x)))
    return ScanResult("mu", x, ((x - best) / sigma) ** 2, valid, np.zeros((len(x), 2)), fit)


def make_pulls(n, *, valid=True):
    """A POI, a fixed nuisance, and ``n`` constrained ones: alternately at 0, width 1, and at 1, width 0.05."""
    k = np.arange(n)
    gamma = k % 2 == 1
    center, width = np.where(gamma, 1.0, 0.0), np.where(gamma, 0.05, 1.0)
    pull, post = 1.5 * np.sin(k), 0.3 + 0.7 * np.cos(k) ** 2
    names = [f"staterror_CR[{j}]" if g else f"nuisance_{j}" for j, g in zip(k, gamma, strict=True)]
    fit = make_fit(
        ["mu", "lumi", *names],
        [1.2, 0.0, *(center + pull * width)],
        [0.3, 0.0, *(post * width)],
        [np.nan, 0.0, *center],
        [np.nan, 1.0, *width],
        fixed=[False, True] + [False] * n,
        valid=valid,
    )
    return fit, tuple(names), pull, post


def make_projection(samples=None, data=None, edges=(0.0, 1.0, 3.0, 6.0), uncertainty=0.1):
    default = {"background": [10.0, 20.0, 30.0], "signal": [1.0, 2.0, 3.0]}
    samples = {name: np.asarray(v, dtype=float) for name, v in (samples or default).items()}
    total = sum(samples.values())
    return Projection(
        channel="SR",
        feature="mass",
        edges=np.asarray(edges, dtype=float),
        data=np.round(total) if data is None else np.asarray(data, dtype=float),
        samples=samples,
        total=total,
        uncertainty=uncertainty * np.abs(total),
    )
