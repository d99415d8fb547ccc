"""The statistical model: unbinned channels composed on a companion `pyhf.Model`.

Use `Model` as a pyhf model (``config``, ``logpdf``, ``expected_data``, ``make_pdf(pars).sample``): all of `pyhf.infer`
runs on it unchanged. Beyond pyhf it gives ``twice_nll``, ``gradient`` and ``hessian``, all exact.

The data vector is flat, as in pyhf: [counts of binned channels and event weights of unbinned ones, in channel order |
auxiliary data]. An unbinned channel's events are the observed ones, then the pool: observed data have weight 1 and 0,
Asimov data 0 and calibrated importance weights, toys 0 and Poisson counts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np
import pyhf
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel, NonPositiveDensity
from nuratio.model.asimov import expected_main
from nuratio.model.constraints import Constraints
from nuratio.model.histfactory import HistFactory
from nuratio.model.likelihood import Likelihood
from nuratio.model.parameters import NO_SATURATED_MODEL, Config, Parameters
from nuratio.model.passes import IN_PROCESS, Passes
from nuratio.model.unbinned import UnbinnedChannel

__all__ = ["Model", "ToyPdf"]

Floats = NDArray[np.float64]
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _pyhfs_where_plain(method: _Method) -> _Method:
    """Of a model with nothing but pyhf's own, pyhf's method: bit for bit, on any of its backends."""

    @wraps(method)
    def chosen(self: "Model", *args: Any, **kwargs: Any) -> Any:
        return (getattr(self.pyhf_model, method.__name__) if self._plain else method.__get__(self))(*args, **kwargs)

    return cast(_Method, chosen)


class Model:
    """A likelihood of binned and unbinned channels.

    Parameters
    ----------
    companion : pyhf.Model
        Rates, parameters and constraints: every channel, the unbinned ones with one bin or a few coarse ones.
    unbinned : sequence of UnbinnedChannel
        Each named like a companion channel, with a cell for each of its bins and the same samples.
    parameters : sequence of dict
        ``unbinned.parameters`` of a workspace: normfactors given by an expression, and free parameters they need.
    poi : str or None
        Parameter of interest; None for background only.

    Raises
    ------
    InvalidModel
        A channel that does not fit its companion.
    NonPositiveDensity
        The total density at the suggested parameters is not positive at an observed event.
    """

    def __init__(
        self,
        companion: Any,
        unbinned: Sequence[UnbinnedChannel] = (),
        parameters: Sequence[Mapping[str, Any]] = (),
        *,
        poi: str | None = None,
    ) -> None:
        self.pyhf_model = companion
        self.unbinned = {c.name: c for c in unbinned}
        self.parameters = Parameters.build(companion.config, parameters)
        self.rates = HistFactory.compile(companion)
        self.constraints = Constraints.compile(companion.config)
        for name, channel in self.unbinned.items():
            if name not in self.rates.channels:
                raise InvalidModel(f"unbinned channel {name!r} has no companion channel of that name")
            _, samples, bins = self.rates.channels[name]
            if [cell.bin for cell in channel.cells] != list(range(bins)):
                raise InvalidModel(
                    f"unbinned channel {name!r} has {len(channel.cells)} cells, its companion {bins} bins"
                )
            if samples != channel.samples:
                raise InvalidModel(
                    f"unbinned channel {name!r} has samples {list(channel.samples)}, its companion {list(samples)}"
                )
        events = {name: len(channel) for name, channel in self.unbinned.items()}
        self.config = Config(companion.config, self.parameters, parameters, events, poi)
        self.passes: Passes = IN_PROCESS
        self._last: tuple[Floats, Likelihood] | None = None
        self._last_toys: tuple[Floats, ToyPdf] | None = None
        self._check_nominal()

    def _check_nominal(self) -> None:
        for name, channel in self.unbinned.items():
            weights = np.zeros(len(channel))
            weights[: len(channel.observed)] = 1.0
            Likelihood(self, {}, {name: channel.terms(weights)}, np.array(self.config.auxdata)).require_positive(
                np.array(self.config.suggested_init())
            )

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_last": None, "_last_toys": None}

    @classmethod
    def from_pyhf(cls, companion: Any) -> "Model":
        """A binned pyhf model with nuratio's exact derivatives, for nuratio's inference functions."""
        return cls(companion, poi=companion.config.poi_name)

    @property
    def spec(self) -> Any:
        """The companion's specification (pyhf JSON)."""
        return self.pyhf_model.spec

    def __repr__(self) -> str:
        channels = [f"{c} (unbinned)" if c in self.unbinned else c for c in self.config.channels]
        return f"Model({', '.join(channels)}; {self.config.npars} parameters, POI {self.config.poi_name})"

    @property
    def _plain(self) -> bool:
        """Nothing but pyhf's own."""
        return not self.unbinned and not self.parameters.expressions

    def __getattr__(self, name: str) -> Any:
        """What else a pyhf model has, of a model with nothing but pyhf's own."""
        if name.startswith("__") or "config" not in vars(self):
            raise AttributeError(name)
        if self._plain:
            return getattr(self.pyhf_model, name)
        raise AttributeError(f"a model with unbinned channels or expressions has no {name!r}")

    # --- the likelihood

    def likelihood(self, data: ArrayLike) -> Likelihood:
        """-2 ln L on this data vector, ready for many calls.

        Raises
        ------
        InvalidModel
            A data vector of the wrong length, with NaN, or with negative entries.
        """
        d = np.asarray(data, dtype=np.float64)
        if d.shape != (self.config.nmaindata + self.config.nauxdata,):
            raise _WrongData(
                f"the data vector must have {self.config.nmaindata} main and {self.config.nauxdata} auxiliary entries, "
                f"got shape {d.shape}"
            )
        last = self._last  # read once: another thread may put another one there
        if last is not None and np.array_equal(last[0], d):
            return last[1]
        for clip in ("clip_sample_data", "clip_bin_data"):
            if getattr(self.pyhf_model.main_model, clip) is not None:
                raise InvalidModel(
                    f"pyhf clips the rates of this model ({clip}), nuratio clips none: make it without; "
                    "pyhf.infer runs on it as it is"
                )
        main, aux = d[: self.config.nmaindata], d[self.config.nmaindata :]
        wrong = np.flatnonzero(~(main >= 0))
        if wrong.size or not np.all(np.isfinite(aux)):
            raise InvalidModel(f"data must be finite and not negative; first wrong entry: {[*wrong, 'auxiliary'][0]}")
        counts = {c: main[s] for c, s in self.config.channel_slices.items() if c not in self.unbinned}
        weights = {c: main[self.config.channel_slices[c]] for c in self.unbinned}
        terms = {c: u.terms(weights[c]) for c, u in self.unbinned.items()}
        compiled = Likelihood(self, counts, terms, aux, sums=self.passes.sums(weights))
        self._last = (d.copy(), compiled)
        return compiled

    def twice_nll(self, pars: ArrayLike, data: ArrayLike) -> float:
        """-2 ln L at ``pars`` (shape (P,)).

        Raises
        ------
        NonPositiveDensity
            The total density is not positive at an event or in a bin.
        """
        theta = self._pars(pars)
        return self.likelihood(data).positive_value(theta)

    def gradient(self, pars: ArrayLike, data: ArrayLike) -> Floats:
        """d(-2 ln L) / d pars, shape (P,)."""
        return self.likelihood(data).gradient(self._pars(pars))

    def hessian(self, pars: ArrayLike, data: ArrayLike) -> Floats:
        """Second derivatives of -2 ln L, shape (P, P); twice its inverse is the covariance."""
        return self.likelihood(data).hessian(self._pars(pars))

    @_pyhfs_where_plain
    def logpdf(self, pars: ArrayLike, data: ArrayLike) -> Floats:
        """ln L, shape (1,), as pyhf's; NaN where the total density is not positive, as pyhf's bins are."""
        self._require_numpy()
        theta = self._pars(pars)
        try:
            return np.array([-self.likelihood(data).positive_value(theta) / 2])
        except NonPositiveDensity:
            return np.array([np.nan])

    @_pyhfs_where_plain
    def pdf(self, pars: ArrayLike, data: ArrayLike) -> Floats:
        """L, shape (1,)."""
        return np.exp(self.logpdf(pars, data))

    # --- expected data and toys

    def expected_auxdata(self, pars: ArrayLike) -> Floats:
        """Expected auxiliary data; none of a model without constraints, where pyhf raises IndexError."""
        if self._plain and self.config.nauxdata:
            return cast(Floats, self.pyhf_model.expected_auxdata(pars))
        return self.constraints.expected(self.parameters.values(self._pars(pars)))

    @_pyhfs_where_plain
    def expected_actualdata(self, pars: ArrayLike) -> Floats:
        """Expected main data: bin contents, and calibrated Asimov weights of the events."""
        return expected_main(self, self.unbinned, self.parameters.values(self._pars(pars)))

    @_pyhfs_where_plain
    def expected_data(self, pars: ArrayLike, include_auxdata: bool = True) -> Floats:
        """Asimov data at ``pars``: the flat vector whose best fit is ``pars``."""
        main = self.expected_actualdata(pars)
        return np.concatenate([main, self.expected_auxdata(pars)]) if include_auxdata else main

    def asimov(self, pars: ArrayLike) -> Floats:
        """The same as ``expected_data(pars)``."""
        return self.expected_data(pars)

    def sample(self, pars: ArrayLike, rng: np.random.Generator) -> Floats:
        """One toy: Poisson counts in the bins and at the pool events, and fluctuated auxiliary data.

        What is expected at these parameters is remembered for the next toy.
        """
        theta, last = self._pars(pars), self._last_toys
        if last is None or not np.array_equal(last[0], theta):
            last = self._last_toys = theta.copy(), ToyPdf(self, theta)
        return last[1].draw(rng)

    @_pyhfs_where_plain
    def make_pdf(self, pars: ArrayLike) -> Any:
        """pyhf's protocol: an object whose ``sample((n,))`` gives toys."""
        return ToyPdf(self, self._pars(pars))

    # --- more of pyhf's protocol, as far as bins go

    @property
    def main_model(self) -> Any:
        """pyhf's rates of all bins.

        Raises
        ------
        InvalidModel
            There are unbinned channels, or parameters given by an expression.
        """
        if not self._plain:
            raise InvalidModel(
                "unbinned channels have no bins, and pyhf knows no expressions: for yields and plots use "
                "nuratio.interop.cabinetry.projected(model, {'channel': ('feature', bins)})"
            )
        return self.pyhf_model.main_model

    @property
    def fullpdf_tv(self) -> Any:
        """pyhf's split of a data vector.

        Raises
        ------
        InvalidModel
            There are unbinned channels: it is asked for to compare with a saturated model.
        """
        if self.unbinned:
            raise InvalidModel(NO_SATURATED_MODEL)
        return self.pyhf_model.fullpdf_tv

    @property
    def constraint_model(self) -> Any:
        """pyhf's constraint terms."""
        return self.pyhf_model.constraint_model

    def constraint_logpdf(self, auxdata: ArrayLike, pars: ArrayLike) -> Any:
        """Logarithm of pyhf's constraint terms."""
        full = pars if self._plain else self.parameters.values(self._pars(pars))
        return self.pyhf_model.constraint_logpdf(auxdata, full)

    def constraint_widths(self, aux: Floats) -> tuple[Floats, Floats]:
        """Where auxiliary data put each parameter, and the width: two arrays (P,), NaN for free parameters."""
        center, width = self.constraints.centers(aux, self.rates.n_parameters)
        return self.parameters.select(center), self.parameters.select(width)

    # --- checks

    def _pars(self, pars: ArrayLike) -> Floats:
        theta = np.asarray(pars, dtype=np.float64)
        if theta.shape != (self.config.npars,):
            raise _WrongParameters(
                f"{self.config.npars} parameters expected {self.config.par_names}, got {theta.shape}"
            )
        return theta

    @staticmethod
    def _require_numpy() -> None:
        backend = pyhf.tensorlib.name
        if backend != "numpy":
            raise InvalidModel(
                f"unbinned channels need pyhf's numpy backend, not {backend!r}: pyhf.set_backend('numpy')"
            )


