"""Toys that were made: estimates and test statistics, and shares counted in them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidData, InvalidModel, did_you_mean
from nuratio.infer.results import _array, _number, _Result
from nuratio.infer.toys.file import ToyFile
from nuratio.infer.toys.plan import ToyPlan, require_same

__all__ = ["ToyResult", "proportion", "share_reaching"]

Floats = NDArray[np.float64]

_FAILED = 0.01  # share of failed fits above which results are not valid


@dataclass(frozen=True, eq=False)
class ToyResult(_Result):
    """Toys of one hypothesis, in the order of their numbers.

    Attributes
    ----------
    poi : str
    names : tuple of str, length P
    pars : ndarray, shape (P,)
        Where the toys were drawn.
    seed : tuple of int
    tests : tuple of (str, float)
        Test statistics and the POI values they are for.
    number : ndarray of int, shape (n,)
        Which toys these are.
    bestfit, uncertainty : ndarray, shape (n, P)
        Of the free fits; NaN where one failed.
    twice_nll : ndarray, shape (n,)
    statistics : ndarray, shape (n, tests)
        NaN where a fit failed.
    truth : ndarray, shape (n, P)
        Parameters of each toy: ``pars``, but for sampled nuisances.
    failures : dict
        Number of a toy, as text -> what went wrong.
    plan : dict
        All that defines the toys.
    """

    kind: ClassVar[str] = "toys"

    poi: str
    names: tuple[str, ...]
    pars: Floats
    seed: tuple[int, ...]
    tests: tuple[tuple[str, float], ...]
    number: NDArray[np.int64]
    bestfit: Floats
    uncertainty: Floats
    twice_nll: Floats
    statistics: Floats
    truth: Floats
    failures: dict[str, str]
    plan: dict[str, Any]

    def __len__(self) -> int:
        return len(self.number)

    @property
    def good(self) -> NDArray[np.bool_]:
        """Toys whose fits are all valid, shape (n,)."""
        return np.array([str(i) not in self.failures for i in self.number.tolist()], dtype=np.bool_)

    @property
    def valid(self) -> bool:
        """No more than one in a hundred failed."""
        return len(self.failures) <= _FAILED * len(self)

    @property
    def message(self) -> str:
        """How many failed, and why the first one did."""
        if not self.failures:
            return ""
        first = min(self.failures, key=int)
        return f"{len(self.failures)} of {len(self)} toys failed, the first: toy {first}: {self.failures[first]}"

    def estimates(self, name: str) -> tuple[Floats, Floats]:
        """Best-fit values and uncertainties of one parameter in the toys that did not fail."""
        if name not in self.names:
            raise InvalidModel(f"no parameter {name!r} in these toys; {did_you_mean(name, self.names, 'parameters')}")
        k = self.names.index(name)
        return self.bestfit[self.good, k], self.uncertainty[self.good, k]

    def statistic(self, test_stat: str, value: float) -> Floats:
        """One test statistic of the toys that did not fail.

        Raises
        ------
        InvalidModel
            It was not asked for.
        """
        if (test_stat, float(value)) not in self.tests:
            asked = ", ".join(f"{name} at {at:g}" for name, at in self.tests) or "none"
            raise InvalidModel(f"these toys have no statistic {test_stat!r} at {value:g}; asked for were: {asked}")
        return np.asarray(self.statistics[self.good, self.tests.index((test_stat, float(value)))])

    def p_value(self, test_stat: str, value: float, observed: float) -> tuple[float, float]:
        """Share of toys with a statistic at least as large as the observed one, and its error (`proportion`)."""
        return share_reaching(self.statistic(test_stat, value), observed)

    @classmethod
    def from_records(cls, plan: ToyPlan, records: Mapping[int, Mapping[str, Any]]) -> Self:
        """Of what a file holds."""
        numbers = sorted(records)
        rows = [records[i] for i in numbers]
        p, m = len(plan.names), len(plan.tests)

        def matrix(key: str, width: int) -> Floats:
            return np.array([_array(row[key]) for row in rows], dtype=np.float64).reshape(len(rows), width)

        return cls(
            poi=plan.poi,
            names=plan.names,
            pars=np.array(plan.pars),
            seed=plan.seed,
            tests=plan.tests,
            number=np.array(numbers, dtype=np.int64),
            bestfit=matrix("bestfit", p),
            uncertainty=matrix("uncertainty", p),
            twice_nll=np.array([_number(row["twice_nll"]) for row in rows]),
            statistics=matrix("statistics", m),
            truth=np.array([plan.pars if row["truth"] is None else row["truth"] for row in rows]).reshape(-1, p),
            failures={str(i): row["message"] for i, row in zip(numbers, rows, strict=True) if row["message"]},
            plan=plan.to_dict(),
        )

    @classmethod
    def load(cls, *paths: str | Path) -> Self:
        """Toys from files, which may be parts of one run made in different places; whole or in the middle.

        Raises
        ------
        InvalidData
            Not files of toys, or of different plans.
        """
        if not paths:
            raise InvalidData("no file of toys was given")
        files = [ToyFile.read(path) for path in paths]
        for path, (plan, _) in zip(paths[1:], files[1:], strict=True):
            require_same(plan, files[0][0], f"{path} and {paths[0]}")
        records = {i: record for _, found in files for i, record in found.items()}
        return cls.from_records(ToyPlan.from_dict(files[0][0]), records)

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        p, m = len(values["names"]), len(values["tests"])
        for key, width in (("bestfit", p), ("uncertainty", p), ("truth", p), ("statistics", m)):
            values[key] = np.array([_array(row) for row in values[key]], dtype=np.float64).reshape(-1, width)
        values["pars"], values["twice_nll"] = _array(values["pars"]), _array(values["twice_nll"])
        values["number"] = np.array(values["number"], dtype=np.int64)
        values["tests"] = tuple((str(name), float(at)) for name, at in values["tests"])
        values["names"], values["seed"] = tuple(values["names"]), tuple(values["seed"])
        return values


def proportion(k: int, n: int) -> tuple[float, float]:
    """k / n and its binomial standard error, which is that at (k + 1) / (n + 2): never zero for k = 0 or n.

    Raises
    ------
    InvalidModel
        n = 0.
    """
    if n == 0:
        raise InvalidModel("no toy is left to count: all fits failed, or none was asked for")
    p = (k + 1) / (n + 2)
    return k / n, float(np.sqrt(p * (1 - p) / n))


def share_reaching(q: Floats, observed: float) -> tuple[float, float]:
    """Share of toys with a statistic at least as large as the observed one, and its error (`proportion`)."""
    return proportion(int(np.count_nonzero(q >= observed)), len(q))
