"""Published HistFactory workspaces: fits, uncertainties and CLs against pyhf with minuit.

pyhf's numpy backend is used: without batches it is the fastest of its backends for one fit on a CPU, and MIGRAD takes
numerical derivatives of it, as pyhf's users get them.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from time import perf_counter
from typing import Any

import jsonpatch
import numpy as np
import pyhf
from measure import Section, interleave
from numpy.typing import NDArray

import nuratio

__all__ = ["hypothesis_tests", "published"]

Floats = NDArray[np.float64]

SETTINGS = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
SLOW = 3.0  # seconds of a pyhf fit beyond which there is one round
MISSING = "Skipped: no workspaces at {}; name a folder with --workspaces."


def published(folder: Path, *, rounds: int) -> Section:
    """Background-only fits of all workspaces below a folder (JSON files that are no patches)."""
    title = "Fits of published workspaces"
    paths = _workspaces(folder)
    if not paths:
        return Section(title, MISSING.format(folder))
    rows, scales = [], []
    numbers: dict[str, float] = {}
    for path in paths:
        name = str(path.relative_to(folder).with_suffix(""))
        workspace = pyhf.Workspace(json.loads(path.read_text()))
        pdf = workspace.model(modifier_settings=SETTINGS, poi_name=None)
        data = np.array(workspace.data(pdf))
        model = nuratio.Model.from_pyhf(pdf)
        found: dict[str, Any] = {}

        def theirs(pdf: Any = pdf, data: Floats = data, found: dict[str, Any] = found) -> None:
            found["theirs"] = np.array(pyhf.infer.mle.fit(data, pdf, return_uncertainties=True))[:, 0]

        best = nuratio.fit(model, data)  # every kernel compiled
        with pyhf_minuit():
            start = perf_counter()
            theirs()
            slow = perf_counter() - start > SLOW
            times = interleave(
                {"nuratio": lambda model=model, data=data: nuratio.fit(model, data), "pyhf": theirs},
                rounds=1 if slow else rounds,
                warm=0 if slow else 1,
            )
            difference = best.twice_nll + 2 * float(pdf.logpdf(found["theirs"], data)[0])
            worst = _uncertainty_error(pdf, model, data, best)
        rows.append(
            (
                name,
                str(len(best.names)),
                times.ratio("pyhf", "nuratio"),
                f"{difference:+.1e}",
                f"{worst:.1e}",
                "yes" if best.valid else "no",
            )
        )
        scales.append(f"{1e3 * times.median('nuratio'):.3g} ms")
        numbers |= {
            f"{name}: 2NLL - pyhf's": difference,
            f"{name}: uncertainties": worst,
            f"{name}: valid": float(best.valid),
        }
    return Section(
        title,
        "Background-only fits with covariance; pyhf with its numpy backend and minuit optimizer at default settings. "
        "Time of pyhf's fit in units of ours, median / best; our minimum of 2NLL minus pyhf's; largest relative "
        "difference of our uncertainties to those of a numerical Hessian of pyhf's own `logpdf` at our best fit "
        f"(central differences, Richardson-extrapolated). Scale: our fits took {', '.join(scales)}.",
        ("workspace", "parameters", "pyhf / nuratio", "2NLL", "uncertainties", "valid"),
        tuple(rows),
        numbers,
    )


def hypothesis_tests(folder: Path, *, rounds: int) -> Section:
    """CLs at mu = 1 of the first signal patch of each folder against pyhf with a tight minuit tolerance."""
    title = "CLs of published workspaces"
    paths = [(path, patch) for path in _workspaces(folder) for patch in sorted(path.parent.glob("patch*.json"))[:1]]
    if not paths:
        return Section(title, MISSING.format(folder) if not _workspaces(folder) else "Skipped: no signal patches.")
    rows = []
    numbers: dict[str, float] = {}
    for path, patch in paths:
        spec = jsonpatch.apply_patch(json.loads(path.read_text()), json.loads(patch.read_text()))
        workspace = pyhf.Workspace(spec)
        pdf = workspace.model(modifier_settings=SETTINGS)
        data = np.array(workspace.data(pdf))
        model = nuratio.Model.from_pyhf(pdf)
        found: dict[str, Any] = {}

        def theirs(pdf: Any = pdf, data: Floats = data, found: dict[str, Any] = found) -> None:
            result = pyhf.infer.hypotest(1.0, data, pdf, test_stat="qtilde", return_expected_set=True)
            found["theirs"] = float(result[0]), [float(x) for x in result[1]]

        def ours(model: Any = model, data: Floats = data, found: dict[str, Any] = found) -> None:
            found["ours"] = nuratio.hypotest(model, data, 1.0)

        ours()  # every kernel compiled
        with pyhf_minuit(tolerance=1e-3):
            times = interleave({"nuratio": ours, "pyhf": theirs}, rounds=rounds, warm=0)
        observed, expected = found["theirs"]
        result = found["ours"]
        band = float(max(abs(np.array(result.CLs_expected) - expected)))
        name = f"{path.parent.name}, {patch.stem.removeprefix('patch.')}"
        rows.append(
            (name, times.ratio("pyhf", "nuratio"), f"{observed:.4f}", f"{result.CLs - observed:+.1e}", f"{band:.1e}")
        )
        numbers |= {f"{name}: CLs - pyhf's": result.CLs - observed, f"{name}: expected": band}
    return Section(
        title,
        "One `hypotest` at mu = 1 (q-tilde, observed and five expected values); pyhf with its numpy backend and minuit "
        "at a tolerance of 1e-3 (default 0.1), which its CLs needs. Time in units of ours, median / best; pyhf's "
        "observed CLs, ours minus it, and the largest difference of an expected one.",
        ("workspace, signal", "pyhf / nuratio", "CLs", "difference", "of expected"),
        tuple(rows),
        numbers,
    )


@contextmanager
def pyhf_minuit(**options: Any) -> Iterator[None]:
    """pyhf's numpy backend with its minuit optimizer; what was set before comes back."""
    before = pyhf.get_backend()
    pyhf.set_backend("numpy", pyhf.optimize.minuit_optimizer(**options))
    try:
        yield
    finally:
        pyhf.set_backend(*before)


