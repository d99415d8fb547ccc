"""Makes emu_data.root, the pseudo-data of emu.yml, from the events that the simulation leaves out.

    python make_emu_data.py DIRECTORY_OF_THE_NTUPLES

Every fourth event (event % 4 == 0) of WW.root and ttbar.root is drawn a Poisson number of times, its mean the event's
weight x 4 x 0.3 / 140 (the ntuples are normalised to 140 fb^-1, the data are 0.3 fb^-1 at mu_WW = 1).
"""

import sys
from pathlib import Path

import numpy as np
import uproot

BRANCHES = ["el_pt", "mu_pt", "mll", "ptll", "dphi_ll", "met", "mt", "njet", "ht"]
SCALE = 4 * 0.3 / 140


def main(directory: Path, output: Path) -> None:
    """Draw the events and write the file."""
    rng = np.random.default_rng(140)
    parts = []
    for name in ("WW", "ttbar"):
        with uproot.open(directory / f"{name}.root") as file:
            events = file["nominal"].arrays([*BRANCHES, "event", "weight"], library="np")
        held_out = events["event"] % 4 == 0
        copies = rng.poisson(np.where(held_out, events["weight"] * SCALE, 0.0))
        parts.append({branch: np.repeat(events[branch], copies) for branch in BRANCHES})
    data = {branch: np.concatenate([part[branch] for part in parts]) for branch in BRANCHES}
    order = rng.permutation(len(data["mll"]))
    with uproot.recreate(output) as file:
        file["data"] = {branch: values[order] for branch, values in data.items()}
    print(f"{output}: {len(order)} events")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("emu_data.root"))
