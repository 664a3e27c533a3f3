"""What can go wrong, in Python's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import _engine
from ._engine import EngineError, Interrupted, UsageError
from ._words import say

__all__ = ["EngineError", "Interrupted", "UsageError", "in_words"]


@contextmanager
def in_words() -> Iterator[None]:
    """Errors of the engine with settings as keywords."""
    try:
        yield
    except (_engine.UsageError, _engine.EngineError) as error:
        raise type(error)(say(str(error))) from None
