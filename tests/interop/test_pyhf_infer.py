"""All of pyhf.infer on nuratio's models, which are a pyhf model wrapped, or with every channel rewritten as unbinned.

The wrapped model is pyhf's bit for bit, random numbers included. The unbinned one has the same data vector and the same
likelihood up to a constant, so everything but absolute values and random numbers agrees as far as the minimiser goes.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyhf
import pytest
import torch
from pyhf.exceptions import InvalidPdfData, InvalidPdfParameters
from pyhf.infer import mle, test_statistics
from pyhf.infer.intervals import upper_limits

import analytic
from analytic import normsys
from nuratio.errors import InvalidModel
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import hypotest
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.interop.optimizer import exact_derivatives
from nuratio.model.model import Model
from nuratio.workspace.workspace import Workspace

pytestmark = [
    pytest.mark.filterwarnings("ignore:the `interpolation=` argument to percentile:DeprecationWarning"),  # pyhf 0.7
    pytest.mark.filterwarnings("ignore:Creating a tensor from a list of numpy.ndarrays:UserWarning"),  # pyhf with torch
]

MU = {"name": "mu", "type": "normfactor", "data": None}
LUMI = {"name": "lumi", "type": "lumi", "data": None}
FACTOR = {"name": "factor", "type": "shapefactor", "data": None}
LUMI_PARAMETER = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.1], "inits": [1.0], "bounds": [[0.0, 10.0]]}
DEFAULT = ("code4", "code4p")


def histosys(name, hi, lo):
    return {"name": name, "type": "histosys", "data": {"hi_data": hi, "lo_data": lo}}


def per_bin(kind, name, *uncertainty):
    return {"name": name, "type": kind, "data": list(uncertainty)}


def settings(codes):
    return {kind: {"interpcode": code} for kind, code in zip(("normsys", "histosys"), codes, strict=True)}


def workspace(channels, observed, *parameters):
    """A pyhf workspace from {channel: {sample: (yields, modifiers...)}} and {channel: counts}."""
    return {
        "version": "1.0.0",
        "channels": [
            {
                "name": channel,
                "samples": [{"name": s, "data": data, "modifiers": m} for s, (data, *m) in samples.items()],
            }
            for channel, samples in channels.items()
        ],
        "observations": [{"name": channel, "data": data} for channel, data in observed.items()],
        "measurements": [{"name": "m", "config": {"poi": "mu", "parameters": list(parameters)}}],
    }


def models(spec, codes=DEFAULT):
    """pyhf's model, nuratio's around it, and nuratio's with every channel unbinned."""
    plain = pyhf.Workspace(spec).model(modifier_settings=settings(codes))
    extension = {"version": "1.0.0", "files": [], "channels": [], "modifier_settings": settings(codes)}
    unbinned = Workspace(spec | {"unbinned": extension})
    for channel in plain.config.channels:
        unbinned = unbinned.unbin(channel)
    unbinned.validate()
    return {"pyhf": plain, "counting": Model.from_pyhf(plain), "unbinned": unbinned.model()}


def numbers(result):
    """All numbers of what pyhf returns, in order."""
    if isinstance(result, (tuple, list)):
        return np.concatenate([numbers(r) for r in result])
    return np.ravel(result)


# --- numbers of ROOT's HistFactory


@dataclass(frozen=True)
class Reference:
    """CLs (p0 for ``q0``) at mu = 1 (0): observed, and the five expected ones from -2 to 2 sigma."""

    channels: dict
    data: dict
    observed: float
    expected: tuple
    rtol: float = 5e-5  # precision of the numbers: they were found with numerical derivatives
    statistic: str = "q"
    parameters: tuple = ()


