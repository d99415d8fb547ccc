"""The whole chain on the built-in example: ntuples, training, workspace, fit, limit, plots, and the exact answer.

``run_demo`` is ``nuratio demo``. It uses the public functions a user would, and the exact likelihood of the generator
on the same events as the judge.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Any

import uproot
import yaml
from rich.console import Console
from rich.table import Table

from nuratio.demo.drellyan import CR
from nuratio.demo.exact import ExactLikelihood
from nuratio.demo.generator import EVENTS, write_ntuples
from nuratio.infer.binned.projection import project
from nuratio.infer.fitting.fit import fit
from nuratio.infer.hypotheses.limits import upper_limit
from nuratio.infer.profiles.scan import scan
from nuratio.infer.results import FitResult, LimitResult, ScanResult
from nuratio.model.model import Model
from nuratio.workspace.build import build

__all__ = ["run_demo"]


@dataclass(frozen=True)
class _Answer:
    """What one likelihood says of kappa."""

    fit: FitResult
    scan: ScanResult
    limit: LimitResult

    @classmethod
    def of(cls, model: Any, data: Any) -> "_Answer":
        return cls(fit(model, data), scan(model, data, points=31), upper_limit(model, data))

    def summary(self) -> dict[str, float]:
        kappa = self.fit["kappa"]
        return {"bestfit": kappa.value, "uncertainty": kappa.uncertainty, "upper_limit": self.limit.observed}


def run_demo(
    directory: str | Path,
    *,
    seed: int = 1,
    events: Mapping[str, Sequence[int]] = EVENTS,
    training: Mapping[str, Any] | None = None,
    plots: bool = True,
) -> dict[str, dict[str, float]]:
    """Run the example in ``directory`` and write ``summary.json`` there.

    Parameters
    ----------
    directory : path
        Made if needed; holds ``ntuples/``, ``demo.yml``, ``workspace/``, ``results/`` and ``plots/`` afterwards.
    seed : int
        Of generation and training.
    events : mapping
        Simulated events, as for `nuratio.demo.generator.write_ntuples`.
    training : mapping, optional
        Replaces entries of the configuration's ``Training`` section (smaller networks for a quick look).
    plots : bool
        Draw the results into ``plots/``.

    Returns
    -------
    dict
        ``{"learned": {"bestfit", "uncertainty", "upper_limit"}, "exact": {...}}`` of kappa: what summary.json says.
    """
    directory = Path(directory)
    console = Console(stderr=True)
    start = perf_counter()

    def say(text: str) -> None:
        console.print(f"[dim]{perf_counter() - start:6.1f} s[/dim]  {text}", highlight=False)

    say(f"generating ntuples in {directory / 'ntuples'}")
    write_ntuples(directory / "ntuples", seed=seed, events=events)
    config = directory / "demo.yml"
    text = (files("nuratio.demo") / "demo.yml").read_text()
    settings = yaml.safe_load(text)["Training"] | {"Seed": seed} | dict(training or {})
    config.write_text(f"{text[: text.index('Training:')]}Training: {json.dumps(settings)}\n")  # JSON is YAML
    say("training density ratios, building the workspace")
    workspace = build(config, cache=directory / "cache")
    workspace.save(directory / "workspace", overwrite=True)
    model = workspace.model()
    data = workspace.data(model)
    say("fitting, scanning, setting the limit")
    learned = _Answer.of(model, data)
    say("the same with the exact densities")
    with uproot.open(directory / "ntuples" / "data.root") as file:
        observed = file["data"].arrays(["mll", "yll", "costh"], library="np")
    truth = ExactLikelihood.from_events(**observed)
    exact = _Answer.of(truth, truth.data)
    _write(directory, learned, exact)
    if plots:
        say(f"drawing into {directory / 'plots'}")
        _draw(directory, model, data, learned, exact)
    summary = {"learned": learned.summary(), "exact": exact.summary()}
    (directory / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    console.print(_table(learned, exact))
    say("done")
    return summary


def _write(directory: Path, learned: _Answer, exact: _Answer) -> None:
    results = directory / "results"
    results.mkdir(exist_ok=True)
    for name, answer in (("learned", learned), ("exact", exact)):
        for result in (answer.fit, answer.scan, answer.limit):
            (results / f"{name}_{result.kind}.json").write_text(result.to_json() + "\n")


def _draw(directory: Path, model: Model, data: Any, learned: _Answer, exact: _Answer) -> None:
    import matplotlib.pyplot as plt

    from nuratio import plots

    folder = directory / "plots"
    folder.mkdir(exist_ok=True)

    def save(artists: Any, name: str) -> None:
        figure = artists.ax.figure
        figure.savefig(folder / f"{name}.png")
        plt.close(figure)

    save(plots.cls_scan(learned.limit, poi_label=r"$\kappa$"), "limit")
    save(plots.pulls(learned.fit), "pulls")
    curve = plots.profile(learned.scan, label="learned", parameter_label=r"$\kappa$")
    save(plots.profile(exact.scan, ax=curve.ax, label="exact", parameter_label=r"$\kappa$", linestyle="--"), "scan")
    labels = {"sm": r"$Z/\gamma^*$", "interference": "Interference", "newphys": r"$Z'$"}
    for channel, feature, label, edges in (
        ("SR", "ln_mll", r"$\ln(m_{\ell\ell}$ / GeV)", 30),
        ("SR", "costh", r"$\cos\theta^*$", 20),
        ("CR", "mll", r"$m_{\ell\ell}$ [GeV]", CR.edges),
    ):
        drawn = project(model, data, learned.fit, channel, feature, edges)
        artists = plots.stack(drawn, labels=labels, log=feature == "ln_mll", feature_label=label)
        save(artists, f"{channel}_{feature}")


def _table(learned: _Answer, exact: _Answer) -> Table:
    table = Table(title="kappa on the same events")
    for column in ("", "best fit", "95% CL upper limit", "expected limit"):
        table.add_column(column, justify="left" if not column else "right")
    for name, answer in (("learned ratios", learned), ("exact densities", exact)):
        kappa = answer.fit["kappa"]
        table.add_row(
            name,
            f"{kappa.value:.3f} +- {kappa.uncertainty:.3f}",
            f"{answer.limit.observed:.3f}",
            f"{answer.limit.expected[2]:.3f}",
        )
    shift = (learned.fit["kappa"].value - exact.fit["kappa"].value) / exact.fit["kappa"].uncertainty
    ratio = learned.limit.observed / exact.limit.observed
    table.add_section()
    table.add_row("difference", f"{shift:+.2f} sigma", f"{100 * (ratio - 1):+.1f}%", "")
    return table
