"""Progress in a notebook or a terminal: tqdm if it is there, else nothing but notes."""

from __future__ import annotations

import math
import sys
from typing import Any

from ._words import say


class Silent:
    """Shows nothing."""

    def event(self, event: dict[str, Any]) -> None:
        """Something happened."""

    def note(self, text: str) -> None:
        """A line for a person."""

    def close(self) -> None:
        """The job is over."""

    def wants_stop(self) -> bool:
        """Whether whoever watches wants the job to end, with what is done."""
        return False


class Bars(Silent):
    """Draws bars with tqdm on standard error, or a widget in a notebook; notes are lines above them."""

    def __init__(self) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError:
            self._tqdm = None
        else:
            self._tqdm = tqdm
        self._bar: Any = None
        self._about = ""
        self._volumes: list[float] = []

    def event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "note":
            self.note(say(event["text"]))
        elif kind == "count":
            self._count(event)
        elif kind == "ray":
            self._ray(event)
        elif kind == "ladder":
            self._count({"about": "ladder", "noun": "rungs", "done": event["rungs"], "total": None})
            self._say(f"{event['way']}, cost {_number(event['cost'])}, overlap {_number(event['overlap'])}")
        elif kind == "coefficient":
            self._count({"about": "learning coefficient", "noun": "trajectories", "done": event["trajectories"], "total": event["of"]})
            self._say(f"{_number(event['value'])} +- {_number(event['standard_error'])}, R-hat {_number(event['r_hat'])}")
        elif kind == "relaxation":
            self._count({"about": "typical state", "noun": "trajectories", "done": event["trajectories"], "total": None})
            self._say(f"cost {_number(event['cost'])}, overlap {_number(event['overlap'])}")
        elif kind == "done":
            self.close()

    def note(self, text: str) -> None:
        if self._tqdm is not None and self._bar is not None:
            self._tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._about = None, ""

    def _count(self, event: dict[str, Any]) -> None:
        if self._tqdm is None:
            return
        if self._about != event["about"]:
            self.close()
            self._about, self._volumes = event["about"], []
            self._bar = self._tqdm(total=event["total"], desc=event["about"], unit=f" {event['noun']}", initial=event["done"])
        self._bar.n = event["done"]
        self._bar.refresh()

    def _ray(self, event: dict[str, Any]) -> None:
        if event["log_volume"] is not None:
            self._volumes.append(event["log_volume"])
        if self._bar is not None:
            if self._volumes:
                most = max(self._volumes)
                mean = most + math.log(sum(math.exp(volume - most) for volume in self._volumes) / len(self._volumes))
                # Drawn with the next update, which are no more than ten a second.
                self._bar.set_postfix_str(f"these rays: {mean:.1f} nats", refresh=False)
            self._bar.update(1)

    def _say(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_postfix_str(text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def progress(wanted: bool | Silent) -> Silent:
    """Bars if they are wanted, or what watches already."""
    if isinstance(wanted, Silent):
        return wanted
    return Bars() if wanted else Silent()
