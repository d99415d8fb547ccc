"""Every error and warning nuratio raises on purpose.

Each message names the object, the offending value, the limit it broke and the remedy. Catch `NuratioError` to catch
them all; the command line turns it into one line and a non-zero exit.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "AsymptoticsWarning",
    "BiasedMethodWarning",
    "CompilationWarning",
    "FitFailed",
    "InvalidConfig",
    "InvalidData",
    "InvalidModel",
    "InvalidWorkspace",
    "LeakageWarning",
    "MissingExtra",
    "NonPositiveDensity",
    "NormalisationWarning",
    "NuratioError",
    "NuratioWarning",
    "PoleTooNear",
    "PoolDensityWarning",
    "StatisticsWarning",
    "UnknownName",
    "UnusedWarning",
    "WorkersDied",
    "did_you_mean",
]


class NuratioError(Exception):
    """Base class of all errors nuratio raises on purpose."""


class InvalidData(NuratioError, ValueError):
    """Input events that cannot be used: a missing file, tree or branch, NaN, no events, zero total weight."""


class InvalidConfig(NuratioError, ValueError):
    """A configuration file that does not describe an analysis."""


class InvalidWorkspace(NuratioError, ValueError):
    """A workspace whose parts do not fit together; the message lists every problem found."""


class InvalidModel(NuratioError, ValueError):
    """A model that cannot be built or asked for in this way."""


class UnknownName(NuratioError, KeyError):
    """A name that does not exist; the message lists the close ones."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class NonPositiveDensity(NuratioError, ArithmeticError):
    """The total density (or a bin's expectation) is not positive where an event was observed."""


class FitFailed(NuratioError, RuntimeError):
    """A fit that did not converge where a valid one is needed; the message holds the minimiser's summary."""


class PoleTooNear(FitFailed):
    """A signed ratio reaches below the pole of PARE, where the risk has no minimum."""

    def __init__(self, message: str, eigenvalue: float) -> None:
        super().__init__(message)
        self.eigenvalue = eigenvalue


class MissingExtra(NuratioError, ImportError):
    """An optional package is not installed; the message says which extra installs it."""


class WorkersDied(NuratioError, RuntimeError):
    """Processes that did the work ended before it was done, more often than is tried again."""


class NuratioWarning(UserWarning):
    """Base class of all warnings nuratio issues."""


class AsymptoticsWarning(NuratioWarning):
    """Asymptotic formulas are used where they may not hold; the message names the reason and what to do instead."""


class StatisticsWarning(NuratioWarning):
    """Too few effective simulated events for a trustworthy ratio."""


class BiasedMethodWarning(NuratioWarning):
    """A method of training that is kept for comparison: what it learns is not the ratio."""


class UnusedWarning(NuratioWarning):
    """Something in a workspace that has no effect on any number: left over, or misspelt."""


class LeakageWarning(NuratioWarning):
    """The same generated event may sit in training and test at once."""


class NormalisationWarning(NuratioWarning):
    """A normalisation that is off by more than its statistical error allows."""


class CompilationWarning(NuratioWarning):
    """Compiled code cannot be kept on disk."""


class PoolDensityWarning(NuratioWarning):
    """The total density is not positive at some simulated pool events."""


def did_you_mean(name: str, known: Iterable[str], kind: str = "known names") -> str:
    """End an error message about an unknown ``name``: its close matches, or all ``known`` names if none is close."""
    names = sorted(known) if isinstance(known, set | frozenset) else list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    if not names:
        return f"there are no {kind}"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"{kind}: {shown}"
