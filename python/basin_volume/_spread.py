"""One estimate by several workers: processes of this machine, or actors of Ray. Shards of the samples are handed out, and joined at the end.

    OUT/                    the run that the shards become
      shards/first/         one sample, computed before all others: what every shard starts from (curvatures, where searches begin)
      shards/3-of-32/       a shard: an ordinary run folder, or several

Whoever dies costs the samples in flight: the shard is given out again, and its folder goes on from where it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from . import _engine
from ._errors import EngineError, Interrupted, UsageError, in_words
from ._estimate import named_data
from ._progress import Silent
from ._progress import progress as shown_as
from ._settings import CostSettings
from ._worker import Portable

SHARDS = "shards"
"""The folder of the shards in that of their run; the engine knows it by this name as well."""
_FIRST = "first"
_SHARES = 4
"""Shards for every worker: the last ones to end wait for no more than a quarter of a worker's share."""
DEATHS = 3
"""So many workers may die at one shard."""
_GRACE = 600.0
"""Seconds after which a worker that was told to stop is left. One ends within an evaluation, which may take minutes."""
NOTED = 10.0
"""Seconds after which it is said what is waited for."""
_RAYS = 100
"""Samples where nothing is said, of the estimator whose number does not depend on the model."""
_SPLIT = ("radial", "spectral")
"""Estimators with shards."""


@dataclass(frozen=True)
class Task:
    """What a worker computes: an estimate with these keywords beside those that all have in common."""

    name: str
    folder: Path | None
    """None: nothing is computed, only the name of the run's folder found."""
    keywords: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """A worker is through with its task, or was told to stop."""

    is_interrupted: bool
    folder: str


@dataclass(frozen=True)
class Failed:
    """An exception came out of the task."""

    error: Portable


@dataclass(frozen=True)
class Died:
    """The worker is gone. It is there again for the next task."""

    how: str


@dataclass(frozen=True)
class Note:
    """A line for a person."""

    text: str


Message: TypeAlias = Ended | Failed | Died | Note


class Pool(Protocol):
    """Workers, by their numbers."""

    words: str
    """What they are, for the bar: ``4 processes``."""

    def __len__(self) -> int:
        """How many."""

    def warm(self) -> None:
        """They will all be needed."""

    def free(self, tasks: int) -> Sequence[int]:
        """Who can begin a task now; where so many tasks wait, those who are not there yet are on their way from now on."""

    def give(self, worker: int, task: Task) -> None:
        """Begins a task."""

    def next(self, seconds: float) -> tuple[int, Message] | None:
        """What happened, or None after so many seconds."""

    def stop(self) -> None:
        """Everyone ends as soon as they can."""

    def close(self) -> None:
        """Nobody is needed any more; whoever is still at work is ended."""


class _Hands:
    """Gives tasks out until all are done."""

    def __init__(self, pool: Pool, shown: Silent, time_limit: float | None) -> None:
        self._pool = pool
        self._shown = shown
        self._deadline = None if time_limit is None else time.monotonic() + time_limit
        self._stopped: float | None = None
        self._is_awaited = False
        self._said: set[str] = set()
        self.is_out_of_time = False
        self.folder: str | None = None
        """Of the last task that ended."""

    @property
    def is_stopped(self) -> bool:
        """Whether no more tasks are given out."""
        return self._stopped is not None

    def _stop(self) -> None:
        if self._stopped is None:
            self._stopped = time.monotonic()
            self._pool.stop()

    def _is_left(self, busy: int) -> bool:
        """Whether no more is waited for whoever is at work still."""
        waited = 0.0 if self._stopped is None else time.monotonic() - self._stopped
        if waited > NOTED and not self._is_awaited:
            self._is_awaited = True
            whom = "1 worker ends its" if busy == 1 else f"{busy} workers end their"
            self._shown.note(f"Waiting until {whom} evaluation, {_GRACE / 60:.0f} minutes at most. Interrupt to stop at once.")
        return waited > _GRACE

    def through(self, tasks: Sequence[Task], watch: Callable[[], None] = lambda: None) -> bool:
        """Has them computed; false if it was stopped before all of it was. `watch` is called many times a second."""
        waiting, busy = deque(tasks), dict[int, Task]()
        deaths: Counter[str] = Counter()
        while True:
            try:
                if self._deadline is not None and time.monotonic() > self._deadline and not self.is_stopped:
                    self.is_out_of_time = True
                    self._stop()
                if self.is_stopped and (not busy or self._is_left(len(busy))):
                    return False
                if not waiting and not busy:
                    return True
                if waiting and not self.is_stopped:
                    for worker in self._pool.free(len(waiting)):
                        if waiting and worker not in busy:
                            busy[worker] = waiting.popleft()
                            self._pool.give(worker, busy[worker])
                watch()
                came = self._pool.next(0.1)
                if came is None:
                    continue
                worker, message = came
                if isinstance(message, Note):
                    if message.text not in self._said:
                        self._said.add(message.text)
                        self._shown.note(message.text)
                elif (task := busy.pop(worker, None)) is None or self.is_stopped and isinstance(message, Died):
                    continue
                elif isinstance(message, Failed):
                    raise message.error.raised()
                elif isinstance(message, Died):
                    deaths[task.name] += 1
                    if deaths[task.name] == DEATHS:
                        raise EngineError(_given_up(task, message))
                    self._shown.note(f"A worker died at {task.name} ({message.how}): it is given out again.")
                    waiting.appendleft(task)
                else:
                    self.folder = message.folder
                    if message.is_interrupted:
                        self._stop()
            except KeyboardInterrupt:
                if self.is_stopped:
                    raise
                self._shown.note("Stopping: what is computed is kept. Interrupt again to stop at once.")
                self._stop()


