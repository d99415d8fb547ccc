"""The statistics of the training as nuisances: principal directions of the replicas of the ratios.

Use them where the simulation is not much larger than the data. Each direction is a nuisance with a unit Gaussian
constraint that multiplies the density of part c by exp(alpha D_c(x)), normalised, and changes no rate. Unlike the one
number for one parameter of `nuratio.infer.impacts.nuisance`, they serve all parameters at once, and the data may use
them.

What must be in a direction. In replica j of the simulation events have the weights 1 + xi_ij, and the training learns
r_c + delta_jc(x). The density p_c = q r_c has changed by delta_jc, and by what happened to q, which no network knows
of: xi itself. The latter must not be left out. A shape is normalised on the simulated events, so that a nuisance made
of delta alone cannot change the normalisation of r on another sample of q, which is most of the error of a small signal
(in the example below the interval of mu would hold the truth 64%, 59% and 50% of the time, for data 1, 3 and 10 times
as many as simulated events and ratios of the right form). With all parts normalised, the density of the channel,
lambda = sum_c W_c p_c, W_c being nominal yields, has changed by lambda d_j,

    d_j = sum_c W_c (delta_jc + r_c xi_j - r_c E_c[delta_jc / r_c + xi_j]) / sum_c W_c r_c.

What a fit feels of it is the projection on its scores s_b = d ln lambda / d theta_b, of the yields of all parts and of
the nuisances of shapes. To first order these parameters move by v_j = F^-1 <s d_j>, F = <s s^T>, <.> being the integral
over lambda. xi, which is known at the simulated events alone, enters as <s xi_j>, a sum over them. The rest of d_j is
left out. It moves nothing; and where data are more than the simulation they see it, and it pulls the nuisances unless
they are so many that they can follow it (with all of d_j in the directions, 10 replicas of a bootstrap made intervals
that held the truth 62%, 46% and 34% of the time; 100 of a last layer 68%, 61% and 64%, all +- 5%).

So a direction has the effect sum_b v_b s_b on ln lambda, and the mean zero in each part. Of all that have, it is the
smallest in the mean square over the parts,

    D_c = sign(W_c r_c) (f - m_c),      f = (sum_b v_b lambda s_b / q + sum_c |W_c r_c| m_c) / sum_c |W_c r_c|,

m_c being the mean of f over |p_c|: a linear equation for m. Everything is per cell where a region has coarse cells. The
directions are the principal axes over the replicas of I_jl = <s d_j>^T (F + C)^-1 <s d_l>, C being the constraints of
the nuisances: the information that data as expected have on alpha. No parameter moves by more than sqrt(I) of its
uncertainty along a direction of information I, so that what is left out adds no more than its information to any
variance, in units of that of the fit. Their number is at most that of the scores less one for each cell. (A nuisance
that data know much less of than its constraint does is spared: v = (F + C / 10)^-1 <s d>.)

What it does (`benchmarks/training_statistics.py`, 300 simulations of 1000 events, each with trainings and data): for a
signal N(1, 0.5) on ten times as much background N(0, 1.5), one sigma of mu holds the truth 69%, 65%, 69% and 63% of the
time (last layer; bootstrap 69%, 67%, 63% and 64%; all +- 2.7%) with data 0.3, 1, 3 and 10 times the simulation; without
any of it 63%, 53%, 40% and 24%; on the exact densities 67%, 68%, 67% and 63%. The known background tells a part of the
error of this simulation, and the profile likelihood takes it out of mu: at ten times the simulation sigma is 0.107 and
mu-hat scatters by 0.116, where the influence function alone leaves 0.225 and 0.218. What directions do not have is a
bias: the ratios of an interference by lsif are off by more than their error, and there it is 63%, 66%, 63% and 48%.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nuratio.data.sample import EventSample
from nuratio.errors import InvalidData, StatisticsWarning
from nuratio.ratios.estimator import RatioEstimator, fluctuations

__all__ = ["Directions", "principal_directions"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CHUNK = 8192  # events at a time
_CANCELLED = 0.1  # of the parts: where learned ones cancel to less than this, their sum is noise
_TINY = 1e-300
_INERT = 0.1  # information of data on a nuisance, in units of its constraint, below which a direction spares it
_SINGULAR = 1e-8  # of the largest eigenvalue: below it scores are one another's combinations


@dataclass(frozen=True, eq=False)
class Directions:
    """T directions, with C cells, K parts, and B scores: those of the yields of the parts and of nuisances of shapes.

    Attributes
    ----------
    yields : ndarray, shape (K,)
        W_c, signed.
    moved : ndarray, shape (T, C, B)
        v, by how much yields (in units of W_c) and nuisances move.
    mean : ndarray, shape (T, C, K)
        m_c.
    information : ndarray, shape (T,)
        On each nuisance, from data as expected at nominal yields.
    total : float
        Of all directions, those that are left out included.
    """

    yields: Floats
    moved: Floats
    mean: Floats
    information: Floats
    total: float

    def __len__(self) -> int:
        return len(self.moved)

    def at(self, ratios: Floats, slopes: Floats, cell: Ints) -> Floats:
        """D of every direction and part at n events, shape (T, K, n); arguments as for `principal_directions`."""
        weighed = self.yields[:, None] * ratios
        rows, own = np.concatenate([ratios, slopes]), np.abs(weighed)
        found = np.empty((len(self), len(ratios), len(cell)))
        for c in range(self.moved.shape[1]):
            here = cell == c
            total = np.maximum(own[:, here].sum(0), _TINY)
            f = (self.moved[:, c] @ rows[:, here] + self.mean[:, c] @ own[:, here]) / total
            found[:, :, here] = np.sign(weighed[:, here]) * (f[:, None] - self.mean[:, c, :, None])
        return found


def principal_directions(
    estimator: RatioEstimator,
    samples: Mapping[str, EventSample],
    ratios: Floats,
    slopes: Floats,
    cell: Ints,
    *,
    explained: float = 0.95,
    most: int = 10,
) -> Directions:
    """The principal directions of the replicas of an estimator, ordered by the information that data have on them.

    Parameters
    ----------
    estimator : RatioEstimator
        With replicas, see `nuratio.training.replicas.with_replicas`.
    samples : mapping of str to EventSample
        What it was trained on.
    ratios : ndarray, shape (K, n)
        Ratios of its parts at the events of ``estimator.pool(samples)``.
    slopes : ndarray, shape (S, n)
        sum_c W_c r_c d ln S_c / d alpha_k: derivatives of lambda / q by the S nuisances of shapes, which have unit
        constraints.
    cell : ndarray of int, shape (n,)
        Coarse cell of each event, from 0.
    explained : float
        So many directions are kept that they have this share of the information on all.
    most : int
        And no more than this.

    Raises
    ------
    InvalidData
        An estimator without replicas, or with some that move nothing.

    Warns
    -----
    StatisticsWarning
        ``most`` directions are fewer than ``explained`` asks for.
    """
    replicas, options = estimator.replicas, estimator.options
    if replicas is None:
        raise InvalidData(
            "the estimator has no replicas to take directions from; nuratio.training.replicas.with_replicas makes them"
        )
    number, yields = replicas.number, np.array([part.total for part in estimator.components])
    pool = estimator.pool(samples)
    drawn = fluctuations(samples, estimator.components, replicas.source, number, options.fold_seed)
    sums = [_Sums.zero(number, len(ratios), len(ratios) + len(slopes)) for _ in range(int(cell.max()) + 1)]
    for start in range(0, len(pool), _CHUNK):
        some = slice(start, start + _CHUNK)
        ids, r = pool.event_ids[some], ratios[:, some]
        moved = estimator.deviations(pool.features[some], event_ids=ids).transpose(0, 2, 1)
        xi = drawn.factors(ids, pool.part[some]) - 1.0
        for c, of_cell in enumerate(sums):
            here = cell[some] == c
            q = pool.weights[some][here]
            of_cell.add(q, r[:, here], slopes[:, some][:, here], moved[:, :, here], xi[:, here], yields)
    centring = (np.eye(number) - 1 / number) / np.sqrt((number - 1) * replicas.per_result)
    constraint = np.repeat([0.0, 1 / len(sums)], [len(ratios), len(slopes)])  # the cells share the nuisances
    solved = [s.solved(yields, np.diag(constraint)) for s in sums]
    information = centring @ np.sum([s.information for s in solved], axis=0) @ centring
    values, vectors = np.linalg.eigh((information + information.T) / 2)
    values, vectors = values[::-1].clip(min=0), vectors[:, ::-1]
    if values[0] <= 0:
        raise InvalidData(
            f"the {number} replicas of source {replicas.source!r} move no yield and no nuisance: they are all the same"
        )
    share = np.cumsum(values) / values.sum()
    wanted = int(np.searchsorted(share, explained * (1 - 1e-9))) + 1
    kept = min(wanted, most)
    if kept < wanted:
        warnings.warn(
            f"{kept} directions of the networks have {100 * share[kept - 1]:.0f}% of the information on all, less than "
            f"the {100 * explained:.0f}% asked for: allow {wanted}",
            StatisticsWarning,
            stacklevel=2,
        )
    axes = vectors[:, :kept].T
    axes *= np.sign(axes[np.arange(kept), np.abs(axes).argmax(1)])[:, None]
    moved, mean = (
        np.stack([axes @ centring @ x for x in of], axis=1)
        for of in zip(*((s.moved, s.mean) for s in solved), strict=True)
    )
    return Directions(yields, moved, mean, values[:kept], float(values.sum()))


@dataclass(frozen=True)
class _Solved:
    """Of one cell: information on the R replicas, (R, R), their v, (R, B), and m, (R, K)."""

    information: Floats
    moved: Floats
    mean: Floats


@dataclass(eq=False)
class _Sums:
    """Integrals over the simulated events of a cell, with e_j = sum_c W_c delta_jc / sum_c W_c r_c.

    Attributes
    ----------
    learned, simulated : ndarray, shape (R, B)
        <s_b e_j> and <s_b xi_j>.
    scores : ndarray, shape (B, B)
        F.
    mean : ndarray, shape (R, K)
        Of delta_jc over q.
    share : ndarray, shape (K,)
        Of r_c over q.
    shared : ndarray, shape (K, B + K)
        Of |W_c r_c| times the functions that f is made of.
    """

    learned: Floats
    simulated: Floats
    scores: Floats
    mean: Floats
    share: Floats
    shared: Floats

    @classmethod
    def zero(cls, number: int, parts: int, scores: int) -> "_Sums":
        shapes = (
            (number, scores),
            (number, scores),
            (scores, scores),
            (number, parts),
            (parts,),
            (parts, scores + parts),
        )
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(self, q: Floats, ratios: Floats, slopes: Floats, moved: Floats, xi: Floats, yields: Floats) -> None:
        """Some events; ``moved`` are delta, shape (R, K, n)."""
        weighed, rows = yields[:, None] * ratios, np.concatenate([ratios, slopes])
        own = np.abs(weighed)
        total = np.maximum(own.sum(0), _TINY)
        density = np.maximum(weighed.sum(0), _CANCELLED * total)
        scores = rows / density
        measured, e = scores * (q * density), np.einsum("c,rcn->rn", yields, moved) / density
        self.learned += e @ measured.T
        self.simulated += xi @ measured.T
        self.scores += scores @ measured.T
        self.mean += moved @ q
        self.share += ratios @ q
        self.shared += (own * q / total) @ np.concatenate([rows, own]).T

    def solved(self, yields: Floats, constraint: Floats) -> _Solved:
        k = len(self.share)
        share = np.where(self.share != 0, self.share, 1.0)  # a part that is not in this cell has no shape there
        normalised = (self.mean + self.simulated[:, :k]) / share
        effect = self.learned + self.simulated - (yields * normalised) @ self.scores[:k]  # <s d>
        visible = effect @ _whitening(self.scores + constraint).T
        white = _whitening(self.scores + _INERT * constraint)
        moved = effect @ white.T @ white
        of_rows, of_own = self.shared[:, :-k], self.shared[:, -k:]
        balance = np.diag(of_own.sum(1)) - of_own
        mean = moved @ of_rows.T @ np.linalg.pinv(balance, rcond=_SINGULAR, hermitian=True)
        return _Solved(visible @ visible.T, moved, mean)


def _whitening(matrix: Floats) -> Floats:
    """w of w^T w = matrix^-1, shape (m, B), for a symmetric positive matrix; what is singular is left out."""
    scale = np.sqrt(np.diag(matrix))
    scale = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    values, vectors = np.linalg.eigh(scale[:, None] * matrix * scale)
    kept = values > _SINGULAR * values.max()
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])).T * scale)
