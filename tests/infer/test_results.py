import json

import numpy as np
import pytest

from nuratio.errors import InvalidData, UnknownName
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.hypotest import hypotest, significance
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.profiles.scan import scan
from nuratio.infer.results import load_result

MAKERS = {
    "fit": lambda m, d: fit(m, d, minos=["mu"]),
    "fit without HESSE": lambda m, d: fit(m, d, hesse=False),
    "scan": lambda m, d: scan(m, d, points=3),
    "hypotest": lambda m, d: hypotest(m, d, 1.0),
    "significance": significance,
    "limit": lambda m, d: upper_limit(m, d, points=3),
    "projection": lambda m, d: project(m, d, fit(m, d), "SR"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_json_round_trip(analytic_model, kind, tmp_path):
    result = MAKERS[kind](*analytic_model)
    text = result.to_json()
    json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    back = load_result(text)
    assert type(back) is type(result)
    assert back.to_json() == text
    file = tmp_path / "result.json"
    file.write_text(text)
    assert load_result(file).to_json() == text


def test_what_is_no_result_is_refused():
    with pytest.raises(InvalidData, match="not a result"):
        load_result("{")
    with pytest.raises(InvalidData, match="did you mean 'limit'"):
        load_result('{"kind": "limits"}')
    with pytest.raises(InvalidData, match="missing"):
        load_result('{"kind": "limit"}')


def test_parameters_by_name(analytic_model):
    result = fit(*analytic_model)
    assert float(result["mu"]) == result.bestfit[result.names.index("mu")]
    assert [e.name for e in result] == list(result.names)
    np.testing.assert_allclose(np.diag(result.correlation), ~np.array(result.fixed))
    with pytest.raises(UnknownName, match="did you mean"):
        result["tlit"]


def test_a_fit_says_what_the_minimiser_did(analytic_model):
    result = fit(*analytic_model)
    assert result.message == ""
    newton, migrad = result.steps
    assert newton.startswith("Newton: ")
    assert migrad.startswith("MIGRAD: agrees")
    assert set(result.calls) == {"value", "gradient", "hessian"}
    back = load_result(result.to_json())
    assert back.steps == result.steps
    assert back.calls == result.calls
    limited = fit(*analytic_model, max_calls=2)
    assert not limited.valid
    assert "call limit 2 reached" in limited.message
