"""Who sees which event, and what the loop does with it."""

import numpy as np
import pytest
import torch

from nuratio.data.split import fold_of
from nuratio.errors import FitFailed, InvalidConfig, InvalidData
from nuratio.parallel.progress import progress_bar
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.training.loop import _clip, fit_networks, split_events


@pytest.mark.parametrize("ensemble", [1, 3])
@pytest.mark.parametrize("folds", [2, 5])
def test_no_id_is_on_two_sides_of_a_split(folds, ensemble):
    ids = np.random.default_rng(1).integers(-500, 500, 3000)  # ids repeat: variations of one generated event
    options = TrainingOptions(folds=folds, ensemble=ensemble)
    splits = split_events(ids, options)
    assert len(splits) == folds * ensemble
    for m, split in enumerate(splits):
        sides = [set(ids[rows]) for rows in (split.training, split.validation, split.test)]
        assert sum(len(s) for s in sides) == len(set().union(*sides)) == len(set(ids))
        everything = np.sort(np.concatenate([split.training, split.validation, split.test]))
        np.testing.assert_array_equal(everything, np.arange(len(ids)))
        assert (fold_of(ids[split.test], folds, options.fold_seed) == m // ensemble).all()
        share = len(sides[1]) / (len(sides[0]) + len(sides[1]))
        assert abs(share - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 500)
    if ensemble > 1:
        assert not set(splits[0].validation) & set(splits[1].validation)


def test_the_split_depends_on_ids_alone():
    ids = np.arange(1000) * 11
    order = np.random.default_rng(2).permutation(1000)
    options = TrainingOptions()
    for plain, shuffled in zip(split_events(ids, options), split_events(ids[order], options), strict=True):
        assert set(ids[plain.training]) == set(ids[order][shuffled.training])
        assert set(ids[plain.validation]) == set(ids[order][shuffled.validation])


X = torch.linspace(-2, 2, 2000)[:, None]
Y = torch.sin(2 * X[:, 0])


def regression(seen, x=X, y=Y, **options):
    """Fit y by least squares; ``seen`` collects the rows of every call."""
    networks = NetworkStack([x.shape[1], 16, 16, 1], 2).initialise(torch.Generator().manual_seed(1), [0.0])
    options = TrainingOptions(
        **{"folds": 2, "ensemble": 1, "epochs": 20, "batch_size": 64, "learning_rate": 1e-2} | options
    )
    splits = split_events(np.arange(len(x)), options)

    def loss(rows, members):
        seen.append((rows, members, torch.is_grad_enabled()))
        return (networks(x[rows], members)[..., 0] - y[rows]) ** 2

    generator = torch.Generator().manual_seed(2)
    report = fit_networks(networks, loss, splits, options, generator, label="regression", progress=False)
    return networks, splits, report


def test_each_network_learns_from_its_own_training_events_only():
    seen = []
    networks, splits, report = regression(seen)
    for rows, members, learning in seen:
        for m, row in zip(range(2)[members], rows, strict=True):
            allowed = splits[m].training if learning else splits[m].validation
            assert np.isin(row.numpy(), allowed).all()
    used = {int(i) for rows, _, learning in seen if learning for i in rows[0]}
    assert used == set(splits[0].training)
    for m, split in enumerate(splits):
        held_out = torch.from_numpy(split.validation)
        error = (networks(X[held_out][None], slice(m, m + 1))[0, :, 0] - Y[held_out]) ** 2
        assert float(error.mean()) == pytest.approx(report["held_out_loss"][m], rel=1e-4)
        assert float(error.mean()) < 0.01 * float(Y.var())


def test_a_network_that_learns_by_heart_is_stopped():
    noise = torch.randn(400, 9, generator=torch.Generator().manual_seed(3))
    seen, options = [], {"epochs": 100, "patience": 5, "validation_fraction": 0.5}
    _, _, report = regression(seen, noise[:, 1:], noise[:, 0], **options)
    assert max(report["epoch"]) < 50
    assert sum(not learning for *_, learning in seen) == 2 * (max(report["epoch"]) + 5)  # per network and epoch
    assert max(report["held_out_loss"]) < 1.8  # the variance of the noise is 1; by heart it would be above 2


def test_gradients_are_clipped_network_by_network():
    """One network sees an event that outweighs all others: without clipping it takes the whole step."""
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn((3, n, 5), generator=generator) for n in (4, 1)]
    gradients[0][1] *= 1e6
    before = [g.clone() for g in gradients]
    norm = torch.cat([g.flatten(1) for g in gradients], dim=1).norm(dim=1)
    _clip(gradients, float(norm[0]))
    for clipped, given in zip(gradients, before, strict=True):
        torch.testing.assert_close(clipped[0], given[0])
        torch.testing.assert_close(clipped[1], given[1] * (norm[0] / norm[1]))
        torch.testing.assert_close(clipped[2], given[2] * (norm[0] / norm[2]).clamp(max=1))


