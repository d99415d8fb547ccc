"""A binned model and its exact twin without bins."""

from dataclasses import replace

import numpy as np

import analytic
from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace


def rewritten(per_bin):
    """The model of `analytic.binned_spec`, the same with an event for each bin, and the projections on the bins."""
    workspace = Workspace.from_pyhf(analytic.binned_spec(per_bin=per_bin))
    model = workspace.model()
    for name in model.config.channels:
        workspace = workspace.unbin(name)
    unbinned = workspace.model()
    for name, channel in unbinned.unbinned.items():
        number = RatioTable.from_columns({"bin": np.arange(len(channel.pool))}, np.float64)
        unbinned.unbinned[name] = replace(channel, pool_features=number)
    return model, unbinned, {name: ("bin", np.arange(n + 1) - 0.5) for name, n in model.config.channel_nbins.items()}
