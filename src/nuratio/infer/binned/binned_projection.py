"""A model with its unbinned channels histogrammed, for everything that asks a pyhf model for bins.

Use a `BinnedProjection` for yields, yield tables and plots made by other packages
(`nuratio.interop.cabinetry.projected`); goodness-of-fit tests are made of it. nuratio's own plots need only
`nuratio.infer.binned.projection`.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Never
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, UnknownName, did_you_mean
from nuratio.infer.binned.histogram import EventBins, whole_sample
from nuratio.model.unbinned import UnbinnedChannel

__all__ = ["BinnedProjection"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BinnedProjection:
    """A model with its unbinned channels histogrammed, as far as a pyhf model is asked for rates.

    ``config``, ``spec``, ``main_model``, ``expected_data`` are those of a pyhf model with the same parameters. Parts of
    a sample that are split by sign are one sample here, as in nuratio's own plots: a negative part alone would be drawn
    over the samples below it. It has no likelihood: fit the model, draw the projection.

    Attributes
    ----------
    model : Model
    bins : dict of EventBins
        Unbinned channel -> its histogram.
    """

    model: Any
    bins: Mapping[str, EventBins]

    @classmethod
    def of(
        cls, model: Any, projections: Mapping[str, tuple[str, Sequence[float] | int]] | None = None
    ) -> "BinnedProjection":
        """Histogram every unbinned channel.

        Parameters
        ----------
        model : Model
        projections : mapping, optional
            Unbinned channel -> (feature, edges or number of bins), see `EventBins.of`; needed for each of them.

        Raises
        ------
        UnknownName
            No such channel or feature.
        InvalidModel
            An unbinned channel without a projection, or a binned one with one; edges that are none.
        """
        projections = projections or {}
        for name in projections:
            if name not in model.config.channels:
                raise UnknownName(f"no channel {name!r}; {did_you_mean(name, model.config.channels, 'channels')}")
            if name not in model.unbinned:
                raise InvalidModel(f"channel {name!r} is binned and is drawn in its own bins: leave its projection out")
        missing = [_stored(channel) for name, channel in model.unbinned.items() if name not in projections]
        if missing:
            raise InvalidModel(
                "unbinned channels need a feature and bins, as in {'channel': ('feature', 20)}; there is none for "
                + "; ".join(missing)
            )
        return cls(model, {name: EventBins.of(model.unbinned[name], *p) for name, p in projections.items()})

    @cached_property
    def config(self) -> "_Config":
        """pyhf's ``config`` with the bins of the projection."""
        return _Config(self.model, {name: len(b.edges) - 1 for name, b in self.bins.items()})

    @property
    def main_model(self) -> "_MainModel":
        """pyhf's ``main_model``: rates."""
        return _MainModel(self)

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Channels, samples and modifiers as in pyhf, in JSON: for display, and as a key that tells projections apart.

        A shape nuisance of an unbinned channel is a ``histosys`` without data; a normfactor given by an expression is
        replaced by the parameters in it; ``projection`` has a name of its own for every projection.
        """
        nominal = self.by_sample(np.array(self.model.config.suggested_init()))
        channels = []
        for channel in self.model.spec["channels"]:
            counts = nominal[:, self.config.channel_slices[channel["name"]]].tolist()
            modifiers: dict[str, dict[tuple[str, str], Any]] = {}
            for sample in channel["samples"]:
                known = modifiers.setdefault(whole_sample(sample["name"]), {})
                for m in self._modifiers(channel["name"], sample):
                    known.setdefault((m["type"], m["name"]), deepcopy(m))
            samples = [
                {"name": name, "data": counts[self.config.samples.index(name)], "modifiers": list(found.values())}
                for name, found in modifiers.items()
            ]
            channels.append({"name": channel["name"], "samples": samples})
        features = {name: {"feature": b.feature, "edges": b.edges.tolist()} for name, b in self.bins.items()}
        return {"channels": channels, "projection": {"name": uuid4().hex, "channels": features}}

    def _modifiers(self, channel: str, sample: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """A sample's modifiers in terms of the free parameters, with those of its shape in an unbinned channel."""
        names = self.model.pyhf_model.config.par_names
        formulas = {names[index]: formula for index, formula in self.model.parameters.expressions}

        def free(name: str) -> list[str]:
            return [n for used in formulas[name].names for n in free(used)] if name in formulas else [name]

        for modifier in sample["modifiers"]:
            yield from (modifier | {"name": name} for name in free(modifier["name"]))
        cells = self.bins[channel].channel.cells if channel in self.bins else ()
        for shape in (s for cell in cells for s in cell.samples if s.name == sample["name"]):
            yield from ({"name": names[p], "type": "histosys", "data": None} for p in shape.par)

    def by_sample(self, pars: ArrayLike) -> Floats:
        """Expected counts, shape (samples, main data), at parameters of shape (P,)."""
        theta = self.model.parameters.values(np.asarray(pars, dtype=np.float64))
        nu = self.model.rates.nu(theta)
        out = np.zeros((len(self.config.samples), self.config.nmaindata))
        for channel, where in self.config.channel_slices.items():
            names = self.model.rates.channels[channel][1]
            counts = nu[self.model.rates.cells(channel)].reshape(len(names), -1)
            if channel in self.bins:
                counts = self.bins[channel].expected(counts, theta)
            for name, row in zip(names, counts, strict=True):
                out[self.config.samples.index(whole_sample(name)), where] += row
        return out

    def expected_data(self, pars: ArrayLike, include_auxdata: bool = True) -> Floats:
        """Expected counts and, if asked for, auxiliary data: pyhf's Asimov data in the bins of the projection."""
        main = self.by_sample(pars).sum(0)
        return np.concatenate([main, self.model.expected_auxdata(pars)]) if include_auxdata else main

    def data(self, data: ArrayLike) -> Floats:
        """A data vector of the model, with or without auxiliary data, in the bins of the projection.

        Raises
        ------
        InvalidModel
            A data vector of the wrong length.
        """
        d = np.asarray(data, dtype=np.float64)
        n, auxiliary = self.model.config.nmaindata, self.model.config.nauxdata
        if d.shape not in ((n,), (n + auxiliary,)):
            raise InvalidModel(f"the model's data have {n} main and {auxiliary} auxiliary entries, got shape {d.shape}")
        main = []
        for channel, where in self.model.config.channel_slices.items():
            main.append(self.bins[channel].counts(d[where]) if channel in self.bins else d[where])
        return np.concatenate([*main, d[n:]])

    def logpdf(self, pars: ArrayLike, data: ArrayLike) -> Never:
        """There is none.

        Raises
        ------
        InvalidModel
            Always.
        """
        raise InvalidModel("a projection has no likelihood: fit the model, and draw the projection with that fit")


