"""Ratios by linear least squares: the risk E_q[r^2] / 2 - E_p[r] with r linear in random features has a closed form.

The features are a hidden layer of random, fixed weights; what is learned is the last layer, by one linear solve for
each fold. The ridge, which pulls the ratios towards 1, is the one of lowest cross-validated risk. Seconds, no learning
rate: a baseline that networks have to beat, and hard to beat with a few thousand effective events. The same matrices
tell how negative a ratio gets (`lowest_ratios`), which is what PARE needs to know for its pole.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nuratio.data.split import fold_of
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.heads import Direct
from nuratio.ratios.losses import LSIF
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.loop import split_events
from nuratio.training.objective import SimulatedEvents, multiplicities, whole_samples

__all__ = ["lowest_ratios", "train_linear"]

Floats = NDArray[np.float64]

_SPREAD = 2.0  # of the random weights, for inputs of unit variance
_PILOT_SPREAD = 4.0
_RIDGES = np.geomspace(1e-7, 1e3, 21)  # of the mean diagonal element
_BUCKETS = 4  # of the cross-validation
_BUCKET_SEED = 0xB0C7
_CHUNK = 65536
_PILOT_FEATURES = 24


def train_linear(events: SimulatedEvents, seed: int, options: TrainingOptions, features: int = 400) -> RatioEstimator:
    """Least squares in random features; not normalised yet. Of the options, those of the cross-fitting are used.

    Raises
    ------
    InvalidData
        A sample whose weights cancel.
    """
    components = whole_samples(events.samples)
    inputs = next(iter(events.samples.values())).names
    networks = _random_layer(events, seed, features, len(components), options.folds * options.ensemble, _SPREAD)
    replicated = multiplicities(events, components, options).double().numpy() if options.bootstrap else None
    ridges = []
    for m, split in enumerate(split_events(events.ids, options)):
        rows = np.concatenate([split.training, split.validation])
        bucket = fold_of(events.ids[rows], _BUCKETS, options.fold_seed + _BUCKET_SEED)
        times = None if replicated is None else replicated[m % options.ensemble]
        moments = [_moments(events, networks, m, rows[bucket == k], len(components), times) for k in range(_BUCKETS)]
        solution, ridge = _least_squares(moments)
        ridges.append(ridge)
        with torch.no_grad():
            networks.weights[-1][m].copy_(torch.from_numpy(solution[:-1]))
            networks.biases[-1][m, 0].copy_(torch.from_numpy(solution[-1]))
    networks.requires_grad_(False)
    return RatioEstimator(
        components=components,
        reference_fractions=events.reference_fractions,
        head=Direct(LSIF(), "lsif"),
        normalisation={part.name: (1.0, 0.0) for part in components},
        networks=CrossFit(networks, inputs, options),
        report={"features": features, "ridge": ridges},
    )


def _moments(
    events: SimulatedEvents,
    networks: NetworkStack,
    member: int,
    rows: NDArray[np.int64],
    samples: int,
    times: Floats | None,
) -> tuple[Floats, Floats]:
    """Sums of q phi phi^T, shape (h, h), and of p phi for every sample, (h, samples), events counted so many times."""
    size = networks.weights[-1].shape[1] + 1
    gram, signed = np.zeros((size, size)), np.zeros((size, samples))
    for some, q, p, sample, phi in _features(events, networks, member, rows):
        if times is not None:
            q, p = q * times[some], p * times[some]
        gram += phi.T @ (q[:, None] * phi)
        for k in range(samples):
            signed[:, k] += p[sample == k] @ phi[sample == k]
    return gram, signed


def _least_squares(buckets: Sequence[tuple[Floats, Floats]]) -> tuple[NDArray[np.float32], list[float]]:
    """Coefficients, shape (h, samples), and the ridge of each sample with the lowest risk on the buckets left out.

    The last feature is the constant; the ridge is on the distance from r = 1.
    """
    total, signed_total = (sum(arrays) for arrays in zip(*buckets, strict=True))
    one = np.zeros_like(signed_total)
    one[-1] = 1

    def solve(gram: Floats, signed: Floats) -> list[Floats]:
        values, vectors = np.linalg.eigh(gram)
        pull = vectors.T @ (signed - gram @ one)
        return [one + vectors @ (pull / (values + ridge)[:, None]) for ridge in values.mean() * _RIDGES]

    risk = np.zeros((len(_RIDGES), one.shape[1]))
    for gram, signed in buckets:
        solutions = solve(total - gram, signed_total - signed)
        risk += [(b * (gram @ b)).sum(0) / 2 - (b * signed).sum(0) for b in solutions]
    best, solutions = np.argmin(risk, axis=0), solve(total, signed_total)
    chosen = np.column_stack([solutions[ridge][:, k] for k, ridge in enumerate(best)])
    return chosen.astype(np.float32), _RIDGES[best].tolist()


def lowest_ratios(events: SimulatedEvents, seed: int = 0) -> dict[str, float]:
    """An estimate of the most negative ratio of each sample: the lowest eigenvalue of G_q^-1 G_p.

    G are second moments of a few smooth features under q and under the signed sample: the smallest value that the mean
    of r can have over any weight made of them. It is an average, so the true minimum is lower.
    """
    networks = _random_layer(events, seed, _PILOT_FEATURES, 1, 1, _PILOT_SPREAD)
    size = _PILOT_FEATURES + 1
    gram, signed = np.zeros((size, size)), [np.zeros((size, size)) for _ in events.samples]
    for _, q, p, sample, phi in _features(events, networks, 0, np.arange(len(events.x))):
        gram += phi.T @ (q[:, None] * phi)
        for k, moments in enumerate(signed):
            moments += phi[sample == k].T @ (p[sample == k, None] * phi[sample == k])
    root = np.linalg.inv(np.linalg.cholesky(gram + 1e-5 * np.trace(gram) / size * np.eye(size)))
    return {
        name: float(np.linalg.eigvalsh(root @ g @ root.T)[0]) for name, g in zip(events.samples, signed, strict=True)
    }


def _random_layer(
    events: SimulatedEvents, seed: int, features: int, outputs: int, members: int, spread: float
) -> NetworkStack:
    """Networks of one random hidden layer: kinks all over the events, in random directions."""
    generator = torch.Generator().manual_seed(seed)
    networks = NetworkStack([events.x.shape[1], features, outputs], members)
    networks.standardise(events.x.cpu().numpy(), events.mixed.cpu().double().numpy())
    direction = torch.randn((members, events.x.shape[1], features), generator=generator, dtype=torch.float32)
    at = torch.randn((members, events.x.shape[1], features), generator=generator, dtype=torch.float32)
    with torch.no_grad():
        networks.weights[0].copy_(spread * direction)
        networks.biases[0].copy_(-spread * (direction * at).sum(1, keepdim=True))
    return networks


def _features(
    events: SimulatedEvents, networks: NetworkStack, member: int, rows: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], Floats, Floats, NDArray[np.int64], Floats]]:
    """Some events at a time: rows, q and p, each (m,), the sample, and features with a constant, (m, h)."""
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        some = torch.from_numpy(chunk)
        with torch.no_grad():
            phi = networks.last_hidden(events.x[some].cpu(), member).numpy()
        q, p = (weights[some].cpu().double().numpy() for weights in (events.reference, events.signed))
        yield chunk, q, p, events.sample[some].cpu().numpy(), phi
