"""How the engine shows a folder of its own: a run, several, or a scan."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from . import _engine
from ._errors import in_words
from ._words import say


def shown(folder: str | PathLike[str]) -> str:
    """The tables and words of the command line."""
    with in_words():
        return say(_engine.report(folder))


def write_page(folder: str | PathLike[str], file: str | PathLike[str]) -> Path:
    """Writes a page (HTML) that needs nothing but itself; gives its path."""
    with in_words():
        _engine.page(folder, file)
    return Path(file)
