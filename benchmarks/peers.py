"""The likelihood of a `Problem` as users of other tools would write it: vectorised, sensible settings, no tricks.

Each is a function of the problem that returns a fit: a call without arguments that minimises with MIGRAD at its
default strategy, runs HESSE, and gives best fit and covariance in the order of ``problem.parameters``. Data are
converted, and graphs traced where a tool does so, before that call.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from iminuit import Minuit
from iminuit.cost import ExtendedUnbinnedNLL, NormalConstraint
from numpy.typing import NDArray
from problem import Problem

__all__ = ["columns", "has_cuda", "has_zfit", "iminuit_cost", "migrad", "numpy_fit", "start", "torch_fit", "zfit_fit"]

Floats = NDArray[np.float64]
Fit = tuple[Floats, Floats]  # best fit (P,), covariance (P, P)


def columns(problem: Problem) -> Floats:
    """The observed events, float64, shape (C (1 + 2K), N)."""
    return np.ascontiguousarray(problem.workspace.tables["observed"].values, dtype=np.float64)


def start(problem: Problem) -> Floats:
    """mu = 1, alpha = 0: where every fit begins."""
    return np.array([1.0] + [0.0] * problem.size.nuisances)


def migrad(minuit: Minuit, *, strategy: int = 1, hesse: bool = True) -> Fit:
    """MIGRAD, then HESSE."""
    minuit.strategy = strategy
    minuit.migrad(ncall=10**6)
    if hesse:
        minuit.hesse()
    return np.array(minuit.values), np.array(minuit.covariance)


# --- iminuit's cost function, numpy


def iminuit_cost(problem: Problem) -> Any:
    """`iminuit.cost.ExtendedUnbinnedNLL` of a numpy model, plus the constraints.

    The model gives the logarithm itself: numpy's is several times faster than the one iminuit would take.
    """

    def log_scaled_pdf(x: Floats, *parameters: float) -> tuple[float, Floats]:
        theta = np.array(parameters)
        phi = np.concatenate([theta[1:], theta[1:] ** 2])
        nu, ln_z = problem.rates(theta), problem.ln_z(theta)
        density = np.zeros(x.shape[1])
        for n, z, sample in zip(nu, ln_z, x.reshape(len(nu), -1, x.shape[1]), strict=True):
            density += n * sample[0] * np.exp(phi @ sample[1:] - z)
        return float(nu.sum()), np.log(density)

    alphas = problem.parameters[1:]
    constraint = NormalConstraint(alphas, np.zeros(len(alphas)), np.ones(len(alphas)))
    return ExtendedUnbinnedNLL(columns(problem), log_scaled_pdf, log=True, name=problem.parameters) + constraint


def numpy_fit(problem: Problem) -> Callable[[], Fit]:
    """MIGRAD with numerical derivatives on the numpy cost function."""
    cost = iminuit_cost(problem)
    return lambda: migrad(Minuit(cost, *start(problem)))


# --- torch


def has_cuda() -> bool:
    """Whether torch finds a GPU."""
    import torch

    return torch.cuda.is_available()


def torch_fit(problem: Problem, device: str = "cpu") -> Callable[[], Fit]:
    """MIGRAD with torch's gradient of an eager float64 likelihood; value and gradient of a point share one evaluation.

    The shape columns of all samples form one matrix, so that the exponents, and their gradient, are one product each.
    """
    import torch

    def tensor(array: Any) -> Any:
        return torch.tensor(np.asarray(array), dtype=torch.float64, device=device)

    table = columns(problem).reshape(problem.size.samples, -1, problem.size.events)
    ratio = tensor(table[:, 0])
    shape = tensor(table[:, 1:].transpose(1, 0, 2).reshape(table.shape[1] - 1, -1))
    yields, slope = tensor(problem.yields), tensor(problem.slope)
    mean, covariance = tensor(problem.mean), tensor(problem.covariance)
    signal = tensor(np.arange(len(yields)) == 0)
    last: dict[bytes, tuple[float, Floats]] = {}

    def evaluate(theta: Floats) -> tuple[float, Floats]:
        key = theta.tobytes()
        if key not in last:
            t = tensor(theta).requires_grad_()
            phi = torch.cat([t[1:], t[1:] ** 2])
            nu = (1 + signal * (t[0] - 1)) * yields * torch.exp(slope @ t[1:])
            ln_z = mean @ phi + covariance @ phi @ phi / 2
            factor = torch.exp((phi @ shape).reshape(ratio.shape) - ln_z[:, None])
            density = (nu[:, None] * ratio * factor).sum(0)
            twice_nll = 2 * (nu.sum() - density.log().sum()) + (t[1:] ** 2).sum()
            twice_nll.backward()
            last.clear()
            last[key] = twice_nll.item(), t.grad.cpu().numpy()
        return last[key]

    def fit() -> Fit:
        minuit = Minuit(lambda theta: evaluate(theta)[0], start(problem), grad=lambda theta: evaluate(theta)[1])
        minuit.errordef = Minuit.LEAST_SQUARES
        return migrad(minuit)

    return fit


# --- zfit


def has_zfit() -> bool:
    """Whether zfit is installed."""
    return find_spec("zfit") is not None


def zfit_fit(problem: Problem) -> Callable[[], Fit]:
    """MIGRAD with zfit's gradient of its `ExtendedUnbinnedNLL`, one custom density over the event number.

    The columns are TensorFlow variables: constants would be folded into the graph.
    """
    import tensorflow as tf
    import zfit

    table = columns(problem).reshape(problem.size.samples, -1, problem.size.events)
    ratio = tf.Variable(table[:, 0], trainable=False)
    shape = tf.Variable(table[:, 1:].transpose(1, 0, 2).reshape(table.shape[1] - 1, -1), trainable=False)
    yields, slope, mean, covariance = problem.yields, problem.slope, problem.mean, problem.covariance
    signal = np.where(np.arange(len(yields)) == 0, 1.0, 0.0)

    def rates(theta: Any) -> Any:
        return (1 + signal * (theta[0] - 1)) * yields * tf.exp(tf.linalg.matvec(slope, theta[1:]))

    def stacked(params: Any) -> Any:
        return tf.stack([tf.convert_to_tensor(params[name], tf.float64) for name in problem.parameters])

    class Density(zfit.pdf.BasePDF):
        @zfit.supports(norm=True)
        def _pdf(self, x: Any, norm: Any, params: Any) -> Any:
            theta = stacked(params)
            phi = tf.concat([theta[1:], theta[1:] ** 2], 0)
            nu = rates(theta)
            ln_z = tf.linalg.matvec(mean + tf.linalg.matvec(covariance, phi) / 2, phi)
            factor = tf.exp(tf.reshape(tf.linalg.matvec(shape, phi, transpose_a=True), ratio.shape) - ln_z[:, None])
            return tf.reduce_sum(nu[:, None] * ratio * factor, 0) / tf.reduce_sum(nu)

    parameters = {
        name: zfit.Parameter(f"{name}_{id(shape)}", value, stepsize=0.1)
        for name, value in zip(problem.parameters, start(problem), strict=True)
    }
    total = zfit.ComposedParameter(
        f"total_{id(shape)}", lambda params: tf.reduce_sum(rates(stacked(params))), params=parameters
    )
    number = zfit.Space("event", -0.5, problem.size.events - 0.5)
    density = Density(obs=number, params=parameters, extended=total)
    data = zfit.Data(np.arange(problem.size.events, dtype=float), obs=number)
    alphas = list(parameters.values())[1:]
    constraint = zfit.constraint.GaussianConstraint(alphas, [0.0] * len(alphas), sigma=[1.0] * len(alphas))
    loss = zfit.loss.ExtendedUnbinnedNLL(density, data, constraints=constraint)
    minimizer = zfit.minimize.Minuit(mode=1, gradient="zfit")

    def fit() -> Fit:
        zfit.param.set_values(list(parameters.values()), start(problem))
        result = minimizer.minimize(loss)
        result.hesse(method="minuit_hesse")
        values = np.array([result.params[p]["value"] for p in parameters.values()])
        return values, np.array(result.covariance(list(parameters.values()), method="minuit_hesse"))

    return fit
