"""Write generated text between the marks of a page."""

from collections.abc import Mapping
from pathlib import Path


def marked(name: str, text: str) -> str:
    """The text with the two marks `<!-- name -->` and `<!-- end of name -->`."""
    return f"<!-- {name} -->\n{text}\n<!-- end of {name} -->"


def write(pages: Mapping[Path, list[str]]) -> None:
    """Put each block in the place of the one with its marks."""
    for page, blocks in pages.items():
        text = page.read_text()
        for block in blocks:
            first, last = block.split("\n", 1)[0], block.rsplit("\n", 1)[1]
            start, end = text.index(first), text.index(last) + len(last)
            text = text[:start] + block + text[end:]
        page.write_text(text)
        print(f"wrote {page}")
