"""Generated text between the marks of a page, wherever under docs/ the page is.

A table's place is `<!-- name -->` to `<!-- end of name -->` in README.md or in any
Markdown page under docs/. Moving the two marks moves the table, without a change of
code; a mark may stand in several pages.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"\]\(([\w./-]+\.(?:md|svg|png))(#[\w-]*)?\)")
MARK = re.compile(r"<!-- (?P<name>[\w -]+?) -->\n.*?<!-- end of (?P=name) -->", re.S)


def pages() -> list[Path]:
    """Where a mark may stand."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def linked(text: str, page: Path) -> str:
    """The links of a text to pages and figures, named by file, as this page needs."""

    def relative(match: re.Match[str]) -> str:
        found = list(DOCS.rglob(match[1])) if ".." not in match[1] else []
        if len(found) != 1:
            return match[0]
        return f"]({os.path.relpath(found[0], page.parent)}{match[2] or ''})"

    return LINK.sub(relative, text)


def rendered(page: Path, texts: Mapping[str, str]) -> str:
    """The page with these texts between its marks."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in texts:
            return match[0]
        text = linked(texts[name], page)
        return f"<!-- {name} -->\n{text}\n<!-- end of {name} -->"

    return MARK.sub(block, page.read_text())


def homeless(texts: Mapping[str, str]) -> list[str]:
    """The names of texts that no page has a mark for."""
    found = {m["name"] for page in pages() for m in MARK.finditer(page.read_text())}
    return [name for name in texts if name not in found]


def stale(texts: Mapping[str, str]) -> list[str]:
    """Pages that hold other texts than these, and marks that no page holds."""
    other = [p for p in pages() if rendered(p, texts) != p.read_text()]
    return [str(p.relative_to(ROOT)) for p in other] + homeless(texts)


def write(texts: Mapping[str, str]) -> None:
    """Put each text between its marks."""
    missing = homeless(texts)
    if missing:
        raise ValueError(
            f"expected a page under docs/ or README.md with the marks of {missing}, "
            "found none; put <!-- NAME --> and <!-- end of NAME --> where each belongs"
        )
    for page in pages():
        new = rendered(page, texts)
        if new != page.read_text():
            page.write_text(new)
            print(f"wrote {page}")
