"""From a configuration to a workspace: read, train (or take from the cache), evaluate, write down.

`train_all` makes every network a configuration needs, `assemble` a workspace of them; `build` does both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.data.sample import EventSample
from nuratio.data.templates import histogram
from nuratio.errors import InvalidData
from nuratio.ratios.estimator import Part, RatioEstimator, split_by_sign
from nuratio.ratios.shape import ShapeEstimator
from nuratio.ratios.table import RatioTable
from nuratio.workspace.cache import CHECKPOINT, content_key, load_or_train
from nuratio.workspace.config import Config
from nuratio.workspace.inputs import RegionEvents, read_region
from nuratio.workspace.normalisation import cumulants
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import DEFAULT_SETTINGS, Workspace

__all__ = ["Trained", "assemble", "build", "event_columns", "resolve", "shape_columns", "train_all"]

_LARGEST_ERROR = 1e-3  # of the cumulant form of ln Z; above it the shapes are normalised by the pool integral


@dataclass(frozen=True)
class Trained:
    """The networks of one unbinned region.

    Attributes
    ----------
    events : RegionEvents
        What was read.
    ratio : RatioEstimator
    shapes : dict
        (part name, systematic) -> ShapeEstimator.
    parts : dict
        Part -> nominal events.
    varied : dict
        (part name, systematic) -> (up, down) events of the part.
    keys : dict
        What was used -> its key in the cache.
    new : int
        How many of them were trained now.
    """

    events: RegionEvents
    ratio: RatioEstimator
    shapes: Mapping[tuple[str, str], ShapeEstimator]
    parts: Mapping[Part, EventSample]
    varied: Mapping[tuple[str, str], tuple[EventSample, EventSample | None]]
    keys: Mapping[str, str]
    new: int


def train_all(
    config: str | Path | Config,
    *,
    inputs: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
    device: str = "cpu",
) -> dict[str, Trained]:
    """Train every network a configuration needs, or take it from the cache.

    Parameters
    ----------
    config : path or Config
    inputs : path, optional
        Replaces the configuration's InputPath.
    cache : path, optional
        Directory of trained networks; by default ``<name of the config>.nuratio-cache`` in the working directory.
    progress : bool, optional
        Show progress bars on stderr; None: where it takes long.
    device : str
        Where networks learn: ``cpu``, or a device of torch such as ``cuda``.

    Returns
    -------
    dict
        Unbinned region -> `Trained`.
    """
    config, cache = resolve(config, inputs, cache)
    running = {"progress": progress, "device": device}
    return {
        region["Name"]: _train_region(config, region, read_region(config, region, progress=progress), cache, running)
        for region in config.regions
        if region.get("Type") == "unbinned"
    }


def build(
    config: str | Path | Config,
    *,
    inputs: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
    device: str = "cpu",
) -> Workspace:
    """The workspace of a configuration; arguments as for `train_all`."""
    config, cache = resolve(config, inputs, cache)
    return assemble(config, train_all(config, cache=cache, progress=progress, device=device), progress=progress)


def assemble(config: Config, trained: Mapping[str, Trained], *, progress: bool | None = None) -> Workspace:
    """The workspace of a configuration whose networks are there.

    Shapes are normalised by the cumulant form of ln Z, or by the exact pool integral where that is off by more than
    1e-3 within two standard deviations; the workspace says which, and the error found.
    """
    channels, observations, axes = [], [], []
    unbinned: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    tables: dict[str, RatioTable] = {}
    provenance: dict[str, Any] = {"versions": {p: version(p) for p in ("nuratio", "torch", "numpy", "pyhf")}}
    for region in config.regions:
        name = region["Name"]
        if name in trained:
            networks, cells = trained[name], Cells.of_region(region)
            entry, new_tables = _channel(name, networks, cells)
            channels.append(_companion(config, name, networks, cells))
            observations.append({"name": name, "data": _counts(new_tables[f"{name}.observed"], cells)})
            unbinned.append(entry)
            tables |= new_tables
            files += [file_entry(key, table) for key, table in new_tables.items()]
            provenance[name] = {"cache": dict(networks.keys), "training": networks.ratio.report}
        else:
            events = read_region(config, region, progress=progress)
            channels.append(_binned(config, region, events))
            counts = histogram(events.data, region["Variable"], region["Binning"]).values
            observations.append({"name": name, "data": counts.tolist()})
            axes.append({"channel": name, "name": region["Variable"], "edges": region["Binning"]})
    parameters = _declared(config)
    general = config.values["General"]
    poi = general["POI"]
    extension: dict[str, Any] = {
        "version": "1.0.0",
        "modifier_settings": DEFAULT_SETTINGS,
        "files": files,
        "parameters": parameters,
        "channels": unbinned,
        "axes": axes,
        "provenance": provenance,
    }
    if poi in {p["name"] for p in parameters if "expression" not in p}:
        extension["poi"], poi = poi, ""
    spec = {
        "version": "1.0.0",
        "channels": channels,
        "observations": observations,
        "measurements": [
            {"name": general["Measurement"], "config": {"poi": poi, "parameters": _parameters(config, channels)}}
        ],
        "unbinned": extension,
    }
    workspace = Workspace(spec, tables)
    workspace.validate()
    return workspace


def resolve(config: str | Path | Config, inputs: str | Path | None, cache: str | Path | None) -> tuple[Config, Path]:
    """The configuration, read, and the directory of its trained networks; arguments as for `train_all`."""
    stem = "analysis" if isinstance(config, Config) else Path(config).stem
    resolved = config if isinstance(config, Config) else Config.read(config, inputs=inputs)
    return resolved, Path(f"{stem}.nuratio-cache") if cache is None else Path(cache)


# --- training


def _train_region(
    config: Config, region: Mapping[str, Any], events: RegionEvents, cache: Path, running: Mapping[str, Any]
) -> Trained:
    from nuratio.ratios.options import TrainingOptions
    from nuratio.training.calibration import calibrate
    from nuratio.training.shape import SHAPE_OPTIONS, train_shape
    from nuratio.training.train import train

    settings = config.values.get("Training", {})
    seed, method, reference = settings.get("Seed", 0), settings.get("Method", "mixture"), region.get("Reference")
    options = TrainingOptions.from_dict(settings.get("Ratio", {}))
    shape_options = TrainingOptions.from_dict(
        SHAPE_OPTIONS.to_dict() | {"folds": options.folds, "fold_seed": options.fold_seed} | settings.get("Shape", {})
    )
    how = {"method": method, "reference": reference, "seed": seed} | (
        {"method_options": settings["MethodOptions"]} if "MethodOptions" in settings else {}
    )
    key = content_key("ratio", events.nominal, how | {"options": options.to_dict()})
    kept = cache / f"ratio-{key}"
    fit = partial(train, events.nominal, **how, options=options, **running, checkpoint=kept / CHECKPOINT)
    ratio, first = load_or_train(RatioEstimator, kept, fit)
    if settings.get("Calibrate", False):
        ratio = calibrate(ratio, events.nominal)
    split = {part.name: nominal for part, nominal in split_by_sign(events.nominal).items()}
    parts = {part: split.get(part.name, events.nominal[part.sample]) for part in ratio.components}
    new = int(first)
    keys, shapes, varied = {"ratio": key}, {}, {}
    for part, nominal in parts.items():
        for systematic in config.systematics(region["Name"], part.sample):
            if systematic["Type"] != "NormPlusShape":
                continue
            name = systematic["Name"]
            where = f"region {region['Name']!r}, {name!r}"
            if np.ptp(np.sign(nominal.weights)):
                raise InvalidData(
                    f"{where}: method {ratio.report['method']!r} leaves sample {part.sample!r} in one, with weights of "
                    "both signs, and a shape variation needs a positive density; use method 'mixture'"
                )
            all_up, all_down = events.varied[part.sample, name]
            up, down = _of_part(all_up, part, where), None if all_down is None else _of_part(all_down, part, where)
            varied[part.name, name] = (up, down)
            label = f"{name} of {part.name}"
            given = {"nominal": nominal, "up": up, "down": down}
            key = content_key("shape", given, {"seed": seed, "options": shape_options.to_dict()})
            kept = cache / f"shape-{key}"
            fit_shape = partial(
                train_shape,
                nominal,
                up,
                down,
                name=label,
                seed=seed,
                options=shape_options,
                **running,
                checkpoint=kept / CHECKPOINT,
            )
            shapes[part.name, name], trained_now = load_or_train(ShapeEstimator, kept, fit_shape)
            keys[label] = key
            new += trained_now
    return Trained(events, ratio, shapes, parts, varied, keys, new)


def _of_part(events: EventSample, part: Part, where: str) -> EventSample:
    signs = np.sign(events.weights)
    if part.name == part.sample and (signs == -part.sign).any():
        raise InvalidData(
            f"{where}: sample {part.sample!r} has weights of one sign nominally, but {(signs == -part.sign).sum()} of "
            f"{len(events)} varied events have the other; treat them as a sample of their own"
        )
    if not (signs == part.sign).any():
        raise InvalidData(f"{where}: no varied event of {part.name!r} has its sign of weight")
    return events.sign(part.sign)


# --- channels


def _modifiers(config: Config, region: str, sample: str) -> list[dict[str, Any]]:
    """Normfactors and normalisation systematics of a sample."""
    factors = [{"name": n["Name"], "type": "normfactor", "data": None} for n in config.norm_factors(region, sample)]
    systematics = [
        _normsys(s["Name"], 1 + s["Up"]["Normalization"], _down(s))
        for s in config.systematics(region, sample)
        if s["Type"] == "Normalization"
    ]
    return factors + systematics


def _down(systematic: Mapping[str, Any]) -> float:
    down = systematic["Down"]
    value: float = 1 - systematic["Up"]["Normalization"] if "Symmetrize" in down else 1 + down["Normalization"]
    return value


def _normsys(name: str, hi: float, lo: float) -> dict[str, Any]:
    return {"name": name, "type": "normsys", "data": {"hi": hi, "lo": lo}}


def _yield_ratios(nominal: float, up: float, down: float | None, where: str) -> tuple[float, float]:
    """hi and lo of a normsys; a missing down direction mirrors up."""
    hi = up / nominal
    lo = 2 - hi if down is None else down / nominal
    if min(hi, lo) <= 0:
        raise InvalidData(f"{where}: the yield changes sign ({nominal:.4g} -> {up:.4g}, {down}); it has no normsys")
    return hi, lo


@dataclass(frozen=True)
class Cells:
    """Coarse cells of an unbinned region: bins of one of its features.

    Attributes
    ----------
    variable : str
    edges : list of float
    """

    variable: str
    edges: list[float]

    @classmethod
    def of_region(cls, region: Mapping[str, Any]) -> "Cells | None":
        """Those a region of the configuration asks for."""
        return cls(region["Variable"], region["Binning"]) if "Binning" in region else None

    def __len__(self) -> int:
        return len(self.edges) - 1

    def of(self, values: ArrayLike, where: str) -> NDArray[np.int64]:
        """The cell of each event, shape (n,), from the values of its variable.

        Raises
        ------
        InvalidData
            Some events lie in none.
        """
        x = np.asarray(values, dtype=np.float64)
        outside = int(((x < self.edges[0]) | (x >= self.edges[-1])).sum())
        if outside:
            raise InvalidData(
                f"{where}: {outside} of {len(x)} events lie outside the cells, {self.edges[0]:g} <= {self.variable} < "
                f"{self.edges[-1]:g}; widen the Binning or add the range to the region's Filter"
            )
        return np.digitize(x, self.edges) - 1


def _companion(config: Config, region: str, trained: Trained, cells: Cells | None) -> dict[str, Any]:
    samples = []
    for part, events in trained.parts.items():
        varied = {name: pair for (owner, name), pair in trained.varied.items() if owner == part.name}
        if cells is not None:
            for name, pair in varied.items():
                for side in (s for s in pair if s is not None):
                    cells.of(side.column(cells.variable), f"region {region!r}, {name!r} of {part.name!r}")
            samples.append({"name": part.name} | _rates(config, region, part.sample, events, varied, cells))
            continue
        modifiers = _modifiers(config, region, part.sample)
        for name, (up, down) in varied.items():
            where = f"region {region!r}, {name!r} of {part.name!r}"
            modifiers.append(
                _normsys(name, *_yield_ratios(part.total, up.total, None if down is None else down.total, where))
            )
        samples.append({"name": part.name, "data": [part.total], "modifiers": modifiers})
    return {"name": region, "samples": samples}


def _binned(config: Config, region: Mapping[str, Any], events: RegionEvents) -> dict[str, Any]:
    name, bins = region["Name"], Cells(region["Variable"], region["Binning"])
    samples = []
    for label, nominal in events.nominal.items():
        varied = {systematic: pair for (owner, systematic), pair in events.varied.items() if owner == label}
        samples.append({"name": label} | _rates(config, name, label, nominal, varied, bins))
    return {"name": name, "samples": samples}


def _rates(
    config: Config,
    region: str,
    sample: str,
    events: EventSample,
    varied: Mapping[str, tuple[EventSample, EventSample | None]],
    bins: Cells,
) -> dict[str, Any]:
    """Yields per bin and their modifiers."""
    template = histogram(events, bins.variable, bins.edges)
    nominal, total = template.values, float(template.values.sum())
    modifiers = _modifiers(config, region, sample)
    if not next(s for s in config.samples(region) if s["Name"] == sample).get("DisableStaterror"):
        modifiers.append({"name": f"staterror_{region}", "type": "staterror", "data": template.staterror.tolist()})
    for systematic, (up, down) in varied.items():
        hi = histogram(up, bins.variable, bins.edges).values
        lo = 2 * nominal - hi if down is None else histogram(down, bins.variable, bins.edges).values
        ratios = (hi.sum() / total, lo.sum() / total) if total else (0.0, 0.0)
        if min(ratios) > 0:  # rate as a normsys, the rest as a histosys, as cabinetry does it
            modifiers.append(_normsys(systematic, *ratios))
            hi, lo = hi / ratios[0], lo / ratios[1]
        if len(nominal) > 1 or min(ratios) <= 0:
            data = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
            modifiers.append({"name": systematic, "type": "histosys", "data": data})
    return {"data": nominal.tolist(), "modifiers": modifiers}


def event_columns(
    trained: Trained,
    x: EventSample | ArrayLike,
    *,
    event_ids: NDArray[np.int64] | None = None,
    member: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Ratios, D1 and D2 of all parts at some events, named as in an event table.

    Parameters
    ----------
    trained : Trained
    x : EventSample or array_like, shape (n, d)
    event_ids : ndarray of int, shape (n,), optional
        Of simulated events, for cross-fitting.
    member : int, optional
        A single network, counted fold by fold, ``options.ensemble`` of the ratio estimator each; shapes with fewer
        members repeat theirs.
    """
    columns = {}
    ratios = trained.ratio.ratios(x, event_ids=event_ids, member=member)
    for part in trained.parts:
        columns[part.name] = np.asarray(ratios[part.name], dtype=np.float64)
        for systematic, shape in _shapes_of(part.name, trained):
            own = None
            if member is not None:
                fold, j = divmod(member, trained.ratio.options.ensemble)
                own = fold * shape.options.ensemble + j % shape.options.ensemble
            d = shape.coefficients(x, event_ids=event_ids, member=own)
            columns |= dict(zip(shape_columns(part.name, systematic), d, strict=True))
    return columns


