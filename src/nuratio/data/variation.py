"""A systematic variation of a sample: what is read instead of the nominal tree, files, weight or branches."""

from collections.abc import Mapping
from dataclasses import dataclass

from nuratio.data.files import Files
from nuratio.errors import InvalidData

__all__ = ["Variation"]


@dataclass(frozen=True)
class Variation:
    """One direction of a systematic variation; what is given replaces the nominal argument of the reader.

    Parameters
    ----------
    tree : str, optional
        The tree of the varied events, in the same files.
    files : path, pattern or sequence of them, optional
        Files of the varied events.
    weight : str, optional
        The varied weight expression.
    aliases : mapping of str to str, optional
        Replaces these aliases: with ``aliases={"pt": "Jet_pt"}`` nominally, ``Variation(aliases={"pt": "Jet_pt_up"})``.
    branches : mapping of str to str, optional
        What these branches stand for, as expressions of the nominal ones, wherever they are used:
        ``Variation(branches={"el_pt": "el_pt * where(abs(el_eta) < 1.4, 1.01, 1)"})``.
    name : str
        For messages; by default it says what is varied.

    Notes
    -----
    A varied weight, alias or branch reads the same entries, so varied events keep the ids of the nominal ones. A varied
    tree or file holds its events in an order of its own: pass ``event_id`` to the reader, or one generated event may be
    trained on in one variation and tested on in another (the reader issues a `LeakageWarning`).
    """

    tree: str | None = None
    files: Files | None = None
    weight: str | None = None
    aliases: Mapping[str, str] | None = None
    branches: Mapping[str, str] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if not self._changes():
            raise InvalidData(
                f"variation {self.name!r} changes nothing: give a tree, files, a weight, aliases or branches"
            )

    def __str__(self) -> str:
        changes = self._changes() | ({"branches": list(self.branches)} if self.branches else {})
        given = ", ".join(f"{key} {value!r}" for key, value in changes.items())
        return f"variation {self.name!r} ({given})" if self.name else f"variation ({given})"

    def _changes(self) -> dict[str, object]:
        return {key: value for key, value in vars(self).items() if key != "name" and value not in (None, {})}
