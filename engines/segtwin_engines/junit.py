"""A comparison as JUnit's XML, which CI servers show."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from segtwin.files import whole

if TYPE_CHECKING:
    from segtwin_engines.comparison import Parity


def write_junit(parity: Parity, path: str | os.PathLike[str], overwrite: bool) -> None:
    """`path`: a suite for each image, a case for each thing that was measured of each engine."""
    root = ElementTree.Element("testsuites", name=f"segtwin parity {parity.architecture.name}")
    for comparison in parity.comparisons:
        suite = ElementTree.SubElement(root, "testsuite", name=comparison.image)
        cases = failures = 0
        for one in comparison.measured:
            for engine, error in one.errors.items():
                case = ElementTree.SubElement(
                    suite, "testcase", classname=f"{parity.architecture.name}.{engine}", name=f"{one.what} {one.name}"
                )
                cases += 1
                if one.missed(engine):
                    failures += 1
                    text = f"{error:.4g} noise floors from the float64 run; {one.bound(engine):.4g} are allowed"
                    ElementTree.SubElement(case, "failure", message=text, type="parity")
        suite.set("tests", str(cases))
        suite.set("failures", str(failures))
    for count in ("tests", "failures"):
        root.set(count, str(sum(int(suite.attrib[count]) for suite in root)))
    ElementTree.indent(root)
    with whole(path, replace=overwrite) as draft:
        ElementTree.ElementTree(root).write(draft, encoding="utf-8", xml_declaration=True)
