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
_ITERATIONS = 12
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
    ridges: list[tuple[float, float]] = []
    for _ in range(_ITERATIONS):
        found = [
            _moments(networks, m, events, fold == m // options.ensemble, layers[m], phi, groups) for m in range(members)
        ]
        variances = [f.variance for f in found]
        ridges, largest = [], 0.0
        for g, group in enumerate(groups):
            old = [layer[:, group.terms].T.ravel() for layer in layers]
            of_group = [f.groups[g] for f in found]
            new, ridge = _cross_validated(of_group, old, variances, group)
            ridges.append(ridge)
            for layer, before, after, moments in zip(layers, old, new, of_group, strict=True):
                step, size = (float(v @ moments.hessian @ v) for v in (after - before, after))
                if not np.isfinite(step):
                    raise FitFailed("the last layer of a shape network diverged; look for extreme weights or features")
                largest = max(largest, step / size if size > 0 else 0.0)
                layer[:, group.terms] = after.reshape(len(group.terms), -1).T
        if largest < _CONVERGED**2:
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


def _cross_validated(
    moments: Sequence[_Moments], old: Sequence[Floats], variances: Sequence[Floats], group: Group
) -> tuple[list[Floats], tuple[float, float]]:
    """Newton steps with the ridges whose solutions have the lowest loss on the test folds, to second order."""
    linear = np.repeat(group.linear, len(variances[0]))
    best: tuple[float, list[Floats], tuple[float, float]] = (np.inf, [], (0.0, 0.0))
    for curvature in _CURVATURE if not all(group.linear) else (1.0,):
        for ridge in _RIDGES:
            loss, found = 0.0, []
            for m, start, variance in zip(moments, old, variances, strict=True):
                penalty = ridge * np.where(linear, 1.0, curvature) * np.tile(variance, len(group.terms))
                matrix = m.hessian + np.diag(penalty)
                matrix.flat[:: len(matrix) + 1] += 1e-12 * matrix.diagonal().max()
                step = -np.linalg.solve(matrix, m.gradient + penalty * start)
                loss += float(m.test_gradient @ step + step @ m.test_hessian @ step / 2)
                found.append(start + step)
            if loss < best[0]:
                best = loss, found, (float(ridge), float(ridge * curvature))
    if not best[1]:
        raise FitFailed("the last layer of a shape network has no finite loss; look for extreme weights or features")
    return best[1], best[2]


@dataclass(frozen=True)
class _Found:
    variance: Floats
    groups: list[_Moments]


def _moments(
    networks: NetworkStack,
    member: int,
    events: LinkedEvents,
    test: NDArray[np.bool_],
    layer: Floats,
    phi: Floats,
    groups: Sequence[Group],
) -> _Found:
    """Moments of all groups for one network, and the nominal variance of its hidden features (0 of the constant)."""
    h = len(layer)
    sizes = [h * len(group.terms) for group in groups]
    first = [np.zeros((2, n)) for n in sizes]
    second = [np.zeros((2, n, n)) for n in sizes]
    total, mean, square = 0.0, np.zeros(h), np.zeros(h)
    for part in _parts(networks, member, events):
        logit = part.hidden @ (layer @ phi) + part.log_yield
        at_base = part.hidden[part.base]
        total += part.weight.sum()
        mean += part.weight @ at_base
        square += part.weight @ at_base**2
        of_test = test[part.events]
        for side, mine in enumerate((~of_test, of_test)):
            base, weight = at_base[mine], part.weight[mine]
            changed = mine[part.owner]
            for g, group in enumerate(groups):
                for v in group.points:
                    sigma = _sigmoid(logit[part.base[mine], v])
                    here = changed & (part.point == v)
                    row, change = part.row[here], part.change[here]
                    hidden, sigma_here = part.hidden[row], _sigmoid(logit[row, v])
                    gradient = (weight * (2 * sigma - 1)) @ base - (change * (1 - sigma_here)) @ hidden
                    hessian = base.T @ ((2 * weight * sigma * (1 - sigma))[:, None] * base)
                    hessian += hidden.T @ ((change * sigma_here * (1 - sigma_here))[:, None] * hidden)
                    powers = phi[group.terms, v]
                    first[g][side] += np.kron(powers, gradient)
                    second[g][side] += np.kron(np.outer(powers, powers), hessian)
    n = len(events)
    variance = np.maximum(square / total - (mean / total) ** 2, 1e-12)
    variance[-1] = 0.0
    moments = [_Moments(f[0] / n, s[0] / n, f[1] / n, s[1] / n) for f, s in zip(first, second, strict=True)]
    return _Found(variance, moments)


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
