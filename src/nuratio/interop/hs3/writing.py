"""A workspace as an HS3 document."""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nuratio import __version__
from nuratio.errors import InvalidWorkspace, UnknownName, UnusedWarning, did_you_mean
from nuratio.interop.hs3.conventions import (
    DATA,
    INTERPOLATIONS,
    JSON,
    MODEL,
    PER_BIN,
    configure,
    hs3_expression,
    hs3_names,
    settings,
)
from nuratio.interop.hs3.events import Densities, EventData, Ranges, event_data, mixture
from nuratio.model.parameters import Config
from nuratio.workspace.validate import problems, remarks, schema_problems
from nuratio.workspace.workspace import Workspace

__all__ = ["to_hs3"]


def to_hs3(
    workspace: Workspace,
    measurement: str | None = None,
    *,
    explicit: bool = False,
    events: bool = True,
    densities: Densities | None = None,
    ranges: Ranges | None = None,
) -> JSON:
    """An HS3 document (a JSON object) of a workspace.

    Each channel becomes a ``histfactory_dist``: for an unbinned one that is its companion, the counting version, with
    the observed events beside it and everything else under ``misc.nuratio``, from where `from_hs3` restores it.

    Parameters
    ----------
    workspace : Workspace
    measurement : str, optional
        Only this one; by default all of them, each an analysis with its own parameter point and domain.
    explicit : bool
        Write per-bin uncertainties (staterror, shapesys) as shapefactors with their constraints as distributions of
        their own, beside the likelihood. That leaves nothing to the reader, whose defaults differ; see
        ``docs/interoperability.md``.
    events : bool
        Write the observed events of unbinned channels: features and ratios at nominal parameters.
    densities : mapping, optional
        Channel -> sample -> an HS3 distribution, the sample's density in closed form. The channel's likelihood is
        then an extended ``mixture_dist`` of the events.
    ranges : mapping, optional
        Channel -> feature -> (min, max). Densities are normalised there, so channels with densities need it: their
        observables are the features named here. By default the range of the stored events.

    Returns
    -------
    dict

    Raises
    ------
    UnknownName
        No such measurement; a channel, sample or feature of ``densities`` or ``ranges`` that does not exist.
    InvalidWorkspace
        Something that HS3 cannot say; the message tells what, and what to do.

    References
    ----------
    HS3 v0.2.9, https://github.com/hep-statistics-serialization-standard.
    """
    spec = workspace.spec
    wrong = schema_problems(spec) or problems(spec, {})  # names alone: the tables were checked when they were read
    if wrong:
        raise InvalidWorkspace("the workspace is not valid:\n  " + "\n  ".join(wrong))
    for line in remarks(spec):
        warnings.warn(f"{line}; not in the document", UnusedWarning, stacklevel=2)
    chosen = _chosen(workspace, measurement)
    configs = [configure(spec, m) for m in chosen]
    names = dict(hs3_names(configs[0]))
    kinds = _kinds(spec)
    for m in chosen:
        _require_usual_constraints(m, kinds, explicit=explicit)
    declared = spec.get("unbinned", {}).get("parameters", [])
    functions = [
        {"name": p["name"], "type": "generic_function", "expression": hs3_expression(p["expression"])}
        for p in declared
        if "expression" in p
    ]
    channels = {c["name"]: c for c in spec["channels"]}
    axes = {c["channel"]: c["edges"] for c in spec.get("unbinned", {}).get("axes", [])}
    distributions = [_channel(c, axes, names, settings(spec), explicit=explicit) for c in channels.values()]
    observations = {o["name"]: o["data"] for o in spec["observations"]}
    data: list[JSON] = [
        {"name": DATA + d["name"].removeprefix(MODEL), "type": "binned", "contents": contents, "axes": d["axes"]}
        for d, contents in ((d, observations[d["name"].removeprefix(MODEL)]) for d in distributions)
    ]
    terms = {name: (MODEL + name, DATA + name) for name in channels}

    unbinned: dict[str, EventData] = event_data(workspace, densities or {}, ranges or {}, events=events)
    data += [d.content for d in unbinned.values()]
    for name, given in (densities or {}).items():
        mixed = mixture(channels[name], workspace.unbinned[name], given, settings(spec))
        functions += mixed.functions
        distributions += mixed.distributions
        terms[name] = (mixed.name, unbinned[name].content["name"])

    counted = {name for name, (distribution, _) in terms.items() if distribution == MODEL + name}
    auxiliary: dict[str, JSON] = {}
    likelihoods, domains, points, analyses = [], [], [], []
    for m, config in zip(chosen, configs, strict=True):
        added = list(_constraints(config, names, kinds, _implied(spec, counted, explicit=explicit)))
        own = []
        for extra in added:
            if auxiliary.setdefault(extra["name"], extra) != extra:  # another measurement has another one
                extra["name"] += f"_{m['name']}"
                auxiliary[extra["name"]] = extra
            if extra["type"] != "product":
                own.append(extra["name"])
        first = m is chosen[0]
        likelihood = {"name": m["name"], "distributions": [t[0] for t in terms.values()]}
        likelihood["data"] = [t[1] for t in terms.values()]
        likelihoods.append(likelihood | ({"aux_distributions": own} if own else {}))
        domain, point = _domain_and_point(config, names)
        domain["name"] = "default_domain" if first else f"domain_{m['name']}"
        point["name"] = "default_values" if first else f"values_{m['name']}"
        domains.append(domain)
        points.append(point)
        poi = spec.get("unbinned", {}).get("poi", m["config"]["poi"])
        analyses.append(
            {
                "name": m["name"],
                "likelihood": m["name"],
                "parameters_of_interest": [poi] if poi else [],
                "domains": [domain["name"]],
                "init": point["name"],
            }
        )
    functions += [a for a in auxiliary.values() if a["type"] == "product"]
    distributions += [a for a in auxiliary.values() if a["type"] != "product"]

    package: JSON = {"measurements": chosen}
    if "unbinned" in spec:
        package["unbinned"] = spec["unbinned"]
    document = {
        "metadata": {"hs3_version": "0.2", "packages": [{"name": "nuratio", "version": __version__}]},
        "distributions": distributions,
        "functions": functions,
        "data": data,
        "likelihoods": likelihoods,
        "domains": domains,
        "parameter_points": points,
        "analyses": analyses,
        "misc": {"nuratio": package},
    }
    observables = [a["name"] for d in data if d["name"].startswith(DATA) or d["type"] == "unbinned" for a in d["axes"]]
    parameters = [p["name"] for p in points[0]["parameters"]]
    _require_unique([*parameters, *observables, *(d["name"] for d in [*distributions, *functions])])
    return copy.deepcopy(document)


