"""Exact derivatives for `pyhf.infer`.

`pyhf.infer` runs on a nuratio model with any of pyhf's optimizers, which differentiate numerically. Inside
``with exact_derivatives():`` it minimises nuratio models as `nuratio.fit` does, and pyhf models as pyhf's minuit
optimizer does; ``pyhf.set_backend("numpy", Optimizer())`` does so for good. Where nuratio has the function itself
(`nuratio.hypotest`, `nuratio.upper_limit`), that one is faster: it starts each fit from the ones before.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyhf
from pyhf.exceptions import FailedMinimization, Unsupported
from pyhf.infer.mle import twice_nll
from pyhf.optimize.opt_minuit import minuit_optimizer
from scipy.optimize import OptimizeResult

from nuratio.infer.fitting.fit import Fitter
from nuratio.infer.fitting.migrad import minuit
from nuratio.infer.fitting.minimize import MAX_CALLS
from nuratio.infer.fitting.objective import Evaluations
from nuratio.infer.results import FitResult

__all__ = ["Optimizer", "exact_derivatives"]


@contextmanager
def exact_derivatives(**options: Any) -> Iterator["Optimizer"]:
    """Use pyhf's numpy backend with an `Optimizer` of these options, and what was in use before afterwards."""
    before = pyhf.get_backend()
    optimizer = Optimizer(**options)
    pyhf.set_backend("numpy", optimizer)
    try:
        yield optimizer
    finally:
        pyhf.set_backend(*before)


class Optimizer(minuit_optimizer):  # type: ignore[misc]
    """pyhf's minuit optimizer, with nuratio's minimisation for nuratio's models.

    Parameters
    ----------
    **options
        Those of `pyhf.optimize.minuit_optimizer`. For a nuratio model ``maxiter`` limits the calls of the likelihood,
        and the others are those of the `iminuit.Minuit` that comes with a result.
    """

    __slots__ = ()

    def minimize(
        self,
        objective: Callable[..., Any],
        data: Any,
        pdf: Any,
        init_pars: Sequence[float],
        par_bounds: Sequence[tuple[float, float]],
        fixed_vals: Sequence[tuple[int, float]] | None = None,
        return_fitted_val: bool = False,
        return_result_obj: bool = False,
        return_uncertainties: bool = False,
        return_correlations: bool = False,
        do_grad: bool | None = None,
        do_stitch: bool = False,
        **options: Any,
    ) -> Any:
        """Minimise the objective; arguments and returned values are pyhf's.

        For a nuratio model uncertainties and correlations come from the exact Hessian, and ``do_grad`` and
        ``do_stitch`` change nothing. The result object's ``minuit`` stands at the minimum, after HESSE.

        Raises
        ------
        pyhf.exceptions.FailedMinimization
            The fit is not valid; the message is that of `FitResult`.
        pyhf.exceptions.Unsupported
            An option that pyhf's minuit optimizer does not have.
        InvalidModel
            A parameter fixed outside its bounds.
        """
        if objective is not twice_nll or not hasattr(pdf, "likelihood"):
            return super().minimize(
                objective,
                data,
                pdf,
                init_pars,
                par_bounds,
                fixed_vals,
                return_fitted_val=return_fitted_val,
                return_result_obj=return_result_obj,
                return_uncertainties=return_uncertainties,
                return_correlations=return_correlations,
                do_grad=do_grad,
                do_stitch=do_stitch,
                **options,
            )
        settings = {name: options.pop(name, None) for name in ("maxiter", "strategy", "tolerance")}
        if options:
            raise Unsupported(f"Unsupported options were passed in: {list(options)}.")
        settings = {name: getattr(self, name) if value is None else value for name, value in settings.items()}
        settings["maxiter"] = MAX_CALLS if settings["maxiter"] is None else settings["maxiter"]
        names = pdf.config.par_names
        bounds = dict(zip(names, par_bounds, strict=True))
        fitter = Fitter(pdf, data, bounds=bounds, max_calls=settings["maxiter"])
        fitter.fixed = np.zeros(len(names), dtype=bool)  # what is fixed is the caller's choice
        fixed = {names[k]: float(value) for k, value in fixed_vals or ()}
        start = {name: float(v) for name, v in zip(names, init_pars, strict=True) if name not in fixed}
        fit = fitter.result(
            fitter.minimum(fixed=fixed, init=start),
            fixed=fixed,
            hesse=return_uncertainties or return_correlations or return_result_obj,
        )
        result = _optimize_result(fit)
        if not fit.valid:
            raise FailedMinimization(result)
        if return_uncertainties:
            result.x = pyhf.tensorlib.stack([result.x, result.unc], axis=1)
        if return_result_obj:
            result.minuit = self._minuit(fitter, fit, settings["strategy"], settings["tolerance"])
        returned = [result.x]
        returned += [result.corr] if return_correlations else []
        returned += [result.fun] if return_fitted_val else []
        returned += [result] if return_result_obj else []
        return tuple(returned) if len(returned) > 1 else result.x

    def _minuit(self, fitter: Fitter, fit: FitResult, strategy: int | None, tolerance: float | None) -> Any:
        """An `iminuit.Minuit` at the minimum, ready for MINOS and contours."""
        lower, upper = np.array(fitter.bounds).T
        m = minuit(
            Evaluations(fitter.likelihood, sys.maxsize),  # MINUIT has limits of its own
            fit.bestfit,
            np.array(fit.fixed),
            names=fit.names,
            limits=(lower, upper),
            errors=np.where(fit.uncertainty > 0, fit.uncertainty, 0.1),
        )
        m.errordef, m.tol, m.print_level = self.errordef, tolerance, self.verbose
        if strategy is not None:
            m.strategy = strategy
        if m.nfit:
            m.hesse()
        return m


def _optimize_result(fit: FitResult) -> OptimizeResult:
    """A fit as pyhf's optimizers report it."""
    tensor = pyhf.tensorlib.astensor
    return OptimizeResult(
        x=tensor(fit.bestfit),
        unc=tensor(fit.uncertainty),
        corr=tensor(fit.correlation),
        success=fit.valid,
        fun=tensor(fit.twice_nll),
        hess_inv=fit.covariance,
        message=fit.message or "Optimization terminated successfully.",
        nfev=fit.calls["value"] + fit.calls["gradient"] + fit.calls["hessian"],
        njev=fit.calls["gradient"] + fit.calls["hessian"],
    )
