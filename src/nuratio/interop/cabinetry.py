"""nuratio's models in cabinetry: exact derivatives for its fits, bins for its yields and plots.

`cabinetry.fit` makes a minuit optimizer of pyhf's for every fit. Inside ``with exact_derivatives():`` it is nuratio's,
for all of ``fit``, ``ranking``, ``scan``, ``limit`` and ``significance``, except with ``custom_fit=True``.

What cabinetry draws and tabulates has bins: give `projected` to `cabinetry.model_utils.prediction`, to
`cabinetry.visualize` and to `cabinetry.tabulate`. Its goodness of fit compares bins too, and raises an error for a
model with unbinned channels: `nuratio.goodness_of_fit` is the one for those.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyhf

from nuratio.infer.binned.binned_projection import BinnedProjection
from nuratio.interop import optimizer

__all__ = ["exact_derivatives", "figure_config", "projected"]


@contextmanager
def exact_derivatives(**options: Any) -> Iterator[optimizer.Optimizer]:
    """Let every minuit optimizer that is made from `pyhf.optimize` be nuratio's, and undo that afterwards.

    Besides that, it does what `nuratio.interop.optimizer.exact_derivatives` does.
    """
    with optimizer.exact_derivatives(**options) as lent:
        original = pyhf.optimize.minuit_optimizer
        pyhf.optimize.minuit_optimizer = optimizer.Optimizer
        try:
            yield lent
        finally:
            pyhf.optimize.minuit_optimizer = original


def projected(
    model: Any, projections: Mapping[str, tuple[str, Sequence[float] | int]] | None = None
) -> BinnedProjection:
    """The model with its unbinned channels histogrammed: what cabinetry takes where it needs bins.

    Its parameters are the model's, so results of fits of the model fit it; ``.data(data)`` are the model's data in its
    bins. The samples ``name[+]`` and ``name[-]`` are one sample ``name``: cabinetry stacks bars, and a negative one
    would be drawn over those below it. Where the sum of a sample's parts is negative still, its bar reaches down from
    the stack, and the top of the stack is the total.

    Parameters
    ----------
    model : Model
    projections : mapping, optional
        Unbinned channel -> (feature, edges or number of bins over the range of the observed events), for each of them.

    Raises
    ------
    UnknownName
        No such channel or feature.
    InvalidModel
        An unbinned channel without a projection (the message names the features), or a binned one with one.

    Notes
    -----
    Post-fit uncertainties are cabinetry's, from the shifts of each parameter by its uncertainty; `nuratio.project` uses
    exact first derivatives. They agree where the yields are linear.
    """
    return BinnedProjection.of(model, projections)


def figure_config(projection: BinnedProjection) -> dict[str, Any]:
    """The ``config`` with which `cabinetry.visualize.data_mc` draws features with their edges.

    Binned channels are drawn in numbered bins; a cabinetry configuration of your own can say more.
    """
    axes = {name: {"Variable": b.feature, "Binning": b.edges.tolist()} for name, b in projection.bins.items()}
    return {"Regions": [{"Name": name} | axes.get(name, {}) for name in projection.config.channels]}
