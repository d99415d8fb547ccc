"""An analysis of two simulated samples in two files, the second with weights of both signs."""

import numpy as np
import uproot


def configuration(varied, training):
    """Samples a and b, the first the signal; ``varied`` ones have a tilt."""
    return {
        "General": {"Measurement": "m", "POI": "mu", "InputPath": "."},
        "Regions": [{"Name": "SR", "Type": "unbinned", "Features": ["x"]}],
        "Samples": [
            {"Name": "data", "Data": True, "SamplePath": "b.root", "Tree": "t"},
            {"Name": "a", "SamplePath": "a.root", "Tree": "t", "Weight": "w"},
            {"Name": "b", "SamplePath": "b.root", "Tree": "t", "Weight": "w"},
        ],
        "NormFactors": [{"Name": "mu", "Samples": "a"}],
        "Systematics": [
            {
                "Name": "tilt",
                "Type": "NormPlusShape",
                "Samples": varied,
                "Up": {"Weight": "w * (1 + 0.1 * x)"},
                "Down": {"Symmetrize": True},
            }
        ],
        "Training": training,
    }


def write_files(folder, samples):
    """x within -5 and 5, and weights."""
    for name, sample in samples.items():
        with uproot.recreate(folder / f"{name}.root") as file:
            file["t"] = {"x": np.clip(sample.features[:, 0].astype(float), -5, 5), "w": sample.weights}
