"""Trained estimators as ONNX files, to evaluate them in other frameworks (C++, onnxruntime) without nuratio or torch.

The file holds everything between features and ratios: standardisation, all networks, their mean, the head,
normalisation and calibration. Use the default for observed data; ``cross_fitted=True`` for simulated events of the
training, each of which is then evaluated by the networks that have not seen it. Needs ``pip install 'nuratio[onnx]'``;
running a file takes onnxruntime.
"""

import json
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio import __version__
from nuratio.errors import InvalidData, MissingExtra
from nuratio.ratios.calibration import Increasing
from nuratio.ratios.crossfit import CrossFit
from nuratio.ratios.estimator import RatioEstimator
from nuratio.ratios.heads import Complementary, Direct, Head, Resampled, Separate, Softmax
from nuratio.ratios.losses import BCE, LSIF, PARE, REVERT, Logit, Loss, Sinh
from nuratio.ratios.network import NetworkStack
from nuratio.ratios.shape import ShapeEstimator
from nuratio.ratios.storage import write_whole
from nuratio.ratios.table import RatioTable

__all__ = ["export_onnx"]

_Combine = Callable[[str, int, int | None], str]
"""From the outputs of m networks, shape (m, n, outputs), m, and their fold (None: all) to columns, shape (n, k)."""

_OPSET, _IR = 18, 8  # for onnxruntime from 1.14 on


