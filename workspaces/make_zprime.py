"""Makes workspaces/zprime, the small ready workspace, from the demo's.

    nuratio demo demo
    python workspaces/make_zprime.py demo/workspace

Every observed event is kept; of the pool every n-th event, with its reference weight scaled up, so that 12 000 remain.
The normalisations were computed on the whole pool and stay as they are.
"""

import sys
from pathlib import Path

import numpy as np

from nuratio.ratios.table import RatioTable
from nuratio.workspace.workspace import Workspace

POOL = 12_000


def main(source: Path, target: Path) -> None:
    """Thin the pool of ``source`` and write ``target``."""
    workspace = Workspace.load(source)
    rng = np.random.default_rng(0)
    tables = dict(workspace.tables)
    pool = tables["SR.pool"]
    keep = np.sort(rng.choice(len(pool), POOL, replace=False))
    values = np.array(pool.values[:, keep])
    weight = pool.names.index("reference weight")
    values[weight] /= values[weight].sum(dtype=np.float64)
    tables["SR.pool"] = RatioTable(pool.names, values)
    features = tables["SR.pool.features"]
    tables["SR.pool.features"] = RatioTable(features.names, np.array(features.values[:, keep]))
    for entry in workspace.spec["unbinned"]["files"]:
        entry["events"] = len(tables[entry["id"]])
    Workspace(workspace.spec, tables).save(target, overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("zprime"))