def _chosen(workspace: Workspace, measurement: str | None) -> list[JSON]:
    known = workspace.measurements
    if measurement is not None and measurement not in known:
        raise UnknownName(f"no measurement {measurement!r}; {did_you_mean(measurement, known, 'measurements')}")
    return [m for m in workspace.spec["measurements"] if measurement in (None, m["name"])]


def _kinds(spec: Mapping[str, Any]) -> dict[str, set[str]]:
    """Modifier -> its types."""
    kinds: dict[str, set[str]] = {}
    for channel in spec["channels"]:
        for sample in channel["samples"]:
            for m in sample["modifiers"]:
                kinds.setdefault(m["name"], set()).add(m["type"])
    return kinds


def _require_usual_constraints(
    measurement: Mapping[str, Any], kinds: Mapping[str, set[str]], *, explicit: bool
) -> None:
    """Constraints that HS3 takes from a modifier's type must not have been changed by the measurement."""
    for p in measurement["config"].get("parameters", []):
        changed = {"auxdata": [0.0], "sigmas": [1.0], "factors": None}
        if not any(key in p and p[key] != usual for key, usual in changed.items()) or "lumi" in kinds.get(
            p["name"], {"lumi"}
        ):
            continue
        if not (explicit and kinds[p["name"]] & {"staterror", "shapesys"}):
            raise InvalidWorkspace(
                f"measurement {measurement['name']!r} changes the constraint (auxdata, sigmas) of {p['name']!r}, which "
                f"HS3 gives to every {' and '.join(sorted(kinds[p['name']]))}; remove that from the measurement"
                + ("" if kinds[p["name"]] & {"normsys", "histosys"} else ", or write it with explicit constraints")
            )


def _implied(spec: Mapping[str, Any], counted: set[str], *, explicit: bool) -> set[str]:
    """Modifiers whose constraints readers take from a modifier in one of the counted channels."""
    types = ("normsys", "histosys") if explicit else ("normsys", "histosys", "staterror", "shapesys")
    return {
        m["name"]
        for c in spec["channels"]
        if c["name"] in counted
        for s in c["samples"]
        for m in s["modifiers"]
        if m["type"] in types
    }


