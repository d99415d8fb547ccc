"""The last layer of shape networks, solved exactly: with the hidden layers fixed, the D_t are linear in it.

The loss of `nuratio.training.shape` is then convex (logistic regression in the hidden features, METHODS of
arXiv:2406.19076), and Newton's method finds the minimum that stochastic descent only circles around. What that noise
would cost: D off by 0.003 for 10^5 events of data is an information of 10^5 x 0.003^2 = 1 on a nuisance whose own
constraint has 1, made of nothing. So the ridge, which pulls shapes to zero, is the one of lowest loss on the folds
that the networks have not seen, one for the linear terms of a group of nuisances and one for the others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from nuratio.data.split import fold_of
from nuratio.errors import FitFailed
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.linking import LinkedEvents

__all__ = ["Group", "solve_last_layer"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_RIDGES = np.geomspace(1e-9, 10.0, 21)  # of squared coefficients, in units of the loss
_CURVATURE = (1.0, 1e2, 1e4)  # ridge of quadratic and other terms over that of the linear ones
_ITERATIONS = 50
_CHOICES = 2  # iterations in which the ridges are chosen
_STEEP = (0.2, 4.0)  # mean squares of a logit between which Hessians are made anew at every step
_CONVERGED = 1e-4  # largest rms change of a logit, relative to its rms
_CHUNK = 16384


@dataclass(frozen=True)
class Group:
    """Terms that occur together at some point, and are solved for together.

    Attributes
    ----------
    terms, points : list of int
    linear : list of bool
        Of each term, whether it is a nuisance to the first power.
    """

    terms: list[int]
    points: list[int]
    linear: list[bool]


@dataclass(frozen=True)
class _Moments:
    """Of one network and group: gradient and Hessian of the loss on its own events, and on those of its test fold."""

    gradient: Floats
    hessian: Floats
    test_gradient: Floats
    test_hessian: Floats


def solve_last_layer(
    networks: NetworkStack, events: LinkedEvents, phi: Floats, groups: Sequence[Group], options: TrainingOptions
) -> list[dict[str, Any]]:
    """Put the last layers that minimise the loss with a cross-validated ridge in place.

    Parameters
    ----------
    networks : NetworkStack
        Its hidden layers stay as they are; the last layer is where the iteration starts.
    events : LinkedEvents
    phi : ndarray, shape (terms, points)
        Monomials at the points.
    groups : sequence of Group
    options : TrainingOptions

    Returns
    -------
    list of dict
        For each group: the ``ridge`` of its linear and other terms, the mean square of the log ratio at its points,
        ``square``, as the loss on unseen events tells it (it may be negative), and its statistical ``error``.

    Raises
    ------
    FitFailed
        A loss that is not finite.
    """
    members = options.folds * options.ensemble
    fold = fold_of(events.ids, options.folds, options.fold_seed)
    scale = networks.get_buffer("output_scale").double().expand(phi.shape[0]).numpy()
    layers = [
        np.concatenate([w.detach().double().numpy(), b.detach().double().numpy()]) * scale
        for w, b in zip(networks.weights[-1], networks.biases[-1], strict=True)
    ]  # (h + 1, terms) each
    models = [_Model.of(networks, m, events, fold == m // options.ensemble, phi) for m in range(members)]
    variances = [model.variance for model in models]
    ridges: list[tuple[float, float]] = [(np.nan, np.nan)] * len(groups)
    for iteration in range(_ITERATIONS):
        found = [model.moments(layer, groups) for model, layer in zip(models, layers, strict=True)]
        largest = 0.0
        for g, group in enumerate(groups):
            old = [layer[:, group.terms].T.ravel() for layer in layers]
            of_group = [f[g] for f in found]
            chosen = [ridges[g]] if iteration >= _CHOICES else _candidates(group)
            new, ridges[g] = _best_step(of_group, old, variances, group, chosen)
            for layer, before, after, moments in zip(layers, old, new, of_group, strict=True):
                step, size = (float(v @ moments.hessian @ v) for v in (after - before, after))
                if not np.isfinite(step):
                    raise FitFailed("the last layer of a shape network diverged; look for extreme weights or features")
                largest = max(largest, step / size if size > 0 else 0.0)
                layer[:, group.terms] = after.reshape(len(group.terms), -1).T
        if largest < _CONVERGED**2 and iteration >= _CHOICES:
            break
    with torch.no_grad():
        for m, layer in enumerate(layers):
            raw = torch.from_numpy(layer / scale)
            networks.weights[-1][m].copy_(raw[:-1])
            networks.biases[-1][m, 0].copy_(raw[-1])
    squares = _squares(networks, events, fold, layers, phi, groups, options)
    return [
        {"ridge": list(ridge), "square": square, "error": error}
        for ridge, (square, error) in zip(ridges, squares, strict=True)
    ]


def _candidates(group: Group) -> list[tuple[float, float]]:
    """Ridges of the linear and of the other terms."""
    ratios = (1.0,) if all(group.linear) else _CURVATURE
    return [(float(ridge), float(ridge * ratio)) for ratio in ratios for ridge in _RIDGES]


def _best_step(
    moments: Sequence[_Moments],
    old: Sequence[Floats],
    variances: Sequence[Floats],
    group: Group,
    ridges: Sequence[tuple[float, float]],
) -> tuple[list[Floats], tuple[float, float]]:
    """Newton steps with the ridges whose solutions have the lowest loss on the test folds, to second order."""
    linear = np.repeat(group.linear, len(variances[0]))
    best: tuple[float, list[Floats], tuple[float, float]] = (np.inf, [], (0.0, 0.0))
    for of_linear, of_others in ridges:
        loss, found = 0.0, []
        for m, start, variance in zip(moments, old, variances, strict=True):
            penalty = np.where(linear, of_linear, of_others) * np.tile(variance, len(group.terms))
            matrix = m.hessian + np.diag(penalty)
            matrix.flat[:: len(matrix) + 1] += 1e-12 * matrix.diagonal().max()
            step = -np.linalg.solve(matrix, m.gradient + penalty * start)
            loss += float(m.test_gradient @ step + step @ m.test_hessian @ step / 2)
            found.append(start + step)
        if loss < best[0]:
            best = loss, found, (of_linear, of_others)
    if not best[1]:
        raise FitFailed("the last layer of a shape network has no finite loss; look for extreme weights or features")
    return best[1], best[2]


@dataclass(frozen=True, eq=False)
class _Model:
    """The loss of one network as a function of its last layer.

    Point v contributes sum_nominal w s(z) + sum_varied w' s(-z), s = softplus, whose Hessian in the layer is at most
    (G + G_v) / 4, G and G_v being the moments of the hidden features under the two samples. Logits of variations are
    small, and there this bound is the Hessian but for a share z^2 / 4; it is made once, for all points and steps.

    Attributes
    ----------
    variance : ndarray, shape (h,)
        Nominal variance of the hidden features, 0 of the constant.
    bound : ndarray, shape (2, v, h, h)
        (G + G_v) / 4 of each point, from the network's own events and from those of its test fold.
    """

    networks: NetworkStack
    member: int
    events: LinkedEvents
    test: NDArray[np.bool_]
    phi: Floats
    variance: Floats
    bound: Floats

    @classmethod
    def of(
        cls, networks: NetworkStack, member: int, events: LinkedEvents, test: NDArray[np.bool_], phi: Floats
    ) -> "_Model":
        """Make the moments."""
        h, points = networks.weights[-1].shape[1] + 1, phi.shape[1]
        base, change = np.zeros((2, h, h)), np.zeros((2, points, h, h))
        total, mean = 0.0, np.zeros(h)
        for part in _parts(networks, member, events):
            at_base, of_test = part.hidden[part.base], test[part.events]
            total += part.weight.sum()
            mean += part.weight @ at_base
            for side, mine in enumerate((~of_test, of_test)):
                base[side] += (part.weight[mine, None] * at_base[mine]).T @ at_base[mine]
                here = np.flatnonzero(mine[part.owner])
                here = here[np.argsort(part.point[here], kind="stable")]
                first = np.searchsorted(part.point[here], np.arange(points + 1))
                for v in np.flatnonzero(np.diff(first)):
                    some = here[first[v] : first[v + 1]]
                    hidden = part.hidden[part.row[some]]
                    change[side, v] += (part.change[some, None] * hidden).T @ hidden
        mean /= total
        variance = np.maximum(base.sum(0).diagonal() / total - mean**2, 1e-12)
        variance[-1] = 0.0
        bound = (2 * base[:, None] + change) / (4 * len(events))
        return cls(networks, member, events, test, phi, variance, bound)

    def moments(self, layer: Floats, groups: Sequence[Group]) -> list[_Moments]:
        """Of each group, at a last layer (h, terms)."""
        gradient, hessian = self._slopes(layer, [v for g in groups if self._steep(layer, g) for v in g.points])
        found = []
        for group in groups:
            powers = self.phi[group.terms]
            first, second = (
                np.array([sum(of_point(side, v, powers[:, v]) for v in group.points) for side in range(2)])
                for of_point in (
                    lambda side, v, p: np.kron(p, gradient[side, v]),
                    lambda side, v, p: np.kron(np.outer(p, p), hessian.get(v, self.bound[:, v])[side]),
                )
            )
            found.append(_Moments(first[0], second[0], first[1], second[1]))
        return found

    def _steep(self, layer: Floats, group: Group) -> bool:
        """Whether logits are so large that the bound is far from the Hessian, but not so large that Newton diverges.

        Beyond, sigmoids are flat and Hessians too small; steps with the bound never raise the loss.
        """
        slopes = layer[:, group.terms] @ self.phi[np.ix_(group.terms, group.points)]  # (h, points)
        square = np.einsum("hv,vhk,kv->v", slopes, self.bound.sum(0)[group.points], slopes)
        return bool(_STEEP[0] < 2 * square.max() < _STEEP[1])

    def _slopes(self, layer: Floats, exact: Sequence[int]) -> tuple[Floats, dict[int, Floats]]:
        """Gradients (2, v, h), and the Hessians (2, h, h) of some points."""
        n, points, h = len(self.events), self.phi.shape[1], len(layer)
        gradient, hessian = np.zeros((2, points, h)), {v: np.zeros((2, h, h)) for v in exact}
        for part in _parts(self.networks, self.member, self.events):
            sigma = _sigmoid(part.hidden @ (layer @ self.phi) + part.log_yield)  # (rows, points)
            at_base, at_change = part.hidden[part.base], sigma[part.row, part.point]
            of_base, of_change = sigma[part.base], part.change * (1 - at_change)
            of_test = self.test[part.events]
            for side, mine in enumerate((~of_test, of_test)):
                here = np.flatnonzero(mine[part.owner])
                sparse = csr_matrix(
                    (of_change[here], (part.point[here], part.row[here])), shape=(points, len(part.hidden))
                )
                weight = part.weight[mine, None]
                gradient[side] += (weight * (2 * of_base[mine] - 1)).T @ at_base[mine] - sparse @ part.hidden
                for v, sums in hessian.items():
                    s = of_base[mine, v, None]
                    sums[side] += (2 * weight * s * (1 - s) * at_base[mine]).T @ at_base[mine]
                    some = here[part.point[here] == v]
                    hidden, s = part.hidden[part.row[some]], at_change[some, None]
                    sums[side] += (part.change[some, None] * s * (1 - s) * hidden).T @ hidden
        return gradient / n, {v: sums / n for v, sums in hessian.items()}


@dataclass(frozen=True)
class _Part:
    """Some consecutive events; rows are counted within it."""

    events: slice
    hidden: Floats
    log_yield: Floats
    weight: Floats
    base: Ints
    owner: Ints
    row: Ints
    point: Ints
    change: Floats


def _parts(networks: NetworkStack, member: int, events: LinkedEvents) -> Iterator[_Part]:
    first_row, first_change = events.first_row.numpy(), events.first_change.numpy()
    for start in range(0, len(events), _CHUNK):
        stop = min(start + _CHUNK, len(events))
        rows, changes = (slice(f[start], f[stop]) for f in (first_row, first_change))
        with torch.inference_mode():
            hidden = networks.last_hidden(events.x[rows], member).numpy()
        yield _Part(
            events=slice(start, stop),
            hidden=hidden,
            log_yield=events.log_yield.double().numpy(),
            weight=events.nominal[start:stop].double().numpy(),
            base=first_row[start:stop] - rows.start,
            owner=np.repeat(np.arange(stop - start), np.diff(first_change[start : stop + 1])),
            row=events.row[changes].numpy() - rows.start,
            point=events.point[changes].numpy(),
            change=events.change[changes].double().numpy(),
        )


def _squares(
    networks: NetworkStack,
    events: LinkedEvents,
    fold: Ints,
    layers: Sequence[Floats],
    phi: Floats,
    groups: Sequence[Group],
    options: TrainingOptions,
) -> list[tuple[float, float]]:
    """Mean square of the log ratio at the points of each group, from unseen events, and its error.

    To second order the loss falls by a quarter of it.
    """
    gains = np.zeros((len(groups), len(events)))
    for k in range(options.folds):
        members = range(k * options.ensemble, (k + 1) * options.ensemble)
        for parts in zip(*(_parts(networks, m, events) for m in members), strict=True):
            log_ratio = np.mean([p.hidden @ (layers[m] @ phi) for m, p in zip(members, parts, strict=True)], axis=0)
            part = parts[0]
            mine = fold[part.events] == k
            for g, group in enumerate(groups):
                for v in group.points:
                    without = part.log_yield[v]
                    logit = log_ratio[:, v] + without
                    of_base = 2 * (_softplus(without) - _softplus(logit)) + (logit - without)
                    gain = part.weight * of_base[part.base]
                    here = part.point == v
                    row = part.row[here]
                    changes = part.change[here] * (_softplus(-without) - _softplus(-logit[row]))
                    gain += np.bincount(part.owner[here], changes, len(gain))
                    gains[g, part.events][mine] += gain[mine]
    number = np.array([len(group.points) for group in groups])[:, None]
    gains *= 4 / number
    n = len(events)
    return list(zip(gains.mean(1).tolist(), (gains.std(1) / np.sqrt(n)).tolist(), strict=True))


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)
