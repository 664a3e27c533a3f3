"""The thread that waits for a job: it shows what happens, and evaluates the costs that are Python's.

The engine computes on threads of its own and never calls Python. Whatever it wants evaluated comes as a message, and is evaluated here, on the thread
of whoever asked: thread-local state, devices, context variables, debuggers and Ctrl-C are the caller's own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from . import _engine
from ._errors import Interrupted, in_words
from ._progress import Silent

Vector = npt.NDArray[np.float32]

Parts = tuple[tuple[float, float], list[tuple[float, float] | None]]
"""A cost with one sd of its noise, and the same of every part; None for a part in which nothing counts."""


@dataclass(frozen=True)
class Recipe:
    """What a direction is made of (docs/directions.md)."""

    seed: int
    index: int


_PATIENCE = 0.05
"""Seconds between two looks at signals."""


class Evaluator(Protocol):
    """What evaluates the cost of one subject. Vectors are float32 of length D; costs are in nats."""

    def release(self) -> None:
        """The last direction is of no use any more: another one is drawn."""

    def ray(self, direction: Vector | Recipe | None, center: float, step: float) -> tuple[float, float]:
        """The cost at ``center * c + step * direction`` and one sd of its noise. Without a direction it is that of the last call.

        A recipe comes only to evaluators whose subject says ``makes_directions``."""

    def parts(self, direction: Vector | Recipe | None, center: float, step: float) -> Parts | None:
        """The cost there, and that of every part."""

    def cost(self, weights: Vector) -> tuple[float, float]:
        """The cost at these weights and one sd of its noise."""

    def gradient(self, weights: Vector, start: int, stop: int) -> tuple[float, Vector]:
        """What the parts from `start` to `stop` contribute to the cost, and its gradient."""

    def likelihood(self, weights: Vector, start: int, stop: int, seed: int, of_data: bool) -> tuple[float, Vector]:
        """Their mean negative log-likelihood of labels, and its gradient."""

    def moments(
        self, weights: Vector, start: int, stop: int, probes: int, seed: int
    ) -> tuple[list[tuple[Vector, Vector]], Vector]:
        """Second moments of the dense layers' inputs and output gradients, and squared gradients."""

    def vectors(self, operation: str, vectors: Sequence[int], factors: Sequence[float], normal: Any, values: Vector | None) -> Any:
        """Does something with vectors that are kept here, by their numbers; only where the subject says ``keeps_vectors``."""

    def forget(self, vector: int) -> None:
        """The vector with this number is of no use any more."""


def run(job: _engine.Job, evaluators: Sequence[Evaluator], shown: Silent, time_limit: float | None = None) -> dict[str, Any]:
    """Waits for the end of a job, whose answer it gives. The first Ctrl-C stops the work and keeps what is done, the second stops at once."""
    deadline = None if time_limit is None else time.monotonic() + time_limit
    stopped = False
    failure: BaseException | None = None
    try:
        while True:
            try:
                if deadline is not None and time.monotonic() > deadline:
                    deadline, stopped = None, True
                    job.interrupt()
                if not stopped and shown.wants_stop():
                    stopped = True
                    job.interrupt()
                with in_words():
                    message = job.next(_PATIENCE)
                if message is None:
                    continue
                kind, about = message
                if kind == "end":
                    ended: dict[str, Any] = json.loads(about)
                    break
                if kind == "event":
                    shown.event(json.loads(about))
                elif kind == "release":
                    evaluators[about].release()
                elif kind == "forget":
                    subject, vector = about
                    evaluators[subject].forget(vector)
                elif failure is not None:
                    job.give_up()
                else:
                    try:
                        _evaluate(job, evaluators, kind, about)
                    except Exception as error:
                        # The cost is not ours: its own exception is what the caller sees, with its traceback.
                        failure = error
                        job.interrupt()
                        job.fail(str(error))
            except KeyboardInterrupt:
                if stopped or failure is not None:
                    raise
                stopped = True
                job.interrupt()
                job.give_up()
                shown.note("Stopping: what is computed is kept. Interrupt again to stop at once.")
            except (_engine.UsageError, _engine.EngineError, Interrupted):
                if failure is None:
                    raise
                break
    except Interrupted:
        if deadline is None and time_limit is not None:
            raise Interrupted(f"`time_limit` of {time_limit:g} s was over before the first sample: give more time") from None
        raise KeyboardInterrupt("interrupted before the first sample") from None
    finally:
        shown.close()
        job.close()
    if failure is not None:
        raise failure
    return ended


def _direction(given: Any) -> Vector | Recipe | None:
    if isinstance(given, tuple):
        return Recipe(*given)
    return None if given is None else np.frombuffer(given, dtype=np.float32)


def _evaluate(job: _engine.Job, evaluators: Sequence[Evaluator], kind: str, about: dict[str, Any]) -> None:
    evaluator = evaluators[about["subject"]]
    if kind in ("ray", "parts"):
        direction = _direction(about["direction"])
        if kind == "ray":
            job.answer_cost(*evaluator.ray(direction, about["center"], about["step"]))
        else:
            found = evaluator.parts(direction, about["center"], about["step"])
            job.answer_parts(*((None, []) if found is None else found))
        return
    if kind == "vectors":
        given = about["values"]
        values = None if given is None else np.frombuffer(given, dtype=np.float32)
        found = evaluator.vectors(about["operation"], about["vectors"], about["factors"], about["normal"], values)
        if isinstance(found, tuple):
            job.answer_cost(*found)
        elif isinstance(found, np.ndarray):
            job.answer_values(found)
        elif found is None:
            job.answer_done()
        else:
            job.answer_number(found)
        return
    weights = np.frombuffer(about["weights"], dtype=np.float32)
    if kind == "cost":
        job.answer_cost(*evaluator.cost(weights))
    elif kind == "gradient":
        job.answer_gradient(*evaluator.gradient(weights, about["start"], about["stop"]))
    elif kind == "likelihood":
        job.answer_gradient(*evaluator.likelihood(weights, about["start"], about["stop"], about["seed"], about["of_data"]))
    else:
        job.answer_moments(*evaluator.moments(weights, about["start"], about["stop"], about["probes"], about["seed"]))
