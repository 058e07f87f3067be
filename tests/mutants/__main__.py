"""`python -m tests.mutants [WORD ...]`: takes the guards out one at a time and demands that a test fails.

Works on a copy of the tree. `--markdown` prints the table of docs/chaos.md; words choose guards by name.
Exit code 1 when a guard is missed, or when its tests fail with it in place.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.mutants.guards import GUARDS, Guard

_ROOT = Path(__file__).parents[2]
_TEST_TIMEOUT_S = 300
_LEFT_BEHIND = (".git", ".venv", ".bench-venv", "*_cache", ".hypothesis", "__pycache__", "node_modules")
_PASSED, _FAILED = 0, 1


def main() -> int:
    """Check the chosen guards and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only guards whose name has one of these")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args()
    chosen = [guard for guard in GUARDS if not options.words or any(w in guard.name for w in options.words)]
    with tempfile.TemporaryDirectory(prefix="sluicegate-mutants-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(_ROOT, tree, ignore=shutil.ignore_patterns(*_LEFT_BEHIND), symlinks=True)
        whole = _run(tree, sorted({test for guard in chosen for test in guard.tests}))
        if whole.returncode != _PASSED:
            print(f"the tests fail with every guard in place:\n{whole.stdout[-4000:]}", file=sys.stderr)
            return 1
        missed = [guard for guard in chosen if not _is_noticed(guard, tree, markdown=options.markdown)]
    print(
        f"{len(chosen) - len(missed)} of {len(chosen)} guards turn a test red when taken out", file=sys.stderr
    )
    return 1 if missed else 0


def _is_noticed(guard: Guard, tree: Path, *, markdown: bool) -> bool:
    path = tree / guard.path
    whole = path.read_text(encoding="utf-8")
    if whole.count(guard.old) != 1:
        print(f"{guard.path} has {whole.count(guard.old)} times what `{guard.name}` takes out", flush=True)
        return False
    path.write_text(whole.replace(guard.old, guard.new), encoding="utf-8")
    try:
        noticed = _run(tree, guard.tests).returncode == _FAILED
    finally:
        path.write_text(whole, encoding="utf-8")
    tests = ", ".join(f"`{test}`" for test in guard.tests)
    verdict = "red" if noticed else "STILL GREEN"
    line = f"| {guard.promise} | {guard.name} | `{guard.path}` | {tests} | {verdict} |"
    print(line if markdown else f"{verdict:11} {guard.promise} {guard.name}", flush=True)
    return noticed


def _run(tree: Path, tests: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Run the tests in the tree; a run that does not end is one that noticed."""
    options = ("-x", "-q", "-n", "0", "--hypothesis-profile", "unshrunk")
    command: Sequence[str] = (sys.executable, "-m", "pytest", *options, *tests)
    try:
        return subprocess.run(
            command,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            timeout=_TEST_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, _FAILED, stdout="it did not end")


if __name__ == "__main__":
    sys.exit(main())
