"""Every network that a configuration needs: trained, or taken from the cache."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nuratio.data.sample import EventSample
from nuratio.data.varied import VariedSample
from nuratio.errors import InvalidData
from nuratio.ratios.estimator import Part, RatioEstimator, split_by_sign
from nuratio.ratios.shape import ShapeEstimator
from nuratio.workspace.cache import CHECKPOINT, content_key, load_or_train, load_or_train_all
from nuratio.workspace.config import Config
from nuratio.workspace.inputs import RegionEvents, read_region

__all__ = ["Trained", "resolve", "train_all"]

_PRUNE = 2.0  # standard errors by which a shape effect must differ from none to be kept


@dataclass(frozen=True)
class Trained:
    """The networks of one unbinned region.

    Attributes
    ----------
    events : RegionEvents
        What was read.
    ratio : RatioEstimator
    shapes : dict
        Part name -> ShapeEstimator of all its nuisances; parts without any are left out.
    parts : dict
        Part -> nominal events.
    varied : dict
        Part name -> its varied simulations.
    pruned : dict
        Part name -> nuisances whose shape effect is consistent with none, so that they change its rate alone.
    codes : dict
        Nuisance -> interpolation code of its shapes.
    keys : dict
        What was used -> its key in the cache.
    new : int
        How many of them were trained now.
    directions : dict or None
        ``explained`` and ``most`` of the principal directions of the ratio networks that become nuisances; None: none
        do.
    """

    events: RegionEvents
    ratio: RatioEstimator
    shapes: Mapping[str, ShapeEstimator]
    parts: Mapping[Part, EventSample]
    varied: Mapping[str, Sequence[VariedSample]]
    pruned: Mapping[str, Sequence[str]]
    codes: Mapping[str, str]
    keys: Mapping[str, str]
    new: int
    directions: Mapping[str, Any] | None = None

    @property
    def statistics_in_directions(self) -> bool:
        """Whether nuisances stand for the statistics of the simulation, and not for the random start alone."""
        replicas = self.ratio.replicas
        return self.directions is not None and replicas is not None and replicas.source != "ensemble"

    def nuisances(self, part: str, code: str | None = None) -> tuple[str, ...]:
        """Those that change the shape of a part, all or with a code."""
        if part not in self.shapes:
            return ()
        kept = (k for k in self.shapes[part].nuisances if k not in self.pruned[part])
        return tuple(k for k in kept if code in (None, self.codes[k]))


def train_all(
    config: str | Path | Config,
    *,
    inputs: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
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
    executor : concurrent.futures.Executor, optional
        Where they are trained: the networks of a ratio side by side, and then the shapes of all parts and regions; by
        default one training after the other in this process. Numbers do not depend on the executor and its workers,
        and are those of the default up to rounding. Ratios trained on an executor keep no checkpoint on the way, and
        shapes only where the workers see the cache.

    Returns
    -------
    dict
        Unbinned region -> `Trained`.
    """
    config, cache = resolve(config, inputs, cache)
    running = {"progress": progress, "device": device}
    begun = {
        region["Name"]: _begin_region(
            config, region, read_region(config, region, progress=progress), cache, running, executor
        )
        for region in config.regions
        if region.get("Type") == "unbinned"
    }
    jobs = {(name, part): job for name, region in begun.items() for part, job in region.shapes.items()}
    shapes = dict(zip(jobs, load_or_train_all(ShapeEstimator, list(jobs.values()), executor), strict=True))
    return {name: region.finish({part: shapes[name, part] for part in region.shapes}) for name, region in begun.items()}


def resolve(config: str | Path | Config, inputs: str | Path | None, cache: str | Path | None) -> tuple[Config, Path]:
    """The configuration, read, and the directory of its trained networks; arguments as for `train_all`."""
    stem = "analysis" if isinstance(config, Config) else Path(config).stem
    resolved = config if isinstance(config, Config) else Config.read(config, inputs=inputs)
    return resolved, Path(f"{stem}.nuratio-cache") if cache is None else Path(cache)


@dataclass(frozen=True)
class _Begun:
    """A region whose ratio is trained.

    Attributes
    ----------
    region : Trained
        Without shapes.
    shapes : dict
        Part name -> directory of its shapes in the cache, and their training.
    prune : float
        Standard errors by which a shape effect must differ from none.
    """

    region: Trained
    shapes: Mapping[str, tuple[Path, Callable[[], ShapeEstimator]]]
    prune: float

    def finish(self, shapes: Mapping[str, tuple[ShapeEstimator, bool]]) -> Trained:
        """With the shapes of its parts, and whether they were trained now."""
        return replace(
            self.region,
            shapes={name: shape for name, (shape, _) in shapes.items()},
            pruned={name: shape.insignificant(self.prune) for name, (shape, _) in shapes.items()},
            new=self.region.new + sum(new for _, new in shapes.values()),
        )


