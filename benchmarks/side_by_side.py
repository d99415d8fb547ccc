"""One analysis, three packages: pyhf with MINUIT, cabinetry with nuratio's derivatives, and nuratio.

Best fit and uncertainties, CLs, upper limits and impacts of a workspace with unbinned and binned channels, each from
the package's own functions on the same model and data. Differences to nuratio are in units of the parameter's (for
limits and impacts the POI's) uncertainty, those of CLs and of uncertainties are relative.

    python benchmarks/side_by_side.py [WORKSPACE]          # workspaces/zprime by default; minutes

MINUIT gets a tolerance that makes its minima comparable at the asked precision, and its uncertainties are those of
its covariance: ``minuit.errors`` of parameters with bounds are not symmetric around the minimum in MINUIT's own
variables, and differ by parts in a thousand.
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyhf
from published import pyhf_minuit

import nuratio
from nuratio.interop.cabinetry import exact_derivatives

Numbers = dict[str, float]

HERE = Path(__file__).parents[1]
BANDS = ("-2 sigma", "-1 sigma", "median", "+1 sigma", "+2 sigma")


class Analysis:
    """A model, its data and the point that is tested."""

    def __init__(self, path: Path) -> None:
        workspace = nuratio.Workspace.load(path)
        self.model = workspace.model()
        self.data = workspace.data(self.model)
        self.best = nuratio.fit(self.model, self.data)
        self.poi = self.model.config.poi_name
        self.tested = self.best[self.poi].value + 1.5 * self.best[self.poi].uncertainty
        bound = self.model.config.suggested_bounds()[self.model.config.poi_index][1]
        self.bracket = (self.tested / 20, min(bound, self.tested + 5 * self.best[self.poi].uncertainty))
        self.nuisances = [e.name for e in self.best if e.name != self.poi and e.uncertainty > 0]


def ours(a: Analysis) -> Numbers:
    """nuratio."""
    test = nuratio.hypotest(a.model, a.data, a.tested)
    limit = nuratio.upper_limit(a.model, a.data)
    found = _fit(a, a.best.bestfit, np.sqrt(np.diag(a.best.covariance)))
    found |= _cls(test.CLs, test.CLs_expected) | _limits(limit.observed, limit.expected)
    for name in a.nuisances:
        for side, sign in (("up", 1), ("down", -1)):
            value = a.best[name].value + sign * a.best[name].uncertainty
            moved = nuratio.fit(a.model, a.data, fixed={name: value}, hesse=False)
            found[f"impact {side} {name}"] = moved[a.poi].value - a.best[a.poi].value
    return found


def through_pyhf(a: Analysis) -> Numbers:
    """pyhf.infer with its minuit optimizer."""
    poi = a.model.config.poi_index
    with pyhf_minuit(tolerance=1e-5, strategy=2):
        pars, result = pyhf.infer.mle.fit(a.data, a.model, return_uncertainties=True, return_result_obj=True)
    found = _fit(a, pars[:, 0], np.sqrt(np.diag(np.array(result.minuit.covariance))))
    with pyhf_minuit(tolerance=1e-3):
        observed, expected = pyhf.infer.hypotest(a.tested, a.data, a.model, return_expected_set=True)
        found |= _cls(observed, expected)
        scan = pyhf.infer.intervals.upper_limits.toms748_scan
        found |= _limits(*scan(a.data, a.model, *a.bracket, rtol=1e-7))
    with pyhf_minuit(tolerance=1e-5):
        for name in a.nuisances:
            k = a.best.index(name)
            fixed = a.model.config.suggested_fixed()
            fixed[k] = True
            for side, sign in (("up", 1), ("down", -1)):
                init = a.model.config.suggested_init()
                init[k] = a.best.bestfit[k] + sign * a.best.uncertainty[k]
                moved = pyhf.infer.mle.fit(a.data, a.model, init_pars=init, fixed_params=fixed)
                found[f"impact {side} {name}"] = float(moved[poi] - pars[poi, 0])
    return found


def through_cabinetry(a: Analysis) -> Numbers:
    """cabinetry.fit, inside nuratio's context manager."""
    import cabinetry

    with exact_derivatives():
        results = cabinetry.fit.fit(a.model, a.data)
        ranking = cabinetry.fit.ranking(a.model, a.data, fit_results=results)
        observed, expected = pyhf.infer.hypotest(a.tested, a.data, a.model, return_expected_set=True)
        limit = cabinetry.fit.limit(a.model, a.data, bracket=a.bracket, poi_tolerance=1e-7)
    found = _fit(a, results.bestfit, results.uncertainty) | _cls(observed, expected)
    found |= _limits(limit.observed_limit, limit.expected_limit)
    for name in a.nuisances:
        k = ranking.labels.index(name)
        found |= {f"impact up {name}": ranking.postfit_up[k], f"impact down {name}": ranking.postfit_down[k]}
    return found


