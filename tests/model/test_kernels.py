"""One pass over the events, three times the same: compiled, numpy, torch; and what any likelihood of events obeys."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nuratio.errors import InvalidModel
from nuratio.model.kernels import compiled, loops
from nuratio.model.kernels.kernel import KERNELS, Kernel
from nuratio.model.kernels.loops import Coefficients
from nuratio.model.kernels.program import Mode, Program
from nuratio.model.normalisation import PoolIntegral
from nuratio.model.shapes import Monomial, SampleShape, Variation
from nuratio.model.unbinned import EventCell, Events, EventTerm, PoolSum
from nuratio.ratios.table import RatioTable, block_size

N, PARAMETERS = 3000, 8
FIELDS = ("value", "rate", "exponent", "factor", "shift", "hessian", "nonpositive")


def quadexp(par, d1, d2):
    """sum_k alpha_k D1_k + alpha_k^2 D2_k, the D1 first."""
    return tuple(Monomial(c, ((p, power),)) for power, d in ((1, d1), (2, d2)) for p, c in zip(par, d, strict=True))


def every_code(rng, n=N, dtype=np.float64):
    """Table and samples: all codes, alone and together on a sample, cross terms, a cubic term, a signed sample."""
    columns = {}

    def ratio(name):
        columns[name] = rng.lognormal(0, 0.4, n)
        return name

    def slope(name):
        columns[name] = rng.normal(0, 0.2, n)
        return name

    def variation(par, code, name):
        return Variation(par, code, ratio(f"{name}/hi"), ratio(f"{name}/lo"))

    columns["signed"] = rng.normal(0.1, 0.5, n)
    samples = (
        SampleShape("plain", ratio("plain")),
        SampleShape(
            "exponential",
            ratio("exponential"),
            (
                *quadexp([0, 3], [slope("d1/0"), slope("d1/3")], [slope("d2/0"), slope("d2/3")]),
                Monomial(slope("cross"), ((0, 1), (3, 1))),
                Monomial(slope("cubic"), ((3, 3),)),
            ),
        ),
        SampleShape(
            "everything",
            ratio("everything"),
            quadexp([5], [slope("d1/5")], [slope("d2/5")]),
            (variation(1, "code4", "c4"), variation(3, "code1", "c1"), variation(7, "code4", "c4'")),
            (variation(2, "code4p", "c4p"), variation(4, "code0", "c0")),
        ),
        SampleShape("signed", "signed", shifts=(variation(0, "code2", "c2"), variation(6, "code4p", "c4p'"))),
    )
    return RatioTable.from_columns(columns, dtype), samples


@pytest.fixture(scope="module")
def problem():
    return every_code(np.random.default_rng(1))


def cell_of(samples, table, kernel=None):
    return EventCell(samples, Events(table), Events(table.head(0)), np.empty(0), kernel=kernel or Kernel())


def term_of(samples, table, weights, kernel=None):
    cell = cell_of(samples, table, kernel)
    return EventTerm.select(cell, cell.program(table), cell.observed, weights, 0)


def point(rng, spread=0.7):
    return np.array([5.0, 3.0, 2.0, -0.3]), rng.normal(0, spread, PARAMETERS)


def same(a, b, rel):
    for name in FIELDS:
        x, y = np.asarray(getattr(a, name)), np.asarray(getattr(b, name))
        scale = max(float(np.abs(y).max(initial=0)), 1e-300)
        np.testing.assert_allclose(x / scale, y / scale, rtol=0, atol=rel, err_msg=name)


# --- the kernels agree


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("case", ["inside", "outside", "at zero", "continued", "no signal"])
def test_kernels_agree(rng, dtype, mode, case):
    table, samples = every_code(rng, dtype=dtype)
    nu, theta = point(rng, {"outside": 2.0, "at zero": 0.0}.get(case, 0.4))
    if case == "no signal":
        nu[1] = 0.0
    options = {"mode": mode, "order": 2, "threshold": 10.0 if case == "continued" else 1e-8}
    weights = rng.poisson(1, N) * 1.5
    program = Program.compile(samples, table.names, range(PARAMETERS))
    coefficients = program.at(nu, theta)
    oracle, torched, fast = (
        Kernel(name).sums(program, coefficients, table, weights, **options)[0] for name in ("numpy", "torch", "numba")
    )
    if case == "continued" and mode is Mode.LOG:
        low = (compiled_columns(program, coefficients, table).sum(0) < 10.0).sum()
        assert 0.1 * N < low < 0.9 * N
    same(fast, oracle, 1e-13)
    same(torched, oracle, 1e-13)


def compiled_columns(program, coefficients, table):
    return Kernel().densities(program, coefficients, table).values


def test_densities_are_those_of_the_twin(problem, rng):
    table, samples = problem
    nu, theta = point(rng)
    program = Program.compile(samples, table.names, range(PARAMETERS))
    cell = cell_of(samples, table)
    expected = np.concatenate([t for _, t, _ in cell.evaluate(cell.observed, theta)], axis=1)
    np.testing.assert_allclose(
        compiled_columns(program, program.at(nu, theta), table), nu[:, None] * expected, rtol=1e-13, atol=1e-14
    )


def test_results_do_not_depend_on_the_number_of_threads(rng):
    table, samples = every_code(rng, 30_000, np.float32)
    nu, theta = point(rng, 0.3)
    program = Program.compile(samples, table.names, range(PARAMETERS))
    weights = rng.uniform(size=30_000)
    results = [
        compiled.sums(program, program.at(nu, theta), table, weights, order=2, threshold=1e-8, threads=threads)[0]
        for threads in (1, 2, 3, 7)
    ]
    for other in results[1:]:
        same(other, results[0], 0.0)


@pytest.mark.parametrize("points", [1, 3, 4, 9])
@pytest.mark.parametrize("own_weights", [False, True])
def test_many_points_in_one_pass_are_separate_passes(problem, rng, points, own_weights):
    table, samples = problem
    program = Program.compile(samples, table.names, range(PARAMETERS))
    coefficients = [program.at(*point(rng, 0.4)) for _ in range(points)]
    weights = rng.poisson(1, (points, N)).astype(float) if own_weights else rng.poisson(1, N).astype(float)
    together = Coefficients.join(coefficients)
    many = compiled.sums(program, together, table, weights, threshold=1e-8)
    for i, (k, result) in enumerate(zip(coefficients, many, strict=True)):
        (single,) = compiled.sums(program, k, table, weights[i] if own_weights else weights, threshold=1e-8)
        same(result, single, 1e-14)


def test_exponential_and_logarithm_are_accurate_everywhere():
    x = np.concatenate([np.linspace(-700, 700, 10_001), np.logspace(-300, 2, 2000), [0.0, -800.0, 800.0, np.nan]])
    ours = np.array([loops._exp(v) for v in x])
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(ours, np.exp(x), rtol=3e-14, atol=0)
    y = np.concatenate([np.logspace(-300, 300, 10_001), 1 + np.linspace(-0.4, 0.4, 2001)])
    np.testing.assert_allclose([loops._log(v) for v in y], np.log(y), rtol=6e-16)


def test_nan_and_overflow_are_seen(problem, rng):
    table, samples = problem
    program = Program.compile(samples, table.names, range(PARAMETERS))
    nu, theta = point(rng)
    for value in (np.nan, 1e6):
        theta[3] = value
        for name in ("numba", "numpy"):
            with np.errstate(all="ignore"):
                (result,) = Kernel(name).sums(program, program.at(nu, theta), table, np.ones(N), threshold=1e-8)
            assert not np.isfinite(result.value)


# --- derivatives against automatic differentiation of an independent formula


def interpolate(code, alpha, hi, lo):
    """Textbook formulas (CERN-OPEN-2012-016): factor or shift relative to a nominal value of 1."""
    if code == "code0":
        return torch.where(alpha > 0, alpha * (hi - 1), alpha * (1 - lo))
    if code == "code1":
        return hi**alpha if alpha >= 0 else lo ** (-alpha)
    if code == "code2":
        a, b = (hi + lo) / 2 - 1, (hi - lo) / 2
        return a * alpha**2 + b * alpha
    if code == "code4p":
        if abs(alpha) > 1:
            return alpha * (hi - 1) if alpha > 0 else alpha * (1 - lo)
        s, a = (hi - lo) / 2, (hi + lo - 2) / 16
        return alpha * s + alpha**2 * a * (15 + alpha**2 * (3 * alpha**2 - 10))
    if abs(alpha) >= 1:
        return hi**alpha if alpha > 0 else lo ** (-alpha)
    # code4: match value, slope and curvature of the exponentials at +-1
    powers = torch.arange(1, 7, dtype=torch.float64)
    rows = []
    for side in (1.0, -1.0):
        rows += [side**powers, powers * side ** (powers - 1), powers * (powers - 1) * side ** (powers - 2)]
    target = [hi - 1, torch.log(hi) * hi, torch.log(hi) ** 2 * hi, lo - 1, -torch.log(lo) * lo, torch.log(lo) ** 2 * lo]
    coefficients = torch.linalg.solve(torch.stack(rows), torch.stack(target))
    return 1 + (alpha**powers) @ coefficients


def slow_twice_nll(table, samples, weights, nu, theta, pool_weights):
    """-2 sum w ln sum_c nu_c T_c in torch, written from the formulas, normalised on the pool = the table itself."""
    column = {name: torch.as_tensor(np.array(table[name], dtype=np.float64)) for name in table.names}
    total = 0.0
    for c, sample in enumerate(samples):
        r = column[sample.ratio]
        t = torch.ones_like(r)
        for term in sample.exponent:
            monomial = torch.ones((), dtype=torch.float64)
            for par, power in term.powers:
                monomial = monomial * theta[par] ** power
            t = t * torch.exp(monomial * column[term.column])
        bracket = r.clone()
        for v in sample.shifts:
            bracket = bracket + r * interpolate(v.code, theta[v.par], column[v.hi] / r, column[v.lo] / r)
        for v in sample.factors:
            t = t * interpolate(v.code, theta[v.par], column[v.hi] / r, column[v.lo] / r)
        t = t * bracket
        if sample.par:
            t = t * (pool_weights @ r) / (pool_weights @ t)
        total = total + nu[c] * t
    return -2 * (weights @ torch.log(total))


@pytest.mark.parametrize("seed", range(6))
def test_value_gradient_and_hessian_are_those_of_automatic_differentiation(seed):
    rng = np.random.default_rng(seed)
    table, samples = every_code(rng, 400)
    q = rng.uniform(0.5, 1.5, 400)
    q /= q.sum()
    samples = tuple(
        replace(s, norm=PoolIntegral(PoolSum(s, Events(table), q, Kernel()))) if s.par else s for s in samples
    )
    nu, theta = point(rng, 0.9 if seed % 2 else 0.3)
    theta[0] = np.clip(theta[0], -0.9, 0.9)  # code2 is not continuous at 1
    nu[0] = 30.0
    weights = rng.poisson(1, 400).astype(float)
    term = term_of(samples, table, weights)

    def slow(x):
        t = torch.as_tensor
        return slow_twice_nll(table, samples, t(weights), x[:4], x[4:], t(q))

    x = torch.tensor(np.concatenate([nu, theta]), requires_grad=True)
    value, gradient, hessian = term.derivatives(nu, theta, 1e-8, hessian=True)
    exact = slow(x)
    assert value == pytest.approx(exact.item(), rel=1e-12)
    assert term.value(nu, theta, 1e-8) == (pytest.approx(value, rel=1e-14), 0)
    g = torch.autograd.grad(exact, x)[0].numpy()
    h = torch.autograd.functional.hessian(slow, x.detach()).numpy()
    np.testing.assert_allclose(gradient, g, rtol=0, atol=1e-10 * np.abs(g).max())
    np.testing.assert_allclose(hessian, h, rtol=0, atol=1e-10 * np.abs(h).max())
    values, gradients = term.many(np.array([nu, nu]), np.array([theta, 0.9 * theta]), 1e-8)
    assert values[0] == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(gradients[0], gradient, rtol=1e-11)


# --- laws of a likelihood of events


def full_value(samples, table, weights, nu, theta):
    return term_of(samples, table, weights).derivatives(nu, theta, 1e-8, hessian=True)


def agree(a, b, rel=1e-12):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rel * max(np.abs(y).max(), 1.0))


@pytest.fixture
def positive(problem, rng):
    table, samples = problem
    nu, theta = point(rng, 0.5)
    nu[3] = 0.02
    return table, samples, nu, theta, rng.poisson(2, N).astype(float)


def test_order_of_events_does_not_matter(positive, rng):
    table, samples, nu, theta, w = positive
    order = rng.permutation(N)
    agree(full_value(samples, table.take(order), w[order], nu, theta), full_value(samples, table, w, nu, theta))


def test_splitting_events_adds_up(positive):
    table, samples, nu, theta, w = positive
    parts = [np.arange(0, 1000), np.arange(1000, 1001), np.arange(1001, N)]
    pieces = [full_value(samples, table.take(i), w[i], nu, theta) for i in parts]
    agree([sum(p) for p in zip(*pieces, strict=True)], full_value(samples, table, w, nu, theta))


def test_equal_events_merge_into_weights(positive):
    table, samples, nu, theta, w = positive
    repeated = table.take(np.repeat(np.arange(N), w.astype(int)))
    agree(full_value(samples, repeated, np.ones(len(repeated)), nu, theta), full_value(samples, table, w, nu, theta))


def test_events_of_weight_zero_are_not_visited(positive):
    table, samples, nu, theta, w = positive
    poisoned = {name: np.array(table[name]) for name in table.names}
    for values in poisoned.values():
        values[w == 0] = -1e30  # would give NaN
    term = term_of(samples, RatioTable.from_columns(poisoned, np.float64), w)
    assert len(term.table) == (w > 0).sum()
    agree(term.derivatives(nu, theta, 1e-8, hessian=True), full_value(samples, table, w, nu, theta))


def test_another_reference_density_adds_a_constant(positive):
    """q -> q g(x): all ratios are divided by g, ln L changes by a constant."""
    table, samples, nu, theta, w = positive
    g = np.random.default_rng(2).uniform(0.5, 2.0, N)
    ratios = [n for n in table.names if "d1" not in n and "d2" not in n and n not in ("cross", "cubic")]
    other = RatioTable.from_columns({n: table[n] / (g if n in ratios else 1) for n in table.names}, np.float64)
    before, after = full_value(samples, table, w, nu, theta), full_value(samples, other, w, nu, theta)
    assert after[0] - before[0] == pytest.approx(2 * w @ np.log(g), rel=1e-10)
    agree(after[1:], before[1:], 1e-11)


def test_layout_of_the_table_does_not_matter(positive):
    table, samples, nu, theta, w = positive
    one_block = RatioTable(table.names, np.ascontiguousarray(table.values))
    shuffled = table.select(table.names[::-1])
    expected = full_value(samples, table, w, nu, theta)
    agree(full_value(samples, one_block, w, nu, theta), expected, 1e-13)
    agree(full_value(samples, shuffled, w, nu, theta), expected, 1e-13)
    assert one_block.size == N > table.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_are_those_of_the_continued_logarithm(problem, rng, dtype):
    """A signed sample makes densities negative: value, gradient and Hessian still belong together."""
    table, samples = every_code(rng, dtype=dtype)
    theta, threshold = rng.normal(0, 0.3, PARAMETERS), 0.5
    nu = np.array([1.0, 0.1, 0.2, 3.0])
    term = term_of(samples, table, np.ones(N))
    _, gradient, hessian = term.derivatives(nu, theta, threshold, hessian=True)
    assert term.value(nu, theta, threshold)[1] > 50
    x = np.concatenate([nu, theta])
    for j, e in enumerate(1e-5 * np.eye(len(x))):
        up, down = (term.derivatives((x + s)[:4], (x + s)[4:], threshold, hessian=False) for s in (e, -e))
        assert (up[0] - down[0]) / 2e-5 == pytest.approx(gradient[j], rel=1e-6, abs=1e-6 * np.abs(gradient).max())
        np.testing.assert_allclose((up[1] - down[1]) / 2e-5, hessian[j], rtol=0, atol=1e-5 * np.abs(hessian).max())


# --- shapes that stay where they are


def test_a_change_of_rates_alone_reads_remembered_densities(positive):
    table, samples, nu, theta, w = positive
    term = term_of(samples, table, w)
    expected = [term_of(samples, table, w).value(n, theta, 1e-8)[0] for n in (nu, 1.1 * nu, 1.2 * nu)]
    first = [term.value(n, theta, 1e-8)[0] for n in (nu, 1.1 * nu)]
    object.__setattr__(term, "events", None)  # shapes cannot be evaluated any more
    assert [*first, term.value(1.2 * nu, theta, 1e-8)[0]] == pytest.approx(expected, rel=1e-13)
    with pytest.raises(AttributeError):
        term.value(nu, theta + 0.1, 1e-8)


@pytest.mark.parametrize("kernel", KERNELS)
def test_frozen_shapes_give_the_derivatives_in_the_rates(positive, kernel, monkeypatch):
    """Each kernel computes its densities itself: the oracle is independent of the compiled code."""
    table, samples, nu, theta, w = positive
    if kernel != "numba":
        monkeypatch.setattr(compiled, "densities", None)
        monkeypatch.setattr(compiled, "sums", None)
    term = term_of(samples, table, w, Kernel(kernel))
    value, gradient, hessian = term.derivatives(nu, theta, 1e-8, hessian=True)
    frozen = term.frozen(theta).derivatives(nu, theta, 1e-8, hessian=True)
    assert frozen[0] == pytest.approx(value, rel=1e-13)
    np.testing.assert_allclose(frozen[1], gradient[:4], rtol=1e-12)
    np.testing.assert_allclose(frozen[2], hessian[:4, :4], rtol=1e-11)


# --- precision, sizes, errors


def test_a_million_events_in_float32_give_2_delta_nll_to_1e_4():
    """Against float64 arithmetic on the same columns: far points, wide shapes."""
    rng = np.random.default_rng(7)
    n, k = 1_000_000, 4
    columns = {"s": rng.lognormal(0, 0.5, n), "b": rng.lognormal(0, 0.5, n)}
    columns |= {f"{c}{d}{j}": rng.normal(0, 0.1 if d == 1 else 0.01, n) for c in "sb" for d in (1, 2) for j in range(k)}
    table = RatioTable.from_columns(columns)
    samples = [
        SampleShape(c, c, quadexp(range(k), [f"{c}1{j}" for j in range(k)], [f"{c}2{j}" for j in range(k)]))
        for c in "sb"
    ]
    term = term_of(tuple(samples), table, np.ones(n))
    exact = {name: np.array(table[name], dtype=np.float64) for name in table.names}

    def plain(nu, theta):
        phi = np.concatenate([theta, theta**2])
        total = np.zeros(n, dtype=np.longdouble)
        for v, c in zip(nu, "sb", strict=True):
            exponent = sum(
                p * exact[f"{c}{d}"] for p, d in zip(phi, [f"{d}{j}" for d in (1, 2) for j in range(k)], strict=True)
            )
            total += v * exact[c] * np.exp(exponent)
        return -2 * float(np.sum(np.log(total)))

    points = [(np.array([5e4, 9.5e5]), np.zeros(k)), (np.array([6e4, 9.4e5]), np.array([1.5, -1.0, 0.5, -0.2]))]
    a, b = (term.value(*p, 1e-8)[0] for p in points)
    assert a - b == pytest.approx(plain(*points[0]) - plain(*points[1]), abs=1e-4)


@pytest.mark.parametrize("columns", [1, 63, 256, 257, 505, 1005, 100_000])
def test_a_block_fits_the_cache(columns):
    size = block_size(columns)
    assert 128 <= size <= 1024
    assert size & (size - 1) == 0
    assert size == 128 or size * columns * 4 <= 1 << 20
    assert size == 1024 or 2 * size * columns * 4 > 1 << 20


@pytest.mark.parametrize("n", [0, 1, 5, 1023, 1024, 1025, 5000])
def test_a_table_gives_back_its_events(n, rng):
    columns = {"a": rng.normal(size=n), "b": rng.normal(size=n)}
    table = RatioTable.from_columns(columns, np.float64)
    assert len(table) == n
    np.testing.assert_array_equal(table.values, [columns["a"], columns["b"]])
    np.testing.assert_array_equal(table["b"], columns["b"])
    chunks = list(table.chunks(700))
    np.testing.assert_array_equal(np.concatenate([np.empty((2, 0)), *(x for _, x in chunks)], axis=1), table.values)
    assert [s.stop - s.start for s, _ in chunks] == [x.shape[1] for _, x in chunks]
    index = rng.permutation(n)[: n // 2]
    np.testing.assert_array_equal(table.take(index)["a"], columns["a"][index])
    with pytest.raises(ValueError, match="read-only"):
        table.blocks[...] = 0.0


def test_a_kernel_that_does_not_exist_is_refused(analytic_workspace):
    for options, message in (
        ({"kernel": "numbb"}, "did you mean 'numba'"),
        ({"kernel": "numpy", "device": "cuda"}, "runs on the CPU"),
        ({"threads": 0}, "at least one thread"),
    ):
        with pytest.raises(InvalidModel, match=message):
            analytic_workspace.model(**options)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_named(analytic_workspace):
    with pytest.raises(InvalidModel, match="torch cannot use device 'cuda'"):
        analytic_workspace.model(device="cuda").twice_nll(*point_and_data(analytic_workspace))


def point_and_data(workspace):
    model = workspace.model()
    return np.array(model.config.suggested_init()) + 0.05, workspace.data(model)


@pytest.mark.parametrize("name", KERNELS)
def test_a_model_can_be_evaluated_by_any_kernel(name, analytic_workspace):
    theta, data = point_and_data(analytic_workspace)
    model, reference = analytic_workspace.model(kernel=name, threads=1), analytic_workspace.model()
    assert model.twice_nll(theta, data) == pytest.approx(reference.twice_nll(theta, data), rel=1e-13)
    ours, theirs = (m.likelihood(data).derivatives(theta, hessian=True) for m in (model, reference))
    agree(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here: the torch kernel was tested on the CPU")
def test_a_gpu_gives_the_same(analytic_workspace):
    theta, data = point_and_data(analytic_workspace)
    on_gpu = analytic_workspace.model(device="cuda").likelihood(data).derivatives(theta, hessian=True)
    agree(on_gpu, analytic_workspace.model().likelihood(data).derivatives(theta, hessian=True))
