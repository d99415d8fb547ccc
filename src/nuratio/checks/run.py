"""All checks: `check_ratios` of an estimator on its simulation, `check_analysis` of all a configuration trains."""

from collections.abc import Mapping
from pathlib import Path

from nuratio.checks.calibration import calibration
from nuratio.checks.closure import closure_checks, closure_curves
from nuratio.checks.distance import distance
from nuratio.checks.impacts import asimov_impacts
from nuratio.checks.minimum import minimum_check
from nuratio.checks.networks import network_checks, normalisation_checks
from nuratio.checks.positivity import positivity_checks
from nuratio.checks.report import Check, CheckReport, Curve, averaged
from nuratio.checks.reweighting import CrossFitted
from nuratio.checks.statistics import simulation_check
from nuratio.checks.support import support_checks
from nuratio.checks.systematics import systematics
from nuratio.checks.two_sample import two_sample_checks
from nuratio.data.sample import EventSample
from nuratio.infer.fitting.fit import fit
from nuratio.ratios.estimator import RatioEstimator
from nuratio.workspace.build import assemble
from nuratio.workspace.config import Config
from nuratio.workspace.rates import Cells
from nuratio.workspace.train import resolve, train_all

__all__ = ["check_analysis", "check_ratios"]


def check_ratios(
    estimator: RatioEstimator, samples: Mapping[str, EventSample], data: EventSample | None = None
) -> CheckReport:
    """Check an estimator on the simulation it was trained on, cross-fitted, and on observed events.

    Parameters
    ----------
    estimator : RatioEstimator
    samples : mapping of str to EventSample
        Those of the training.
    data : EventSample, optional
        Observed events: whether the simulation covers them.

    Raises
    ------
    InvalidData
        Other samples than those of the training.
    """
    fitted = CrossFitted(estimator, samples)
    checks: list[Check] = [*normalisation_checks(fitted), *network_checks(fitted)]
    curves: list[Curve] = []
    for name in fitted.targets:
        found = fitted.reweightings(name)
        checks += averaged(check for half in found for check in closure_checks(half))
        curves += closure_curves(found)
        for make in (distance, calibration):
            check, curve = make(found)
            checks.append(check)
            curves.append(curve)
    checks += two_sample_checks(fitted)
    if data is not None:
        inputs, pool = estimator.networks.inputs(data), fitted.pool
        checks += support_checks(inputs, pool.features, pool.weights)
    return CheckReport(tuple(checks), tuple(curves))


def check_analysis(
    config: str | Path | Config,
    *,
    inputs: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
    device: str = "cpu",
) -> dict[str, CheckReport]:
    """Check every unbinned region of a configuration, and the likelihood of all; arguments as for `train_all`.

    Observed data are fitted, but nothing is reported of the result but differences in units of its uncertainty.

    Returns
    -------
    dict
        Region -> `CheckReport`; ``likelihood`` -> that of the whole.

    Raises
    ------
    NonPositiveDensity
        The samples cancel at an observed event already at nominal parameters.
    """
    settings, cache = resolve(config, inputs, cache)
    trained = train_all(settings, cache=cache, progress=progress, device=device)
    if not trained:
        return {}
    workspace = assemble(settings, trained, progress=progress)
    reports = {}
    for name, networks in trained.items():
        samples = {sample["name"]: sample for sample in workspace.unbinned[name]["samples"]}
        errors = {part: sample.get("normalisation", {}).get("errors", {}) for part, sample in samples.items()}
        ratios = check_ratios(networks.ratio, networks.events.nominal, networks.events.data)
        shapes = systematics(networks, normalisation=errors)
        reports[name] = CheckReport(ratios.checks + shapes.checks, ratios.curves + shapes.curves)
    model = workspace.model()
    best = fit(model, workspace.data(model))
    converged = Check(
        "fit", "model", 0.0 if best.valid else float("nan"), 0.0, 0.0, best.message or "the fit converged"
    )
    poi, checks = model.config.poi_name, [converged]
    curves: list[Curve] = []
    if poi is not None:
        checks.append(simulation_check(model, best, poi))
        cells = {region["Name"]: Cells.of_region(region) for region in settings.regions}
        check, curve = minimum_check(workspace, {name: (t, cells[name]) for name, t in trained.items()}, best, poi)
        checks.append(check)
        curves.append(curve)
        check, ranking = asimov_impacts(model, poi)
        checks.append(check)
        curves += [ranking] if ranking is not None else []
    return reports | {"likelihood": CheckReport((*checks, *positivity_checks(model, best)), tuple(curves))}