# The validation of pyhf against ROOT's HistFactory (J. Open Source Softw. 6 (2021) 2823): its models in our words, with
# the CLs that pyhf quotes for them; codes 1 and 0 as in HistFactory.
ROOT = {
    "shapesys": Reference(
        {"SR": {"signal": ([10.0], MU), "background": ([50.0], per_bin("shapesys", "uncorrelated", 7.0))}},
        {"SR": [55.0]},
        0.45418892944576333,
        (0.06372011644331387, 0.1509686618126131, 0.3279657430196915, 0.604613569829645, 0.8662652332047568),
    ),
    "shapesys, discovery": Reference(
        {"SR": {"signal": ([25.0], MU), "background": ([50.0], per_bin("shapesys", "uncorrelated", 7.0))}},
        {"SR": [80.0]},
        0.003936883191585841,
        (1.2204714710520103e-05, 0.0006405237426269669, 0.013202867164405075, 0.11119604157594337, 0.41286079728391695),
        rtol=4e-4,
        statistic="q0",
    ),
    "lumi": Reference(
        {"SR": {"signal": ([20.0], MU), "one": ([100.0], LUMI), "none": ([0.0], LUMI)}},
        {"SR": [55.0]},
        0.010473144401519705,
        (0.01060400765567206, 0.04022451457730529, 0.13614632580079802, 0.37078985531427255, 0.7110468540175344),
        parameters=(LUMI_PARAMETER,),
    ),
    "normsys": Reference(
        {"SR": {"signal": ([30.0, 95.0], MU), "background": ([100.0, 150.0], normsys("norm", 1.1))}},
        {"SR": [120.0, 180.0]},
        0.0006735336290569807,
        (7.472581399417304e-10, 5.741738272450336e-08, 3.690120950161796e-06, 0.00016966882793, 0.004392935288879465),
    ),
    "histosys": Reference(
        {
            "SR": {
                "signal": ([30.0, 95.0], MU),
                "background": ([100.0, 150.0], histosys("shape", [102.0, 190.0], [98.0, 100.0])),
            }
        },
        {"SR": [120.0, 180.0]},
        0.1001463460725534,
        (7.133904244038431e-06, 0.00012547100627138575, 0.001880010666437615, 0.02078964907605385, 0.13692494523572218),
        rtol=8e-5,
    ),
    "shapesys in two channels": Reference(
        {
            "SR": {"signal": ([10.0, 35.0], MU), "b": ([100.0, 150.0], per_bin("shapesys", "of SR", 10.0, 10.0))},
            "CR": {"b": ([200.0, 350.0], per_bin("shapesys", "of CR", 5.0, 10.0))},
        },
        {"SR": [110.0, 155.0], "CR": [205.0, 345.0]},
        0.0563327694384318,
        (0.0004349234603527283, 0.003422361539161119, 0.02337454317608372, 0.12186650297311125, 0.40382274594391104),
    ),
    "coupled normsys": Reference(
        {
            "SR": {
                "signal": ([10.0, 35.0], MU),
                "b1": ([100.0, 100.0], normsys("norm", 1.1)),
                "b2": ([50.0, 100.0], normsys("norm", 1.5)),
            },
            "CR": {"b1": ([100.0, 100.0], normsys("norm", 1.1))},
        },
        {"SR": [105.0, 220.0], "CR": [110.0, 105.0]},
        0.5906216823766879,
        (0.05522270453784095, 0.1361301880753241, 0.30686879632329855, 0.5839437910061168, 0.8554708284963864),
        rtol=2e-4,
    ),
    "coupled histosys": Reference(
        {
            "SR": {
                "signal": ([30.0, 35.0], MU),
                "b1": ([100.0, 100.0], histosys("shape", [110.0, 110.0], [90.0, 90.0])),
                "b2": ([50.0, 120.0], histosys("shape", [55.0, 55.0], [45.0, 45.0])),
            },
            "CR": {"b1": ([105.0, 100.0], histosys("shape", [110.0, 115.0], [95.0, 90.0]))},
        },
        {"SR": [170.0, 220.0], "CR": [110.0, 105.0]},
        0.07967400132261188,
        (
            1.7654378902209275e-05,
            0.00026266409358853543,
            0.0033401113778672156,
            0.03152286332324451,
            0.17907927340107824,
        ),
        # b2 shrinks on both sides of the kink of code 0: two minima, and these numbers belong to those on the right
        parameters=({"name": "shape", "inits": [0.1], "bounds": [[0.0, 5.0]]},),
    ),
    "coupled shapefactor": Reference(
        {
            "SR": {"signal": ([20.0, 20.0], MU), "b1": ([100.0, 70.0], FACTOR)},
            "CR": {"b1": ([100.0, 100.0], FACTOR)},
        },
        {"SR": [220.0, 230.0], "CR": [200.0, 300.0]},
        0.5421679124909312,
        (0.013753299929451691, 0.048887400056355966, 0.15555296253957684, 0.4007561343326305, 0.7357169630955912),
    ),
}


