"""Names of input files: one, several, or patterns such as ``ntuples/*.root``."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nuratio.errors import InvalidData, did_you_mean

__all__ = ["Files", "expand_files"]

Files = str | Path | Sequence[str | Path]


def expand_files(files: Files) -> list[str]:
    """The files named, in the order given; what a pattern (``* ? [`` and ``**``) matches is sorted.

    A name with ``://`` is left to the reading library.

    Raises
    ------
    InvalidData
        No files, a missing file, a directory, a pattern that matches nothing, a file named twice.
    """
    names = [files] if isinstance(files, str | Path) else list(files)
    if not names:
        raise InvalidData("no input files were given")
    found = [path for name in names for path in _matches(str(name))]
    counts = Counter(path if "://" in path else str(Path(path).resolve()) for path in found)
    path, times = counts.most_common(1)[0]
    if times > 1:
        raise InvalidData(f"file {path!r} is named {times} times, so its events would be counted {times} times")
    return found


def _matches(name: str) -> list[str]:
    path = Path(name).expanduser()
    if "://" in name:
        return [name]
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        raise InvalidData(f"{name!r} is a directory; name files, or write {str(path / '*')!r}")
    if _is_pattern(name):
        matches = sorted(str(p) for p in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if p.is_file())
        if not matches:
            directory = next(p for p in path.parents if not _is_pattern(str(p)))
            raise InvalidData(f"no file in directory {str(directory.resolve())!r} matches {name!r}")
        return matches
    if not path.parent.is_dir():
        raise InvalidData(f"no file {name!r}: there is no directory {str(path.parent)!r}")
    beside = sorted(p.name for p in path.parent.iterdir())
    raise InvalidData(f"no file {name!r}; {did_you_mean(path.name, beside, f'files in {str(path.parent)!r}')}")


def _is_pattern(name: str) -> bool:
    return any(c in name for c in "*?[")
