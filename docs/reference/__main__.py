"""``make reference``: write the pages of this folder anew from the code that they are about."""

from __future__ import annotations

from pathlib import Path

from docs.reference import commands, metrics, settings, topics

FOLDER = Path(__file__).parent


def generate() -> dict[str, str]:
    """The text of each page, by its file's name."""
    return {f"{page.__name__.rpartition('.')[2]}.md": page.page() for page in (commands, metrics, settings, topics)}


if __name__ == "__main__":
    for name, text in generate().items():
        (FOLDER / name).write_text(text, "utf-8")