def _given_up(task: Task, died: Died) -> str:
    where = "" if task.folder is None else f", its folder is {task.folder}"
    return (
        f"workers died {DEATHS} times at {task.name} ({died.how}){where}: what is computed is kept, and the same call continues it, with fewer devices= "
        "if it was for want of memory"
    )


class _Folders:
    """The folder of a run and those of its shards."""

    def __init__(self, out: Path, workers: int, samples: int | None) -> None:
        self.out = out
        self.first = out / SHARDS / _FIRST
        self._samples = samples
        there: dict[int, list[Path]] = {}
        for path in sorted((out / SHARDS).glob("*-of-*")):
            if path.is_dir() and (name := re.fullmatch(r"\d+-of-(\d+)", path.name)):
                there.setdefault(int(name[1]), []).append(path)
        # Shards that are begun are gone on with, whoever began them; too few for so many workers are joined, and split anew from there.
        usual = _SHARES * workers
        self.count: int = max((count for count in there if count >= workers), default=usual if samples is None else min(usual, samples))
        self.others = [found for count, paths in there.items() if count != self.count and (found := [path for path in paths if _runs(path)])]
        """Those of each other number of shards."""

    def shard(self, index: int) -> Path:
        """Of one shard."""
        return self.out / SHARDS / f"{index}-of-{self.count}"

    def _present(self) -> list[Path]:
        return [folder for index in range(self.count) if _runs(folder := self.shard(index))]

    def begin(self, folder: Path, part: str, samples: int | None = None) -> None:
        """Makes a folder, with what is there already of its part: records, curvatures, where searches begin. Of the first `samples` alone if so said."""
        if folder.exists():
            return
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        for source in (self.out, self.first):
            for run in _runs(source):
                _copy_part(run, partial / run.relative_to(source), part, samples)
        if partial.exists():
            partial.rename(folder)

    def missing(self) -> list[int]:
        """The shards that are not complete."""
        firsts = [(run.relative_to(self.first), _manifest(run)) for run in _runs(self.first)]

        def is_complete(index: int) -> bool:
            for name, first in firsts:
                run = self.shard(index) / name
                if self._samples is None or not (run / "manifest.json").exists():
                    return False
                # One sample may be more than one record.
                asked = self._samples + int(first["samples"]) - 1
                if int(_manifest(run)["samples"]) < asked or len(_records(run)) < len(range(index, asked, self.count)):
                    return False
            return bool(firsts)

        return [index for index in range(self.count) if not is_complete(index)]

    def done(self) -> int:
        """Records in all shards."""
        return sum(len(_records(run)) for folder in self._present() for run in _runs(folder))

    def total(self) -> int | None:
        """Records that there will be."""
        if self._samples is None:
            return None
        return sum(self._samples + int(_manifest(run)["samples"]) - 1 for run in _runs(self.first))

    def join(self) -> bool:
        """Joins what there is in the folder of the run; false if there is nothing."""
        # What one folder was begun with from another is no sample that was computed twice, and is not to be taken for one: they are never joined at once.
        groups = [group for group in ([] if self._has_first() else [self.first], self._present()) if group]
        for group in groups:
            self._join(group)
        return bool(groups)

    def join_others(self) -> None:
        """Joins the shards of other numbers there, from where these begin."""
        for group in self.others:
            self._join(group)

    def _join(self, parts: Sequence[Path]) -> None:
        with in_words():
            _engine.merge([os.fspath(part) for part in parts], self.out)

    def _has_first(self) -> bool:
        """Whether the first sample is in the shards as well, or there is none."""

        def has(name: Path, number: int) -> bool:
            return number in (json.loads(line)["index"] for line in _records(self.shard(number % self.count) / name) if line)

        runs = _runs(self.first)
        return all(has(run.relative_to(self.first), json.loads(line)["index"]) for run in runs for line in _records(run) if line)


def _runs(folder: Path) -> list[Path]:
    """The run folders in a folder, which may be one itself; of its shards none."""
    found = (path.parent for path in folder.rglob("manifest.json"))
    return sorted(run for run in found if SHARDS not in run.relative_to(folder).parts)