def compare(a: Analysis, columns: dict[str, Numbers]) -> Iterator[tuple[str, ...]]:
    """Rows of the table: the quantity, nuratio's number, and the others' differences in units of their scale."""
    reference = columns["nuratio"]
    others = [numbers for name, numbers in columns.items() if name != "nuratio"]
    for quantity, number in reference.items():
        kind, _, name = quantity.partition(" ")
        if kind == "best":
            scale = a.best[name.removeprefix("fit ")].uncertainty
        else:
            scale = number if kind in ("uncertainty", "CLs") else a.best[a.poi].uncertainty
        differences = [(numbers[quantity] - number) / scale for numbers in others]
        yield quantity, f"{number:.7g}", *(f"{d:+.1e}" for d in differences)


def main() -> None:
    """Print the table, the largest differences and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", type=Path, nargs="?", default=HERE / "workspaces" / "zprime")
    a = Analysis(parser.parse_args().workspace)
    ways: dict[str, Callable[[Analysis], Numbers]] = {"nuratio": ours, "pyhf": through_pyhf}
    if importlib.util.find_spec("cabinetry"):
        ways["cabinetry"] = through_cabinetry
    else:
        print("cabinetry is not installed: its column is left out (pip install cabinetry)\n")
    columns, seconds = {}, {}
    for name, way in ways.items():
        start = perf_counter()
        columns[name] = way(a)
        seconds[name] = perf_counter() - start
    rows = list(compare(a, columns))
    header = ("quantity", "nuratio", *(f"{name} - nuratio" for name in ways if name != "nuratio"))
    print(f"{a.model!r}; CLs at {a.poi} = {a.tested:.6g}\n")
    for row in (header, ("---",) * len(header), *rows):
        print(f"| {' | '.join(row)} |")
    print()
    for j, name in enumerate(header[2:], start=2):
        worst = max(rows, key=lambda row: abs(float(row[j])))
        print(f"largest difference, {name}: {worst[j]} ({worst[0]})")
    print("seconds: " + ", ".join(f"{name} {s:.1f}" for name, s in seconds.items()))


def _fit(a: Analysis, values: Any, uncertainties: Any) -> Numbers:
    names = a.best.names
    found = {f"best fit {name}": float(v) for name, v in zip(names, values, strict=True)}
    return found | {f"uncertainty {name}": float(v) for name, v in zip(names, uncertainties, strict=True) if v > 0}


def _cls(observed: Any, expected: Any) -> Numbers:
    return {"CLs observed": float(observed)} | _named("CLs expected", expected)


def _limits(observed: Any, expected: Any) -> Numbers:
    return {"limit observed": float(observed)} | _named("limit expected", expected)


def _named(what: str, expected: Any) -> Numbers:
    return {f"{what} {band}": float(v) for band, v in zip(BANDS, expected, strict=True)}


if __name__ == "__main__":
    main()
