"""Whether simulated samples are large enough to be trained on, before any time is spent."""

from collections.abc import Mapping
from typing import Any
from warnings import warn

import numpy as np

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData, StatisticsWarning
from nuratio.ratios.options import TrainingOptions

__all__ = ["check_statistics"]

_FEW = 1000  # effective events, below which a ratio is not to be trusted without a closure check
_CANCELLED = 0.01  # effective events per event, below which most of the simulation cancels
_FEWEST_PER_FOLD = 10


def check_statistics(samples: Mapping[str, EventSample], options: TrainingOptions) -> dict[str, Any]:
    """Events and signed effective sample size (sum w)^2 / sum w^2 of every sample, for the report of a training.

    Raises
    ------
    InvalidData
        A sample with fewer than 10 events in one of the folds.

    Warns
    -----
    StatisticsWarning
        Samples of fewer than 1000 effective events, or of fewer than one effective event in a hundred.
    """
    for name, sample in samples.items():
        counts = np.bincount(fold_of(sample.ids, options.folds, options.fold_seed), minlength=options.folds)
        if counts.min() < _FEWEST_PER_FOLD:
            raise InvalidData(
                f"{name!r} has {len(sample)} events, {counts.min()} of them in fold {counts.argmin()} of "
                f"{options.folds}; at least {_FEWEST_PER_FOLD} are needed: simulate more or use fewer folds"
            )
    sizes = {name: sample.effective_size for name, sample in samples.items()}
    few = {name: round(size, 1) for name, size in sizes.items() if size < _FEW}
    if few:
        warn(
            f"fewer than {_FEW} effective events ((sum w)^2 / sum w^2), expect noisy ratios and check closure: {few}",
            StatisticsWarning,
            stacklevel=3,
        )
    for name, size in sizes.items():
        share = size / len(samples[name])
        if share < _CANCELLED:
            loss = f"{share**-0.5:.0f} times" if size else "infinitely"
            warn(
                f"{name!r}: n_eff / n = (sum w)^2 / (n sum w^2) = {share:.2g} is below {_CANCELLED:g}; the error of "
                f"its ratio goes as sqrt(n / n_eff) and is {loss} that of {len(samples[name])} events of equal weight: "
                "simulate with weights that cancel less and vary less, and check closure",
                StatisticsWarning,
                stacklevel=3,
            )
    return {"events": {name: len(sample) for name, sample in samples.items()}, "effective_size": sizes}
