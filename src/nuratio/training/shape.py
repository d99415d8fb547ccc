"""Shape variations of one positive part under all its nuisance parameters, from its varied simulations.

Use `train_shapes` once per part: one network learns the coefficients of every nuisance at once. Stochastic descent
finds the hidden layers, Newton's method the last one (`nuratio.training.last_layer`).
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import softplus

from nuratio.data.sample import EventSample
from nuratio.data.varied import Term, VariedSample, monomial
from nuratio.errors import InvalidData, LeakageWarning, UnknownName, did_you_mean
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator
from nuratio.training.checkpoint import Checkpoint, fingerprint
from nuratio.training.last_layer import Group, solve_last_layer
from nuratio.training.linking import LinkedEvents, link
from nuratio.training.loop import fit_networks, require_device, split_events
from nuratio.training.statistics import check_statistics

__all__ = ["SHAPE_OPTIONS", "train_shapes"]

Floats = NDArray[np.float64]

SHAPE_OPTIONS = TrainingOptions(
    hidden=(64, 64), epochs=10, batch_size=1024, learning_rate=5e-3, weight_decay=1e-4, ensemble=1
)
"""Defaults for shapes."""

_SMALLEST = 1e-3  # rms of a log ratio that a network is asked to see


def train_shapes(
    nominal: EventSample,
    varied: Sequence[VariedSample],
    *,
    order: Mapping[str, int] | None = None,
    cross: Sequence[tuple[str, str]] = (),
    name: str = "shapes",
    seed: int = 0,
    options: TrainingOptions | None = None,
    progress: bool | None = None,
    checkpoint: str | Path | None = None,
    device: str = "cpu",
    executor: Executor | None = None,
) -> ShapeEstimator:
    """Train ln[p(x|alpha) / p(x|0)] = sum_k alpha_k D1_k + alpha_k^2 D2_k + ... from simulations at some alpha.

    Binary cross-entropy of varied against nominal events, summed over the points, with this polynomial (and the known
    ratio of the yields) as the logit: the parametric likelihood-ratio loss of arXiv:2406.19076. Shapes only: the yields
    of the simulations do not enter. A simulation that differs in weights alone costs no second pass of the network.

    Parameters
    ----------
    nominal : EventSample
        One part (all weights of one sign) at alpha = 0.
    varied : sequence of VariedSample
        The same part at other points: +-1 of each nuisance, and +-2, other values, or several nuisances at once. Event
        ids link the variations of a generated event. Where only the weights vary, pass the same features.
    order : mapping of str to int, optional
        Nuisance -> highest power of it. By default 2, or 1 where all points of a nuisance by itself have one value.
    cross : sequence of (str, str)
        Pairs of nuisances with a term alpha_j alpha_k D_jk(x); each needs a point where both are varied.
    name : str
        Names the part in messages.
    seed : int
        Of initialisation and shuffling.
    options : TrainingOptions or None
        None: `SHAPE_OPTIONS`. Take ``folds`` and ``fold_seed`` from the ratio estimator used beside it.
    progress : bool or None
        Show a progress bar on stderr; None: on a terminal, if it takes long.
    checkpoint : path or None
        A file to continue from after an interruption; see `nuratio.train`.
    device : str
        Where networks learn; see `nuratio.train`.
    executor : concurrent.futures.Executor or None
        Where the networks of the folds are trained, each as a task of its own; see `nuratio.train`.

    Raises
    ------
    InvalidData
        No variation, an order that the points do not identify, weights of both signs, differing features, or too few
        events for the folds; a checkpoint of another training, or one together with an executor.
    InvalidConfig
        Options with ``bootstrap``.
    UnknownName
        An order or a cross term of a nuisance that is not varied.
    FitFailed
        A training that diverged.

    Warns
    -----
    StatisticsWarning
        An effective sample size below 1000.
    LeakageWarning
        Samples of different lengths without event ids: a generated event and its variation may sit on both sides.
    """
    require_device(device)
    options = SHAPE_OPTIONS if options is None else options.without_bootstrap("shapes")
    given = {f"{name}: nominal": nominal} | {f"{name}: {v}": v.events for v in varied}
    if len(given) != len(varied) + 1:
        raise InvalidData(f"{name}: points are given twice: {[str(v) for v in varied]}")
    _require_comparable(name, given)
    if len({len(v) for v in given.values()}) > 1 and any(v.event_ids is None for v in given.values()):
        warn(
            f"{name}: the samples differ in length and lack event ids, so a generated event cannot be kept on one "
            "side of the split in all of them; pass event_ids",
            LeakageWarning,
            stacklevel=2,
        )
    terms = shape_terms(varied, order or {}, cross, name)
    phi = np.array([[monomial(term, v.alpha) for v in varied] for term in terms])
    _require_identified(terms, phi, name)
    kept = None
    if checkpoint is not None:
        kept = Checkpoint.open(
            checkpoint,
            fingerprint(
                {"nominal": nominal} | {str(v): v.events for v in varied},
                terms=[list(map(list, term)) for term in terms],
                seed=seed,
                options=options.to_dict(),
            ),
        )
    report: dict[str, Any] = {"name": name, "seed": seed, "points": [dict(v.alpha) for v in varied]}
    report |= check_statistics(given, options)
    events = link(nominal, [v.events for v in varied])
    groups = _groups(terms, phi)
    networks = NetworkStack(
        [len(nominal.names), *options.hidden, len(terms)], options.folds * options.ensemble, [1.0] * len(terms)
    )
    generator = torch.Generator().manual_seed(seed)
    networks.standardise(nominal.features, np.abs(nominal.weights))
    networks.initialise(generator, [0.0] * len(terms))
    first = solve_last_layer(networks, events, phi, groups, options)
    weight = _scale_outputs(networks, groups, first, phi)
    networks.to(device)
    loss = _loss(networks, events.to(device), phi, weight, device)
    splits = split_events(events.ids, options)
    where: dict[str, Any] = {"progress": progress, "checkpoint": kept, "executor": executor}
    history = fit_networks(networks, loss, splits, options, generator, label=name, **where)
    found = solve_last_layer(networks.cpu(), events, phi, groups, options)
    if kept:
        kept.remove()
    report["groups"] = [
        {"nuisances": sorted({k for t in group.terms for k, _ in terms[t]})} | values
        for group, values in zip(groups, found, strict=True)
    ]
    return ShapeEstimator(CrossFit(networks, nominal.names, options), terms, report | history)


def _loss(networks: NetworkStack, events: LinkedEvents, phi: Floats, weight: Floats, device: str) -> Any:
    powers = torch.tensor(phi, dtype=torch.float32, device=device)
    of_point = torch.tensor(weight / weight.sum(), dtype=torch.float32, device=device)
    scale = 0.5 * of_point

    def loss(rows: Tensor, members: slice) -> Tensor:
        batch = events.batch(rows.to(device))
        logits = networks(batch.x, members) @ powers + events.log_yield  # (m, rows, points)
        network = torch.arange(len(rows), device=device)
        base = logits[network[:, None], batch.first]  # (m, b, points)
        total = batch.nominal * ((2 * softplus(base) - base) @ scale)
        changed = logits[network[batch.owner // rows.shape[1]], batch.row, batch.point]
        changes = batch.change * softplus(-changed) * scale[batch.point]
        summed: Tensor = total.flatten().index_add(0, batch.owner, changes)
        return summed.view(rows.shape)

    return loss


def _scale_outputs(
    networks: NetworkStack, groups: Sequence[Group], found: Sequence[Mapping[str, Any]], phi: Floats
) -> Floats:
    """Units in which the last layers are of order one; returns the weight of each point in the loss.

    Points weigh as the inverse of what there is to learn, so that a small effect is not lost beside a large one, but no
    more than their statistical error allows.
    """
    scale, weight = np.ones(phi.shape[0]), np.zeros(phi.shape[1])
    for group, values in zip(groups, found, strict=True):
        square = max(values["square"], values["error"], _SMALLEST**2)
        scale[group.terms] = np.sqrt(square)
        weight[group.points] = 1 / (square * len(group.points))
    with torch.no_grad():
        unit = torch.tensor(scale, dtype=torch.float32)
        networks.weights[-1].div_(unit)
        networks.biases[-1].div_(unit)
        networks.get_buffer("output_scale").copy_(unit)
    return weight


# --- terms


def shape_terms(
    varied: Sequence[VariedSample], order: Mapping[str, int], cross: Sequence[tuple[str, str]], name: str
) -> tuple[Term, ...]:
    """The monomials of a shape: powers of each nuisance, nuisance by nuisance, then the cross terms.

    Raises
    ------
    InvalidData, UnknownName
        See `train_shapes`.
    """
    nuisances = list(dict.fromkeys(k for v in varied for k in v.alpha))
    for k in (*order, *(k for pair in cross for k in pair)):
        if k not in nuisances:
            raise UnknownName(f"{name}: {k!r} is not varied; {did_you_mean(k, nuisances, 'nuisances')}")
    terms: list[Term] = []
    for k in nuisances:
        alone = {v.alpha[k] for v in varied if set(v.alpha) == {k}}
        if not alone:
            raise InvalidData(f"{name}: {k!r} is varied together with others only; give a point where it is alone")
        highest = order.get(k, min(len(alone), 2))
        if not 1 <= highest <= len(alone):
            values = ", ".join(f"{a:g}" for a in sorted(alone))
            raise InvalidData(
                f"{name}: order {highest} of {k!r} is not identified by simulations at alpha = {values}; "
                f"an order from 1 to {len(alone)} is"
            )
        terms += [((k, power),) for power in range(1, highest + 1)]
    for j, k in cross:
        if j == k or not any({j, k} <= set(v.alpha) for v in varied):
            raise InvalidData(f"{name}: the cross term of {j!r} and {k!r} needs a point where both are varied")
        terms.append(((j, 1), (k, 1)))
    return tuple(terms)


def _require_identified(terms: Sequence[Term], phi: Floats, name: str) -> None:
    rank = int(np.linalg.matrix_rank(phi))
    if rank < len(terms):
        raise InvalidData(
            f"{name}: {phi.shape[1]} points identify {rank} of the {len(terms)} terms {[_text(t) for t in terms]}; "
            "simulate more points or lower an order"
        )


def _text(term: Term) -> str:
    return " ".join(k if power == 1 else f"{k}^{power}" for k, power in term)


def _groups(terms: Sequence[Term], phi: Floats) -> list[Group]:
    """Terms that share a point, directly or by way of others."""
    label = np.arange(len(terms))
    for point in phi.T:
        together = np.flatnonzero(point)
        label[np.isin(label, label[together])] = label[together].min()
    groups = []
    for one in np.unique(label):
        mine = np.flatnonzero(label == one)
        points = np.flatnonzero((phi[mine] != 0).any(axis=0))
        linear = [len(terms[t]) == 1 and terms[t][0][1] == 1 for t in mine]
        groups.append(Group(mine.tolist(), points.tolist(), linear))
    return groups


def _require_comparable(name: str, given: Mapping[str, EventSample]) -> None:
    if len(given) == 1:
        raise InvalidData(f"{name}: no variation was given")
    (label, nominal), *varied = given.items()
    for other, events in varied:
        if events.names != nominal.names:
            raise InvalidData(f"{other!r} has the features {list(events.names)}, {label!r} has {list(nominal.names)}")
    sign = np.sign(nominal.total)
    for label, events in given.items():
        wrong = np.count_nonzero(events.weights * sign < 0)
        if wrong:
            raise InvalidData(
                f"{label!r}: {wrong} of {len(events)} weights have the other sign than the nominal sum; "
                "train each sign of a sample by itself (EventSample.sign)"
            )