def _begin_region(
    config: Config,
    region: Mapping[str, Any],
    events: RegionEvents,
    cache: Path,
    running: Mapping[str, Any],
    executor: Executor | None,
) -> _Begun:
    from nuratio.ratios.options import TrainingOptions
    from nuratio.training.calibration import calibrate
    from nuratio.training.replicas import with_replicas
    from nuratio.training.shape import SHAPE_OPTIONS
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
    where = {"checkpoint": kept / CHECKPOINT} if executor is None else {"executor": executor}
    fit = partial(train, events.nominal, **how, options=options, **running, **where)
    ratio, first = load_or_train(RatioEstimator, kept, fit)
    keys, directions = {"ratio": key}, settings.get("Directions")
    if directions is not None:
        source = directions["Source"]
        keys["replicas"] = content_key("replicas", {}, {"ratio": key, "source": source})
        tell = partial(with_replicas, ratio, events.nominal, source, executor=executor)
        ratio, also = load_or_train(RatioEstimator, cache / f"replicas-{keys['replicas']}", tell)
        first = first or also
    if settings.get("Calibrate", False):
        ratio = calibrate(ratio, events.nominal)
    split = {part.name: nominal for part, nominal in split_by_sign(events.nominal).items()}
    parts = {part: split.get(part.name, events.nominal[part.sample]) for part in ratio.components}
    varied = {part.name: _varied(events, part, nominal, ratio, region["Name"]) for part, nominal in parts.items()}
    shapes = {}
    for part, nominal in parts.items():
        points, name = varied[part.name], part.name
        if not points:
            continue
        described = _terms(config, region["Name"], part)
        given = {"nominal": nominal} | {str(p): p.events for p in points}
        settled = described | {"seed": seed, "options": shape_options.to_dict()}
        keys[f"shapes of {name}"] = key = content_key("shape", given, settled)
        kept = (cache / f"shape-{key}").absolute()  # a worker may be elsewhere
        learning = {"seed": seed, "options": shape_options, **running, "checkpoint": kept / CHECKPOINT}
        shapes[name] = kept, partial(_fit_shapes, nominal, points, **described, name=name, **learning)
    trained = Trained(
        events=events,
        ratio=ratio,
        shapes={},
        parts=parts,
        varied=varied,
        pruned={},
        codes={s["Name"]: s.get("Interpolation", "quadexp") for s in config.values.get("Systematics", [])},
        keys=keys,
        new=int(first),
        directions=None if directions is None else {k.lower(): v for k, v in directions.items() if k != "Source"},
    )
    return _Begun(trained, shapes, settings.get("Prune", _PRUNE))


def _fit_shapes(*args: Any, **kwargs: Any) -> ShapeEstimator:
    from nuratio.training.shape import train_shapes

    return train_shapes(*args, **kwargs)


def _terms(config: Config, region: str, part: Part) -> dict[str, Any]:
    """``order`` and ``cross`` of `train_shapes`."""
    systematics = {s["Name"]: s for s in config.systematics(region, part.sample) if s["Type"] == "NormPlusShape"}
    pairs = [
        (name, c["With"]) for name, s in systematics.items() for c in s.get("Cross", []) if c["With"] in systematics
    ]
    return {
        "order": {name: s["Order"] for name, s in systematics.items() if "Order" in s},
        "cross": list(dict.fromkeys(tuple(sorted(pair)) for pair in pairs)),
    }


def _varied(
    events: RegionEvents, part: Part, nominal: EventSample, ratio: RatioEstimator, region: str
) -> tuple[VariedSample, ...]:
    """The varied simulations of a part."""
    points = events.varied[part.sample]
    if points and np.ptp(np.sign(nominal.weights)):
        raise InvalidData(
            f"region {region!r}, {points[0]}: method {ratio.report['method']!r} leaves sample {part.sample!r} in one, "
            "with weights of both signs, and a shape variation needs a positive density; use method 'mixture'"
        )
    return tuple(VariedSample(p.alpha, _of_part(p.events, part, f"region {region!r}, {p}")) for p in points)


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
