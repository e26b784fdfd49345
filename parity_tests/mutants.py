"""The bugs of public ports, put into copies of this project: does the suite notice each of them?

    python parity_tests/mutants.py                  # all; `make mutants`
    python parity_tests/mutants.py --fast           # the few that CI tries
    python parity_tests/mutants.py --only floor     # those whose name holds a word
    python parity_tests/mutants.py --table docs/mutants.md

mutants.toml holds them. A bug of a forward pass has the id that `segtwin.hypotheses` gives it: what `segtwin diagnose`
finds in a port, the tests have to find here. A mutant is an edit of one file and the tests that are run on it; the
first one that fails is printed. One that survives is an error, and so is one whose text is no longer in its file, or
that pytest cannot even collect: that would be no bug but a broken copy.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCES = ("common", "weights", "pytorch", "tensorflow", "engines", "cli")
LONGEST = 900
"""Seconds that the tests of one mutant may take."""


@dataclass(frozen=True)
class Mutant:
    """A bug in a copy of the project."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    """Arguments of pytest."""
    bug: str = ""
    """Its id in `segtwin.hypotheses`; "" for what is no bug of a forward pass."""
    count: int = 1
    """How often the text is in the file; all are replaced."""
    fast: bool = False
    """Whether CI tries it."""

    def edited(self, text: str) -> str:
        """The file's text with the bug.

        Raises:
            ValueError: the text that it changes is not there, or not so often.
        """
        if text.count(self.old) != self.count:
            raise ValueError(
                f"mutants.toml: {self.name}: its text is {text.count(self.old)} times in {self.file}, not {self.count}"
            )
        return text.replace(self.old, self.new)


def catalogue() -> list[Mutant]:
    """All mutants, in the order of mutants.toml."""
    held = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return [Mutant(**{**entry, "tests": tuple(held["tests"][entry["tests"]])}) for entry in held["mutant"]]


def copy_project(target: Path) -> None:
    """The files of this project, as links where that is possible."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ROOT / name, file)
        except OSError:
            shutil.copy2(ROOT / name, file)


def first_failure(mutant: Mutant, copy: Path) -> str:
    """The first test that fails with the bug in a copy of the project; "" where none does. The copy is as before
    afterwards."""
    file = copy / mutant.file
    text = file.read_text(encoding="utf-8")
    bugged = mutant.edited(text)
    file.unlink()  # it is a link to the file itself
    file.write_text(bugged, encoding="utf-8")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(copy / one) for one in SOURCES),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *mutant.tests]
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST)
    finally:
        file.write_text(text, encoding="utf-8")
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode and not failed):
        raise RuntimeError(
            f"{mutant.name}: pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )
    return failed[1] if failed else ""


def run(mutants: list[Mutant], jobs: int) -> list[str]:
    """Of each mutant the first test that fails, "" where none does."""
    with ExitStack() as stack:
        copies: queue.Queue[Path] = queue.Queue()
        for _ in range(jobs):
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutants-", dir=ROOT.parent)))
            copy_project(copy)
            copies.put(copy)

        def tried(mutant: Mutant) -> str:
            copy = copies.get()
            begun = time.monotonic()
            try:
                test = first_failure(mutant, copy)
            finally:
                copies.put(copy)
            word = "caught" if test else "SURVIVED"
            print(
                f"{word} {mutant.name}: {test or ' '.join(mutant.tests)} ({time.monotonic() - begun:.0f} s)", flush=True
            )
            return test

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(tried, mutants))


def table(mutants: list[Mutant], found: list[str]) -> str:
    """The page docs/mutants.md."""
    lines = [
        "# Mutants",
        "",
        f"`make mutants` puts each of these {len(mutants)} bugs into a copy of the project and runs the tests that",
        "have to notice it. The last column is the first one that fails. A bug of a forward pass has the id under",
        "which `segtwin diagnose` finds it in a port.",
        "",
        "| bug | id | file | caught by |",
        "|---|---|---|---|",
    ]
    for one, test in zip(mutants, found, strict=True):
        bug, caught = f"`{one.bug}`" if one.bug else "", f"`{test}`" if test else "**survives**"
        lines.append(f"| {one.name} | {bug} | `{one.file}` | {caught} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run mutants, print one line each, and end with status 1 when one survives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="the few that CI tries")
    parser.add_argument("--only", default="", help="those whose name holds this")
    parser.add_argument("--table", type=Path, help="write the page here (of all mutants)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="mutants at a time")
    options = parser.parse_args()
    if options.table is not None and (options.fast or options.only):
        parser.error("--table is of all mutants: leave out --fast and --only")
    chosen = [one for one in catalogue() if options.only in one.name and (one.fast or not options.fast)]
    if not chosen:
        parser.error(f"no mutant's name holds {options.only!r}")
    found = run(chosen, options.jobs)
    caught = sum(map(bool, found))
    if options.table is not None:
        options.table.write_text(table(chosen, found), encoding="utf-8")
    print(f"{caught} of {len(found)} caught")
    sys.exit(caught < len(found))


if __name__ == "__main__":
    main()