def _manifest(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    return found


def _records(run: Path) -> list[bytes]:
    """The lines that are complete."""
    try:
        return (run / "samples.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []


def _copy_part(run: Path, target: Path, part: str, samples: int | None) -> None:
    if (target / "manifest.json").exists():
        return
    target.mkdir(parents=True, exist_ok=True)
    index, count = (int(number) for number in part.split("/"))
    manifest = {**_manifest(run), "shard": part}
    lines = [(json.loads(line)["index"], line) for line in _records(run) if line]
    if samples is not None:
        # One sample may be more than one record, and none is computed twice: two machines would not agree about its last digits.
        manifest["samples"] = samples
        lines = [(number, line) for number, line in lines if number <= samples]
    (target / "samples.jsonl").write_bytes(b"".join(line + b"\n" for number, line in lines if number % count == index))
    for curvature in run.glob("curvature.safetensors"):
        try:
            os.link(curvature, target / curvature.name)
        except OSError:
            shutil.copyfile(curvature, target / curvature.name)
    (target / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def check(asked: Mapping[str, Any], keyword: str) -> None:
    """Refuses what several workers cannot share."""
    if asked["estimator"] not in _SPLIT:
        raise UsageError(
            f"{keyword}= is for estimator=\"radial\" or \"spectral\", whose samples are independent: estimator={asked['estimator']!r} is one job, "
            "run it several times with a seed= each"
        )
    for name, why in [
        ("shard", "it makes shards itself"),
        ("device", "it says where"),
        ("spectrum_out", "every part would write it"),
    ]:
        if asked[name] is not None:
            raise UsageError(f"{name}= does not go with {keyword}=: {why}, leave it out")
    if asked["extend"]:
        raise UsageError(f"extend= does not go with {keyword}=: give more samples= instead")
    samples = asked["samples"]
    if samples is not None and (isinstance(samples, bool) or not hasattr(samples, "__index__") or samples < 1):
        raise UsageError(f"samples={samples!r}: expected a whole number of at least 1")
    threads = asked["threads"]
    if threads is not None and (isinstance(threads, bool) or not hasattr(threads, "__index__") or threads < 1):
        raise UsageError(f"threads={threads!r}: expected a whole number of at least 1")
    if asked["out"] is None and _is_several(asked["model"], asked["data"]):
        raise UsageError(f"several data with {keyword}= need a folder that can be continued: name it with out=")
    CostSettings.of(dict(asked))


def _is_several(model: Any, data: Any) -> bool:
    if isinstance(model, (str, PathLike)):
        return isinstance(data, (list, tuple)) and len(data) > 1
    return len(named_data(data)) > 1


def spread(pool: Pool, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate by all workers of a pool, which is closed afterwards; where it is, and whether it was stopped."""
    shown = shown_as(asked["progress"])
    samples = asked["samples"]
    if samples is None and asked["estimator"] == "radial":
        samples = _RAYS
    hands = _Hands(pool, shown, asked["time_limit"])
    try:
        named = asked["out"] or _named(hands)
        if named is None:
            raise _nothing(hands, asked["time_limit"])
        # Costs may go to other folders.
        folders = _Folders(Path(os.path.abspath(named)), len(pool), None if samples is None else int(samples))
        folders.join_others()
        is_complete = _all(hands, pool, folders, shown, samples)
        shown.close()
        # Whoever is left writes no more while it is read.
        pool.close()
        if not folders.join():
            raise _nothing(hands, asked["time_limit"])
        return {"folder": os.fspath(named), "is_interrupted": not is_complete}
    finally:
        shown.close()
        pool.close()


def _named(hands: _Hands) -> str | None:
    """The folder of the same call in one process; None if it was stopped before."""
    return hands.folder if hands.through([Task("the name of the folder", None, {"samples": 1})]) else None


def _all(hands: _Hands, pool: Pool, folders: _Folders, shown: Silent, samples: int | None) -> bool:
    """The first sample, and then everything; false if it was stopped before."""
    if not folders.out.exists():
        pool.warm()
    folders.begin(folders.first, "0/1", 1)
    if not hands.through([Task("the first sample", folders.first, {"samples": 1, "shard": None})]):
        return False
    missing = folders.missing()
    for index in missing:
        folders.begin(folders.shard(index), f"{index}/{folders.count}")
    tasks = [
        Task(f"shard {index}/{folders.count}", folders.shard(index), {"samples": samples, "shard": (index, folders.count)}) for index in missing
    ]
    drawn = 0.0

    def draw(pause: float = 0.5) -> None:
        # From what is on disk: no worker has to say anything, and nothing is counted twice.
        nonlocal drawn
        if time.monotonic() > drawn + pause:
            shown.event({"event": "count", "about": pool.words, "noun": "samples", "done": folders.done(), "total": folders.total()})
            drawn = time.monotonic()

    is_complete = hands.through(tasks, draw)
    draw(0.0)
    return is_complete


def _nothing(hands: _Hands, time_limit: float | None) -> BaseException:
    if hands.is_out_of_time:
        return Interrupted(f"`time_limit` of {time_limit:g} s was over before the first sample: give more time")
    return KeyboardInterrupt("interrupted before the first sample")