@pytest.mark.parametrize("mode", ["counting", "unbinned"])
@pytest.mark.parametrize("name", ROOT)
def test_cls_are_those_of_root(name, mode):
    reference = ROOT[name]
    spec = workspace(reference.channels, reference.data, *reference.parameters)
    model = models(spec, ("code1", "code0"))[mode]
    data = pyhf.Workspace(spec).data(model)
    poi, expected = (0.0 if reference.statistic == "q0" else 1.0), [reference.observed, *reference.expected]
    options = {"test_stat": reference.statistic, "return_expected_set": True}
    numerical = pyhf.infer.hypotest(poi, data, model, **options)
    np.testing.assert_allclose(numbers(numerical), expected, rtol=reference.rtol)
    with exact_derivatives():
        np.testing.assert_allclose(numbers(pyhf.infer.hypotest(poi, data, model, **options)), expected, reference.rtol)
    own = hypotest(model, data, poi, test_stat=reference.statistic, asymptotics="force")
    observed = own.CLsb if reference.statistic == "q0" else own.CLs
    np.testing.assert_allclose([observed, *own.CLs_expected], expected, rtol=reference.rtol)


# --- all of pyhf.infer

SPEC = workspace(
    {
        "SR": {
            "signal": ([8.0, 20.0, 6.0], MU, normsys("xs", 1.1)),
            "b1": ([90.0, 60.0, 40.0], normsys("norm", 1.1), histosys("shape", [95.0, 59.0, 44.0], [84.0, 61.0, 37.0])),
            "b2": ([20.0, 12.0, 5.0], LUMI),
        },
        "CR": {"b1": ([150.0], normsys("norm", 1.1), per_bin("staterror", "stat", 9.0))},
    },
    {"SR": [110.0, 81.0, 47.0], "CR": [155.0]},
    LUMI_PARAMETER,
)
SCIPY = pyhf.optimize.scipy_optimizer
MINUIT = pyhf.optimize.minuit_optimizer
optimizers = pytest.mark.parametrize("optimizer", [SCIPY, MINUIT], ids=["scipy", "minuit"])
TAILS = {"return_tail_probs": True, "return_expected_set": True}


@pytest.fixture(scope="module")
def three():
    made = models(SPEC)
    return made, pyhf.Workspace(SPEC).data(made["pyhf"])


@pytest.fixture(autouse=True)
def _backend():
    before = pyhf.get_backend()
    yield
    pyhf.set_backend(*before)


def statistic(name, mu):
    def call(data, model):
        config = model.config
        bounds = config.suggested_bounds()
        if name in ("qmu", "tmu"):  # pyhf warns of a bound at zero
            bounds[config.poi_index] = (-2.0, 10.0)
        function = getattr(test_statistics, name)
        value, fits = function(
            mu, data, model, config.suggested_init(), bounds, config.suggested_fixed(), return_fitted_pars=True
        )
        return [value, *fits]

    return call


def asymptotics(name, mu):
    return lambda data, model: pyhf.infer.hypotest(mu, data, model, test_stat=name, **TAILS)


CALLS = {
    "fit": lambda data, model: mle.fit(data, model),
    "fixed_poi_fit": lambda data, model: mle.fixed_poi_fit(0.5, data, model),
    "qmu": statistic("qmu", 1.5),
    "qmu_tilde": statistic("qmu_tilde", 1.5),
    "tmu": statistic("tmu", 0.3),
    "tmu_tilde": statistic("tmu_tilde", 0.3),
    "q0": statistic("q0", 0.0),
    "hypotest qtilde": asymptotics("qtilde", 1.5),
    "hypotest q": asymptotics("q", 1.5),
    "hypotest q0": asymptotics("q0", 0.0),
    "limit on a grid": lambda data, model: upper_limits.upper_limit(data, model, np.linspace(0.5, 2.5, 4)),
}
RANDOM = {
    "hypotest toybased": lambda data, model: pyhf.infer.hypotest(
        1.0, data, model, calctype="toybased", ntoys=6, track_progress=False, **TAILS
    ),
    "toys": lambda data, model: list(
        model.make_pdf(pyhf.tensorlib.astensor(model.config.suggested_init())).sample((5,))
    ),
}


@optimizers
@pytest.mark.parametrize("name", CALLS | RANDOM)
def test_a_wrapped_model_is_pyhfs_bit_for_bit(three, name, optimizer):
    made, data = three
    results = []
    for mode in ("pyhf", "counting"):
        pyhf.set_backend("numpy", optimizer())
        np.random.seed(7)
        results.append(numbers((CALLS | RANDOM)[name](data, made[mode])))
    np.testing.assert_array_equal(*results)


@optimizers
@pytest.mark.parametrize("name", CALLS)
def test_an_unbinned_model_is_pyhfs_to_the_precision_of_the_minimiser(three, name, optimizer):
    made, data = three
    pyhf.set_backend("numpy", optimizer(**({"tolerance": 1e-3} if optimizer is MINUIT else {})))
    ours, theirs = (numbers(CALLS[name](data, made[mode])) for mode in ("unbinned", "pyhf"))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("name", CALLS)
