"""The statistics of the simulation as a nuisance of the likelihood, so that limits, scans and toys include them.

Use it where `FitResult.simulation` is not small beside the uncertainty. To first order the finite simulation moves the
best fit of the parameter of interest by a number that is the same for all data sets, with the standard deviation sigma
that the influence function predicts (`nuratio.infer.impacts.influence`). So wherever the model has mu it gets

    mu + sigma t,      t a nuisance with a unit Gaussian constraint,

which is the least favourable direction itself: d lambda / d t = sigma d lambda / d mu, a direction in the densities
that no data can tell from mu. The profile likelihood of mu keeps its minimum, and its curvature becomes that of
sigma_fit^2 + sigma^2, the error of this minimum. `nuratio.workspace.directions` is the other way: nuisances that
distort the densities, for all parameters and values of mu. Data constrain these where other parameters are known, and
the profile likelihood then has another minimum, with a smaller error.
"""

import ast
import copy
import math
from typing import Any

from nuratio.errors import InvalidWorkspace
from nuratio.infer.results import FitResult
from nuratio.workspace.operations import prune, rename
from nuratio.workspace.validate import modifier_names
from nuratio.workspace.workspace import Workspace

__all__ = ["with_simulation_nuisance"]


def with_simulation_nuisance(
    workspace: Workspace, fit: FitResult, *, measurement: str | None = None, name: str = "simulation"
) -> Workspace:
    """The workspace with the error of the simulation as a nuisance.

    Its sigma is ``fit.simulation`` of the parameter of interest: it belongs to one point of the model, and is the same
    for all values that are tested. The workspace has lost what it said of its simulation, so that the error counts
    once.

    Parameters
    ----------
    workspace : Workspace
    fit : FitResult
        Of this measurement, to observed or to Asimov data.
    measurement : str, optional
        The first one by default; the others are left out, because each has an error of its own.
    name : str
        Of the nuisance.

    Returns
    -------
    Workspace
        For a normfactor ``mu``, the samples have ``mu_simulation``, given by the expression ``mu + sigma *
        simulation``.

    Raises
    ------
    InvalidWorkspace
        The error is unknown; no unbinned channel; no parameter of interest, or one that is no normfactor; a name that
        is taken, or that an expression cannot spell.
    """
    chosen = workspace.measurements[0] if measurement is None else measurement
    others = [m for m in workspace.measurements if m != chosen]
    workspace = prune(workspace, measurements=others) if others else workspace
    poi: str | None = workspace.model(chosen).config.poi_name
    if poi is None:
        raise InvalidWorkspace("the measurement has no parameter of interest, whose error could be a nuisance")
    sigma = _sigma(fit, poi)
    inner = f"{poi}_{name}"
    _require(workspace, poi, inner, name)
    shifted = f"{poi} + {sigma!r} * {name}"
    if poi in modifier_names(workspace.spec):
        spec = copy.deepcopy(rename(workspace, modifiers={poi: inner}).spec)
        extension = spec["unbinned"]
        config = spec["measurements"][0]["config"]
        settings: dict[str, Any] = next((p for p in config["parameters"] if p["name"] == inner), {})
        config["parameters"] = [p for p in config["parameters"] if p is not settings]
        declared = {"name": poi} | {k: v for k, v in settings.items() if k in ("inits", "bounds", "fixed")}
        extension["parameters"] = [
            *extension.get("parameters", []),
            declared,
            {"name": inner, "expression": shifted},
        ]
        config["poi"], extension["poi"] = "", poi
    else:  # a parameter that only expressions use
        spec = copy.deepcopy(workspace.spec)
        for p in spec["unbinned"]["parameters"]:
            if "expression" in p:
                p["expression"] = _substituted(p["expression"], poi, shifted)
    channels = {entry["name"]: entry for entry in spec["unbinned"]["channels"]}
    for entry in channels.values():
        for sample in entry["samples"]:
            sample.pop("simulation", None)
    for sample in (s for c in spec["channels"] if c["name"] in channels for s in c["samples"]):
        sample["modifiers"].append({"name": name, "type": "normsys", "data": {"hi": 1.0, "lo": 1.0}})
    return Workspace(spec, workspace.tables)


def _sigma(fit: FitResult, poi: str) -> float:
    sigma = fit[poi].simulation
    if not math.isfinite(sigma):
        raise InvalidWorkspace(
            f"the error of {poi!r} from the simulation is unknown: the fit has no covariance, or a sample of an "
            "unbinned channel lacks the key 'simulation' (directions of its networks are nuisances already, or it is "
            "older than the key: build it again); fit with hesse=True"
        )
    return sigma


def _require(workspace: Workspace, poi: str, inner: str, name: str) -> None:
    taken = set(workspace.model().config.par_names) | modifier_names(workspace.spec)
    for new in (name, inner):
        if new in taken:
            raise InvalidWorkspace(f"a parameter {new!r} exists already; choose another name for the nuisance")
        if not new.isidentifier():
            raise InvalidWorkspace(
                f"an expression needs {poi!r} and {name!r}, and there names have only letters, digits and underscores; "
                "rename the parameter, or choose another name"
            )
    types = {
        m["type"] for c in workspace.spec["channels"] for s in c["samples"] for m in s["modifiers"] if m["name"] == poi
    }
    if types - {"normfactor"}:
        raise InvalidWorkspace(f"{poi!r} is a {sorted(types - {'normfactor'})[0]}; only a normfactor can be shifted")


def _substituted(expression: str, name: str, formula: str) -> str:
    """The expression with a formula in the place of a parameter."""

    class Put(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return ast.parse(formula, mode="eval").body if node.id == name else node

    return ast.unparse(Put().visit(ast.parse(expression.strip(), mode="eval")))