class _WrongParameters(InvalidModel, pyhf.exceptions.InvalidPdfParameters):  # type: ignore[misc]
    """Not as many parameters as the model has."""


class _WrongData(InvalidModel, pyhf.exceptions.InvalidPdfData):  # type: ignore[misc]
    """Not as many data as the model has."""


class ToyPdf:
    """What ``pyhf.Model.make_pdf`` returns, as far as toys need it.

    Main data are drawn about those expected at ``theta``, or about others if they are given.
    """

    def __init__(self, model: Model, theta: Floats, expected: Floats | None = None) -> None:
        self._expected = model.expected_actualdata(theta) if expected is None else expected
        self._constraints, self._full = model.constraints, model.parameters.values(theta)

    def sample(self, shape: tuple[int, ...] = ()) -> Any:
        """One toy, or a lazy sequence of ``shape[0]`` toys, from numpy's global stream as pyhf draws them."""
        rng = np.random.Generator(np.random.get_bit_generator())  # type: ignore[attr-defined]
        return _Toys(self, rng, shape[0]) if shape else self.draw(rng)

    def draw(self, rng: np.random.Generator) -> Floats:
        """One toy."""
        main = rng.poisson(self._expected).astype(np.float64)
        return np.concatenate([main, self._constraints.sample(self._full, rng)])


class _Toys(Sequence[Floats]):
    """A lazy sequence of toys: thousands of pool-sized vectors never exist at once."""

    def __init__(self, pdf: ToyPdf, rng: np.random.Generator, n: int) -> None:
        self._pdf, self._rng, self._n = pdf, rng, n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Floats]:
        return (self._pdf.draw(self._rng) for _ in range(self._n))

    def __getitem__(self, index: Any) -> Any:
        raise InvalidModel("toys are drawn in order: iterate over them")
