"""What a worker does, be it a process of this machine or an actor of Ray: it computes the tasks it is given, and stops when it is told to."""

from __future__ import annotations

import pickle
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from threading import Event
from typing import Any

from ._errors import EngineError, Interrupted, UsageError
from ._progress import Silent
from ._words import say


class _FolderFound(Exception):
    """Only the name of the folder was wanted."""


class _Told(Silent):
    """Tells notes, and stops when that is wanted."""

    def __init__(self, tell: Callable[[str], None], stop: Event, only_name: bool) -> None:
        self._tell = tell
        self._stop = stop
        self._only_name = only_name

    def event(self, event: dict[str, Any]) -> None:
        if event["event"] == "note" and not self._only_name:
            # How long one part takes says nothing of the whole.
            if not event["text"].startswith("Forecast"):
                self.note(say(event["text"]))
        elif event["event"] == "folder" and self._only_name:
            raise _FolderFound(event["path"])

    def note(self, text: str) -> None:
        self._tell(text)

    def wants_stop(self) -> bool:
        return self._stop.is_set()


def compute(
    asked: Mapping[str, Any], keywords: Mapping[str, Any], out: str | PathLike[str] | None, tell: Callable[[str], None], stop: Event
) -> tuple[bool, str]:
    """Computes a task: whether it was stopped, and in which folder it is. Without `out` nothing but the name of the folder is found out."""
    from ._estimate import estimate

    told = _Told(tell, stop, only_name=out is None)
    try:
        with warnings.catch_warnings():
            # Whoever gave the task says it of the whole.
            warnings.filterwarnings("ignore", message="stopped before it was complete")
            result = estimate(**{**asked, **keywords, "out": out, "progress": told, "time_limit": None})
    except _FolderFound as found:
        return False, str(found)
    except (Interrupted, KeyboardInterrupt):
        return True, ""
    return stop.is_set(), str(result.folder)


@dataclass(frozen=True)
class Loaded:
    """What all tasks have in common, or why it cannot be had."""

    found: Mapping[str, Any] | None
    failure: Exception | None

    @classmethod
    def by(cls, load: Callable[[], Mapping[str, Any]]) -> Loaded:
        """Loads it now."""
        try:
            return cls(load(), None)
        except Exception as error:
            return cls(None, error)

    def asked(self) -> Mapping[str, Any]:
        """The keywords; raises what went wrong."""
        if self.found is None:
            assert self.failure is not None
            raise self.failure
        return self.found


@dataclass(frozen=True)
class Portable:
    """An exception on its way to another process, which may not have its class."""

    pickled: bytes | None
    instead: Exception
    traceback: str | None
    """Where it came from, of what is not ours."""

    @classmethod
    def of(cls, error: Exception, where: str) -> Portable:
        """As it left the worker there."""
        if isinstance(error, (UsageError, EngineError)):
            return cls(None, type(error)(str(error)), None)
        try:
            pickled = pickle.dumps(error)
        except Exception:
            pickled = None
        return cls(pickled, EngineError(f"{type(error).__name__}: {error}"), f"In the worker on {where}:\n{''.join(traceback.format_exception(error))}")

    def raised(self) -> Exception:
        """To be raised here."""
        error = self.instead
        if self.pickled is not None:
            try:
                found = pickle.loads(self.pickled)
                error = found if isinstance(found, Exception) else error
            except Exception:
                # The text is what can be had of it.
                pass
        if self.traceback is not None:
            error.add_note(self.traceback)
        return error
