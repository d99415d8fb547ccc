"""Replicas of trained ratios: the covariance of ln r(x) from the training, without knowing any data.

`with_replicas` gives an estimator its `nuratio.ratios.replicas.Replicas`. Members of an ensemble or of a bootstrap are
there already; for ``last_layer`` they are calculated here. With its hidden layers held, network k minimises a sum
over its events i of a cost in outputs u = b_k.phi_k(x_i) that are linear in its last layer b_k. If event i counts
1 + xi_i times, the minimum moves by

    delta b_k = - H_k^-1 sum_i xi_i g_ik,      g = dc/du phi,      H = sum_i phi d^2c/du^2 phi^T,

to first order: over many draws of xi, of mean 0 and variance 1, that is the sandwich covariance H^-1 (sum g g^T) H^-1.
Signed weights enter g as they are, so it is right for them, too: what counts is the sum of squares of weights. All
networks get the same xi_i, because they learn from one simulation; yields are fixed. (For an
ensemble of networks combined by fitted weights, arXiv:2506.00113 takes the same covariance.)

The ridge is what one event with a second derivative of 1 would tell of a coefficient of a hidden feature of unit
variance. It decides on directions in which no events lie; the trace of H (H + ridge)^-1, how many coefficients the
events determine, is in the report. In one dimension (signal N(1, 0.5), background N(0, 1.5), 1000 and 4000 events of
each, networks of 16-16) the last layer gives ln r an error of 0.16 and 0.10 at x = 0, of 0.08 and 0.05 at 0.75; newly
simulated and trained networks scatter by 0.10 and 0.06, 0.08 and 0.04: early stopping smoothes more than this ridge.
Where the tails are empty they scatter more, and their random start with them, which no last layer knows of.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, StatisticsWarning, UnknownName, did_you_mean
from nuratio.parallel.tasks import run_tasks
from nuratio.ratios.estimator import RatioEstimator, fluctuations, split_by_sign
from nuratio.ratios.heads import Direct, Separate, Softmax
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.replicas import SOURCES, Replicas
from nuratio.training.direct import direct
from nuratio.training.loop import one_torch_thread, split_events
from nuratio.training.mixture import mixture, rosmm
from nuratio.training.objective import Objective, SimulatedEvents
from nuratio.training.reference import Reference

__all__ = ["LAST_LAYER_METHODS", "with_replicas"]

Floats = NDArray[np.float64]

LAST_LAYER_METHODS = ("mixture", "rosmm", "rosmm_c", "linear", "lsif", "logit", "pare", "revert", "sinh")
"""Methods whose cost is known after the training; the refined and the biased ones have the bootstrap alone."""

_CHUNK = 4096  # events at a time
_FEW = 10  # members
_RIDGE = 1.0  # events
_SMALL = 1e-6  # standard deviation of a hidden feature, below which it is a constant


def with_replicas(
    estimator: RatioEstimator,
    samples: Mapping[str, EventSample],
    source: str = "last_layer",
    *,
    draws: int = 100,
    executor: Executor | None = None,
) -> RatioEstimator:
    """The estimator with replicas of its ratios.

    Parameters
    ----------
    estimator : RatioEstimator
    samples : mapping of str to EventSample
        What it was trained on.
    source : str
        ``last_layer``, ``bootstrap`` (of an estimator trained with that option), or ``ensemble``: see
        `nuratio.ratios.replicas`.
    draws : int
        R of ``last_layer``, at least 2; the error of a standard deviation is (2 R)^(-1/2) of it. The others have as
        many replicas as the estimator has members.
    executor : concurrent.futures.Executor or None
        Where ``last_layer`` is calculated, each network as a task of its own; None: in this process. Numbers
        depend on it by rounding only.

    Returns
    -------
    RatioEstimator
        The report has ``replicas``: source and number; of the last layer the mean of the effective number of
        coefficients of a network, ``coefficients``.

    Raises
    ------
    UnknownName
        No such source.
    InvalidData
        An ensemble of one; a bootstrap taken for an ensemble or the other way round; a method that the last layer is
        not known of; samples that the estimator was not trained on.
    """
    if source not in SOURCES:
        raise UnknownName(f"no source of replicas {source!r}; {did_you_mean(source, SOURCES, 'sources')}")
    if tuple(part.name for part in split_by_sign(samples)) != tuple(estimator.reference_fractions):
        raise InvalidData(
            f"samples have the parts {[part.name for part in split_by_sign(samples)]}; the estimator was trained on "
            f"{list(estimator.reference_fractions)}"
        )
    if source == "last_layer":
        replicas, more = _last_layer(estimator, samples, draws, executor)
    else:
        _require_members(estimator, source)
        replicas, more = Replicas(source, estimator.options.ensemble), {}
    report = {"source": source, "number": replicas.number} | more
    return replace(estimator, replicas=replicas, report=estimator.report | {"replicas": report})


def _require_members(estimator: RatioEstimator, source: str) -> None:
    options = estimator.options
    if options.bootstrap != (source == "bootstrap"):
        has, other = ("a bootstrap", "bootstrap") if options.bootstrap else ("no bootstrap", "ensemble or last_layer")
        raise InvalidData(
            f"replicas of source {source!r} need an estimator trained with option bootstrap: "
            f"{str(source == 'bootstrap').lower()}, this one has {has}; take {other}, or train again"
        )
    if options.ensemble < 2:
        raise InvalidData(
            f"replicas of source {source!r} are the members of an ensemble, and there is one; train with ensemble 2 or "
            "more (10 tell a standard deviation to 24%), or take last_layer"
        )
    if source == "bootstrap" and options.ensemble < _FEW:
        warn(
            f"{options.ensemble} members of a bootstrap tell a standard deviation to "
            f"{100 / np.sqrt(2 * (options.ensemble - 1)):.0f}%; train with ensemble {_FEW} or more, or take last_layer",
            StatisticsWarning,
            stacklevel=3,
        )


def _last_layer(
    estimator: RatioEstimator, samples: Mapping[str, EventSample], draws: int, executor: Executor | None
) -> tuple[Replicas, dict[str, Any]]:
    if draws < 2:
        raise InvalidData(f"a spread needs at least 2 draws of the last layer, got {draws}")
    events = SimulatedEvents.of(samples, _reference(estimator), np.float64)
    work = _LastLayers(estimator, events, _objective(estimator, events), draws)
    if executor is None:
        found = work.moved(work.members)
    else:
        with one_torch_thread():
            answers = dict(run_tasks(_one_network, work, work.members, executor=executor))
        found = [answers[m] for m in work.members]
    layers, coefficients = zip(*found, strict=True)
    stacked = np.ascontiguousarray(np.stack(layers, axis=1), dtype=np.float32)
    return Replicas("last_layer", draws, stacked), {"coefficients": float(np.mean(coefficients))}


@dataclass(frozen=True, eq=False)
class _LastLayers:
    """What is needed to move the last layer of any network of an estimator."""

    estimator: RatioEstimator
    events: SimulatedEvents
    objective: Objective
    draws: int

    @property
    def members(self) -> range:
        """Numbers of the networks."""
        options = self.estimator.options
        return range(options.folds * options.ensemble * self.objective.groups)

    def moved(self, members: Sequence[int]) -> list[tuple[Floats, float]]:
        """Of these networks; see `_Sums.moved`."""
        estimator, events, objective = self.estimator, self.events, self.objective
        part, options = events.part.numpy(), estimator.options
        drawn = fluctuations(events.samples, estimator.components, "last_layer", self.draws, options.fold_seed)
        stack, ridges = estimator.networks.stack, estimator.report.get("ridge")
        splits = [split for split in split_events(events.ids, options) for _ in range(objective.groups)]
        sums = [_Sums.zero(stack, m, self.draws) for m in members]
        inside = np.zeros((len(members), len(part)), dtype=bool)
        for row, m in zip(inside, members, strict=True):
            split = splits[m]
            row[np.concatenate([split.training, split.validation]) if ridges else split.training] = True
        for start in range(0, len(part), _CHUNK):
            some = np.arange(start, min(start + _CHUNK, len(part)))
            xi = drawn.factors(events.ids[some], part[some]) - 1.0
            for row, total in zip(inside, sums, strict=True):
                own = row[some]
                group = torch.tensor([total.member % objective.groups])
                total.add(stack, events.x, torch.from_numpy(some[own]), xi[:, own], objective, group)
        return [s.moved(None if ridges is None else np.array(ridges[s.member])) for s in sums]


def _one_network(work: _LastLayers, m: int) -> tuple[Floats, float]:
    torch.set_num_threads(1)
    (found,) = work.moved([m])
    return found


def _reference(estimator: RatioEstimator) -> Reference:
    """What was given to the training."""
    fractions = estimator.reference_fractions
    named = [name for name, rho in fractions.items() if rho == 1]
    return named[0] if named and len(fractions) > 1 else fractions


def _objective(estimator: RatioEstimator, events: SimulatedEvents) -> Objective:
    """What the estimator's networks have minimised."""
    method = estimator.report.get("method", "mixture")
    method = estimator.report["auto"]["chosen"] if method == "auto" else method
    head = estimator.head
    if method in LAST_LAYER_METHODS:
        if isinstance(head, Direct):
            return direct(events, head.loss, head.name)
        if isinstance(head, Separate):
            return rosmm(events)
        if isinstance(head, Softmax):
            return mixture(events)
    raise InvalidData(
        f"the last layer of method {method!r} does not minimise a cost that is known here; take the source bootstrap, "
        f"or one of the methods {list(LAST_LAYER_METHODS)}"
    )


