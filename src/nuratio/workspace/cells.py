"""Coarse cells of an unbinned channel (``ratiocell``): what has to fit between companion, shares and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import did_you_mean
from nuratio.ratios.table import RatioTable

__all__ = ["cell_problems"]

_SIGMAS = 6.0  # by which a share may differ from what the pool gives, and
_ALLOWANCE = 1e-3  # more than that
_OFF_UNITY = 1e-2  # of the sum of shares, which may be integrals over the pool


def cell_problems(
    where: str,
    channel: Mapping[str, Any],
    companion: Mapping[str, Any],
    rows: Mapping[str, RatioTable],
    counts: Sequence[float] | None,
) -> list[str]:
    """What is wrong with the cells of a channel, a line each.

    Parameters
    ----------
    where : str
        JSON path of the channel.
    channel, companion : mapping
    rows : mapping
        ``observed`` and ``pool`` tables, as far as there are any.
    counts : sequence of float, optional
        The companion's observation.
    """
    bins = len(companion["samples"][0]["data"])
    if "ratiocell" not in channel:
        found = [
            f"{where}/samples/{j}/shares: only a channel with ratiocell has shares"
            for j, sample in enumerate(channel["samples"])
            if "shares" in sample
        ]
        if bins != 1:
            found.append(
                f"{where}: the companion of {channel['name']!r} has {bins} bins; an unbinned channel's rate has one, "
                "unless ratiocell says in which bin each event lies"
            )
        return found
    column, found = channel["ratiocell"]["column"], []
    cells: dict[str, NDArray[np.int64]] = {}
    for kind, table in rows.items():
        if column not in table:
            found.append(
                f"{where}/ratiocell: no column {column!r} in the {kind} events; {did_you_mean(column, table.names)}"
            )
            continue
        values = np.asarray(table[column], dtype=np.float64)
        wrong = np.flatnonzero((values != np.floor(values)) | (values < 0) | (values >= bins))
        if wrong.size:
            found.append(
                f"{where}/ratiocell: cells are the companion's bins 0 to {bins - 1}; {wrong.size} {kind} events have "
                f"others (first: event {wrong[0]}, {values[wrong[0]]:g})"
            )
        else:
            cells[kind] = values.astype(np.int64)
    found += _counts(where, channel, rows, cells, counts)
    yields = {s["name"]: s for s in companion["samples"]}
    for j, sample in enumerate(channel["samples"]):
        if sample["name"] in yields:
            found += _shares(f"{where}/samples/{j}", channel, sample, yields[sample["name"]], rows, cells)
    return found


def _counts(
    where: str,
    channel: Mapping[str, Any],
    rows: Mapping[str, RatioTable],
    cells: Mapping[str, NDArray[np.int64]],
    counts: Sequence[float] | None,
) -> list[str]:
    observed = channel["events"]["observed"]
    kind = "observed" if "file" in observed else "pool"
    if counts is None or kind not in cells:
        return []
    column = observed.get("weight", {}).get("column")
    if column is not None and column not in rows[kind]:
        return []  # reported with the events
    weights = None if column is None else np.asarray(rows[kind][column], dtype=np.float64)
    seen = np.bincount(cells[kind], weights, minlength=len(counts))
    return [
        f"{where}/events/observed: {seen[b]:g} events in cell {b}, but the companion's observation there is {n:g}"
        for b, n in enumerate(counts)
        if abs(seen[b] - n) > 1e-6 * max(n, 1)
    ]


def _shares(
    where: str,
    channel: Mapping[str, Any],
    sample: Mapping[str, Any],
    companion: Mapping[str, Any],
    rows: Mapping[str, RatioTable],
    cells: Mapping[str, NDArray[np.int64]],
) -> list[str]:
    bins = len(companion["data"])
    shares = np.array(sample.get("shares", []), dtype=np.float64)
    if len(shares) != bins or abs(shares.sum() - 1) > _OFF_UNITY:
        return [f"{where}/shares: one for each of the {bins} cells, with the sum 1, not {sample.get('shares')}"]
    varied = [m["data"] for m in companion["modifiers"] if m["type"] == "histosys"]
    expected = np.abs([companion["data"], *(v[side] for v in varied for side in ("hi_data", "lo_data"))]).sum(0)
    found = [
        f"{where}/shares: 0 in cell {b}, where the companion expects events of this sample"
        for b in np.flatnonzero((shares == 0) & (expected > 0))
    ]
    weight, ratio = channel["events"]["pool"]["weight"]["column"], sample["ratio"]["column"]
    if "pool" in cells and weight in rows["pool"] and ratio in rows["pool"]:
        terms = np.asarray(rows["pool"][weight], dtype=np.float64) * rows["pool"][ratio]
        integral = np.bincount(cells["pool"], terms, minlength=bins)
        error = np.sqrt(np.bincount(cells["pool"], terms**2, minlength=bins))
        found += [
            f"{where}/shares: {shares[b]:.6g} in cell {b}, but the ratio integrates to {integral[b]:.6g} +- "
            f"{error[b]:.2g} over its pool events"
            for b in np.flatnonzero(np.abs(integral - shares) > _SIGMAS * error + _ALLOWANCE)
        ]
    return found
