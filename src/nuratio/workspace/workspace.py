"""A statistical analysis on disk: rates as a pyhf workspace, events as tables of numbers.

`Workspace.load` reads one, `Workspace.build` makes one from a configuration file and ntuples, `Workspace.from_pyhf`
takes any pyhf workspace. `model` and `data` are what inference needs.
"""

import copy
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nuratio.errors import InvalidModel, InvalidWorkspace, UnknownName, UnusedWarning, did_you_mean
from nuratio.ratios.table import RatioTable
from nuratio.workspace.strict_json import plain_json
from nuratio.workspace.tables import Store, write_workspace
from nuratio.workspace.unbin import unbin_channel
from nuratio.workspace.validate import core, knows_poi, problems, remarks, schema_problems

if TYPE_CHECKING:
    from nuratio.model.model import Model

__all__ = ["DEFAULT_SETTINGS", "Workspace"]

DEFAULT_SETTINGS = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}

_SHOWN = 100  # problems


@dataclass(frozen=True, eq=False)
class Workspace:
    """A pyhf workspace plus the key ``unbinned``, and the event tables it names.

    Attributes
    ----------
    spec : dict
        The JSON. Without ``unbinned`` it is a valid pyhf workspace: the counting version of the analysis.
    tables : dict
        File id -> `RatioTable`.
    """

    spec: dict[str, Any]
    tables: Mapping[str, RatioTable] = field(default_factory=dict)

    # --- making one

    @classmethod
    def load(cls, path: str | Path, *, verify: bool = True) -> "Workspace":
        """Read a workspace directory or zip, and check all of it.

        Parameters
        ----------
        path : path
        verify : bool
            Compare the checksums of the event tables (reads all of them).

        Raises
        ------
        InvalidWorkspace
            Listing every problem: schema, names, checksums, NaN.

        Warns
        -----
        UnusedWarning
            Observations of no channel, settings of no parameter: pyhf ignores them, and a typo looks the same.
        """
        tables: dict[str, RatioTable] = {}
        found = []
        with Store(Path(path)) as store:
            spec = store.json()
            cls._raise(schema_problems(spec))
            for i, entry in enumerate(spec.get("unbinned", {}).get("files", [])):
                table, wrong = store.table(entry, verify=verify)
                found += [f"/unbinned/files/{i}: {line}" for line in wrong]
                if table is not None:
                    tables[entry["id"]] = table
        cls._raise(found + problems(spec, tables))
        cls._remark(spec)
        return cls(spec, tables)

    @classmethod
    def from_pyhf(cls, spec: Mapping[str, Any]) -> "Workspace":
        """A workspace with no unbinned channel from a pyhf workspace (JSON object; arrays become lists)."""
        workspace = cls(plain_json(spec))
        workspace.validate()
        return workspace

    @classmethod
    def build(cls, config: str | Path, **options: Any) -> "Workspace":
        """Train (or take from the cache) what a configuration file asks for and build its workspace.

        See `nuratio.workspace.build.build`.
        """
        from nuratio.workspace.build import build

        workspace: Workspace = build(config, **options)
        return workspace

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write to a directory, or to a zip if the name ends in ``.zip``; all of it or nothing.

        Raises
        ------
        InvalidWorkspace
            The workspace is not valid, or the path is taken.
        """
        self.validate()
        write_workspace(copy.deepcopy(self.spec), self.tables, Path(path), overwrite=overwrite)

    def validate(self) -> None:
        """Check everything, including that the total density is positive at every observed event at nominal parameters.

        Raises
        ------
        InvalidWorkspace
            Listing every problem found.
        NonPositiveDensity
            The samples cancel at an observed event.
        """
        self._raise(schema_problems(self.spec))
        missing = [
            f"/unbinned/files/{i}: no table for file {f['id']!r}"
            for i, f in enumerate(self.spec.get("unbinned", {}).get("files", []))
            if f["id"] not in self.tables
        ]
        self._raise(missing + problems(self.spec, self.tables))
        refused: dict[str, str] = {}  # what is wrong for all measurements is said once
        for m, measurement in enumerate(self.spec["measurements"]):
            try:
                self.model(measurement["name"], poi="" if knows_poi(self.spec, measurement) else None)
            except (InvalidModel, InvalidWorkspace, UnknownName) as error:
                refused.setdefault(str(error), f"/measurements/{m}")
        self._raise([f"{where}: {error}" for error, where in refused.items()])
        self._remark(self.spec)

    @staticmethod
    def _remark(spec: Mapping[str, Any]) -> None:
        for line in remarks(spec):
            warnings.warn(line, UnusedWarning, stacklevel=3)

    @staticmethod
    def _raise(found: list[str]) -> None:
        if found:
            head = f"{len(found)} problems" if len(found) > 1 else "1 problem"
            rest = [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
            raise InvalidWorkspace(f"{head} in the workspace:\n  " + "\n  ".join(found[:_SHOWN] + rest))

    # --- looking at it

    @property
    def measurements(self) -> list[str]:
        """Names of the measurements."""
        return [m["name"] for m in self.spec["measurements"]]

    @property
    def channels(self) -> list[str]:
        """Names of all channels, in pyhf's order."""
        return sorted(c["name"] for c in self.spec["channels"])

    @property
    def unbinned(self) -> dict[str, dict[str, Any]]:
        """Unbinned channel -> its entry."""
        return {c["name"]: c for c in self.spec.get("unbinned", {}).get("channels", [])}

    @property
    def axes(self) -> dict[str, dict[str, Any]]:
        """Binned channel -> name and edges of its axis, where they are known."""
        return {a["channel"]: a for a in self.spec.get("unbinned", {}).get("axes", [])}

    @property
    def counting(self) -> dict[str, Any]:
        """The pyhf workspace of the counting version of the analysis (JSON object)."""
        return copy.deepcopy(core(self.spec))

    def __repr__(self) -> str:
        channels = [f"{c} (unbinned)" if c in self.unbinned else c for c in self.channels]
        return f"Workspace({', '.join(channels)}; measurements {', '.join(self.measurements)})"

    # --- using it

    def model(
        self,
        measurement: str | None = None,
        *,
        poi: str | None = "",
        kernel: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> "Model":
        """The model of a measurement (the first one by default).

        Parameters
        ----------
        measurement : str, optional
        poi : str or None
            Another parameter of interest; None for a background-only model.
        kernel : str, optional
            What evaluates the events: ``numba`` (compiled; the default on the CPU), ``torch`` (the default on another
            device), or ``numpy``, a plain and slower twin to check the others with.
        device : str
            ``cpu``, or a device of torch such as ``cuda``.
        threads : int, optional
            Of the compiled kernel; by default all processors this process may use. Results do not depend on it.

        Raises
        ------
        UnknownName
            No such measurement or parameter.
        InvalidModel
            A kernel or device that does not exist.
        """
        from nuratio.model.assemble import assemble
        from nuratio.model.kernels.kernel import Kernel

        name = kernel or ("numba" if device == "cpu" else "torch")
        return assemble(self, measurement, poi, Kernel(name, device, threads))

    def data(self, model: "Model", include_auxdata: bool = True) -> NDArray[np.float64]:
        """The observed data as the model's flat vector, [counts and event weights | auxiliary data]."""
        counts = {o["name"]: o["data"] for o in self.spec["observations"]}
        main = np.zeros(model.config.nmaindata)
        for name, where in model.config.channel_slices.items():
            if name not in self.unbinned:
                main[where] = counts[name]
                continue
            n = len(model.unbinned[name].observed)
            events = self.unbinned[name]["events"]
            if "weight" in events["observed"]:
                on_pool = "file" not in events["observed"]
                table = self.tables[events["pool" if on_pool else "observed"]["file"]]
                start = where.start + n if on_pool else where.start
                main[start : start + len(table)] = table[events["observed"]["weight"]["column"]]
            else:
                main[where.start : where.start + n] = 1.0
        return np.concatenate([main, model.config.auxdata]) if include_auxdata else main

    def unbin(self, channel: str, *, split: int = 1) -> "Workspace":
        """The same analysis with a binned channel rewritten as an unbinned one, ``split`` events per bin.

        The ratios are piecewise constant, so the likelihood is the same up to a constant: the sharpest test there is of
        the unbinned part. A channel with parameters per bin keeps its bins as coarse cells.

        Raises
        ------
        UnknownName
            No such channel.
        InvalidWorkspace
            The channel is unbinned already; less than one event per bin.
        """
        if channel not in self.channels:
            raise UnknownName(f"no channel {channel!r}; {did_you_mean(channel, self.channels, 'channels')}")
        spec, file, table = unbin_channel(self.spec, channel, DEFAULT_SETTINGS, split)
        return Workspace(spec, {**self.tables, file: table})

    # --- others from it: see `nuratio.workspace.operations`

    @staticmethod
    def combine(left: "Workspace", right: "Workspace", join: str = "none", merge_channels: bool = False) -> "Workspace":
        """Both analyses in one; parameters of the same name are the same parameter.

        See `nuratio.workspace.operations.combine`.
        """
        from nuratio.workspace.operations import combine

        return combine(left, right, join, merge_channels)

    def prune(
        self,
        modifiers: Collection[str] = (),
        modifier_types: Collection[str] = (),
        samples: Collection[str] = (),
        channels: Collection[str] = (),
        measurements: Collection[str] = (),
    ) -> "Workspace":
        """The workspace without what is named; the modifier type ``ratiosys`` is that of the per-event ones.

        See `nuratio.workspace.operations.prune`.
        """
        from nuratio.workspace.operations import prune

        return prune(self, modifiers, modifier_types, samples, channels, measurements)

    def rename(
        self,
        modifiers: Mapping[str, str] | None = None,
        samples: Mapping[str, str] | None = None,
        channels: Mapping[str, str] | None = None,
        measurements: Mapping[str, str] | None = None,
    ) -> "Workspace":
        """The same likelihood under other names, each argument a mapping old -> new.

        See `nuratio.workspace.operations.rename`.
        """
        from nuratio.workspace.operations import rename

        return rename(self, modifiers, samples, channels, measurements)

    def sorted(self) -> "Workspace":
        """The same workspace with everything that has a name in the order of the names."""
        from nuratio.workspace.operations import sorted_workspace

        return sorted_workspace(self)

    def digest(self, algorithm: str = "sha256") -> str:
        """A checksum (hexadecimal) of what the workspace means, whatever the order of its parts; reads all tables.

        See `nuratio.workspace.operations.digest`.
        """
        from nuratio.workspace.operations import digest

        return digest(self, algorithm)

    def patch(self, operations: Iterable[Mapping[str, Any]]) -> "Workspace":
        """The workspace after a JSON patch (RFC 6902), validated; tables are kept.

        See `nuratio.workspace.operations.patch`.
        """
        from nuratio.workspace.operations import patch

        return patch(self, operations)
