"""Likelihoods given as functions, as models that can be fitted; and a counting experiment with interference."""

from types import SimpleNamespace

import numpy as np

import analytic
from nuratio.workspace.workspace import Workspace


class Surface:
    """A model without events: -2 ln L is an objective of named parameters."""

    def __init__(self, objective, names, start, bounds):
        self.objective = objective
        self.config = SimpleNamespace(
            par_names=list(names),
            poi_index=0,
            nmaindata=0,
            suggested_init=lambda: list(start),
            suggested_bounds=lambda: [tuple(b) for b in bounds],
            suggested_fixed=lambda: [False] * len(names),
        )

    def likelihood(self, data):
        return self.objective


def interference(n, *, signal=40.0, between=-60.0, background=100.0, bounds=(0, 5)):
    """Expected events mu signal + sqrt(mu) between + background, n observed."""
    spec = analytic.counting(n, s=signal, b=background, bounds=bounds)
    root = {"name": "root", "type": "normfactor", "data": None}
    spec["channels"][0]["samples"].append({"name": "i", "data": [between], "modifiers": [root]})
    parameters = [{"name": "root", "expression": "sqrt(mu)"}]
    spec["unbinned"] = {"version": "1.0.0", "files": [], "channels": [], "parameters": parameters}
    spec["measurements"][0]["config"]["parameters"].append({"name": "root", "bounds": [[0, 10]]})
    model = Workspace(spec).model()
    return model, Workspace(spec).data(model)


def squared(workspace, *, bounds=(-3.0, 3.0)):
    """A model of the workspace in which mu is kappa**2."""
    spec = dict(workspace.spec)
    parameters = [{"name": "mu", "expression": "kappa**2"}, {"name": "kappa", "inits": [1.0], "bounds": [list(bounds)]}]
    spec["unbinned"] = spec["unbinned"] | {"parameters": parameters, "poi": "kappa"}
    spec["measurements"] = [{"name": "m", "config": {"poi": "", "parameters": []}}]
    return Workspace(spec, workspace.tables).model()


def poisson_ends(n, height):
    """Where 2 (lam - n - n ln(lam / n)) = height, below and above n."""
    from scipy.special import lambertw

    return tuple(float(np.real(-n * lambertw(-np.exp(-1 - height / (2 * n)), branch))) for branch in (0, -1))