def _workspaces(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*.json")) if not p.name.startswith("patch")] if folder.is_dir() else []


def _uncertainty_error(pdf: Any, model: Any, data: Floats, best: Any) -> float:
    """Largest relative difference of the uncertainties, parameters at a bound held there."""
    held = {n: float(v) for n, v, b in zip(best.names, best.bestfit, best.at_bound, strict=True) if b}
    result = nuratio.fit(model, data, fixed=held) if held else best
    free = np.flatnonzero(~np.array(result.fixed))
    inverse = np.linalg.inv(result.covariance[np.ix_(free, free)])

    def twice_nll(shift: Floats) -> float:
        theta = result.bestfit.copy()
        theta[free] += shift
        return -2 * float(pdf.logpdf(theta, data)[0])

    hessian = numerical_hessian(twice_nll, 1 / np.sqrt(np.diag(inverse)))
    numerical = np.sqrt(np.diag(2 * np.linalg.inv(hessian)))
    return float(np.max(np.abs(result.uncertainty[free] / numerical - 1)))


def numerical_hessian(function: Callable[[Floats], float], scale: Floats) -> Floats:
    """Second derivatives at 0 by central differences at two steps, 0.005 and 0.01 of ``scale``, extrapolated."""
    coarse, fine = (_second_differences(function, factor * scale) for factor in (0.01, 0.005))
    return (4 * fine - coarse) / 3


def _second_differences(function: Callable[[Floats], float], step: Floats) -> Floats:
    n = len(step)
    steps = np.diag(step)
    center = function(np.zeros(n))
    up, down = (np.array([function(sign * s) for s in steps]) for sign in (1.0, -1.0))
    hessian = np.diag(up + down - 2 * center)
    for i, j in combinations(range(n), 2):
        corner = function(steps[i] + steps[j]) + function(-steps[i] - steps[j])
        hessian[i, j] = hessian[j, i] = (corner + 2 * center - up[i] - down[i] - up[j] - down[j]) / 2
    return np.asarray(hessian / np.outer(step, step))
