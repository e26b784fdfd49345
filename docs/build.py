"""The notebooks: each `docs/NAME.py` executed into `docs/_built/NAME.ipynb`, and held against `docs/NAME.ipynb`, which
is committed with its outputs so that any forge shows it.

    python docs/build.py            # execute all; status 1 where a committed notebook is not current
    python docs/build.py --write    # … and commit what was made: copy it
    python docs/build.py tiling     # some

Current means: the same cells, and outputs of the same kinds. What they say is the machine's: roundings, which blob is
the worst, where the weights were found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

DOCS = Path(__file__).parent
BUILT = DOCS / "_built"
MOST = 1_500_000
"""Bytes of a notebook that every forge shows."""
AT_A_TIME = 2


def sources() -> list[Path]:
    """The pages, as text."""
    return sorted(page for page in DOCS.glob("*.py") if page.read_text(encoding="utf-8").startswith("# ---\n# jupyter"))


def execute(page: Path) -> Path:
    """A page with its outputs, in docs/_built."""
    target = BUILT / f"{page.stem}.ipynb"
    command = [
        Path(sys.executable).parent / "jupytext",
        "--quiet",
        "--to",
        "ipynb",
        "--execute",
        "--output",
        target,
        page,
    ]
    # each page its share of the cores: threads of several pools that wait for each other spin
    share = str(max(1, (os.cpu_count() or 1) // AT_A_TIME))
    limits = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), share)
    done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{page}: {done.stderr[-3000:]}")
    notebook = nbformat.read(target, as_version=4)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{page.stem}-{number}".replace("_", "-")  # jupytext draws another one each time
        cell.metadata = {}
    notebook.metadata.pop("language_info", None)  # the version of this Python
    nbformat.write(notebook, target)
    return target


def seen(file: Path) -> list[tuple[str, list[str]]]:
    """Each cell's source, and the kinds of its outputs."""
    found = []
    for cell in nbformat.read(file, as_version=4).cells:
        kinds = {
            " ".join(sorted(output.get("data", {}))) or output.get("name", output.output_type)
            for output in cell.get("outputs", [])
        }
        found.append((cell.source, sorted(kinds)))
    return found


def complaint(page: Path, built: Path) -> str:
    """Why the committed notebook of a page is not current; "" where it is."""
    committed = DOCS / f"{page.stem}.ipynb"
    if not committed.exists():
        return f"{committed} is not there"
    if committed.stat().st_size > MOST:
        return f"{committed} has {committed.stat().st_size:,} bytes; {MOST:,} are the most that forges show"
    for number, (now, then) in enumerate(zip(seen(built), seen(committed), strict=False)):
        if now != then:
            return f"{committed}: cell {number} is not what {page.name} gives now:\n  {then}\n  {now}"
    return "" if len(seen(built)) == len(seen(committed)) else f"{committed} has another number of cells"


def main() -> None:
    """Execute pages, two at a time, and compare or copy them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="pages, without their ending; all of them by default")
    parser.add_argument("--write", action="store_true", help="copy what was made to docs/")
    options = parser.parse_args()
    pages = [page for page in sources() if not options.names or page.stem in options.names]
    BUILT.mkdir(exist_ok=True)
    wrong = 0
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for page, built in zip(pages, pool.map(execute, pages), strict=True):
            if options.write:
                shutil.copy(built, DOCS / built.name)
            if said := complaint(page, built):
                print(f"{said}; make notebooks WRITE=--write", file=sys.stderr)
                wrong += 1
            else:
                print(f"{page.stem}: {(DOCS / built.name).stat().st_size / 1e3:.0f} kB, current", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
