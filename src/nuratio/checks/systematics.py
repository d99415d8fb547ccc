"""Do the learned shape variations reproduce the varied simulations?

`systematics` reweights the nominal events of each part with what the fit evaluates, exp(sum phi D) / Z, at every point
where there is a simulation, and compares: in bins of each feature and of the learned ratio (closure), and with a
regression in all features (two-sample test). Errors are those of linked events (`nuratio.checks.linked`), each judged
by networks that have not seen it, fold by fold.

What is missed is measured by the variation itself, of which a quarter is allowed. But a small effect that is learned
badly is harmless: with nu expected events of the part, data can tell a density that is off by delta (rms, relative)
with delta nu^(1/2) standard deviations, if there are no other events. So 0.3 / nu^(1/2) is always allowed.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from nuratio.checks.linked import LinkedPart, Pair
from nuratio.checks.report import Check, CheckReport, Curve, Sizes, worst
from nuratio.checks.smoothness import smoothness_checks
from nuratio.checks.variation_curves import coefficient_curves, ratio_curves, size_table
from nuratio.checks.variations import Quantity, Regression, missed, quantities, variation
from nuratio.model.interpolation import Code4
from nuratio.workspace.rates import cross_coefficients
from nuratio.workspace.train import Trained

__all__ = ["systematics"]

Floats = NDArray[np.float64]

_SHARE = 0.25  # of a variation that may be missed
_UNSEEN = 0.3  # standard deviations by which data may tell what is missed
_RATE = 0.02  # of the yield
_DRAWN = 6  # nuisances, and off-axis points, of a part


def systematics(trained: Trained, *, normalisation: Mapping[str, Mapping[str, float]] | None = None) -> CheckReport:
    """Check all shape variations of an unbinned region against their simulations.

    Parameters
    ----------
    trained : Trained
    normalisation : mapping, optional
        Part -> nuisance -> error of the cumulant form of ln Z, as the workspace has it; for the table of sizes.
    """
    checks: list[Check] = []
    curves: list[Curve] = []
    for name in (part.name for part in trained.parts if part.name in trained.shapes):
        part, kept = LinkedPart.of(trained, name), trained.nuisances(name)
        found = list(_checks(part, kept)) + list(smoothness_checks(part, trained, kept))
        checks += found
        curves += _curves(part, kept, {c.name for c in found if not c.passed}, (normalisation or {}).get(name, {}))
    return CheckReport(tuple(checks), tuple(curves))


def _checks(part: LinkedPart, kept: Sequence[str]) -> Iterator[Check]:
    """Closure and two-sample test of each nuisance and at each point off the axes, one control, rates."""
    regression = Regression.of(part)
    closures: dict[str, list[Check]] = {}
    tests: dict[str, list[Check]] = {}
    controls = []
    for v, point in enumerate(part.points):
        label = f"of {next(iter(point.alpha))}" if len(point.alpha) == 1 else f"at {point}"
        of_bins, test, control = _compared(part, regression, v, label, kept)
        closures.setdefault(label, []).extend(of_bins)
        tests.setdefault(label, []).append(test)
        controls.append(control)
    for label, found in closures.items():
        yield worst(found)
        yield worst(tests[label])
    yield worst(controls)
    yield from rate_checks(part)


def _compared(
    part: LinkedPart, regression: Regression, v: int, label: str, kept: Sequence[str]
) -> tuple[list[Check], Check, Check]:
    """At the v-th point: a closure check for each quantity, the two-sample test, and its control."""
    point, pair = part.points[v], part.pair(v)
    at_base, at_row = part.factor.at(part.d, point.alpha), part.factor.at(part.moved(pair), point.alpha)
    compared = list(quantities(part, pair, at_base, at_row))
    found = [missed(part, pair, quantity) for quantity in compared]
    size = float(np.sqrt(max(*(variation(pair, quantity) for quantity in compared), 0.0)))
    small = _UNSEEN / _SHARE / float(np.sqrt(part.expected))
    unit, remark = max(size, small), _remark(part, v, pair, compared, kept)
    if size < small:
        remark = (
            f" (compared with {small:.2%}: {part.expected:.4g} expected events hardly tell a quarter of it){remark}"
        )
    closures = [
        Check(
            f"closure {label}",
            part.name,
            m.square / unit**2,
            m.error / unit**2,
            _SHARE**2,
            f"mean square of what is missed over that of the variation; {point}, {quantity.name}: {m.rms:.2%} rms of "
            f"{size:.2%}, chi2 = {m.chi2:.0f} of {m.ndf} (p = {m.p_value:.2g}){remark}",
        )
        for quantity, m in zip(compared, found, strict=True)
    ]
    regressed, whole = regression.test(pair), regression.variation(pair)
    (value, error), unit = regressed.found(1.0), max(whole, small)
    meaning = (
        f"rms of what a regression finds to be missed, tested on other events, over that of the variation; {point}: "
        f"{value:.2%} of {whole:.2%}{remark}"
    )
    test = Check(f"two-sample test {label}", part.name, value / unit, error / unit, _SHARE, meaning)
    return closures, test, regressed.control("two-sample control of variations", part.name, 1.0)


def _remark(part: LinkedPart, v: int, pair: Pair, compared: Sequence[Quantity], kept: Sequence[str]) -> str:
    """What the fit has at this point, if that is not the learned shape of one nuisance."""
    alpha, said = part.points[v].alpha, ""
    gone = [nuisance for nuisance in alpha if nuisance not in kept]
    if gone:
        said += f"; the shape of {', '.join(gone)} is pruned (Training: Prune)"
    if len(alpha) == 1:
        return said
    if not any(len(term) == 2 and all(name in alpha for name, _ in term) for term in part.factor.terms):
        return (
            f"{said}; the fit has the product of the one-nuisance shapes: if that is not enough, give the point as "
            "Cross of one of them, or interpolate with Gaussian processes (nuratio.training.surface, event_surface)"
        )
    product = pair.reweighted(part.weights * part.factor.at(part.d, alpha, crossed=False))
    rms = max(missed(part, product, quantity).rms for quantity in compared)
    return f"{said}; with its cross term: the product of the one-nuisance shapes alone would miss {rms:.2%}"


def rate_checks(part: LinkedPart) -> Iterator[Check]:
    """Yields at points other than +-1 of one nuisance, which normsys and cross factors have to predict."""
    at = {frozenset(point.alpha.items()): v for v, point in enumerate(part.points)}
    one_up = {nuisance for point in part.points for nuisance in point.alpha if frozenset({(nuisance, 1.0)}) in at}
    pairs = [point for point in part.points if len(point.alpha) <= 2 and one_up.issuperset(point.alpha)]
    total = part.nominal.total
    cross = cross_coefficients(total, pairs)

    def side(nuisance: str, sign: int) -> tuple[float, Floats]:
        """Yield at +-1 over the nominal one, and what each event is of it; a missing down direction mirrors up."""
        v = at.get(frozenset({(nuisance, float(sign))}))
        if v is None:
            up, shares = side(nuisance, 1)
            return 2 - up, (2 * part.weights - up * shares) / (2 - up)
        return part.points[v].events.total / total, part.simulated(v).shares

    for v, point in enumerate(part.points):
        alone = len(point.alpha) == 1
        if point not in pairs or (alone and abs(next(iter(point.alpha.values()))) == 1):
            continue
        seen = float(np.log(point.events.total / total))
        product, each = 0.0, part.simulated(v).shares - part.weights
        for nuisance, alpha in point.alpha.items():
            (up, _), (down, _) = side(nuisance, 1), side(nuisance, -1)
            product += float(np.log(Code4(np.array([down]), np.array([up]))(np.array([alpha]))[0][0]))
            each -= abs(alpha) * (side(nuisance, 1 if alpha > 0 else -1)[1] - part.weights)
        told, crossed = "the normsys of +-1", 0.0
        if not alone:
            (j, a), (k, b) = sorted(point.alpha.items())
            crossed = cross[j, k] * a * b
            told = f"the product of the normsys, off by {np.expm1(seen - product):+.2%}, and of a cross factor"
        value, error = float(np.expm1(seen - product - crossed)), float(np.linalg.norm(each))
        meaning = f"yield of the simulation over that of {told}, minus 1"
        yield Check(f"rate at {point}", part.name, value, error, _RATE, meaning)


def _curves(
    part: LinkedPart, kept: Sequence[str], failed: Collection[str], normalisation: Mapping[str, float]
) -> Iterator[Curve]:
    """The table, and pictures of the nuisances that fail and of the largest ones."""
    table = size_table(part, kept, normalisation)
    order = np.argsort(-np.fmax(table.up, table.down), kind="stable")
    bad = [k for k in table.nuisances if {f"closure of {k}", f"two-sample test of {k}"} & set(failed)]
    chosen = [*bad, *(table.nuisances[k] for k in order if table.nuisances[k] not in bad)][:_DRAWN]
    off_axis = [v for v, point in enumerate(part.points) if len(point.alpha) > 1]
    yield replace(table, note=_note(table, chosen, off_axis))
    for nuisance in chosen:
        alone = [v for v, point in enumerate(part.points) if set(point.alpha) == {nuisance}]
        for v in sorted(alone, key=lambda v: part.points[v].alpha[nuisance]):
            yield from ratio_curves(part, v)
        yield from coefficient_curves(part, nuisance)
    for v in off_axis[:_DRAWN]:
        yield from ratio_curves(part, v)


def _note(table: Sizes, chosen: Sequence[str], off_axis: Sequence[int]) -> str:
    pruned = [k for k, kept in zip(table.nuisances, table.kept, strict=True) if not kept]
    said = [f"pruned, so that they change the rate alone: {', '.join(pruned)}"] if pruned else []
    if len(table.nuisances) > 1 and not off_axis:
        said.append("that the nuisances factorise is untested: no simulation varies two of them at once (Cross)")
    if len(chosen) < len(table.nuisances):
        said.append(f"{len(chosen)} of {len(table.nuisances)} nuisances are drawn: those that fail, and the largest")
    if len(off_axis) > _DRAWN:
        said.append(f"{_DRAWN} of {len(off_axis)} points off the axes are drawn")
    return "; ".join(said)
