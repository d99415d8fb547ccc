"""ROOT ntuples (TTree and RNTuple) as an `EventSample`, read with uproot."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import awkward as ak
import uproot

from nuratio.data.files import Files
from nuratio.data.reading import Features, Table, read_events, readable, step_bytes
from nuratio.data.sample import EventSample
from nuratio.data.variation import Variation
from nuratio.errors import InvalidData, did_you_mean

__all__ = ["read_root"]


def read_root(
    files: Files,
    tree: str,
    features: Features,
    *,
    weight: str | None = None,
    cut: str | None = None,
    variation: Variation | None = None,
    event_id: str | None = None,
    scale: float = 1.0,
    aliases: Mapping[str, str] | None = None,
    step_size: int | str = "50 MB",
    progress: bool | None = None,
    label: str | None = None,
) -> EventSample:
    """Read one sample from ROOT files.

    Parameters
    ----------
    files : path, pattern or sequence of them
        Files to read one after the other; patterns (``*.root``) are expanded and sorted. ``root://`` and ``https://``
        go to uproot as they are.
    tree : str
        Name of the TTree or RNTuple, with its directory if it is in one.
    features : sequence of str, or mapping of name to str
        Expressions (`nuratio.data.expression`); in a sequence each is its own name.
    weight : str, optional
        Expression of the signed event weight; None for unit weights.
    cut : str, optional
        Condition on the events to keep; a comparison with NaN is false.
    variation : Variation, optional
        What to read instead of the nominal tree, files, weight, aliases or branches.
    event_id : str, optional
        Expression of an integer that is the same for a generated event in all its variations, such as ``event`` or
        ``run * 10_000_000 + event``. None: the entry number before the cut, counted through the files.
    scale : float
        Multiplies every weight: luminosity x cross section / sum of generated weights.
    aliases : mapping of str to str, optional
        Names for expressions, usable in all the others.
    step_size : int or str
        Events, or memory (``"50 MB"``), read at a time.
    progress : bool, optional
        Show a progress bar on stderr; None: above a million entries.
    label : str, optional
        Begins every message.

    Returns
    -------
    EventSample
        The events that pass the cut, in the order of the files.

    Raises
    ------
    InvalidData
        A missing or damaged file, a missing tree or branch (with the close matches), an expression that does not parse
        or is not a number per event, NaN or infinite features or weights, no events, only zero weights.

    Warns
    -----
    LeakageWarning
        A varied tree or file without ``event_id``.
    """
    step_bytes(step_size)
    varied = variation.tree if variation is not None and variation.tree is not None else tree
    return read_events(
        partial(_open, tree=varied, step_size=step_size),
        files,
        features,
        weight=weight,
        cut=cut,
        variation=variation,
        event_id=event_id,
        scale=scale,
        aliases=aliases,
        progress=progress,
        label=label,
    )


@contextmanager
def _open(path: str, *, tree: str, step_size: int | str) -> Iterator[Table]:
    where = f"file {path!r}"
    with readable(where):
        file = uproot.open({path: None})
    with file:
        with readable(where):
            classes = file.classnames(cycle=False)
            trees = [
                name for name, kind in classes.items() if kind.startswith(("TTree", "TNtuple")) or "RNTuple" in kind
            ]
            if tree.partition(";")[0] not in trees:
                raise InvalidData(f"{where} has no tree {tree!r}; {did_you_mean(tree, trees, 'trees')}")
            where += f", tree {tree!r}"
            events = file[tree]
            owners = {name: key for key, branch in events.items() for name in (key, *_leaves(key, branch))}

        def chunks(names: Sequence[str]) -> Iterator[ak.Array]:
            with readable(where):
                yield from events.iterate(sorted({owners[n] for n in names}), step_size=step_size, library="ak")

        yield Table(where, events.num_entries, owners, chunks)


def _leaves(key: str, branch: Any) -> list[str]:
    """``branch.leaf`` for each leaf of a branch that holds several (a ROOT leaf list)."""
    leaves = branch.member("fLeaves") if isinstance(branch, uproot.TBranch) else ()
    return [f"{key}.{leaf.member('fName')}" for leaf in leaves] if len(leaves) > 1 else []