@dataclass(eq=False)
class _Sums:
    """Of one network with h + 1 features and o outputs: sums over its events.

    Attributes
    ----------
    member : int
    layer : Tensor, shape (h + 1, o)
        The last layer with its bias, in units of the outputs.
    events : int
    first, second : ndarray, shape (h + 1,)
        Of features and their squares.
    hessian : ndarray, shape (h + 1, o, h + 1, o)
    pull : ndarray, shape (R, h + 1, o)
        sum_i xi_i g_i.
    """

    member: int
    layer: Tensor
    events: int
    first: Floats
    second: Floats
    hessian: Floats
    pull: Floats

    @classmethod
    def zero(cls, stack: NetworkStack, member: int, draws: int) -> "_Sums":
        weight, bias = stack.weights[-1][member].double(), stack.biases[-1][member].double()
        layer = torch.cat([weight, bias]) * stack.get_buffer("output_scale").double()
        h, o = layer.shape
        return cls(member, layer, 0, np.zeros(h), np.zeros(h), np.zeros((h, o, h, o)), np.zeros((draws, h, o)))

    def add(
        self, stack: NetworkStack, x: Tensor, rows: Tensor, xi: Floats, objective: Objective, group: Tensor
    ) -> None:
        """Some events of this network."""
        with torch.no_grad():
            hidden = stack.last_hidden(x[rows], self.member)
        outputs = (hidden @ self.layer)[None].requires_grad_()
        cost = objective.cost(outputs, rows[None], group)
        (slope,) = torch.autograd.grad(cost.sum(), outputs, create_graph=True)
        phi, o = hidden.numpy(), outputs.shape[-1]
        self.events += len(rows)
        self.first += phi.sum(0)
        self.second += (phi**2).sum(0)
        gradient = phi[:, :, None] * slope[0].detach().numpy()[:, None]
        self.pull += (xi @ gradient.reshape(len(rows), -1)).reshape(self.pull.shape)
        for j in range(o):
            if not slope.requires_grad:  # a cost that is linear in the outputs
                break
            (curve,) = torch.autograd.grad(slope[..., j].sum(), outputs, retain_graph=True, materialize_grads=True)
            for k, c in enumerate(curve[0].numpy().T):
                if c.any():
                    self.hessian[:, j, :, k] += phi.T @ (c[:, None] * phi)

    def moved(self, ridge: Floats | None) -> tuple[Floats, float]:
        """The R layers that are added, shape (R, h + 1, o), and the effective number of coefficients.

        ``ridge`` of each output is on the layer itself, in units of the mean second moment of a feature; None: one
        event on the coefficients of standardised features.
        """
        h, o = self.layer.shape
        if ridge is None:
            to_layer, penalty = self._standardised(), np.full((h, o), _RIDGE)
        else:
            to_layer, penalty = np.eye(h), np.tile(ridge * self.hessian[:, 0, :, 0].trace() / h, (h, 1))
        half = np.tensordot(self.hessian, to_layer, axes=(2, 0))  # (h, o, o, b)
        hessian = np.tensordot(to_layer, half, axes=(0, 0)).swapaxes(2, 3).reshape(h * o, h * o)
        root = penalty.ravel() ** -0.5
        values, vectors = np.linalg.eigh(root[:, None] * (hessian + hessian.T) / 2 * root)
        values = values.clip(min=0)  # of a signed cost: directions in which it has no minimum of its own
        pull = (to_layer.T @ self.pull).reshape(len(self.pull), -1) * root
        moved = -((pull @ vectors) / (values + 1)) @ vectors.T * root
        return to_layer @ moved.reshape(-1, h, o), float((values / (values + 1)).sum())

    def _standardised(self) -> Floats:
        """Layer = this @ coefficients of features of mean 0 and variance 1, the constant being the last; (h, h)."""
        mean, square = self.first / self.events, self.second / self.events
        deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
        scale = np.divide(1.0, deviation, out=np.zeros_like(mean), where=deviation > _SMALL)
        to_layer = np.diag(scale)
        to_layer[-1] = -mean * scale
        to_layer[-1, -1] = 1.0
        return to_layer
