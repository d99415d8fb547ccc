"""What defines a run of toys: two runs of one plan are parts of the same, and of different plans never mixed."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Self

import numpy as np

from nuratio.errors import InvalidData
from nuratio.model.kernels.kernel import Kernel
from nuratio.model.model import Model

__all__ = ["ToyPlan", "fingerprint", "require_same"]


@dataclass(frozen=True)
class ToyPlan:
    """What is drawn and what is done with it; two runs of the same plan are parts of one.

    Attributes
    ----------
    model : str
        Fingerprint of the model.
    names, pars : tuple, length P
        Parameters where toys are drawn.
    auxiliary : tuple of float
        The auxiliary data that nuisances are sampled about; empty if they are not.
    seed : tuple of int
    poi : str
    tests : tuple of (str, float)
        Test statistics and the values of the POI they are asked for at.
    starts : tuple of float
        Values of the POI from which the free fit starts, too.
    expected : str
        Checksum of the expected main data, if they are not the model's own; else empty.
    """

    model: str
    names: tuple[str, ...]
    pars: tuple[float, ...]
    auxiliary: tuple[float, ...]
    seed: tuple[int, ...]
    poi: str
    tests: tuple[tuple[str, float], ...]
    starts: tuple[float, ...]
    expected: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return json.loads(json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, allow_nan=False))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`."""
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            raise InvalidData(f"not a plan of toys: it has {sorted(values)}, not {sorted(known)}")
        tests = tuple((str(name), float(value)) for name, value in values["tests"])
        lists = {k: tuple(values[k]) for k in ("names", "pars", "auxiliary", "seed", "starts")}
        return cls(model=values["model"], poi=values["poi"], expected=values["expected"], tests=tests, **lists)


def require_same(found: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> None:
    """Raise `InvalidData` if two plans of toys differ, and say in what."""
    different = [key for key in wanted if found.get(key) != wanted[key]]
    if different:
        told = "; ".join(f"{key}: {_short(found.get(key))} and {_short(wanted[key])}" for key in different)
        raise InvalidData(f"{where}: toys of different plans ({told}); use another file for another plan")


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def fingerprint(model: Model) -> str:
    """SHA-256 of what toys of a model depend on: specification, parameters, shapes, pools; not how it computes."""
    config = model.config
    described = [model.spec, config.par_names, config.suggested_bounds(), config.suggested_fixed()]
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    seen: set[int] = set()

    def add(thing: Any) -> None:
        if isinstance(thing, Kernel):
            return
        if isinstance(thing, np.ndarray):
            digest.update(f"{thing.dtype.str}{thing.shape}".encode())
            if id(thing) not in seen:
                seen.add(id(thing))
                digest.update(np.ascontiguousarray(thing).data)
        elif is_dataclass(thing):
            digest.update(type(thing).__name__.encode())
            for f in fields(thing):
                if not f.name.startswith("_"):
                    add(getattr(thing, f.name))
        elif isinstance(thing, tuple | list):
            for part in thing:
                add(part)
        else:
            digest.update(repr(thing).encode())

    for name in sorted(model.unbinned):
        for cell in model.unbinned[name].cells:
            add((cell.samples, cell.pool_weights, cell.pool))
    return digest.hexdigest()