def test_an_unbinned_model_is_pyhfs_with_exact_derivatives(three, name):
    made, data = three
    with exact_derivatives():
        ours, theirs = (numbers(CALLS[name](data, made[mode])) for mode in ("unbinned", "counting"))
    np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_limits_by_root_finding():
    case = ROOT["shapesys"]
    made, limits = models(workspace(case.channels, case.data)), {}
    data = [*case.data["SR"], *made["pyhf"].config.auxdata]
    for mode, model in made.items():
        limits[mode] = numbers(upper_limits.upper_limit(data, model))
    np.testing.assert_array_equal(limits["counting"], limits["pyhf"])
    np.testing.assert_allclose(limits["unbinned"], limits["pyhf"], rtol=1e-3)
    with exact_derivatives():
        found = numbers(upper_limits.upper_limit(data, made["unbinned"], rtol=1e-7))
    own = upper_limit(made["unbinned"], data, points=0)
    np.testing.assert_allclose(found, [own.observed, *own.expected], rtol=1e-5)
    np.testing.assert_allclose(found, limits["pyhf"], rtol=1e-3)


def test_toys_of_an_unbinned_model_have_pyhfs_distribution(three):
    made, data = three
    with exact_derivatives():
        options = {"calctype": "toybased", "ntoys": 100, "track_progress": False, "return_tail_probs": True}
        tails = {}
        for mode in ("unbinned", "counting"):
            np.random.seed(3)
            tails[mode] = pyhf.infer.hypotest(0.8, data, made[mode], **options)[1]
    for ours, theirs in zip(tails["unbinned"], tails["counting"], strict=True):  # binomial, of 100 toys each
        assert 0.1 < theirs < 0.9
        assert abs(ours - theirs) < 4 * np.sqrt(2 * theirs * (1 - theirs) / 100)


# --- the rest of the protocol


def test_what_else_a_pyhf_model_has_a_wrapped_one_has(three):
    made, data = three
    plain, wrapped = made["pyhf"], made["counting"]
    pars, data = np.array(plain.config.suggested_init()), np.array(data)
    np.testing.assert_array_equal(wrapped.pdf(pars, data), plain.pdf(pars, data))
    np.testing.assert_array_equal(wrapped.expected_actualdata(pars), plain.expected_actualdata(pars))
    np.testing.assert_array_equal(wrapped.expected_auxdata(pars), plain.expected_auxdata(pars))
    n = plain.config.nmaindata
    np.testing.assert_array_equal(wrapped.mainlogpdf(data[:n], pars), plain.mainlogpdf(data[:n], pars))
    assert wrapped.nominal_rates is plain.nominal_rates
    assert wrapped.batch_size is None
    assert (wrapped.schema, wrapped.version) == (plain.schema, plain.version)
    with pytest.raises(AttributeError, match="nominal"):
        made["unbinned"].nominal_rates  # noqa: B018
    with pytest.raises(AttributeError):
        wrapped.nothing  # noqa: B018


def test_main_data_of_an_unbinned_model_are_pyhfs(three):
    made, data = three
    pars = np.array(made["pyhf"].config.suggested_init()) * 1.05
    unbinned = made["unbinned"]
    np.testing.assert_allclose(unbinned.expected_data(pars), made["pyhf"].expected_data(pars), rtol=1e-12)
    shift = np.array([float(m.logpdf(p, data)[0]) for m in (unbinned, made["pyhf"]) for p in (pars, pars * 0.97)])
    assert shift[0] - shift[1] == pytest.approx(shift[2] - shift[3], abs=1e-9)


def test_the_likelihood_itself():
    case = ROOT["shapesys"]
    model = models(workspace(case.channels, case.data))["unbinned"]
    pars, data = model.config.suggested_init(), [*case.data["SR"], *model.config.auxdata]
    np.testing.assert_array_equal(model.pdf(pars, data), np.exp(model.logpdf(pars, data)))


@pytest.mark.parametrize("mode", ["counting", "unbinned"])
def test_wrong_sizes_are_pyhfs_errors(three, mode):
    made, data = three
    model = made[mode]
    pars = model.config.suggested_init()
    with pytest.raises(InvalidPdfParameters):
        model.logpdf([*pars, 1.0], data)
    with pytest.raises(InvalidPdfData):
        model.logpdf(pars, [*data, 1.0])
    with pytest.raises(InvalidModel):
        model.twice_nll([*pars, 1.0], data)
    with pytest.raises(InvalidModel):
        model.twice_nll(pars, [*data, 1.0])