def _channel(name: str, trained: Trained, cells: Cells | None) -> tuple[dict[str, Any], dict[str, RatioTable]]:
    """The entry of an unbinned channel and its tables."""
    estimator, data = trained.ratio, trained.events.data
    pool = estimator.pool(trained.events.nominal)
    on_pool = event_columns(trained, pool.features, event_ids=pool.event_ids)
    on_data = event_columns(trained, data)
    stored = {column: np.float32(values).astype(np.float64) for column, values in on_pool.items()}  # as the fit sees it
    in_pool: dict[str, Any] = {}
    observed: dict[str, Any] = {}
    features = estimator.features
    of_pool = dict(zip(features, pool.features.T, strict=True))
    if cells is None:
        groups = [np.ones(len(pool.weights), dtype=bool)]
    else:
        in_pool["cell"] = cells.of(of_pool[cells.variable], f"region {name!r}, simulation")
        observed["cell"] = cells.of(data.column(cells.variable), f"region {name!r}, data")
        groups = [in_pool["cell"] == b for b in range(len(cells))]
        empty = [b for b, group in enumerate(groups) if not group.any()]
        if empty:
            raise InvalidData(
                f"region {name!r}: no simulated event in cell {empty[0]} of {cells.variable!r}; merge cells"
            )
    samples = []
    for part in trained.parts:
        entry: dict[str, Any] = {"name": part.name, "ratio": {"column": part.name}, "modifiers": []}
        density = pool.weights * stored[part.name]
        if cells is not None:
            entry["shares"] = [float(density[group].sum()) for group in groups]
        nuisances = [systematic for systematic, _ in _shapes_of(part.name, trained)]
        keys = [shape_columns(part.name, systematic) for systematic in nuisances]
        for systematic, (d1, d2) in zip(nuisances, keys, strict=True):
            data_of = {"d1": {"column": d1}, "d2": {"column": d2}}
            entry["modifiers"].append(
                {"name": systematic, "type": "ratiosys", "interpcode": "quadexp", "data": data_of}
            )
        if nuisances:
            first, second = (np.array([stored[pair[i]] for pair in keys]) for i in (0, 1))
            forms = [cumulants(first[:, g], second[:, g], density[g]) for g in groups]
            error = max(form.error for form in forms)
            norm: dict[str, Any] = {"type": "pool"}
            if error <= _LARGEST_ERROR:
                moments = {
                    "mean": [f.mean.tolist() for f in forms],
                    "covariance": [f.covariance.tolist() for f in forms],
                }
                norm = {"type": "cumulant"} | ({k: v[0] for k, v in moments.items()} if cells is None else moments)
            entry["normalisation"] = norm | {"parameters": nuisances, "error": error}
        samples.append(entry)
    tables = {
        f"{name}.observed": RatioTable.from_columns(observed | on_data),
        f"{name}.pool": RatioTable.from_columns(in_pool | on_pool | {"reference weight": pool.weights}),
        f"{name}.observed.features": RatioTable.from_columns({f: data.column(f) for f in features}),
        f"{name}.pool.features": RatioTable.from_columns(of_pool),
    }
    entry = {
        "name": name,
        "reference": {"fractions": dict(estimator.reference_fractions)},
        **({} if cells is None else {"ratiocell": {"column": "cell"}}),
        "samples": samples,
        "events": {
            "observed": {"file": f"{name}.observed", "features": f"{name}.observed.features"},
            "pool": {
                "file": f"{name}.pool",
                "weight": {"column": "reference weight"},
                "features": f"{name}.pool.features",
            },
        },
    }
    return entry, tables


