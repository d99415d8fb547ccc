"""What a model knows of the simulated events behind an unbinned channel: whose they are, and how many.

Numbers for `nuratio.infer.impacts.influence`, which says how far a fit moves with the weights of these events. The
likelihood does not look at them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Simulation"]

Floats = NDArray[np.float64]

_PER_BIN = ("staterror", "shapesys")


@dataclass(frozen=True, eq=False)
class Simulation:
    """The simulation of a channel of C samples in B cells.

    Attributes
    ----------
    effective : ndarray, shape (C,)
        (sum w)^2 / sum w^2 of the events of each sample.
    fixed_yield : ndarray of bool, shape (C, B)
        Whether the yield does not fluctuate with these events: it is known without them, or a staterror or shapesys
        of the companion stands for it.
    column : str or None
        Of the pool: the part of the simulation that an event belongs to.
    parts : tuple of dict
        For each sample: part -> share of an event in the sample's yield, in units of its reference weight. Empty if
        its events are not in the pool.
    """

    effective: Floats
    fixed_yield: NDArray[np.bool_]
    column: str | None
    parts: tuple[Mapping[int, float], ...]

    @classmethod
    def of_channel(
        cls, entry: Mapping[str, Any], companion: Mapping[str, Any], order: tuple[str, ...]
    ) -> "Simulation | None":
        """From the channel's entry and its companion; None unless every sample says what simulation it has.

        Parameters
        ----------
        entry, companion : mapping
            The channel in the unbinned and in the pyhf part of a workspace.
        order : tuple of str
            Names of the samples.
        """
        samples, rates = ({s["name"]: s for s in channel["samples"]} for channel in (entry, companion))
        told = [samples[name].get("simulation") for name in order]
        if not all(told) or not set(order) <= set(rates):
            return None
        fixed = [
            _own_uncertainty(rates[name]) | (s.get("yield", "simulated") == "known")
            for name, s in zip(order, told, strict=True)
        ]
        return cls(
            effective=np.array([s["effective"] for s in told], dtype=np.float64),
            fixed_yield=np.array(fixed),
            column=entry["events"]["pool"].get("part", {}).get("column"),
            parts=tuple({p["number"]: p["weight"] for p in s.get("parts", [])} for s in told),
        )


def _own_uncertainty(sample: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Where a per-bin uncertainty of the sample's yield is in the likelihood, shape (B,)."""
    data = [m["data"] for m in sample["modifiers"] if m["type"] in _PER_BIN]
    return np.asarray(np.any([np.array(d) > 0 for d in data] + [np.zeros(len(sample["data"]), dtype=bool)], axis=0))
