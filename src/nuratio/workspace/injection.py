"""Another simulation in the place of the data: what `nuratio.inject` fits a model to.

A configuration names such simulations under ``Injections``, in the words of its samples. The analysis is built with
their events as the observed ones; their weights are what they stand for.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.data.templates import histogram
from nuratio.errors import InvalidConfig, InvalidData, did_you_mean
from nuratio.workspace.build import assemble
from nuratio.workspace.config import Config
from nuratio.workspace.inputs import read_data
from nuratio.workspace.train import resolve, train_all
from nuratio.workspace.workspace import Workspace

__all__ = ["Injection", "injection"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Injection:
    """A workspace whose observed events are those of another simulation.

    Attributes
    ----------
    workspace : Workspace
    expected, variance : dict
        Channel -> expected events in each bin, or at each observed event of an unbinned channel, and their variances.
    """

    workspace: Workspace
    expected: dict[str, Floats]
    variance: dict[str, Floats]

    def main_data(self, model: Any) -> tuple[Floats, Floats]:
        """The same as parts of a data vector, shape (main data,) each; nothing at the pool."""
        main, variance = np.zeros((2, model.config.nmaindata))
        for channel, where in model.config.channel_slices.items():
            n = len(self.expected[channel])
            main[where.start : where.start + n] = self.expected[channel]
            variance[where.start : where.start + n] = self.variance[channel]
        return main, variance


def injection(
    config: str | Path | Config,
    name: str,
    *,
    inputs: str | Path | None = None,
    cache: str | Path | None = None,
    progress: bool | None = None,
    device: str = "cpu",
) -> Injection:
    """Evaluate the networks of a configuration at the events of one of its ``Injections``.

    Parameters
    ----------
    config : path or Config
    name : str
    inputs, cache, progress, device
        As for `nuratio.workspace.train.train_all`.

    Raises
    ------
    InvalidConfig
        No injection of that name.
    InvalidData
        An event with a negative weight: it cannot be drawn.
    """
    config, cache = resolve(config, inputs, cache)
    known = {entry["Name"]: entry for entry in config.values.get("Injections", [])}
    if name not in known:
        raise InvalidConfig(f"no injection {name!r} in the configuration; {did_you_mean(name, known, 'injections')}")
    samples = [s for s in config.values["Samples"] if not s.get("Data")]
    entry = {"Data": True} | dict(known[name])
    changed = replace(config, values=dict(config.values) | {"Samples": [*samples, entry]})
    trained = train_all(changed, cache=cache, progress=progress, device=device)
    workspace = assemble(changed, trained, progress=progress)
    expected, variance = {}, {}
    for region in changed.regions:
        channel = region["Name"]
        if channel in trained:
            weights = trained[channel].events.data.weights
            expected[channel], variance[channel] = weights, weights**2
        else:
            counts = histogram(read_data(changed, region), region["Variable"], region["Binning"])
            expected[channel], variance[channel] = counts.values, counts.variances
        negative = np.flatnonzero(expected[channel] < 0)
        if negative.size:
            raise InvalidData(
                f"injection {name!r}, region {channel!r}: {negative.size} of {len(expected[channel])} expectations are "
                f"negative (first: number {negative[0]}, {expected[channel][negative[0]]:.4g}), and cannot be drawn; "
                "inject a simulation with positive weights"
            )
    return Injection(workspace, expected, variance)