class _MainModel:
    """The rates of a projection, by pyhf's names."""

    def __init__(self, projection: BinnedProjection) -> None:
        self._projection = projection

    def expected_data(self, pars: ArrayLike, return_by_sample: bool = False) -> Floats:
        """Expected counts: (main data,), or (samples, main data)."""
        counts = self._projection.by_sample(pars)
        return counts if return_by_sample else counts.sum(0)


class _Config:
    """The model's ``config`` with other numbers of bins; everything not listed here is the model's own."""

    def __init__(self, model: Any, bins: Mapping[str, int]) -> None:
        self._config = model.config
        self.samples = sorted({whole_sample(s) for s in model.config.samples})
        self.channel_nbins = {c: bins.get(c, n) for c, n in model.config.channel_nbins.items()}
        stops = np.cumsum(list(self.channel_nbins.values())).tolist()
        self.channel_slices = {
            c: slice(stop - n, stop) for (c, n), stop in zip(self.channel_nbins.items(), stops, strict=True)
        }
        self.nmaindata = sum(self.channel_nbins.values())

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._config, name)


def _stored(channel: UnbinnedChannel) -> str:
    """An unbinned channel and what it can be drawn in."""
    names = () if channel.pool_features is None else channel.pool_features.names
    return f"{channel.name!r} (stored features: {', '.join(names) or 'none'})"
