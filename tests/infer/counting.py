"""Counting experiments, whose p-values and intervals are known exactly."""

import pyhf

from nuratio.model.model import Model


def counting(signal=10.0, background=50.0, *, error=None, bounds=(0.0, 10.0)):
    """One bin; ``error`` of the background is that of a Gaussian nuisance ``b``."""
    samples = [
        {"name": "signal", "data": [signal], "modifiers": [{"name": "mu", "type": "normfactor", "data": None}]},
        {"name": "background", "data": [background], "modifiers": []},
    ]
    if error is not None:
        sides = {"hi_data": [background + error], "lo_data": [background - error]}
        samples[1]["modifiers"].append({"name": "b", "type": "histosys", "data": sides})
    spec = {"channels": [{"name": "SR", "samples": samples}], "parameters": [{"name": "mu", "bounds": [list(bounds)]}]}
    return Model.from_pyhf(pyhf.Model(spec))
