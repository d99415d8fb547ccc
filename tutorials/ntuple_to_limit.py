# %% [markdown]
# # From ntuples to a limit
#
# How strong can a Z' of 1 TeV be, given what we see in the dilepton spectrum? Its amplitude interferes with the photon
# and the Z, so the rate is `sm + kappa * interference + kappa**2 * newphys`, and the interference has simulated events
# of negative weight. This tutorial goes from ROOT files to the upper limit on `kappa`, one step at a time; the command
# line does the same with `nuratio build`, `nuratio fit` and `nuratio limit`.
#
# Run it as a script, or cell by cell in an editor that knows `# %%`. The pictures go to `tutorial_plots/`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import nuratio
from nuratio.demo.generator import write_ntuples
from nuratio.ratios.options import TrainingOptions

PLOTS = Path("tutorial_plots")
PLOTS.mkdir(exist_ok=True)


def show(artists, name):
    artists.ax.figure.savefig(PLOTS / f"{name}.png")
    plt.close(artists.ax.figure)


# %% [markdown]
# ## 1. The ntuples
#
# The built-in generator writes what an experiment would have: a file per process, with trees for the nominal simulation
# and for the mass scale shifted up and down, and the data. It knows its exact densities, but we do not look at them.

# %%
events = {"sm": (60_000, 60_000, 30_000), "interference": (6_000, 30_000, 30_000), "newphys": (3_000, 15_000, 25_000)}
write_ntuples("tutorial_ntuples", seed=3, events=events)

# %% [markdown]
# ## 2. Reading
#
# Features are expressions over branches, the cut is the signal region. `event_id` says which branch recognises a
# generated event in all its variations, so that it never sits in training and test at once.

# %%
features = {"ln_mll": "log(mll)", "yll": "yll", "costh": "costh"}


def read(process, tree="nominal"):
    return nuratio.read_root(
        f"tutorial_ntuples/{process}.root",
        tree,
        features,
        weight="weight",
        cut="300 < mll < 3000",
        event_id="event",
    )


samples = {process: read(process) for process in ("sm", "interference", "newphys")}
data = nuratio.read_root("tutorial_ntuples/data.root", "data", features, cut="300 < mll < 3000")
for name, sample in samples.items():
    print(f"{name:13} {sample}  negative {100 * sample.negative_fraction:.0f}%")
print(f"{'data':13} {data}")

# %% [markdown]
# ## 3. Density ratios
#
# One classifier learns all of them. The interference is split by the sign of its weights into two positive densities,
# `interference[+]` and `interference[-]`; every ratio is to the same reference, the mixture of all samples.

# %%
options = TrainingOptions(hidden=(32, 32, 32), folds=2, ensemble=2, epochs=12, batch_size=512, learning_rate=0.01)
estimator = nuratio.train(samples, seed=1, options=options)
print(estimator, estimator.yields)
for part, (z, error) in estimator.normalisation.items():
    print(f"E_q[r] of {part} before normalisation: {z:.4f} +- {error:.4f}")

# %% [markdown]
# Does the ratio know the physics? Below the Z' the interference is constructive, above it destructive: the average
# ratio of the interference to the Standard Model in the data, in bins of the mass.

# %%
r = estimator.ratios(data)
w = estimator.yields
interference = (w["interference[+]"] * r["interference[+]"] + w["interference[-]"] * r["interference[-]"]) / (
    w["sm"] * r["sm"]
)
mll = np.exp(data.column("ln_mll"))
for low, high in ((300, 500), (500, 700), (700, 900), (900, 1000), (1000, 1100), (1100, 1400), (1400, 3000)):
    inside = (mll > low) & (mll < high)
    print(f"{low:5} - {high:4} GeV: {interference[inside].mean():+.3f}")

# %% [markdown]
# ## 4. The workspace
#
# Everything above, the control region, the mass scale and the efficiency fit into one configuration. Building it trains
# the networks (they are cached) and writes rates as a pyhf workspace and events as tables of numbers.

# %%
config = Path("tutorial.yml")
config.write_text("""
General: {Measurement: zprime, POI: kappa, InputPath: tutorial_ntuples}
Regions:
  - Name: SR
    Type: unbinned
    Features: {ln_mll: log(mll), yll: yll, costh: costh}
    Filter: 300 < mll < 3000
  - {Name: CR, Variable: mll, Filter: 170 < mll < 300, Binning: [170, 185, 200, 220, 240, 270, 300]}
Samples:
  - {Name: data, Data: true, SamplePath: data.root, Tree: data}
  - {Name: sm, SamplePath: sm.root, Tree: nominal, Weight: weight, EventId: event}
  - {Name: interference, SamplePath: interference.root, Tree: nominal, Weight: weight, EventId: event}
  - {Name: newphys, SamplePath: newphys.root, Tree: nominal, Weight: weight, EventId: event}
NormFactors:
  - {Name: kappa, Samples: interference, Nominal: 1, Bounds: [0, 10]}
  - {Name: kappa_squared, Samples: newphys, Expression: kappa**2}
Systematics:
  - {Name: mass_scale, Type: NormPlusShape, Up: {Tree: mass_scale_up}, Down: {Tree: mass_scale_down}}
  - {Name: efficiency, Type: Normalization, Up: {Normalization: 0.02}, Down: {Normalization: -0.02}}
Training:
  Seed: 1
  Ratio: {hidden: [32, 32, 32], folds: 2, ensemble: 2, epochs: 12, batch_size: 512, learning_rate: 0.01}
  Shape: {epochs: 3}
""")
workspace = nuratio.Workspace.build(config)
workspace.save("tutorial_workspace", overwrite=True)
print(workspace)

# %% [markdown]
# ## 5. Fit
#
# `model` is a pyhf model by protocol; `observed` is one flat vector, counts and event weights, then auxiliary data.

# %%
model = workspace.model()
observed = workspace.data(model)
best = nuratio.fit(model, observed, minos=["kappa"])
assert best.valid, best.message
print(best["kappa"])
show(nuratio.plots.pulls(best, exclude=["staterror*"]), "pulls")
show(nuratio.plots.profile(nuratio.scan(model, observed, points=21), parameter_label=r"$\kappa$"), "scan")

# %% [markdown]
# The fitted model, integrated over the pool of simulated events, against the data:

# %%
from nuratio.infer.binned.projection import project

drawn = project(model, observed, best, "SR", "ln_mll", 25)
show(nuratio.plots.stack(drawn, log=True, feature_label=r"$\ln(m_{\ell\ell}$ / GeV)"), "signal_region")

# %% [markdown]
# ## 6. Limit
#
# CLs for each tested value, observed and expected; the limit is where it falls to 5%.

# %%
limit = nuratio.upper_limit(model, observed)
assert limit.valid, limit.message
show(nuratio.plots.cls_scan(limit, poi_label=r"$\kappa$"), "limit")
expected = limit.expected
print(f"kappa = {best['kappa'].value:.2f} +- {best['kappa'].uncertainty:.2f}")
print(f"kappa < {limit.observed:.2f} at 95% CL (expected {expected[2]:.2f}, {expected[1]:.2f} to {expected[3]:.2f})")