def _counts(observed: RatioTable, cells: Cells | None) -> list[int]:
    if cells is None:
        return [len(observed)]
    counts: list[int] = np.bincount(observed["cell"].astype(np.int64), minlength=len(cells)).tolist()
    return counts


def shape_columns(part: str, systematic: str) -> tuple[str, str]:
    """Names of the columns D1 and D2 of a part."""
    return f"{part}/{systematic}/d1", f"{part}/{systematic}/d2"


def _shapes_of(part: str, trained: Trained) -> Iterator[tuple[str, ShapeEstimator]]:
    return ((name, shape) for (owner, name), shape in trained.shapes.items() if owner == part)


# --- parameters


def _declared(config: Config) -> list[dict[str, Any]]:
    """``unbinned.parameters``: expressions, and normfactors that only expressions use."""
    declared: list[dict[str, Any]] = []
    for n in config.values["NormFactors"]:
        if "Expression" in n:
            declared.append({"name": n["Name"], "expression": n["Expression"]})
        elif "Samples" not in n:
            entry = {"name": n["Name"], "inits": [n.get("Nominal", 1.0)], "bounds": [n.get("Bounds", [0.0, 10.0])]}
            declared.append(entry)
    return declared


def _parameters(config: Config, channels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The measurement's parameter settings: start values, bounds, constants."""
    present = {m["name"] for c in channels for s in c["samples"] for m in s["modifiers"]}
    settings: dict[str, dict[str, Any]] = {}
    for n in config.values["NormFactors"]:
        if n["Name"] in present and "Expression" not in n and ("Nominal" in n or "Bounds" in n):
            entry = settings.setdefault(n["Name"], {"name": n["Name"]})
            entry["inits"] = [n.get("Nominal", 1.0)]
            if "Bounds" in n:
                entry["bounds"] = [n["Bounds"]]
    for fixed in config.values["General"].get("Fixed", []):
        entry = settings.setdefault(fixed["Name"], {"name": fixed["Name"]})
        entry |= {"inits": [fixed["Value"]], "fixed": True}
    return list(settings.values())
