"""What `make docs` lays together before mkdocs builds the site (a hook of mkdocs.yml).

The README is its first page; then the guides, the notebooks as they are committed, and a page of reference for each
package.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = DOCS / "_pages"
REFERENCE = {
    "segtwin": "architectures preprocessing geometry oracle backward noise losses solver metrics inference tiles data "
    "hypotheses errors",
    "segtwin_weights": "",
    "segtwin_torch": "solver losses",
    "segtwin_keras": "solver losses",
    "segtwin_engines": "",
}
"""Package → its modules that have a section of their own."""
ON_THE_SITE = {
    "docs/fidelity.md": "fidelity.md",
    "docs/mutants.md": "mutants.md",
    "docs/speed.md": "speed.md",
    "CHANGELOG.md": "changelog.md",
    **{f"docs/{page.stem}.py": f"notebooks/{page.stem}.ipynb" for page in DOCS.glob("*.ipynb")},
    **{f"docs/guides/{page.name}": f"guides/{page.name}" for page in (DOCS / "guides").glob("*.md")},
}
"""File of the repository → the page that shows it."""


def on_startup(**_: Any) -> None:
    """Lay docs/_pages."""
    shutil.rmtree(PAGES, ignore_errors=True)
    for folder in ("notebooks", "guides", "reference", "docs/images"):
        (PAGES / folder).mkdir(parents=True)
    shutil.copy(DOCS / "site.css", PAGES)
    write("index.md", ROOT / "README.md")
    write("changelog.md", ROOT / "CHANGELOG.md")
    for page in (DOCS / "fidelity.md", DOCS / "mutants.md", DOCS / "speed.md"):
        write(page.name, page)
    for page in (DOCS / "guides").glob("*.md"):
        write(f"guides/{page.name}", page)
    for page in DOCS.glob("*.ipynb"):
        shutil.copy(page, PAGES / "notebooks" / page.name)
    for picture in (DOCS / "images").iterdir():
        shutil.copy(picture, PAGES / "docs/images" / picture.name)
    for package, modules in REFERENCE.items():
        sections = [f"# {package}\n", f"::: {package}\n    options: {{heading_level: 2}}\n"]
        sections += [f"::: {package}.{module}\n    options: {{heading_level: 2}}\n" for module in modules.split()]
        (PAGES / "reference" / f"{package}.md").write_text("\n".join(sections), encoding="utf-8")


def write(name: str, source: Path) -> None:
    """A page whose links into the repository lead to pages of the site, or to the repository."""
    target = PAGES / name

    def link(found: re.Match[str]) -> str:
        text, address = found[1], found[2]
        if "//" in address or address.startswith("#"):
            return found[0]
        path, _, anchor = address.partition("#")
        inside = (source.parent / path).resolve().relative_to(ROOT).as_posix()
        if inside in ON_THE_SITE:
            up = "../" * name.count("/")
            return f"{text}({up}{ON_THE_SITE[inside]}{'#' + anchor if anchor else ''})"
        if inside.startswith("docs/images/"):
            return f"{text}({'../' * name.count('/')}{inside})"
        return text.strip("![]")  # a file of the repository that is no page of the site

    text = source.read_text(encoding="utf-8")
    text = re.sub(r"```mermaid\n.*?```\n", "", text, flags=re.DOTALL)  # drawn by a script that would be fetched
    text = re.sub(r"(!?\[[^\]]*\])\(([^)\s]+)\)", link, text)
    target.write_text(text, encoding="utf-8")
