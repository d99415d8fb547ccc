"""Training options: one frozen bag shared by every training, stored with what it trained."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any, Self

from nuratio.errors import InvalidConfig, did_you_mean

__all__ = ["TrainingOptions"]

_LEAST: dict[str, float] = {
    "epochs": 1,
    "batch_size": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "clip": 0,
    "patience": 1,
    "folds": 2,
    "ensemble": 1,
    "fold_seed": 0,
    "validation_fraction": 0,
}


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How networks are built, trained and cross-fitted.

    Parameters
    ----------
    hidden : tuple of int
        Widths of the hidden layers (SiLU activations).
    epochs : int
        Passes over the training events; the learning rate falls to zero over them along a cosine.
    batch_size : int
        Events per step; less for small samples, so that an epoch has at least 16 steps.
    learning_rate, weight_decay : float
        Of AdamW.
    clip : float or None
        Largest norm of the gradient of a network in a step: larger ones, of outlying weights, are scaled down to it.
    patience : int
        Stop when for so many epochs every network has been significantly worse on held-out events than at its best.
    folds : int
        K of the K-fold cross-fitting: networks evaluated on a simulated event never trained on it.
    ensemble : int
        Networks per fold; their outputs are averaged.
    validation_fraction : float
        Share of a network's training events (by id) that is held out for the early stopping; 1/n for a whole n >= 2.
    fold_seed : int
        Decides which ids share a fold. Estimators used together need the same ``folds`` and ``fold_seed``.
    bootstrap : bool
        Member j of every fold learns from the j-th bootstrap replica of the simulation (`nuratio.ratios.replicas`), so
        that the spread of the members is the statistical error of the training. Of density ratios alone.

    Raises
    ------
    InvalidConfig
        A value of the wrong type or out of range.
    """

    hidden: tuple[int, ...] = (64, 64, 64)
    epochs: int = 20
    batch_size: int = 1024
    learning_rate: float = 5e-3
    weight_decay: float = 1e-4
    clip: float | None = 5.0
    patience: int = 8
    folds: int = 3
    ensemble: int = 2
    validation_fraction: float = 0.1
    fold_seed: int = 0
    bootstrap: bool = False

    def __post_init__(self) -> None:
        hidden = tuple(self.hidden) if isinstance(self.hidden, list | tuple) else ()
        if not hidden or not all(_is(Integral, width) and width >= 1 for width in hidden):
            raise InvalidConfig(f"training option 'hidden' must be a list of positive widths, got {self.hidden!r}")
        object.__setattr__(self, "hidden", hidden)
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if name == "clip" and value is None:
                continue
            kind = Integral if isinstance(getattr(type(self), name), int) else Real  # as the default is
            if not _is(kind, value) or not least <= value < float("inf"):
                what = "a whole number" if kind is Integral else "a number"
                raise InvalidConfig(f"training option {name!r} must be {what} >= {least}, got {value!r}")
        if self.learning_rate == 0:
            raise InvalidConfig("training option 'learning_rate' is 0: nothing would be learned; try 5.0e-3")
        if self.clip == 0:
            raise InvalidConfig("training option 'clip' is 0: nothing would be learned; None does not clip")
        if not 0 < self.validation_fraction <= 0.5:
            raise InvalidConfig(
                f"training option 'validation_fraction' must be in (0, 0.5], got {self.validation_fraction}"
            )
        if not isinstance(self.bootstrap, bool):
            raise InvalidConfig(f"training option 'bootstrap' must be true or false, got {self.bootstrap!r}")
        if self.bootstrap and self.ensemble < 2:
            raise InvalidConfig(
                f"training option 'bootstrap' is about the spread of an ensemble, got ensemble {self.ensemble}; "
                "10 members tell a standard deviation to 24%, 20 to 16%"
            )

    def without_bootstrap(self, what: str) -> Self:
        """These options, for a training that knows no bootstrap.

        Raises
        ------
        InvalidConfig
            They ask for one.
        """
        if self.bootstrap:
            raise InvalidConfig(f"training option 'bootstrap' is for density ratios (nuratio.train), not for {what}")
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Options from a configuration's mapping; names left out keep their defaults.

        Raises
        ------
        InvalidConfig
            An unknown option, or a value out of range.
        """
        known = [f.name for f in fields(cls)]
        for name in values:
            if name not in known:
                raise InvalidConfig(f"unknown training option {name!r}; {did_you_mean(str(name), known, 'options')}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The inverse of `from_dict`, plain values."""
        values = asdict(self) | {"hidden": list(self.hidden)}
        if not self.bootstrap:  # caches and checkpoints from before there was a choice stay what they are
            del values["bootstrap"]
        return values


def _is(kind: type, value: object) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
