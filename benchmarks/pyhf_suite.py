"""pyhf's own tests on nuratio's models: an outside judge of the likelihood and of the model's protocol.

``python benchmarks/pyhf_suite.py CHECKOUT`` takes a checkout of pyhf's repository, of the version that is installed,
and runs its tests three times: as they are, with every model wrapped by nuratio (``counting``: no unbinned channel),
and with every channel rewritten as an unbinned one (``unbinned``). `pyhf_substitution.py` is the plugin that does it,
and says what is excluded and why. The tests need pytest-mock, pytest-socket and scikit-hep-testdata; those of
a backend that is not installed are left out. Exit status 1: a test fails that passes with pyhf's own models.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# The files whose tests construct models; a substitution changes nothing elsewhere.
FILES = (
    *("backend_consistency", "calculator", "compat", "constraints", "custom_mods", "import", "infer", "jit"),
    *("modifiers", "optim", "paramviewer", "pdf", "public_api", "regression", "schema", "simplemodels"),
    *("teststats", "toys", "validation", "workspace"),
)
_OPTIONS = (
    "-q",
    "--tb=no",
    "-pno:cacheprovider",
    "-ppyhf_substitution",
    "-oaddopts=",
    "--continue-on-collection-errors",
)
OUTCOMES = ("passed", "failed", "skipped", "excluded")


def run(checkout: Path, mode: str, keyword: str | None) -> dict[str, Any]:
    """What became of the tests in one mode; see `pyhf_substitution.Outcomes`."""
    files = [f"tests/test_{name}.py" for name in FILES if (checkout / f"tests/test_{name}.py").exists()]
    with TemporaryDirectory() as scratch:
        outcomes = Path(scratch) / "outcomes.json"
        command = [sys.executable, "-m", "pytest", "--outcomes", str(outcomes), "--substitute", mode, *_OPTIONS, *files]
        command += ["-k", keyword] if keyword else []
        here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": here, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
        if not outcomes.exists():
            sys.exit(f"pytest did not run:\n{done.stdout}{done.stderr}")
        found: dict[str, Any] = json.loads(outcomes.read_text())
        return found


def table(runs: dict[str, dict[str, Any]]) -> list[str]:
    """Outcomes per test file, a Markdown table."""
    lines = [f"| {' / '.join(OUTCOMES)} | {' | '.join(runs)} |", f"{'| --- ' * (len(runs) + 1)}|"]
    counts = {mode: Counter((_file(test), o) for test, o in found["tests"].items()) for mode, found in runs.items()}
    names = sorted({file for count in counts.values() for file, _ in count})
    for name in [*names, "all"]:
        cells = [
            " / ".join(
                str(sum(n for (f, o), n in c.items() if o == outcome and name in (f, "all"))) for outcome in OUTCOMES
            )
            for c in counts.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def remarks(runs: dict[str, dict[str, Any]]) -> list[str]:
    """Models substituted and not, exclusions with their reasons, failures."""
    lines = []
    reference = runs["pyhf"]["tests"]
    for mode, found in runs.items():
        lines.append(f"\n{mode}" if mode == "pyhf" else f"\n{mode}: {found['made']} models substituted")
        lines += [f"  {n} left alone: {reason}" for reason, n in sorted(found["left"].items())]
        excluded = Counter(found["reasons"][test] for test, outcome in found["tests"].items() if outcome == "excluded")
        lines += [f"  {n} excluded: {reason}" for reason, n in sorted(excluded.items())]
        needless = set(found["reasons"].values()) - set(excluded)
        lines += [f"  no test is left that fails because of: {reason}" for reason in sorted(needless)]
        failed = [test for test, outcome in found["tests"].items() if outcome == "failed"]
        lines += [f"  failed{'' if mode == 'pyhf' else _without(reference, test)}: {test}" for test in failed]
    return lines


def _without(reference: dict[str, str], test: str) -> str:
    return ", as it does with pyhf's models" if reference.get(test) == "failed" else ""


def _file(test: str) -> str:
    return Path(test.partition("::")[0]).name


def require_same_version(checkout: Path) -> None:
    """Exit with a message if the checkout is not of the pyhf that is installed: tests belong to their version."""
    spec = find_spec("pyhf")
    if spec is None or spec.origin is None:
        sys.exit("pyhf is not installed")
    installed, source = Path(spec.origin).parent, checkout / "src" / "pyhf"
    if not source.is_dir():
        sys.exit(f"{checkout} is no checkout of pyhf: there is no {source}")
    files = [f.relative_to(source) for f in source.rglob("*.py") if f.name != "_version.py"]
    changed = [
        f for f in files if not (installed / f).exists() or (installed / f).read_bytes() != (source / f).read_bytes()
    ]
    if changed:
        sys.exit(
            f"the checkout {checkout} is of another version than the installed pyhf ({installed}): {len(changed)} of "
            f"{len(files)} files differ, {changed[0]} for one. Install it (pip install {checkout}), or check out the "
            "installed version"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "checkout", type=Path, help="of https://github.com/scikit-hep/pyhf, the version that is installed"
    )
    parser.add_argument("--mode", choices=("counting", "unbinned", "both"), default="both")
    parser.add_argument("-k", dest="keyword", help="only tests that match, as pytest has it")
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    require_same_version(checkout)
    modes = ("counting", "unbinned") if given.mode == "both" else (given.mode,)
    runs = {mode: run(checkout, mode, given.keyword) for mode in ("pyhf", *modes)}
    print("\n".join([*table(runs), *remarks(runs)]))
    failed = {mode: {test for test, o in found["tests"].items() if o == "failed"} for mode, found in runs.items()}
    sys.exit(1 if any(failed[mode] - failed["pyhf"] for mode in modes) else 0)


if __name__ == "__main__":
    main()
