"""How tasks are given out and awaited, and where there is room for actors: with made-up workers and machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import basin_volume as bv
import pytest
from basin_volume import _spread
from basin_volume._progress import Silent
from basin_volume._ray import _places
from basin_volume._spread import Died, Ended, Message, Task, _Hands


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Workers:
    """Two of them, who end so long after they are told to stop; each look takes a second."""

    words = "2 workers"

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds
        self.busy: list[int] = []
        self.told: float | None = None

    def __len__(self) -> int:
        return 2

    def warm(self) -> None:
        pass

    def free(self, tasks: int) -> Sequence[int]:
        return range(2)

    def give(self, worker: int, task: Task) -> None:
        self.busy.append(worker)

    def next(self, seconds: float) -> tuple[int, Message] | None:
        self.clock.now += 1.0
        if self.busy and self.told is not None and self.clock.now > self.told + self.seconds:
            return self.busy.pop(), Ended(True, "")
        return None

    def stop(self) -> None:
        self.told = self.clock.now

    def close(self) -> None:
        pass


class Shown(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize(("seconds", "at_work", "notes"), [(5.0, 0, 0), (300.0, 0, 1), (1e6, 2, 1)])
def test_whoever_is_slow_to_stop_is_awaited(monkeypatch: pytest.MonkeyPatch, seconds: float, at_work: int, notes: int) -> None:
    clock, shown = Clock(), Shown()
    monkeypatch.setattr(_spread, "time", clock)
    workers = Workers(clock, seconds)
    hands = _Hands(workers, shown, time_limit=20.0)
    assert not hands.through([Task(f"shard {index}", None) for index in range(8)])
    assert hands.is_out_of_time and len(workers.busy) == at_work and clock.now < 640.0
    assert shown.notes == ["Waiting until 2 workers end their evaluation, 10 minutes at most. Interrupt to stop at once."] * notes


def test_whoever_dies_while_all_are_stopped_is_not_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying(Workers):
        def next(self, seconds: float) -> tuple[int, Message] | None:
            came = super().next(seconds)
            return came and (came[0], Died("it was killed"))

    clock = Clock()
    monkeypatch.setattr(_spread, "time", clock)
    assert not _Hands(Dying(clock, 5.0), Silent(), time_limit=20.0).through([Task("a shard", None)])
    assert clock.now < 40.0


def nodes(*machines: tuple[int, int] | None) -> list[dict[str, Any]]:
    """Machines with so many cores and GPUs; None is dead."""
    return [
        {"Alive": machine is not None, "Resources": {name: float(count) for name, count in zip(("CPU", "GPU"), machine or (64, 8), strict=True) if count}}
        for machine in machines
    ]


@pytest.mark.parametrize(
    ("machines", "count", "threads", "found"),
    [
        # One for every machine, as large as the smallest.
        ([(8, 0), (8, 0), (0, 0), None], None, None, (2, 8, False)),
        ([(8, 0), (3, 0)], None, None, (3, 3, False)),
        # As many as are asked for, as large as they can be.
        ([(5, 0), (3, 0)], 2, None, (2, 3, False)),
        ([(8, 0), (8, 0)], 1, None, (1, 8, False)),
        ([(8, 0), (8, 0)], None, 3, (4, 3, False)),
        # One for every card: the cores of machines without any do not count.
        ([(64, 0), (16, 4), (8, 2)], None, None, (6, 4, True)),
        ([(64, 0), (8, 4)], None, 3, (2, 3, True)),
        ([(4, 8)], None, None, (4, 1, True)),
        ([(0, 8), (16, 8)], None, None, (8, 2, True)),
    ],
)
def test_room_in_a_cluster(machines: Sequence[tuple[int, int] | None], count: int | None, threads: int | None, found: tuple[int, int, bool]) -> None:
    places = _places(nodes(*machines), count, threads)
    assert (places.count, places.cores, places.is_gpu) == found


@pytest.mark.parametrize(
    ("machines", "count", "threads", "words"),
    [
        ([(64, 0), (8, 4)], None, 16, "an actor of 16 cores and a GPU: the largest machine with GPUs has 8 cores and 4 GPUs, give fewer threads="),
        ([(64, 0), (0, 1)], None, None, "an actor of 1 core and a GPU: the largest machine with GPUs has 0 cores and 1 GPU, start one with cores"),
        ([(64, 0), (8, 4)], 5, None, "devices=5 with ray=: the cluster has room for 4 actors of 2 cores and a GPU, ask for no more"),
        ([(8, 0), (2, 0)], 1, 16, "an actor of 16 cores: the largest machine has 8 cores, give fewer threads="),
        ([(2, 0)], 3, None, "devices=3 with ray=: the cluster has room for 2 actors of 1 core, ask for no more"),
        ([None], None, None, "a cluster without machines"),
    ],
)
def test_no_room_in_a_cluster(machines: Sequence[tuple[int, int] | None], count: int | None, threads: int | None, words: str) -> None:
    with pytest.raises(bv.UsageError, match=words):
        _places(nodes(*machines), count, threads)