def test_a_limit_that_no_gradient_reaches_changes_nothing():
    reports = [regression([], epochs=3, clip=clip)[2] for clip in (None, 1e3, 1e-3)]
    assert reports[0] == reports[1] != reports[2]


def test_a_diverging_training_fails_with_the_remedy():
    with pytest.raises(FitFailed, match="learning rate"):
        regression([], learning_rate=1e30, epochs=3)


def test_nothing_to_hold_out_is_refused():
    options = TrainingOptions(folds=2, ensemble=1)
    splits = split_events(np.zeros(50, dtype=int), options)  # one generated event
    networks = NetworkStack([1, 4, 1], 2)
    with pytest.raises(InvalidData, match="too few events"):
        fit_networks(networks, lambda rows, _: rows, splits, options, torch.Generator(), label="one event")


def test_members_of_a_stack_are_independent():
    generator = torch.Generator().manual_seed(1)
    networks = NetworkStack([3, 5, 2], 4, output_scale=0.1).initialise(generator, [0.5, -2.0])
    x = torch.randn(1, 10, 3, generator=generator)
    torch.testing.assert_close(networks(x), torch.tensor([0.5, -2.0]).expand(4, 10, 2))
    networks.weights[-1].data.normal_(generator=generator)
    together = networks(x)
    for m in range(4):
        torch.testing.assert_close(networks(x, slice(m, m + 1))[0], together[m])
    together[1].sum().backward()
    for parameter in networks.parameters():
        assert parameter.grad[1].abs().sum() > 0
        assert parameter.grad[[0, 2, 3]].abs().sum() == 0


def test_inputs_are_standardised_by_their_weights():
    rng = np.random.default_rng(1)
    x = rng.normal([5, -100, 1], [2, 30, 0], (5000, 3)).astype(np.float32)
    w = rng.exponential(size=5000)
    stack = NetworkStack([3, 4, 1], 1).standardise(x, w)
    standard = (x - stack.center.numpy()) * stack.inverse_scale.numpy()
    np.testing.assert_allclose(np.average(standard, axis=0, weights=w), 0, atol=1e-4)
    np.testing.assert_allclose(np.average(standard**2, axis=0, weights=w), [1, 1, 0], atol=1e-4)


@pytest.mark.parametrize(
    "values",
    [
        {"folds": 1},
        {"epochs": 0},
        {"epochs": 2.5},
        {"epochs": True},
        {"learning_rate": "3e-3"},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1e-3},
        {"clip": 0},
        {"clip": -1.0},
        {"clip": "5"},
        {"validation_fraction": 0.6},
        {"validation_fraction": 0},
        {"hidden": []},
        {"hidden": [64, 0]},
        {"hidden": 64},
        {"epoch": 3},
    ],
)
def test_options_out_of_range_are_refused_by_name(values):
    with pytest.raises(InvalidConfig, match=next(iter(values))):
        TrainingOptions.from_dict(values)


def test_options_survive_a_round_trip():
    options = TrainingOptions(hidden=(8, 4), learning_rate=1, fold_seed=3, clip=None)
    assert TrainingOptions.from_dict(options.to_dict()) == options


def test_a_progress_bar_is_drawn_only_when_asked_for(capsys):
    for show in (True, False, None):
        with progress_bar("training", 2, show) as advance:
            advance("first")
            advance("second")
        captured = capsys.readouterr()
        assert captured.out == ""
        assert ("training" in captured.err) == (show is True)