def export_onnx(
    estimator: RatioEstimator | ShapeEstimator,
    path: str | Path,
    *,
    cross_fitted: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write an estimator as one ONNX file.

    Inputs: ``features``, float32, shape (n, d), in the order of the metadata's ``features``; with ``cross_fitted`` also
    ``event_id``, int64, shape (n,). Outputs, float64: of a `RatioEstimator` ``ratios``, shape (n, parts), which is
    `RatioEstimator.ratios`, and ``net``, shape (n, samples), which is `RatioEstimator.ratio` of each sample; of a
    `ShapeEstimator` ``coefficients``, shape (n, terms). Networks run in float32, as they were trained, the rest in
    float64: the numbers are the estimator's to the rounding of float32.

    Where the estimator raises, a graph cannot: a network outside the domain of its loss gives a ratio that is not
    finite, and so may features that are NaN or infinite.

    Parameters
    ----------
    estimator : RatioEstimator or ShapeEstimator
    path : str or Path
        The file.
    cross_fitted : bool
        Choose each event's networks by its id, as ``ratios(x, event_ids=...)`` does. All are evaluated all the same.
    overwrite : bool
        Replace a file that exists.

    Returns
    -------
    dict
        The file's metadata, which ONNX keeps as strings (JSON but for ``kind`` and ``nuratio_version``): ``features``,
        ``folds``, ``fold_seed``, ``cross_fitted``; of ratios ``parts`` (columns of ``ratios``), ``samples`` (columns of
        ``net``, sample -> its parts; without samples whose yields cancel), ``yields`` (part -> W, expected events) and
        ``reference_fractions``; of shapes ``terms`` (columns of ``coefficients``, each a list of nuisances and powers).

    Raises
    ------
    MissingExtra
        The package onnx is not installed.
    InvalidData
        The file exists, or an estimator, head or loss that has no form in ONNX.
    """
    if not isinstance(estimator, RatioEstimator | ShapeEstimator):
        raise InvalidData(f"a {type(estimator).__name__} has no form in ONNX; give a RatioEstimator or ShapeEstimator")
    path = Path(path)
    if path.exists() and not overwrite:
        raise InvalidData(f"{path} exists; choose another name or overwrite it explicitly")
    graph = _Graph()
    described = _describe(estimator) | {"cross_fitted": cross_fitted}
    if isinstance(estimator, RatioEstimator):
        ratios = _chosen(graph, estimator.networks, cross_fitted, lambda *args: _normalised(estimator, graph, *args))
        outputs = {"ratios": (ratios, len(estimator.parts))}
        if shares := _shares(estimator):
            outputs["net"] = (_net(graph, ratios, shares.values()), len(shares))
    else:
        values = _chosen(graph, estimator.networks, cross_fitted, lambda y, _, __: _mean(graph, y))
        outputs = {"coefficients": (values, len(estimator.terms))}
    content = graph.model(outputs, len(estimator.features), described)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
    return described


class _Graph:
    """A graph under construction: call it with an operator and its inputs (names, or constants); it names the output.

    Constants are taken as numpy takes them: floats are float64, integers int64.
    """

    def __init__(self) -> None:
        try:
            import onnx
        except ImportError as error:
            raise MissingExtra("writing ONNX files needs the package onnx: pip install 'nuratio[onnx]'") from error
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def __call__(self, operator: str, *inputs: str | ArrayLike, **attributes: Any) -> str:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(operator, names, [output], **attributes))
        return output

    def _constant(self, value: ArrayLike) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def cast(self, name: str, dtype: type[np.generic]) -> str:
        return self("Cast", name, to=self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def model(self, outputs: dict[str, tuple[str, int]], features: int, described: dict[str, Any]) -> bytes:
        """The finished file; outputs with their numbers of columns."""
        helper, types = self._onnx.helper, self._onnx.TensorProto
        inputs = [helper.make_tensor_value_info("features", types.FLOAT, ["events", features])]
        if described["cross_fitted"]:
            inputs.append(helper.make_tensor_value_info("event_id", types.INT64, ["events"]))
        results = []
        for name, (value, columns) in outputs.items():
            self._nodes.append(helper.make_node("Identity", [value], [name]))
            results.append(helper.make_tensor_value_info(name, types.DOUBLE, ["events", columns]))
        graph = helper.make_graph(self._nodes, described["kind"], inputs, results, self._constants)
        opset = [helper.make_opsetid("", _OPSET)]
        model = helper.make_model(
            graph, opset_imports=opset, ir_version=_IR, producer_name="nuratio", producer_version=__version__
        )
        strings = {k: v if isinstance(v, str) else json.dumps(v) for k, v in described.items()}
        helper.set_model_props(model, strings)
        self._onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content


def _describe(estimator: RatioEstimator | ShapeEstimator) -> dict[str, Any]:
    """The metadata of the file."""
    described: dict[str, Any] = {
        "kind": "ratio-estimator" if isinstance(estimator, RatioEstimator) else "shape-estimator",
        "nuratio_version": __version__,
        "features": list(estimator.features),
        "folds": estimator.options.folds,
        "fold_seed": estimator.options.fold_seed,
    }
    if isinstance(estimator, RatioEstimator):
        parts = np.array(estimator.parts)
        described |= {
            "parts": list(estimator.parts),
            "samples": {name: parts[row != 0].tolist() for name, row in _shares(estimator).items()},
            "yields": estimator.yields,
            "reference_fractions": estimator.reference_fractions,
        }
    else:
        described |= {"terms": [list(map(list, term)) for term in estimator.terms]}
    return described


def _shares(estimator: RatioEstimator) -> dict[str, NDArray[np.float64]]:
    """Sample -> W_k / W of every part, shape (parts,): its net ratio where one part's is 1 and all others are 0."""
    each = RatioTable(estimator.parts, np.eye(len(estimator.parts)))
    shares = {}
    for name in estimator.names:
        with suppress(InvalidData):  # the yields cancel
            shares[name] = estimator.net(each, name)
    return shares


def _net(graph: _Graph, ratios: str, shares: Iterable[NDArray[np.float64]]) -> str:
    """Net ratios, shape (n, samples), each from its own parts: another part may be infinite."""
    columns = [
        graph("MatMul", graph("Gather", ratios, np.flatnonzero(row), axis=1), row[row != 0][:, None]) for row in shares
    ]
    return graph("Concat", *columns, axis=1)


def _chosen(graph: _Graph, networks: CrossFit, cross_fitted: bool, combine: _Combine) -> str:
    """What ``combine`` makes of the outputs of all networks, or of those of an event's fold."""
    outputs = _networks(graph, networks.stack)
    if not cross_fitted:
        return combine(graph("Concat", *outputs, axis=0), len(outputs), None)
    folds = networks.options.folds
    size = len(outputs) // folds
    values = [combine(graph("Concat", *outputs[k * size : (k + 1) * size], axis=0), size, k) for k in range(folds)]
    fold = graph("Unsqueeze", _fold_of(graph, "event_id", folds, networks.options.fold_seed), [1])
    result = values[0]
    for k, value in enumerate(values[1:], start=1):
        result = graph("Where", graph("Equal", fold, k), value, result)
    return result


def _normalised(estimator: RatioEstimator, graph: _Graph, outputs: str, members: int, fold: int | None) -> str:
    """Ratios as `RatioEstimator.ratios` gives them, shape (n, parts)."""
    ratios = _ratios(estimator.head, graph, outputs, members)
    ratios = graph("Div", ratios, [z for z, _ in estimator.normalisation.values()])
    if estimator.calibration is None:
        return ratios
    curves = estimator.calibration.curves if fold is None else [estimator.calibration.curves[fold]]
    columns = [graph("Gather", ratios, [k], axis=1) for k in range(len(estimator.parts))]
    calibrated = [
        graph("Concat", *(_increasing(graph, curve, r) for curve, r in zip(some, columns, strict=True)), axis=1)
        for some in curves
    ]
    return graph("Div", graph("Sum", *calibrated), np.multiply(len(curves), estimator.calibration.normalisation))


def _increasing(graph: _Graph, curve: Increasing, r: str) -> str:
    """A piecewise linear function of r, shape (n, 1): each piece by its first point and its slope."""
    inner = np.unique(curve.x)
    x = np.concatenate([[inner[0] - 1], inner, [inner[-1] + 1]])
    y = curve(x)
    piece = graph("ReduceSum", graph.cast(graph("GreaterOrEqual", r, inner), np.int64), [1], keepdims=1)
    first_x, first_y, slope = (graph("Gather", v, piece) for v in (x[:-1], y[:-1], np.diff(y) / np.diff(x)))
    return graph("Add", first_y, graph("Mul", graph("Sub", r, first_x), slope))


def _networks(graph: _Graph, stack: NetworkStack) -> list[str]:
    """Output of each network, shape (1, n, outputs), float64: float32 up to there, as in `NetworkStack.forward`."""
    arrays = stack.to_arrays()
    layers = [(arrays[f"weights.{i}"], arrays[f"biases.{i}"]) for i in range(len(stack.weights))]
    x = graph("Mul", graph("Sub", "features", arrays["center"]), arrays["inverse_scale"])
    outputs = []
    for member in range(len(layers[0][0])):
        h = x
        for i, (weight, bias) in enumerate(layers):
            h = _silu(graph, h) if i else h
            h = graph("Gemm", h, weight[member], bias[member, 0])
        outputs.append(graph("Unsqueeze", graph.cast(graph("Mul", h, arrays["output_scale"]), np.float64), [0]))
    return outputs


def _silu(graph: _Graph, x: str) -> str:
    """x / (1 + exp(-x)), written out: fast forms of the operator Sigmoid are cut off where it is small."""
    return graph("Div", x, graph("Add", graph("Exp", graph("Neg", x)), np.float32(1)))


def _fold_of(graph: _Graph, event_ids: str, folds: int, seed: int) -> str:
    """`nuratio.data.split.fold_of`, shape (n,): the same hash."""

    def mixed(z: str, shift: int) -> str:
        return graph("BitwiseXor", z, graph("BitShift", z, np.uint64(shift), direction="RIGHT"))

    z = graph("Add", graph.cast(event_ids, np.uint64), np.uint64((0x9E3779B97F4A7C15 * (2 * seed + 1)) % 2**64))
    z = graph("Mul", mixed(z, 30), np.uint64(0xBF58476D1CE4E5B9))
    z = graph("Mul", mixed(z, 27), np.uint64(0x94D049BB133111EB))
    return graph.cast(graph("Mod", mixed(z, 31), np.uint64(folds)), np.int64)


def _mean(graph: _Graph, values: str) -> str:
    """Mean over networks."""
    return graph("ReduceMean", values, [0], keepdims=0)


def _columns(graph: _Graph, outputs: str, first: int, last: int) -> str:
    return graph("Slice", outputs, [first], [last], [-1])


# What the methods of a head and of a loss do, in the words of ONNX.


@singledispatch
def _ratios(head: Head, graph: _Graph, outputs: str, members: int) -> str:
    """Ratios before normalisation, shape (n, K), from the outputs of m networks, shape (m, n, outputs)."""
    raise InvalidData(f"{head} has no form in ONNX yet: register one in {__name__}")


@_ratios.register
def _(head: Softmax, graph: _Graph, outputs: str, members: int) -> str:
    log_s = graph("Sub", graph("LogSoftmax", outputs, axis=-1), np.log(head.training))
    in_q = np.flatnonzero(head.reference)
    terms = graph("Add", graph("Gather", log_s, in_q, axis=2), np.log(np.array(head.reference)[in_q]))
    log_q = graph("ReduceLogSumExp", terms, [2], keepdims=1)
    return _mean(graph, graph("Exp", graph("Sub", log_s, log_q)))


@_ratios.register
def _(head: Direct, graph: _Graph, outputs: str, members: int) -> str:
    return _mean(graph, _ratio(head.loss, graph, outputs))


@_ratios.register
def _(head: Separate, graph: _Graph, outputs: str, members: int) -> str:
    groups = graph("Reshape", outputs, [members // head.parts, head.parts, -1])
    return graph("Transpose", _mean(graph, graph("Exp", groups)), perm=[1, 0])


@_ratios.register
def _(head: Resampled, graph: _Graph, outputs: str, members: int) -> str:
    k = len(head.training)
    shares = graph("Softmax", _columns(graph, outputs, 0, k), axis=-1)
    signs = graph("Sub", graph("Mul", graph("Sigmoid", _columns(graph, outputs, k, 2 * k)), 2.0), 1.0)
    return graph("Mul", _mean(graph, graph("Mul", shares, signs)), np.divide(head.gain, head.training))


@_ratios.register
def _(head: Complementary, graph: _Graph, outputs: str, members: int) -> str:
    k = len(head.training)
    p = graph("Softmax", _columns(graph, outputs, 0, k), axis=-1)
    if not head.debiased:
        return graph("Div", _mean(graph, p), head.training)
    e = graph("Sigmoid", _columns(graph, outputs, k, k + 1))
    p = graph("Sub", graph("Mul", p, graph("Add", graph("Mul", e, k - 2.0), 1.0)), e)
    return graph("Mul", _mean(graph, p), np.divide(head.gain, head.training))


@singledispatch
def _ratio(loss: Loss, graph: _Graph, u: str) -> str:
    """The ratio that an output stands for."""
    raise InvalidData(f"{loss} has no form in ONNX yet: register one in {__name__}")


@_ratio.register
def _(loss: BCE, graph: _Graph, u: str) -> str:
    return graph("Exp", u)


@_ratio.register
def _(loss: LSIF | Logit, graph: _Graph, u: str) -> str:
    return u


@_ratio.register
def _(loss: Sinh, graph: _Graph, u: str) -> str:
    return _sinh(graph, u)


@_ratio.register
def _(loss: REVERT, graph: _Graph, u: str) -> str:
    return graph("Mul", _sinh(graph, u), 2.0)


@_ratio.register
def _(loss: PARE, graph: _Graph, u: str) -> str:
    rho = loss.rho
    slope = rho * (1 + rho) / (1 + rho**2) ** 2
    s = graph("Add", graph("Mul", graph("Sub", u, 1.0), slope), (1 - rho) / (1 + rho**2))
    distance = graph("Sub", 1.0, s)
    r = graph("Div", graph("Add", graph("Mul", s, rho**2), rho), graph("Max", distance, 1e-300))
    return graph("Where", graph("Greater", distance, 0.0), r, math.inf)


def _sinh(graph: _Graph, u: str) -> str:
    """Sinh u = tanh(u/2) (1 + cosh u): onnxruntime has no sinh in float64, and this one loses no digits near 0."""
    cosh = graph("Mul", graph("Add", graph("Exp", u), graph("Exp", graph("Neg", u))), 0.5)
    return graph("Mul", graph("Tanh", graph("Mul", u, 0.5)), graph("Add", cosh, 1.0))