def _constraints(
    config: Config, names: Mapping[str, Sequence[str]], kinds: Mapping[str, set[str]], implied: set[str]
) -> Iterator[JSON]:
    """Distributions of the auxiliary measurements that no modifier implies (and functions they need)."""
    for name, own in names.items():
        paramset = config.param_set(name)
        if not paramset.constrained or name in implied or name not in kinds:
            continue
        for parameter, aux, width in zip(own, paramset.auxdata, paramset.width(), strict=True):
            entry: JSON = {"name": f"{parameter}Constraint"}
            if paramset.pdf_type == "normal":
                yield entry | {"type": "gaussian_dist", "x": aux, "mean": parameter, "sigma": width}
            else:
                rate = f"{parameter}_rate"
                yield {"name": rate, "type": "product", "factors": [aux, parameter]}
                yield entry | {"type": "poisson_dist", "x": aux, "mean": rate}


def _domain_and_point(config: Config, names: Mapping[str, Sequence[str]]) -> tuple[JSON, JSON]:
    axes, parameters = [], []
    for name, own in names.items():
        paramset = config.param_set(name)
        rows = zip(own, paramset.suggested_init, paramset.suggested_bounds, paramset.suggested_fixed, strict=True)
        for parameter, value, (low, high), const in rows:
            axes.append({"name": parameter, "min": low, "max": high})
            parameters.append({"name": parameter, "value": value} | ({"const": True} if const else {}))
    return {"name": "", "type": "product_domain", "axes": axes}, {"name": "", "parameters": parameters}


def _channel(
    channel: Mapping[str, Any],
    axes: Mapping[str, Sequence[float]],
    names: Mapping[str, Sequence[str]],
    codes: Mapping[str, Any],
    *,
    explicit: bool,
) -> JSON:
    name, bins = channel["name"], len(channel["samples"][0]["data"])
    axis: JSON = {"name": f"obs_x_{name}", "min": 0, "max": bins, "nbins": bins}
    if name in axes:
        edges = axes[name]
        axis = {"name": f"obs_x_{name}", "min": edges[0], "max": edges[-1], "edges": edges}
    statistical = {m["name"] for s in channel["samples"] for m in s["modifiers"] if m["type"] == "staterror"}
    if len(statistical) > 1 and not explicit:
        raise InvalidWorkspace(
            f"channel {name!r} has the staterrors {sorted(statistical)}, and HS3 has one in a channel; write it with "
            "explicit constraints"
        )
    entry = {"name": MODEL + name, "type": "histfactory_dist", "axes": [axis]}
    if statistical and not explicit:
        entry["staterror"] = {"constraint_type": "Gauss"}  # ROOT, whose default is Poisson, looks here
    return entry | {"samples": [_sample(s, names, codes, explicit=explicit) for s in channel["samples"]]}


def _sample(
    sample: Mapping[str, Any], names: Mapping[str, Sequence[str]], codes: Mapping[str, Any], *, explicit: bool
) -> JSON:
    content = {"contents": sample["data"]}
    modifiers = []
    for m in sample["modifiers"]:
        kind, name, values = m["type"], m["name"], m.get("data")
        entry: JSON = {"name": name, "type": kind}
        entry |= {"parameters": names[name]} if kind in PER_BIN else {"parameter": name}
        match kind:
            case "lumi":
                entry["type"] = "normfactor"
            case "normsys":
                entry |= {"constraint": "Gauss", "data": dict(values)}
            case "histosys":
                contents = {side: {"contents": values[f"{side}_data"]} for side in ("hi", "lo")}
                entry |= {"constraint": "Gauss", "data": contents}
            case "staterror":
                content["errors"] = values
                entry |= {"type": "shapefactor"} if explicit else {"constraint": "Gauss"}
            case "shapesys":
                own: JSON = {"constraint": "Poisson", "data": {"vals": values}}
                entry |= {"type": "shapefactor"} if explicit else own
        if kind in INTERPOLATIONS:
            own_name, standard, *_ = INTERPOLATIONS[kind][codes[kind]["interpcode"]]
            if standard is not None:  # not the default: the standard's name for it, and pyhs3's
                entry["interpolation"] = standard
                entry["data"]["interpolation"] = own_name
        modifiers.append(entry)
    return {"name": sample["name"], "data": content, "modifiers": modifiers}


def _require_unique(names: Sequence[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise InvalidWorkspace(
                f"{name!r} would be the name of {times} things in the document (parameters, observables, functions, "
                "distributions), and a name is one thing in HS3; rename a modifier or a channel"
            )
