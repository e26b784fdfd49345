"""The catalogue of mutants fits the project that it is of. `make mutants` runs them; CI runs the fast ones."""

import ast
from pathlib import Path

import pytest
import segtwin_weights
from mutants import ROOT, Mutant, catalogue, first_failure, table
from segtwin.architectures import get_architecture, list_architectures
from segtwin.hypotheses import hypotheses

MUTANTS = catalogue()
UNSTEADY = "dropout_on"
"""What `segtwin diagnose` says of a port that answers otherwise the second time: no hypothesis is needed."""


def test_names_are_given_once_and_there_are_enough() -> None:
    assert len({one.name for one in MUTANTS}) == len(MUTANTS) >= 40
    assert sum(one.fast for one in MUTANTS) >= 5


@pytest.mark.parametrize("mutant", MUTANTS, ids=[one.name for one in MUTANTS])
def test_a_mutant_changes_its_file_and_leaves_it_python(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text(encoding="utf-8")
    changed = mutant.edited(text)
    assert changed != text
    ast.parse(changed)
    for argument in mutant.tests:
        assert not argument.endswith(".py") or (ROOT / argument).exists()


def test_bugs_have_the_names_that_the_diagnosis_gives_them() -> None:
    known = {UNSTEADY}
    for name in list_architectures():
        architecture = get_architecture(name)
        weights = segtwin_weights.initialize(name, seed=1, **narrow(architecture.widths))
        found = hypotheses(architecture, weights, architecture.preprocessing, architecture.in_channels)
        known |= {one.id for one in found}
    assert {one.bug for one in MUTANTS if one.bug} <= known


def narrow(widths: tuple[int, ...]) -> dict:
    return {"widths": (4, 6, 8, 10, 12, 14, 16)[: len(widths)]} if len(widths) in (5, 7) else {}


def test_the_page_is_of_these_mutants_and_none_survives() -> None:
    page = (ROOT / "docs/mutants.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    tests = [row[-1].strip("|` ") for row in rows]
    assert table(MUTANTS, tests) == page, "make mutants writes it"
    assert "survives" not in page


def test_a_bug_is_noticed_and_the_copy_put_back(tmp_path: Path) -> None:
    """Of a project of two files."""
    (tmp_path / "half.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "test_half.py").write_text(
        "import sys\nsys.path.insert(0, '.')\n\ndef test_half():\n    from half import half\n    assert half(4) == 2\n"
    )
    bug = Mutant("doubled", "half.py", "x / 2", "x * 2", ("test_half.py",))
    assert first_failure(bug, tmp_path) == "test_half.py::test_half"
    assert "x / 2" in (tmp_path / "half.py").read_text()
    same = Mutant("written otherwise", "half.py", "x / 2", "0.5 * x", ("test_half.py",))
    assert first_failure(same, tmp_path) == ""
    with pytest.raises(ValueError, match="0 times"):
        first_failure(Mutant("gone", "half.py", "x / 3", "x", ("test_half.py",)), tmp_path)
    broken = Mutant("no Python", "test_half.py", "def test_half():", "def test_half(", ("test_half.py",))
    with pytest.raises(RuntimeError, match="pytest ended with"):
        first_failure(broken, tmp_path)
