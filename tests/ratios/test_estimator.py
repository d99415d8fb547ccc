"""Laws of ratio estimators that hold for any network, so none is trained here."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from nuratio.data.sample import EventSample
from nuratio.data.split import fold_of
from nuratio.errors import InvalidData, UnknownName
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import RatioEstimator, split_by_sign
from nuratio.ratios.heads import Softmax
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.options import TrainingOptions
from nuratio.ratios.shape import ShapeEstimator

OPTIONS = TrainingOptions(hidden=(8, 8), folds=3, ensemble=2, fold_seed=5)
FEATURES = ("pt", "eta")
FRACTIONS = {"sm": 0.5, "int[+]": 0.3, "int[-]": 0.2}


def samples(n=400):
    rng = np.random.default_rng(1)
    sign = np.where(rng.random(n) < 0.4, -1.0, 1.0)
    return {
        "sm": EventSample(rng.normal(size=(n, 2)), rng.uniform(1, 2, n), FEATURES, rng.permutation(10 * n)[:n]),
        "int": EventSample(rng.normal(size=(n, 2)), sign * rng.uniform(1, 2, n), FEATURES),
    }


def networks(outputs, scale=1.0):
    stack = NetworkStack([2, *OPTIONS.hidden, outputs], OPTIONS.folds * OPTIONS.ensemble, scale)
    generator = torch.Generator().manual_seed(3)
    stack.initialise(generator, [0.0] * outputs)
    stack.standardise(np.random.default_rng(2).normal(3, 2, (100, 2)).astype(np.float32), np.ones(100))
    for weight in stack.weights:
        weight.data.normal_(generator=generator)  # outputs of order one
    return CrossFit(stack.requires_grad_(False), FEATURES, OPTIONS)


def estimator(reference=FRACTIONS, **changes):
    z = {"sm": (1.02, 0.01), "int[+]": (0.98, 0.01), "int[-]": (1.01, 0.02)}
    parts = tuple(split_by_sign(samples()))
    head = Softmax(tuple(FRACTIONS.values()), tuple(reference.values()))
    return dataclasses.replace(RatioEstimator(parts, reference, head, z, networks(3), {"seed": 1}), **changes)


@pytest.fixture(scope="module")
def est():
    return estimator()


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(4).normal(3, 3, (20_000, 2)).astype(np.float32)  # more than one chunk


def test_names_parts_and_yields(est):
    s = samples()["int"]
    assert est.names == ("sm", "int")
    assert est.parts == ("sm", "int[+]", "int[-]")
    assert est.signs == {"sm": 1, "int[+]": 1, "int[-]": -1}
    assert est.yields["int[-]"] == pytest.approx(s.weights[s.weights < 0].sum(), rel=1e-12)
    assert est.yields["int[+]"] + est.yields["int[-]"] == pytest.approx(s.total, rel=1e-12)


def test_a_sample_of_negative_weights_is_one_part():
    split = split_by_sign({"loss": EventSample([1.0, 2.0, 3.0], [-1.0, -2.0, 0.0])})
    (part,) = split
    assert (part.name, part.sign, part.total, part.events) == ("loss", -1, -3.0, 2)


def test_part_names_must_differ():
    with pytest.raises(InvalidData, match=r"int\[\+\]"):
        split_by_sign(samples() | {"int[+]": EventSample([1.0])})


def test_the_reference_mixture_of_ratios_is_one(est, x):
    """sum_k rho_k p_k = q, so before z the ratios obey sum_k rho_k r_k = 1 and r_k <= 1/rho_k."""
    table = est.ratios(x)
    before_z = {name: table[name] * est.normalisation[name][0] for name in est.parts}
    np.testing.assert_allclose(sum(FRACTIONS[name] * r for name, r in before_z.items()), 1, rtol=1e-12)
    for name, r in before_z.items():
        assert 0 < r.min() < 0.9 * r.max()
        assert r.max() <= 1 / FRACTIONS[name]


def test_a_change_of_reference_is_a_common_factor(est, x):
    """In each network the reference drops out of ratios of ratios; r of the reference sample is 1 (before z)."""
    named = estimator(reference={"sm": 1.0, "int[+]": 0.0, "int[-]": 0.0})
    np.testing.assert_allclose(named.ratios(x)["sm"] * est.normalisation["sm"][0], 1, rtol=1e-12)
    for member in range(6):
        to_sm, pooled = (e.ratios(x, member=member) for e in (named, est))
        np.testing.assert_allclose(to_sm["int[+]"] / to_sm["sm"], pooled["int[+]"] / pooled["sm"], rtol=1e-10)


@pytest.mark.parametrize("reference", [FRACTIONS, {"sm": 1.0, "int[+]": 0.0, "int[-]": 0.0}])
def test_the_ratio_is_the_mean_of_those_of_single_networks(reference, x):
    """So E_q[r] is the mean of what single networks have: what is measured fold by fold is right for their mean."""
    some = estimator(reference=reference)
    single = [some.ratios(x, member=member) for member in range(6)]
    for name in some.parts:
        np.testing.assert_allclose(some.ratios(x)[name], np.mean([t[name] for t in single], axis=0), rtol=1e-12)
    ids = np.arange(len(x))
    single = [some.ratios(x, event_ids=ids, member=member) for member in range(2)]
    for name in some.parts:
        together = some.ratios(x, event_ids=ids)[name]
        np.testing.assert_allclose(together, np.mean([t[name] for t in single], axis=0), rtol=1e-12)
    with pytest.raises(InvalidData, match="no member 2 of 2"):
        some.ratios(x, event_ids=ids, member=2)


def test_ratios_are_those_of_the_mean_probability(est, x):
    """Oracle: softmax network by network, in float64, averaged."""
    state = {k: v.astype(np.float64) for k, v in est.networks.stack.to_arrays().items()}
    total = np.zeros((500, 3))
    for m in range(6):
        h = (x[:500] - state["center"]) * state["inverse_scale"]
        for layer in range(3):
            h = h / (1 + np.exp(-h)) if layer else h
            h = h @ state[f"weights.{layer}"][m] + state[f"biases.{layer}"][m]
        s = np.exp(h)
        total += s / s.sum(1, keepdims=True) / 6
    for k, name in enumerate(est.parts):
        expected = total[:, k] / FRACTIONS[name] / est.normalisation[name][0]
        np.testing.assert_allclose(est.ratios(x[:500])[name], expected, rtol=1e-4)


def test_net_ratio_is_the_signed_mixture_of_its_parts(est, x):
    table, w = est.ratios(x), est.yields
    expected = (w["int[+]"] * table["int[+]"] + w["int[-]"] * table["int[-]"]) / (w["int[+]"] + w["int[-]"])
    np.testing.assert_allclose(est.ratio(x, "int"), expected, rtol=1e-12)
    assert expected.min() < 0 < expected.max()
    np.testing.assert_array_equal(est.ratio(x, "int[-]"), table["int[-]"])


def test_cancelling_yields_have_parts_but_no_net_ratio(x):
    plus, minus = (dataclasses.replace(p, total=p.sign * 5.0) for p in estimator().components[1:])
    cancelling = estimator(components=(estimator().components[0], plus, minus))
    assert cancelling.ratio(x, "int[+]").min() > 0
    with pytest.raises(InvalidData, match="cancel"):
        cancelling.ratio(x, "int")


def test_unknown_names_are_answered_with_close_ones(est, x):
    with pytest.raises(UnknownName, match=r"int\[\+\]"):
        est.ratio(x, "int[")


def test_order_and_chunks_of_events_do_not_matter(est, x):
    ids = np.arange(len(x)) * 7
    order = np.random.default_rng(5).permutation(len(x))
    for event_ids in (None, ids):
        shuffled_ids = None if event_ids is None else event_ids[order]
        whole = est.ratios(x, event_ids=event_ids)
        shuffled = est.ratios(x[order], event_ids=shuffled_ids)
        one = est.ratios(x[17:18], event_ids=None if event_ids is None else event_ids[17:18])
        np.testing.assert_allclose(shuffled.values, whole.values[:, order], rtol=1e-5)
        np.testing.assert_allclose(one.values, whole.values[:, 17:18], rtol=1e-5)


def test_an_event_is_evaluated_by_the_networks_of_its_fold_alone(est, x):
    ids = np.arange(len(x))
    fold = fold_of(ids, OPTIONS.folds, OPTIONS.fold_seed)
    before = est.ratios(x, event_ids=ids)
    spoilt = estimator()
    for weight in spoilt.networks.stack.weights:
        weight[2:] *= -1.0  # the networks of folds 1 and 2
    after = spoilt.ratios(x, event_ids=ids)
    np.testing.assert_array_equal(after.values[:, fold == 0], before.values[:, fold == 0])
    assert (after.values[:, fold != 0] != before.values[:, fold != 0]).all()
    assert (spoilt.ratios(x).values != est.ratios(x).values).all()


def test_features_of_a_sample_are_matched_by_name(est):
    sample = samples()["sm"]
    turned = EventSample(sample.features[:, ::-1], sample.weights, FEATURES[::-1])
    np.testing.assert_array_equal(est.ratios(turned).values, est.ratios(sample).values)
    with pytest.raises(UnknownName, match="eta"):
        est.ratios(EventSample(sample.features, names=("pt", "phi")))


@pytest.mark.parametrize(
    ("features", "ids", "match"),
    [
        (np.zeros((5, 3)), None, r"\(events, 2\)"),
        (np.zeros(5), None, r"\(events, 2\)"),
        (np.array([[0, 1], [np.nan, 2]]), None, "first: event 1"),
        (np.zeros((5, 2)), np.arange(4), "5 integers"),
        (np.zeros((5, 2)), np.zeros(5), "5 integers"),
    ],
)
def test_unusable_events_are_refused(est, features, ids, match):
    with pytest.raises(InvalidData, match=match):
        est.ratios(features, event_ids=ids)


def test_no_events_give_an_empty_table(est):
    for ids in (None, np.empty(0, dtype=int)):
        assert est.ratios(np.empty((0, 2)), event_ids=ids).values.shape == (3, 0)


def test_pool_carries_the_reference_density(est):
    given = samples()
    pool = est.pool(given)
    assert len(pool) == sum(len(s) for s in given.values())
    assert pool.weights.min() > 0
    for k, name in enumerate(est.parts):
        assert pool.weights[pool.part == k].sum() == pytest.approx(FRACTIONS[name], rel=1e-12)
    minus = given["int"].weights < 0
    np.testing.assert_array_equal(pool.features[pool.part == 2], given["int"].features[minus])
    np.testing.assert_array_equal(pool.event_ids[pool.part == 2], np.flatnonzero(minus))
    ratio = pool.weights[pool.part == 2] / given["int"].weights[minus]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)


def test_pool_of_a_named_reference_is_that_sample():
    given = samples()
    pool = estimator(reference={"sm": 1.0, "int[+]": 0.0, "int[-]": 0.0}).pool(given)
    np.testing.assert_allclose(pool.weights, given["sm"].weights / given["sm"].total, rtol=1e-12)
    np.testing.assert_array_equal(pool.features, given["sm"].features)


def test_pool_refuses_other_samples(est):
    given = samples()
    with pytest.raises(InvalidData, match="trained on"):
        est.pool({"sm": given["sm"], "int": given["int"].sign(1)})


def test_save_and_load_give_the_same_numbers_bit_for_bit(est, x, tmp_path):
    est.save(tmp_path / "a" / "est")
    loaded = RatioEstimator.load(tmp_path / "a" / "est")
    for field in dataclasses.fields(RatioEstimator):
        if field.name != "networks":
            assert getattr(loaded, field.name) == getattr(est, field.name), field.name
    assert (loaded.features, loaded.options) == (est.features, est.options)
    for ids in (None, np.arange(len(x))):
        np.testing.assert_array_equal(loaded.ratios(x, event_ids=ids).values, est.ratios(x, event_ids=ids).values)
    assert sorted(p.name for p in (tmp_path / "a" / "est").iterdir()) == ["estimator.json", "estimator.safetensors"]
    loaded.save(tmp_path / "b")
    for name in ("estimator.json", "estimator.safetensors"):
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / "est" / name).read_bytes()


@pytest.mark.parametrize("outputs", [1, 2])
def test_shape_coefficients_are_means_and_survive_storage(outputs, x, tmp_path):
    terms = ((("jes", 1),), (("jer", 1), ("jes", 1)))[:outputs]
    est = ShapeEstimator(networks(outputs, scale=0.1), terms, {"name": "jes"})
    found = est.coefficients(x)
    assert tuple(found) == terms
    mean = est.networks.stack(torch.tensor(x[:50])[None]).double().mean(0).numpy()
    for column, d in zip(mean.T, found.values(), strict=True):
        np.testing.assert_allclose(d[:50], column, rtol=1e-4, atol=1e-6)
    alpha = {"jes": 0.5, "jer": 3.0}
    expected = 0.5 * found[terms[0]] + (1.5 * found[terms[1]] if outputs == 2 else 0)
    if outputs == 1:
        alpha.pop("jer")
    np.testing.assert_allclose(est.log_ratio(x, alpha), expected, atol=1e-12)
    with pytest.raises(UnknownName, match="jess"):
        est.log_ratio(x, {"jess": 1})
    est.save(tmp_path)
    loaded = ShapeEstimator.load(tmp_path)
    assert loaded.terms == terms
    for ids in (None, np.arange(len(x))):
        for term, expected in est.coefficients(x, event_ids=ids).items():
            np.testing.assert_array_equal(loaded.coefficients(x, event_ids=ids)[term], expected)


def test_damaged_or_foreign_files_are_refused(est, tmp_path):
    with pytest.raises(InvalidData, match=r"estimator\.json is missing"):
        RatioEstimator.load(tmp_path)
    est.save(tmp_path)
    with pytest.raises(InvalidData, match="ratio-estimator"):
        ShapeEstimator.load(tmp_path)
    text, tensors = tmp_path / "estimator.json", tmp_path / "estimator.safetensors"
    blob = bytearray(tensors.read_bytes())
    blob[-1] ^= 1
    tensors.write_bytes(blob)
    with pytest.raises(InvalidData, match="checksum"):
        RatioEstimator.load(tmp_path)
    text.write_text(json.dumps(json.loads(text.read_text()) | {"format": 99}))
    with pytest.raises(InvalidData, match="format 99"):
        RatioEstimator.load(tmp_path)
    text.write_text("{")
    with pytest.raises(InvalidData, match="not JSON"):
        RatioEstimator.load(tmp_path)
    text.write_text("[]")
    with pytest.raises(InvalidData, match="holds no estimator, but a list"):
        RatioEstimator.load(tmp_path)
    text.write_bytes(b"\xff")
    with pytest.raises(InvalidData, match="not JSON"):
        RatioEstimator.load(tmp_path)


@pytest.mark.parametrize("key", ["components", "normalisation", "features", "options", "report"])
def test_a_document_that_lacks_something_is_refused(est, tmp_path, key):
    est.save(tmp_path)
    text = tmp_path / "estimator.json"
    document = json.loads(text.read_text())
    del document[key]
    text.write_text(json.dumps(document))
    with pytest.raises(InvalidData, match=f"estimator.json is damaged .KeyError: '{key}'.; train again"):
        RatioEstimator.load(tmp_path)
