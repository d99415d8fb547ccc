"""Confidence regions of two parameters: contours of the profile likelihood, all other parameters profiled.

The region of a level is where 2 Delta ln L stays below the chi2 quantile for two degrees of freedom. Its extent in each
parameter is that of the one-dimensional profile at the same height, which also finds the regions that lie apart; a
lattice over that range is coarsely scanned for more. From there each contour is followed from cell to cell (marching
squares), so that fits are made near it alone, and where it crosses an edge of the lattice the crossing is exact.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nuratio.errors import InvalidModel
from nuratio.infer.fitting.asymptotics import asymptotics_option, interval_concerns, warn
from nuratio.infer.fitting.fit import Fitter
from nuratio.infer.fitting.minimum import Minimum
from nuratio.infer.profiles.crossing import Height, crossing
from nuratio.infer.profiles.curve import Curve
from nuratio.infer.profiles.intervals import chi2_heights, require_free
from nuratio.infer.profiles.valleys import LOWER, Valleys, lower
from nuratio.infer.results import FitResult, _array, _Result

__all__ = ["ContourResult", "contour"]

Floats = NDArray[np.float64]
Node = tuple[int, int]
Edge = tuple[int, int, int]  # axis along which it runs, and its lower node

_THIN = 0.1  # the narrowest region that the lattice is made for, as a share of its extent
_COARSE = 12  # cells of the scan in each parameter
_WELL_INSIDE = 0.7  # of the height: points of the region that chords do not cut off
_MOST = 2000  # lattice cells in each parameter


@dataclass(frozen=True, eq=False)
class ContourResult(_Result):
    """Profile-likelihood contours of two parameters.

    Attributes
    ----------
    parameters : tuple of 2 str
    levels : tuple of float
        Confidence levels.
    pieces : tuple of tuples of ndarray, shape (n, 2)
        The contours of each level, one for each separate piece; a closed one ends with its first point. Points lie on
        the contour to 1e-7 in 2 Delta ln L; NaN where fits are not valid on the far side.
    closed : tuple of tuples of bool
        Which pieces are closed; the others end at bounds of the parameters.
    minima : ndarray, shape (m, 2)
        Local minima that were found, the best fit first.
    minima_rise : ndarray, shape (m,)
        Their 2 Delta ln L.
    bestfit : FitResult
        The fit at the lowest minimum.
    valid : bool
        The best fit is valid, the contours were followed to their ends.
    message : str
        What is wrong if not valid.
    """

    kind: ClassVar[str] = "contour"

    parameters: tuple[str, str]
    levels: tuple[float, ...]
    pieces: tuple[tuple[Floats, ...], ...] = field(repr=False)
    closed: tuple[tuple[bool, ...], ...]
    minima: Floats
    minima_rise: Floats
    bestfit: FitResult = field(repr=False)
    valid: bool
    message: str

    @classmethod
    def _parse(cls, values: dict[str, Any]) -> dict[str, Any]:
        values["parameters"], values["levels"] = tuple(values["parameters"]), tuple(values["levels"])
        values["pieces"] = tuple(
            tuple(np.array([_array(row) for row in p]) for p in level) for level in values["pieces"]
        )
        values["closed"] = tuple(tuple(level) for level in values["closed"])
        values["minima"] = np.array([_array(row) for row in values["minima"]]).reshape(-1, 2)
        values["minima_rise"] = _array(values["minima_rise"])
        return values | {"bestfit": FitResult.from_dict(values["bestfit"])}


def contour(
    model: Any,
    data: ArrayLike,
    parameters: Sequence[str],
    levels: float | Sequence[float] = (0.683, 0.954),
    *,
    points: int = 24,
    bounds: Mapping[str, tuple[float, float]] | None = None,
    asymptotics: str = "check",
) -> ContourResult:
    """Contours of the profile likelihood in two parameters (2 Delta ln L at the chi2_2 quantiles of the levels).

    Parameters
    ----------
    model, data
        As for `nuratio.fit`.
    parameters : sequence of 2 str
    levels : float or sequence of float
        Confidence levels: 0.683 is 2 Delta ln L = 2.30, 0.954 is 6.16.
    points : int
        Lattice cells across the smallest piece of the largest level, in each parameter; a contour has about four times
        as many points, more if the parameters are strongly correlated.
    bounds : mapping, optional
        Bounds that replace the model's; contours end there.
    asymptotics : str
        ``check`` warns where the chi2 quantiles do not hold, ``force`` does not look.

    Raises
    ------
    InvalidModel
        Not two parameters, or one that is fixed or has no finite bounds; a level outside (0, 1).
    UnknownName
        A parameter that does not exist.
    FitFailed
        The free fit is not valid.

    Warns
    -----
    AsymptoticsWarning
        See `nuratio.infer.fitting.asymptotics`.
    """
    names = tuple(parameters)
    chosen, heights = chi2_heights(levels, 2)
    look = asymptotics_option(asymptotics)
    if len(set(names)) != 2 or len(names) != 2:
        raise InvalidModel(f"a contour has two different parameters, got {names}")
    fitter = Fitter(model, data, bounds=bounds)
    for name in names:
        require_free(fitter, name)
    height = max(heights)
    curves = [Curve(fitter, name, height=height, points=_COARSE + 1) for name in names]
    surface = _Surface(fitter, (names[0], names[1]), curves, height=height, points=points)
    surface.scan()
    bestfit = fitter.result(surface.valleys.best)
    problems = [] if bestfit.valid else [f"the best fit: {bestfit.message}"]
    traced = [surface.trace(h) for h in heights]
    problems += [problem for level, h in zip(traced, heights, strict=True) for problem in surface.problems(level, h)]
    if look:
        concerns = [c for curve in curves for c in interval_concerns(curve, height)]
        warn({str(c): c for c in concerns}.values(), stacklevel=2)
    valleys = surface.valleys
    minima = valleys.in_order()
    return ContourResult(
        parameters=(names[0], names[1]),
        levels=chosen,
        pieces=tuple(tuple(piece for piece, _ in level) for level in traced),
        closed=tuple(tuple(closed for _, closed in level) for level in traced),
        minima=np.array([m.theta[list(surface.k)] for m in minima]),
        minima_rise=np.array([valleys.rise(m) for m in minima]),
        bestfit=bestfit,
        valid=not problems,
        message="; ".join(dict.fromkeys(problems)),
    )


class _Surface:
    """Conditional minima on a lattice of two parameters, made where they are asked for."""

    def __init__(
        self, fitter: Fitter, names: tuple[str, str], curves: Sequence[Curve], *, height: float, points: int
    ) -> None:
        self.fitter, self.names, self.height = fitter, names, height
        self.k = (fitter.index(names[0]), fitter.index(names[1]))
        self.valleys = Valleys(fitter)
        self.coarse: list[list[int]] = []
        self.nodes: dict[Node, Minimum] = {}
        for curve in curves:
            for minimum in curve.valleys.minima:
                self.found(minimum)
        thin = max(np.sqrt(1 - self._correlation(self.valleys.best) ** 2), _THIN)
        self.axes = [self._axis(curve, height, points / thin) for curve in curves]
        self.seeds = [m for curve in curves for m in curve.points.values() if self.valleys.rise(m) <= height]

    def _axis(self, curve: Curve, height: float, cells: float) -> Floats:
        """Lattice values of one parameter: over the whole region and beyond, or up to the bounds."""
        pieces = [p for p in curve.pieces(height) if np.isfinite(p).all()]
        narrow = min((high - low for low, high in pieces if high > low), default=curve.high - curve.low)
        step = narrow / cells
        low = max(pieces[0][0] - 1.5 * step, curve.low)
        high = min(pieces[-1][1] + 1.5 * step, curve.high)
        return np.linspace(low, high, min(int(np.ceil((high - low) / step)), _MOST) + 1)

    def _correlation(self, minimum: Minimum) -> float:
        free = ~self.fitter.fixed & ~minimum.at_bound & ~minimum.at_kink
        try:
            covariance = np.linalg.inv(minimum.curvature[np.ix_(free, free)])
            p, q = (int(np.flatnonzero(np.flatnonzero(free) == k)[0]) for k in self.k)
        except (np.linalg.LinAlgError, IndexError):
            return 0.0
        return float(covariance[p, q] / np.sqrt(covariance[p, p] * covariance[q, q]))

    def found(self, minimum: Minimum) -> None:
        """Keep a local minimum that is none of the known ones."""
        if not self.valleys.valid(minimum):
            return
        for known in self.valleys.minima:
            apart = (minimum.theta - known.theta)[list(self.k)]
            size = np.sqrt(2 / np.abs(known.curvature.diagonal()[list(self.k)]))
            if np.all(np.abs(apart) <= 0.1 * size) and abs(minimum.value - known.value) < 1e-3:
                if minimum.value < known.value - LOWER:
                    self.valleys.minima[self.valleys.minima.index(known)] = minimum
                return
        self.valleys.minima.append(minimum)

    def place(self, node: Node) -> dict[str, float]:
        """The values of the parameters at a node."""
        return {name: float(axis[i]) for name, axis, i in zip(self.names, self.axes, node, strict=True)}

    def at(self, nodes: Iterable[Node]) -> None:
        """Fit nodes that are not known, each from the nearest known ones."""
        moves, where = [], []
        for node in dict.fromkeys(nodes):
            if node not in self.nodes:
                near = self._near(node)
                moves += [(self.place(node), m) for m in near]
                where += [node] * len(near)
        for node, minimum in zip(where, self.fitter.beside(moves), strict=True):
            self._keep(node, minimum)

    def _keep(self, node: Node, minimum: Minimum) -> bool:
        """Keep the lower of two minima at a node; whether it is the new one."""
        better = lower(minimum, self.nodes.get(node))
        if better:
            self.nodes[node] = minimum
        return better

    def _near(self, node: Node) -> list[Minimum]:
        """Known minima to start from: neighbours on both sides; elsewhere the nearest ones."""
        i, j = node
        around = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
        found = [self.nodes[n] for n in around if n in self.nodes]
        if len(found) > 1:
            return found
        scale = np.array([axis[1] - axis[0] for axis in self.axes])
        known = [*self.nodes.values(), *self.seeds, *self.valleys.minima]
        apart = np.array([m.theta[list(self.k)] for m in known]) - [
            axis[n] for axis, n in zip(self.axes, node, strict=True)
        ]
        order = np.argsort(((apart / scale) ** 2).sum(1))
        return [known[n] for n in order[:2]]

    def scan(self) -> None:
        """A coarse part of the lattice, each node from all of its neighbours, and free fits where it has a valley."""
        grid = [
            np.unique(np.linspace(0, len(axis) - 1, _COARSE + 1).round().astype(int)).tolist() for axis in self.axes
        ]
        self.coarse = grid
        start = [
            int(np.argmin(np.abs(axis[g] - self.valleys.best.theta[k])))
            for axis, g, k in zip(self.axes, grid, self.k, strict=True)
        ]
        everything = [(i, j) for i in range(len(grid[0])) for j in range(len(grid[1]))]
        for ring in range(max(len(g) for g in grid)):
            self.at(
                (grid[0][i], grid[1][j]) for i, j in everything if max(abs(i - start[0]), abs(j - start[1])) == ring
            )
        changed = {(grid[0][i], grid[1][j]) for i, j in everything}
        while changed:
            moves, where = [], []
            for node, other in self._coarse_edges():
                if min(self.valleys.rise(self.nodes[n]) for n in (node, other)) > 2 * self.height:
                    continue
                for a, b in ((node, other), (other, node)):
                    if a in changed:
                        moves.append((self.place(b), self.nodes[a]))
                        where.append(b)
            found = zip(where, self.fitter.beside(moves), strict=True)
            changed = {node for node, minimum in found if self._keep(node, minimum)}
        for i, j in everything:
            around = [(a, b) for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1)]
            values = [
                self.nodes[grid[0][a], grid[1][b]].value
                for a, b in around
                if 0 <= a < len(grid[0]) and 0 <= b < len(grid[1])
            ]
            minimum = self.nodes[grid[0][i], grid[1][j]]
            if minimum.value <= min(values):
                self.found(self.fitter.minimum(near=minimum))

    def _coarse_edges(self) -> list[tuple[Node, Node]]:
        x, y = self.coarse
        along = [((a, j), (b, j)) for a, b in pairwise(x) for j in y]
        return along + [((i, a), (i, b)) for a, b in pairwise(y) for i in x]

    # --- following a contour

    def inside(self, node: Node, level: float) -> bool:
        """Whether a node that is known lies in the region."""
        return self.valleys.rise(self.nodes[node]) <= level

    def trace(self, level: float) -> list[tuple[Floats, bool]]:
        """The contours at a height: points (n, 2), and whether the piece is closed."""
        segments: dict[Edge, list[Edge]] = {}
        done: set[Node] = set()
        queue = deque(cell for edge in self._starts(level) for cell in self._cells(edge))
        while queue:
            cells = [c for c in dict.fromkeys(queue) if c not in done]
            queue.clear()
            done |= set(cells)
            self.at(node for i, j in cells for node in ((i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)))
            for cell in cells:
                for a, b in self._segments(cell, level):
                    segments.setdefault(a, []).append(b)
                    segments.setdefault(b, []).append(a)
                    queue.extend(c for edge in (a, b) for c in self._cells(edge) if c not in done)
        vertices = {edge: self._vertex(edge, level) for edge in segments}
        return [(np.array([vertices[edge] for edge in chain]), chain[0] == chain[-1]) for chain in _chains(segments)]

    def _starts(self, level: float) -> list[Edge]:
        """Edges that a contour crosses: on coarse edges, and on the way out of each minimum."""
        starts = []
        for a, b in self._coarse_edges():
            if self.inside(a, level) != self.inside(b, level):
                starts.append(self._bisected(a, b, level))
        for minimum in self.valleys.minima:
            if self.valleys.rise(minimum) > level:
                continue
            i, j = (
                int(np.clip(np.searchsorted(axis, minimum.theta[k]) - 1, 0, len(axis) - 2))
                for axis, k in zip(self.axes, self.k, strict=True)
            )
            corners = [(i, j), (i + 1, j), (i, j + 1), (i + 1, j + 1)]
            self.at(corners)
            within = [node for node in corners if self.inside(node, level)]
            if 0 < len(within) < 4:
                starts += [self._edge(a, b) for a in within for b in corners if b not in within and _adjacent(a, b)]
            elif within:
                x = next((x for x in self.coarse[0] if x > i), self.coarse[0][-1])
                self.at([(x, j)])
                starts += [] if self.inside((x, j), level) else [self._bisected((i, j), (x, j), level)]
        return starts

    def _bisected(self, a: Node, b: Node, level: float) -> Edge:
        """A lattice edge between two nodes of one line at which the region ends."""
        first = self.inside(a, level)
        while not _adjacent(a, b):
            middle = ((a[0] + b[0]) // 2, (a[1] + b[1]) // 2)
            self.at([middle])
            a, b = (middle, b) if self.inside(middle, level) == first else (a, middle)
        return self._edge(a, b)

    @staticmethod
    def _edge(a: Node, b: Node) -> Edge:
        return (0 if a[1] == b[1] else 1, *min(a, b))

    def _cells(self, edge: Edge) -> list[Node]:
        """The cells on both sides of an edge, as far as the lattice goes; a cell is called by its lowest node."""
        axis, i, j = edge
        cells = [(i, j), (i, j - 1) if axis == 0 else (i - 1, j)]
        return [(a, b) for a, b in cells if 0 <= a < len(self.axes[0]) - 1 and 0 <= b < len(self.axes[1]) - 1]

    def _segments(self, cell: Node, level: float) -> list[tuple[Edge, Edge]]:
        """Marching squares: the pairs of edges of a cell that a contour connects."""
        i, j = cell
        corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        within = [self.inside(node, level) for node in corners]
        crossed = [n for n in range(4) if within[n] != within[(n + 1) % 4]]
        edges = [self._edge(corners[n], corners[(n + 1) % 4]) for n in crossed]
        if len(edges) < 4:
            return [(edges[0], edges[1])] if edges else []
        middle = {
            name: float(axis[n] + axis[n + 1]) / 2 for name, axis, n in zip(self.names, self.axes, cell, strict=True)
        }
        found = self.fitter.beside([(middle, self.nodes[node]) for node in corners])
        joined = self.valleys.rise(min(found, key=lambda m: (not m.valid, m.value))) <= level
        if joined == within[0]:  # the corner (i, j) and its opposite are connected
            return [(edges[0], edges[1]), (edges[2], edges[3])]
        return [(edges[3], edges[0]), (edges[1], edges[2])]

    def _vertex(self, edge: Edge, level: float) -> tuple[float, float]:
        """Where the contour crosses an edge."""
        axis, i, j = edge
        ends = (i, j), (i + 1, j) if axis == 0 else (i, j + 1)
        near = [self.nodes[end] for end in ends]
        fixed = self.place(ends[0])
        curve = self._along(axis, fixed, near)
        heights = [
            Height(self.place(end)[self.names[axis]], self.valleys.rise(m), float(m.gradient[self.k[axis]]))
            for end, m in zip(ends, near, strict=True)
        ]
        below, above = sorted(heights, key=lambda h: h.rise)
        at = crossing(curve, level, below, above)
        x, y = (fixed | {self.names[axis]: at}).values()
        return x, y

    def _along(self, axis: int, fixed: Mapping[str, float], near: Sequence[Minimum]) -> Callable[[float], Height]:
        """The profile along an edge, each point fitted from both ends."""

        def height(value: float) -> Height:
            place = {**fixed, self.names[axis]: value}
            lowest = min(self.fitter.beside([(place, m) for m in near]), key=lambda m: (not m.valid, m.value))
            return Height(value, self.valleys.rise(lowest), float(lowest.gradient[self.k[axis]]))

        return height

    def problems(self, pieces: Sequence[tuple[Floats, bool]], level: float) -> list[str]:
        """What is wrong with the contours of a level."""
        found = []
        if any(not np.isfinite(points).all() for points, _ in pieces):
            found.append("conditional fits are not valid beyond a part of a contour")
        bounds = [self.fitter.bounds[k] for k in self.k]
        for points, closed in pieces:
            for end in () if closed else (points[0], points[-1]):
                if not any(value in limits for value, limits in zip(end, bounds, strict=True)):
                    found.append(f"a contour ends at {end[0]:.4g}, {end[1]:.4g}, which is no bound")
        if all(closed for _, closed in pieces):
            for fit in (*self.valleys.minima, *self.seeds):
                at = fit.theta[list(self.k)]
                if (
                    self.valleys.rise(fit) < _WELL_INSIDE * level
                    and sum(_encloses(points, at) for points, _ in pieces) % 2 == 0
                ):
                    found.append(
                        f"{at[0]:.4g}, {at[1]:.4g} is not within a contour: too thin for the lattice, take more points"
                    )
                    break
        return found


def _adjacent(a: Node, b: Node) -> bool:
    return abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1


def _chains(segments: dict[Edge, list[Edge]]) -> list[list[Edge]]:
    """Edges in the order in which a contour crosses them, for each piece; open pieces first."""
    rest = {edge: list(others) for edge, others in segments.items()}
    chains = []
    for start in sorted(rest, key=lambda edge: len(segments[edge])):
        while rest[start]:
            chain = [start]
            while rest[chain[-1]]:
                here = chain[-1]
                there = rest[here].pop()
                rest[there].remove(here)
                chain.append(there)
            chains.append(chain)
    return chains


def _encloses(polygon: Floats, point: Floats) -> bool:
    """Whether a closed polygon (n, 2) encloses a point: a ray crosses it an odd number of times."""
    a, b = polygon[:-1] - point, polygon[1:] - point
    straddles = (a[:, 1] > 0) != (b[:, 1] > 0)
    with np.errstate(all="ignore"):
        x = a[:, 0] - a[:, 1] * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    return bool(np.count_nonzero(straddles & (x > 0)) % 2)
