"""What people do with negative weights instead: baselines to compare with, each with the bias it has.

With a and b the parts of a sample of positive and negative weight and q the reference, the target is (a - b) / q.
``BIAS`` says what each baseline gives in its place; those that are not listed there are unbiased.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softplus

from nuratio.ratios.heads import Complementary, Resampled
from nuratio.ratios.losses import BCE, MSE
from nuratio.training.direct import direct
from nuratio.training.objective import Objective, SimulatedEvents, of_own_sample, whole_samples

__all__ = ["BIAS", "absolute", "complementary", "dropped", "flipped", "resampled", "signed_bce", "signed_mse"]


def signed_bce(events: SimulatedEvents) -> Objective:
    """Binary cross entropy with signed weights."""
    return direct(events, BCE(), "bce")


def signed_mse(events: SimulatedEvents) -> Objective:
    """Squared error on the targets -1, 1 with signed weights."""
    return direct(events, MSE(), "mse")


def absolute(events: SimulatedEvents) -> Objective:
    """Binary cross entropy with |w|."""
    return direct(events, BCE(), "bce", events.absolute)


def dropped(events: SimulatedEvents) -> Objective:
    """Events of the wrong sign left out."""
    kept = events.signed.clamp(min=0)
    totals = torch.zeros(len(events.samples)).to(kept).index_add_(0, events.sample, kept)
    return direct(events, BCE(), "bce", kept * len(kept) / totals[events.sample])


def flipped(events: SimulatedEvents) -> Objective:
    """Events of the wrong sign given to the other class."""
    return direct(events, BCE(), "bce", events.signed.clamp(min=0), (-events.signed).clamp(min=0))


def resampled(events: SimulatedEvents) -> Objective:
    """A classifier of samples with |w|, times the mean sign at x (neural resampler, arXiv:2007.11586)."""
    components = whole_samples(events.samples)
    k = len(components)
    fractions, gain = _of_samples(events)
    positive = (events.signed > 0).float()
    log_t = torch.tensor(fractions, dtype=torch.float32).log()

    def cost(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        logits, signs = outputs[..., :k], outputs[..., k:]
        entropy = cross_entropy(logits.flatten(0, 1), events.sample[rows].flatten(), reduction="none").view(rows.shape)
        own = of_own_sample(events, signs, rows)
        return events.mixed[rows] * (entropy + softplus(own) - positive[rows] * own)

    return Objective(components, [*log_t.tolist(), *[0.0] * k], cost, Resampled(fractions, gain))


def complementary(events: SimulatedEvents, *, debiased: bool = False, shared: bool = False) -> Objective:
    """A negative event of sample k counts for all others, sum of logs (arXiv:2007.08929).

    With |w| for each of them, or (``shared``) |w| / (K - 1). ``debiased`` learns the share of negative weight beside it
    and solves for the signed densities: exact, from two positive trainings.
    """
    components = whole_samples(events.samples)
    k = len(components)
    fractions, gain = _of_samples(events)
    negative = (events.signed < 0).float()
    other = 1 / (k - 1) if shared else 1.0
    start = [*torch.tensor(fractions, dtype=torch.float32).log().tolist(), *[0.0] * debiased]

    def cost(outputs: Tensor, rows: Tensor, group: Tensor) -> Tensor:
        log_p = log_softmax(outputs[..., :k], dim=-1)
        own = of_own_sample(events, log_p, rows)
        bad = negative[rows]
        loss = -(1 - bad) * own - bad * other * (log_p.sum(-1) - own)
        if debiased:
            share = outputs[..., k]
            loss = loss + softplus(share) - bad * share
        return events.mixed[rows] * loss

    return Objective(components, start, cost, Complementary(fractions, gain, debiased))


def _of_samples(events: SimulatedEvents) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Training fraction of each sample, and the factor from its |p| to its signed density: sum |w| / sum w."""
    fractions = [sum(events.training_fractions[p.name] for p in events.parts if p.sample == s) for s in events.samples]
    gross = {s: sum(abs(p.total) for p in events.parts if p.sample == s) for s in events.samples}
    return tuple(fractions), tuple(gross[s] / events.samples[s].total for s in events.samples)


BIAS = {
    "bce_signed": "binary cross entropy has no minimum where the net density is negative: the ratio runs away there",
    "mse_signed": "the squared error has no minimum where the ratio is below -1",
    "bce_abs": "it learns (a + b) / (a + b total), the density of |w|, not the signed one",
    "bce_drop": "it learns a alone, as if there were no negative weights",
    "bce_flip": "it learns a / (q + b) in place of (a - b) / q; right only at the boundary a - b = q",
    "ccl": "it learns a + the negative parts of all other samples, normalised: a decision, not a ratio",
    "ccl_shared": "as ccl, with too little subtracted",
}
