"""A synthetic unbinned analysis of any size: what the engine's benchmarks run on.

One signal of strength mu and C - 1 backgrounds; K nuisances, each changing the rate (normsys) and the shape (quadexp)
of every sample, with sizes spread over one and a half decades. Under the reference, per event and sample,

    ln r = z_0 / 2 - 1 / 8,    D1_k = s_k z_k,    D2_k = q_k z'_k - s_k^2 / 2,    z standard normal:

log-normal ratios of mean 1 and shapes whose cumulant normalisation is exact. The z_k are correlated, as systematics
are: a few latent features of the event make up most of them. A sample at given nuisances is then the same normals with
shifted means, so that observed events are drawn from the model itself, at a random point theta*, without weights; in
blocks that can be generated again, so that a table larger than memory is written, and checked, block by block.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from internals import create_table
from numpy.typing import NDArray

from nuratio.ratios.table import RatioTable
from nuratio.workspace.tables import file_entry
from nuratio.workspace.workspace import Workspace

__all__ = ["Problem", "Size"]

Floats = NDArray[np.float64]

BLOCK = 8192  # events generated together
LATENT = 4  # features of the event behind the shapes of each sample
COMMON = 0.8  # share of a shape's variance that they make up
POOL = 2000  # events of the pool, which most of these benchmarks do not use


@dataclass(frozen=True)
class Size:
    """Events, samples, nuisances."""

    events: int
    samples: int
    nuisances: int

    def __str__(self) -> str:
        return f"({self.events:.3g}, {self.samples}, {self.nuisances})".replace("e+0", "e")

    @property
    def columns(self) -> int:
        """Numbers per event that a likelihood call reads."""
        return self.samples * (2 * self.nuisances + 1)


@dataclass(frozen=True)
class Problem:
    """The analysis of a given size and seed; parameters are (mu, alpha_1 ... alpha_K)."""

    size: Size
    seed: int = 1
    pool: int = POOL

    # --- the physics

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in the order used here (a model has its own)."""
        return ("mu", *(f"alpha{k:03d}" for k in range(self.size.nuisances)))

    @property
    def samples(self) -> tuple[str, ...]:
        """Names; the signal comes first."""
        return ("signal", *(f"background{c}" for c in range(1, self.size.samples)))

    @cached_property
    def _drawn(self) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
        rng = np.random.default_rng(self.seed)
        c, k = self.size.samples, self.size.nuisances
        scale = 10 ** -rng.uniform(0, 1.5, k)
        slope = 0.02 * scale * rng.standard_normal((c, k))
        width = 0.05 * scale * rng.uniform(0.5, 1.5, (c, k))
        theta = np.concatenate([[1.2], rng.normal(0, 0.7, k)])
        share = np.array([0.1, *[0.9 / (c - 1)] * (c - 1)])
        loading = rng.standard_normal((c, k, LATENT))
        loading *= np.sqrt(COMMON) / np.linalg.norm(loading, axis=2, keepdims=True)
        return slope, width, 1e-3 * scale, theta, share, loading

    @property
    def slope(self) -> Floats:
        """d ln nu / d alpha of the rate effects, shape (C, K)."""
        return self._drawn[0]

    @property
    def truth(self) -> Floats:
        """theta*, where the observed events are drawn, shape (1 + K,)."""
        return self._drawn[3]

    @cached_property
    def yields(self) -> Floats:
        """Nominal yields, shape (C,), such that the observed number is the expected one at theta*."""
        share, theta = self._drawn[4], self.truth
        return share * self.size.events / (_strength(theta, len(share)) * share * np.exp(self.slope @ theta[1:])).sum()

    def rates(self, theta: Floats) -> Floats:
        """nu_c(theta), shape (C,)."""
        return np.asarray(_strength(theta, self.size.samples) * self.yields * np.exp(self.slope @ theta[1:]))

    @property
    def mean(self) -> Floats:
        """Of the columns (D1, D2) of each sample, shape (C, 2K)."""
        width = self._drawn[1]
        return np.concatenate([0 * width, -(width**2) / 2], axis=1)

    @property
    def sigma(self) -> Floats:
        """Standard deviations of the columns, shape (C, 2K)."""
        _, width, quad, *_ = self._drawn
        return np.concatenate([width, np.broadcast_to(quad, width.shape)], axis=1)

    @cached_property
    def covariance(self) -> Floats:
        """Of the columns of each sample, shape (C, 2K, 2K)."""
        k, loading = self.size.nuisances, self._drawn[5]
        correlation = np.tile(np.eye(2 * k), (self.size.samples, 1, 1))
        correlation[:, :k, :k] = loading @ loading.transpose(0, 2, 1) + (1 - COMMON) * np.eye(k)
        return np.asarray(self.sigma[:, :, None] * correlation * self.sigma[:, None, :])

    def ln_z(self, theta: Floats) -> Floats:
        """Cumulant normalisation of each sample's shape, shape (C,)."""
        phi = np.concatenate([theta[1:], theta[1:] ** 2])
        return np.asarray(self.mean @ phi + self.covariance @ phi @ phi / 2)

    # --- the events

    def blocks(self) -> Iterator[Floats]:
        """Observed events, float64 of shape (C, 1 + 2K, m): per sample its ratio, then D1, then D2; always the same."""
        nu = self.rates(self.truth)
        for number, start in enumerate(range(0, self.size.events, BLOCK)):
            rng = np.random.default_rng([self.seed, number])
            source = rng.choice(len(nu), min(BLOCK, self.size.events - start), p=nu / nu.sum())
            yield self._draw(rng, source)

    def _draw(self, rng: np.random.Generator, source: NDArray[np.int64]) -> Floats:
        """Events of the samples ``source`` (shape (m,)) at theta*; of the reference where it is -1."""
        k = self.size.nuisances
        block = np.empty((self.size.samples, 1 + 2 * k, len(source)))
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
        phi = np.concatenate([self.truth[1:], self.truth[1:] ** 2])
        shift = self.mean, self.covariance @ phi  # a sample's own factor r exp(phi D) / Z moves the means by the second
        for c, (mean, moved, sigma, loading) in enumerate(zip(*shift, self.sigma, self._drawn[5], strict=True)):
            own = source == c
            block[c, 0] = np.exp(0.5 * block[c, 0] - 0.125 + 0.25 * own)
            block[c, 1 : 1 + k] *= np.sqrt(1 - COMMON)
            block[c, 1 : 1 + k] += loading @ rng.standard_normal((LATENT, len(source)))
            block[c, 1:] *= sigma[:, None]
            block[c, 1:] += mean[:, None] + moved[:, None] * own
        return block

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the event tables, in the order of `blocks`."""
        shapes = [f"{d}.{alpha}" for d in ("d1", "d2") for alpha in self.parameters[1:]]
        return tuple(name for sample in self.samples for name in (sample, *(f"{sample}.{s}" for s in shapes)))

    # --- the workspace

    @cached_property
    def workspace(self) -> Workspace:
        """In memory, float32; no more than the table and a block of it while it is built."""
        return self._workspace(self._table(None))

    def write(self, path: Path) -> Path:
        """Write the workspace to a directory, never holding more than a block of its events."""
        path.mkdir(parents=True)
        workspace = self._workspace(self._table(path / "observed.npy"))
        pool = workspace.tables["pool"]
        create_table(pool.names, len(pool), [pool.values], path / "pool.npy")
        (path / "workspace.json").write_text(json.dumps(workspace.spec))
        return path

    def _table(self, path: Path | None) -> RatioTable:
        parts = (block.reshape(self.size.columns, -1) for block in self.blocks())
        return create_table(self.names, self.size.events, parts, path)

    def _workspace(self, observed: RatioTable) -> Workspace:
        rng = np.random.default_rng([self.seed, 0, 0])
        reference = self._draw(rng, np.full(self.pool, -1)).reshape(self.size.columns, -1)
        pool = dict(zip(self.names, reference, strict=True)) | {"weight": np.full(self.pool, 1 / self.pool)}
        tables = {"observed": observed, "pool": RatioTable.from_columns(pool)}
        return Workspace(self._spec([file_entry(name, table) for name, table in tables.items()]), tables)

    def _spec(self, files: list[dict[str, Any]]) -> dict[str, Any]:
        alphas = list(self.parameters[1:])
        rates, shapes = [], []
        for c, sample in enumerate(self.samples):
            normsys = [
                {"name": a, "type": "normsys", "data": {"hi": float(np.exp(s)), "lo": float(np.exp(-s))}}
                for a, s in zip(alphas, self.slope[c], strict=True)
            ]
            mu: list[dict[str, Any]] = (
                [{"name": "mu", "type": "normfactor", "data": None}] if sample == "signal" else []
            )
            rates.append({"name": sample, "data": [float(self.yields[c])], "modifiers": mu + normsys})
            quadexp = [
                {
                    "name": a,
                    "type": "ratiosys",
                    "interpcode": "quadexp",
                    "data": {d: {"column": f"{sample}.{d}.{a}"} for d in ("d1", "d2")},
                }
                for a in alphas
            ]
            normalisation = {
                "type": "cumulant",
                "parameters": alphas,
                "mean": self.mean[c].tolist(),
                "covariance": self.covariance[c].tolist(),
            }
            shapes.append(
                {"name": sample, "ratio": {"column": sample}, "modifiers": quadexp, "normalisation": normalisation}
            )
        fractions = dict.fromkeys(self.samples, 1 / len(self.samples))
        events = {"observed": {"file": "observed"}, "pool": {"file": "pool", "weight": {"column": "weight"}}}
        channel = {"name": "SR", "reference": {"fractions": fractions}, "samples": shapes, "events": events}
        return {
            "version": "1.0.0",
            "channels": [{"name": "SR", "samples": rates}],
            "observations": [{"name": "SR", "data": [self.size.events]}],
            "measurements": [{"name": "benchmark", "config": {"poi": "mu", "parameters": []}}],
            "unbinned": {
                "version": "1.0.0",
                # hi lo = 1: a rate is exp(slope alpha), which every contender can write down
                "modifier_settings": {"normsys": {"interpcode": "code1"}, "histosys": {"interpcode": "code4p"}},
                "files": files,
                "channels": [channel],
            },
        }


def _strength(theta: Floats, samples: int) -> Floats:
    factor = np.ones(samples)
    factor[0] = theta[0]
    return factor
