"""What fluctuations of the data and of the auxiliary data do to a fit, to first order.

With C the inverse Hessian of -ln L at the best fit (`FitResult.covariance`), a change of the score by s moves the best
fit by C s. So independent fluctuations of the events, bins and auxiliary measurements give the best fit the covariance

    C (sum_channels S_channel + S_aux) C,

S being variances of the score: the sandwich formula (Huber, Proc. Fifth Berkeley Symp. 1 (1967) 221). On Asimov data
S_channel sum and S_aux add up to the Hessian and the whole is C; on observed data they do so up to fluctuations.

`score_variances` has the channels, `AuxiliaryData` the auxiliary measurements.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel

__all__ = ["AuxiliaryData", "score_variances"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AuxiliaryData:
    """The auxiliary measurements of a model's parameters: how large they are, how far they fluctuate, what they pull.

    Gaussian: a ~ N(theta, sigma) fluctuates by sigma; a change of a by one changes the score by 1 / sigma^2. Poisson:
    a ~ Pois(f theta) fluctuates by sqrt(a), a change by one changes the score by 1 / theta. So the variance of the
    score is 1 / sigma^2 and a / theta^2: the constraint's own part of the Hessian, in both cases.

    Attributes
    ----------
    parameter : ndarray of int, shape (A,)
        Which of the model's parameters each is a measurement of.
    position : ndarray of int, shape (A,)
        Where it is in the auxiliary data.
    value, sigma : ndarray, shape (A,)
        The datum, and one standard deviation of it.
    score : ndarray, shape (A,)
        What a change by one standard deviation adds to the score d ln L / d theta.
    poisson : ndarray of bool, shape (A,)
        Which are counts, and cannot be negative.
    """

    parameter: Ints
    position: Ints
    value: Floats
    sigma: Floats
    score: Floats
    poisson: NDArray[np.bool_]

    @classmethod
    def of(cls, model: Any, aux: Floats, theta: Floats) -> "AuxiliaryData":
        """Those of a model.

        Parameters
        ----------
        model : Model
        aux : ndarray, shape (auxdata,)
        theta : ndarray, shape (P,)
            Where the score is looked at: the best fit.

        Raises
        ------
        InvalidModel
            A model that does not say what its constraint terms are.
        """
        terms = _own(model).constraints
        own = {index: j for j, index in enumerate(model.parameters.own)}
        parameter = np.array([own[p] for p in (*terms.gauss_par, *terms.pois_par)], dtype=np.int64)
        position = np.concatenate([terms.gauss_aux, terms.pois_aux])
        order = np.argsort(parameter, kind="stable")
        value = aux[position]
        poisson = np.arange(len(position)) >= len(terms.sigma)
        sigma = np.concatenate([terms.sigma, np.sqrt(value[poisson])])
        score = sigma * np.concatenate([1 / terms.sigma**2, 1 / theta[parameter[poisson]]])
        return cls(parameter[order], position[order], value[order], sigma[order], score[order], poisson[order])

    def components(self, covariance: Floats, k: int) -> Floats:
        """By how much parameter k moves with each datum, changed by one standard deviation; shape (A,)."""
        return np.asarray(covariance[k, self.parameter] * self.score)


def score_variances(model: Any, data: ArrayLike, theta: Floats) -> dict[str, Floats]:
    """Variance of the score of each channel, with every event and every bin fluctuating by itself; (P, P) each.

    Bins: sum_b n_b (d ln nu_b)(d ln nu_b)^T. Events: sum_i w_i (d ln lambda_i)(d ln lambda_i)^T, lambda being the
    density of expected events; a weight w is that of Poisson-distributed events, as in toys.

    Parameters
    ----------
    model : Model
    data : array_like
        Flat data vector.
    theta : ndarray, shape (P,)
        The best fit, where all densities are positive.

    Raises
    ------
    InvalidModel
        A model that does not say what its channels are.
    NonPositiveDensity
        The total density is not positive at an event or in a bin with data.
    """
    likelihood = _own(model).likelihood(data)
    likelihood.require_positive(theta)
    expansion = model.parameters.expand(theta)
    rates = model.rates.rates(expansion.values)
    found: dict[str, Floats] = {}
    for channel, n in likelihood.counts.items():
        cells = model.rates.cells(channel)
        nu = rates.nu[cells].reshape(-1, len(n)).sum(0)
        slope = rates.jacobian[cells].reshape(-1, len(n), len(expansion.values)).sum(0)
        score = expansion.pull_gradient(slope[n > 0]) / nu[n > 0, None]
        found[channel] = (score.T * n[n > 0]) @ score
    for channel, terms in likelihood.terms.items():
        found[channel] = np.zeros((len(theta),) * 2)
        for term in terms:
            cell, nuisances = term.cell, list(term.cell.nuisances)
            cells = model.rates.cells(channel, cell.bin)
            nu = rates.nu[cells]
            jacobian = expansion.pull_gradient(
                np.concatenate([rates.jacobian[cells], np.eye(len(expansion.values))[nuisances]])
            )
            inner = np.zeros((len(jacobian),) * 2)
            for events, t, slopes in cell.evaluate(term.events, expansion.values):
                h = np.concatenate([t, np.zeros((len(nuisances), t.shape[1]))])
                for y, sample, slope in zip(nu, cell.samples, slopes, strict=True):
                    if sample.par:
                        h[len(t) + np.searchsorted(nuisances, sample.par)] += y * slope
                h /= nu @ t
                inner += (h * term.weights[events]) @ h.T
            found[channel] += jacobian.T @ inner @ jacobian
    return found


def _own(model: Any) -> Any:
    if not hasattr(model, "constraints") or not hasattr(model, "rates"):
        raise InvalidModel(
            f"a {type(model).__name__} does not say what its auxiliary measurements are: use a nuratio.Model, or the "
            "methods that need none ('refit' of a ranking, 'freeze' of a breakdown)"
        )
    return model