@pytest.mark.skipif(not pyhf.__version__.startswith("0.7"), reason="pyhf has no torch backend any more")
def test_a_wrapped_model_runs_on_pyhfs_other_backends(three):
    plain, data = three[0]["pyhf"], three[1]
    before = torch.get_default_dtype()
    try:
        pyhf.set_backend("pytorch", precision="64b")  # which changes torch's default for good
        results = [mle.fit(pyhf.tensorlib.astensor(data), m, do_grad=True) for m in (plain, Model.from_pyhf(plain))]
    finally:
        torch.set_default_dtype(before)
    assert [type(r) for r in results] == [pyhf.tensorlib.array_type] * 2
    np.testing.assert_array_equal(*map(np.asarray, results))


def test_the_parameter_of_one_bin_can_be_the_poi(three):
    for model in three[0].values():
        model.config.set_poi("stat")
        assert model.config.poi_index == model.config.par_slice("stat").start
        model.config.set_poi("mu")


@pytest.mark.parametrize("clip", ["clip_sample_data", "clip_bin_data"])
def test_clipped_rates_are_left_to_pyhf(three, clip):
    data = three[1]
    plain = pyhf.Workspace(SPEC).model(**{clip: 50.0})
    model, pars = Model.from_pyhf(plain), plain.config.suggested_init()
    np.testing.assert_array_equal(model.logpdf(pars, data), plain.logpdf(pars, data))
    with pytest.raises(InvalidModel, match=clip):
        model.twice_nll(pars, data)


def test_yields_may_be_arrays():
    spec = json.loads(json.dumps(SPEC))
    for sample in spec["channels"][0]["samples"]:
        sample["data"] = np.array(sample["data"])
    parameters = SPEC["measurements"][0]["config"]["parameters"]
    plain = pyhf.Model({"channels": spec["channels"], "parameters": parameters}, poi_name="mu", validate=False)
    model = Model.from_pyhf(plain)
    pars, data = plain.config.suggested_init(), pyhf.Workspace(SPEC).data(plain)
    assert model.twice_nll(pars, data) == pytest.approx(-2 * plain.logpdf(pars, data)[0], rel=1e-12)


# --- several events in one cell, which pyhf knows nothing of


@pytest.fixture(scope="module")
def events():
    ws = analytic.workspace(pool=300, n_background=150.0, n_signal=30.0)
    model = ws.model()
    return model, ws.data(model)


@optimizers
def test_pyhf_infers_from_events_as_nuratio_does(events, optimizer):
    model, data = events
    pyhf.set_backend("numpy", optimizer(**({"tolerance": 1e-3} if optimizer is MINUIT else {})))
    free = fit(model, data)
    np.testing.assert_allclose(CALLS["fit"](data, model), free.bestfit, atol=1e-3)
    fixed = fit(model, data, fixed={"mu": 0.3})
    tested = statistic("tmu_tilde", 0.3)(data, model)
    assert float(tested[0]) == pytest.approx(fixed.twice_nll - free.twice_nll, abs=1e-4)
    for name, mu in (("qtilde", 1.5), ("q", 1.5), ("q0", 0.0)):
        own = hypotest(model, data, mu, test_stat=name)
        observed, band = pyhf.infer.hypotest(mu, data, model, test_stat=name, return_expected_set=True)
        assert float(observed) == pytest.approx(own.CLsb if name == "q0" else own.CLs, abs=1e-4)
        np.testing.assert_allclose(band, own.CLs_expected, atol=1e-4)


def test_root_finding_with_numerical_derivatives_is_nuratios_limit(events):
    model, data = events
    pyhf.set_backend("numpy", SCIPY())
    own = upper_limit(model, data, points=0)
    observed, band = upper_limits.upper_limit(data, model, rtol=1e-3)
    np.testing.assert_allclose([observed, *band], [own.observed, *own.expected], rtol=2e-3)


def test_numpys_seed_reproduces_toys(events):
    model, _ = events
    drawn = []
    for _ in range(2):
        np.random.seed(1)
        drawn.append(RANDOM["toys"](None, model))
    np.testing.assert_array_equal(*drawn)


def test_toys_of_events_follow_asymptotics(events):
    model, data = events
    n = 100
    np.random.seed(5)
    with exact_derivatives():
        options = {"calctype": "toybased", "ntoys": n, "track_progress": False, "return_tail_probs": True}
        tails = numbers(pyhf.infer.hypotest(0.9, data, model, **options)[1])
    own = hypotest(model, data, 0.9)
    for share, p in zip(tails, (own.CLsb, own.CLb), strict=True):
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / n) + 0.02  # binomial, and the size of asymptotic corrections
