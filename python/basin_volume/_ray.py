"""Workers that are actors of Ray, on this machine or many. They write nothing that is kept: what they compute comes back, and is written here."""

from __future__ import annotations

import concurrent.futures
import io
import math
import platform
import shutil
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ._errors import EngineError, UsageError
from ._parcel import pack, placed, sent, torch_settings, unpack, use_torch_settings
from ._spread import DEATHS, NOTED, Died, Ended, Failed, Message, Note, Task, check, spread
from ._worker import Loaded, Portable, compute

_CURVATURE = "curvature.safetensors"
_KEPT = frozenset({"manifest.json", "samples.jsonl", "result.json", _CURVATURE})
"""What comes back of a run folder; figures are drawn of the whole."""
_SECONDS_TO_END = 3.0
"""How long actors that are not needed any more may take to clear away what they have on disk."""


def estimate_with_ray(address: bool | str, count: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate by actors; where it is, and whether it was stopped."""
    check(asked, "ray")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise UsageError(f"devices={count!r} with ray=: expected how many actors there are, a whole number, or nothing; Ray chooses their devices")
    try:
        import ray
        import ray.cloudpickle
    except ImportError:
        raise UsageError(
            "ray= needs the package ray: pip install 'basin-volume[ray]', or share the samples among processes of this machine with devices="
        ) from None
    with _connected(ray, address):
        places = _places(ray.nodes(), count, asked["threads"])
        written = io.BytesIO()
        pack(sent(asked), written, ray.cloudpickle.Pickler)
        # Once for every machine: actors on one read the same memory.
        parcel = ray.put(written.getvalue())
        setup = {"torch": torch_settings(), "threads": places.cores, "place": "cuda" if places.is_gpu else "cpu"}
        return spread(Actors(ray, places, parcel, setup), asked)


@contextmanager
def _connected(ray: Any, address: bool | str) -> Iterator[None]:
    """With a cluster, which is left as it was found."""
    if ray.is_initialized():
        yield
        return
    try:
        if address is True:
            ray.init(include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address=address, log_to_driver=False)
    except (ConnectionError, ValueError) as error:
        raise UsageError(f"ray={address!r} found no cluster ({error}): start one with `ray start --head`, or give ray=True for this machine alone") from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(frozen=True)
class _Places:
    """How many actors, and what each is given."""

    count: int
    cores: int
    is_gpu: bool


def _places(nodes: Sequence[Mapping[str, Any]], count: int | None, threads: int | None) -> _Places:
    """By what the machines have in all: what others use of it now may be free in a moment."""
    found = [node["Resources"] for node in nodes if node["Alive"]]
    machines = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in found]
    is_gpu = any(cards for _, cards in machines)
    if is_gpu:
        # One for every card; the cores of a machine without any are of no use to it.
        machines = [(cores, cards) for cores, cards in machines if cards]

    def room(size: int) -> int:
        return sum(min(cores // size, cards) if is_gpu else cores // size for cores, cards in machines)

    if threads is not None:
        size = threads
    elif is_gpu:
        size = max(1, min((cores // cards for cores, cards in machines if cores), default=1))
    elif count is None:
        # One for every machine, as large as the smallest allows.
        size = min((cores for cores, _ in machines if cores), default=1)
    else:
        size = next((size for size in range(max(cores for cores, _ in machines), 0, -1) if room(size) >= count), 1) if machines else 1
    if room(size) < (count or 1):
        raise UsageError(_no_room(machines, room(size), count, size, is_gpu))
    return _Places(count or room(size), size, is_gpu)


def _no_room(machines: Sequence[tuple[int, int]], room: int, count: int | None, size: int, is_gpu: bool) -> str:
    def words(number: int, what: str) -> str:
        return f"{number} {what}{'' if number == 1 else 's'}"

    each = words(size, "core") + (" and a GPU" if is_gpu else "")
    if room:
        return f"devices={count} with ray=: the cluster has room for {words(room, 'actor')} of {each}, ask for no more, or for fewer cores with threads="
    if not machines:
        return "ray= found a cluster without machines: start one with `ray start`"
    cores, cards = max(machines)
    has = words(cores, "core") + (f" and {words(cards, 'GPU')}" if is_gpu else "")
    remedy = "give fewer threads=" if cores else "start one with cores"
    return f"ray= found no room for an actor of {each}: the largest machine {'with GPUs ' if is_gpu else ''}has {has}, {remedy}"


# The driver


class Actors:
    """The pool of them. One that died is made anew with its next task."""

    def __init__(self, ray: Any, places: _Places, parcel: Any, setup: Mapping[str, Any]) -> None:
        self.words = f"{places.count} actor{'s' if places.count > 1 else ''}"
        self._ray = ray
        self._places = places
        self._parcel = parcel
        self._setup = dict(setup)
        self._kind = ray.remote(_Actor).options(
            num_cpus=places.cores,
            num_gpus=1 if places.is_gpu else 0,
            # One thread computes, the others are there to be told to stop.
            max_concurrency=3,
        )
        self._actors: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        self._there: dict[int, _Where] = {}
        """Those that have started."""
        self._lost: Counter[int] = Counter()
        """How often they died at their start."""
        self._left: list[_Where] = []
        """What is on disk of the dead."""
        self._told = time.monotonic()
        self._busy: dict[Any, tuple[int, Task]] = {}
        self._curvatures: dict[str, Any] = {}
        self._notes: deque[tuple[int, Message]] = deque()

    def __len__(self) -> int:
        return self._places.count

    def warm(self) -> None:
        """Starts all."""
        for worker in range(len(self)):
            if worker not in self._actors:
                self._start(worker)

    def _start(self, worker: int) -> None:
        if not self._starting:
            self._told = time.monotonic()
        self._actors[worker] = self._kind.remote([self._parcel], self._setup)
        self._starting[self._actors[worker].ready.remote()] = worker

    def free(self, tasks: int) -> Sequence[int]:
        """Those that are there, and have nothing to do. The cluster may have no room for others for long."""
        busy = {worker for worker, _ in self._busy.values()}
        idle = sorted(worker for worker in self._there if worker not in busy)
        missing = [worker for worker in range(len(self)) if worker not in self._actors and self._lost[worker] < DEATHS]
        for worker in missing[: max(0, tasks - len(idle) - len(self._starting))]:
            self._start(worker)
        return idle

    def give(self, worker: int, task: Task) -> None:
        """Begins a task, with what its folder holds already."""
        files = {} if task.folder is None else _files(task.folder)
        for name in [name for name in files if name.endswith(_CURVATURE)]:
            # The same in every shard, and as large as the model: it travels once.
            content = files.pop(name)
            if name not in self._curvatures:
                self._curvatures[name] = self._ray.put(content)
        curvatures = {} if task.folder is None else {name: ref for name, ref in self._curvatures.items() if (task.folder / name).exists()}
        named = None if task.folder is None else task.folder.name
        answer = self._actors[worker].compute.remote(dict(task.keywords), named, files, list(curvatures), *curvatures.values())
        self._busy[answer] = (worker, task)

    def next(self, seconds: float) -> tuple[int, Message] | None:
        """What happened."""
        if self._notes:
            return self._notes.popleft()
        if self._starting and time.monotonic() > self._told + NOTED:
            self._told = time.monotonic()
            return 0, Note(f"Waiting for room in the cluster: {len(self._there)} of {len(self)} workers have started.")
        awaited = [*self._busy, *self._starting]
        ready, _ = self._ray.wait(awaited, timeout=seconds) if awaited else ([], [])
        if not ready:
            return None
        if (worker := self._starting.pop(ready[0], None)) is not None:
            return self._started(worker, ready[0])
        worker, task = self._busy.pop(ready[0])
        try:
            answer = self._ray.get(ready[0])
        except self._ray.exceptions.RayActorError as error:
            del self._actors[worker]
            self._left.append(self._there.pop(worker))
            return worker, Died(_first_line(error))
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"an actor of Ray failed: {_first_line(error)}") from error
        files, notes, message = answer
        self._notes.extend((worker, Note(text)) for text in notes)
        if task.folder is not None:
            _write(task.folder, files)
        return worker, message

    def _started(self, worker: int, answer: Any) -> tuple[int, Message] | None:
        try:
            self._there[worker] = _Where(*self._ray.get(answer))
        except self._ray.exceptions.RayActorError as error:
            del self._actors[worker]
            self._lost[worker] += 1
            if all(self._lost[one] >= DEATHS for one in range(len(self))):
                raise EngineError(f"the actors of Ray died {DEATHS} times at their start ({_last_line(error)})") from error
            return worker, Note(f"An actor died at its start ({_last_line(error)}).")
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"an actor of Ray failed: {_first_line(error)}") from error
        self._lost[worker] = 0
        return None

    def stop(self) -> None:
        """Everyone ends as soon as they can."""
        self._told = math.inf
        for worker, _ in self._busy.values():
            self._actors[worker].stop.remote()

    def close(self) -> None:
        """Ends all, and clears away what they and the dead have on disk, on machines where somebody can."""
        if not self._actors and not self._left:
            return
        cleared = []
        for worker, where in self._there.items():
            left = [one.folder for one in self._left if one.node == where.node]
            cleared.append(self._actors[worker].close.remote(left))
        if cleared:
            self._ray.wait(cleared, num_returns=len(cleared), timeout=_SECONDS_TO_END)
        for actor in self._actors.values():
            self._ray.kill(actor)
        here = self._ray.get_runtime_context().get_node_id()
        for where in (*self._there.values(), *self._left):
            if where.node == here:
                shutil.rmtree(where.folder, ignore_errors=True)
        for known in (self._actors, self._there, self._starting, self._busy):
            known.clear()
        self._left.clear()


@dataclass(frozen=True)
class _Where:
    """On which machine an actor is, and its folder there."""

    node: str
    folder: str


def _first_line(error: BaseException) -> str:
    return _lines(error)[0]


def _last_line(error: BaseException) -> str:
    """Of an exception at the start, which Ray tells with its traceback."""
    return _lines(error)[-1]


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


def _files(folder: Path) -> dict[str, bytes]:
    """What counts in a folder of runs, by the names in it."""
    found = (path for path in folder.rglob("*") if path.name in _KEPT and path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    # The manifest last: a folder is a run from then on.
    for name in sorted(files, key=lambda name: name.endswith("manifest.json")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_bytes(files[name])
        partial.replace(path)


# The actor


class _Actor:
    def __init__(self, parcel: Sequence[Any], setup: Mapping[str, Any]) -> None:
        """At once: whoever waits for it is told that there was room. The parcel is a reference in a list, so that the actor starts before it is there."""
        self._stop = threading.Event()
        self._own = tempfile.TemporaryDirectory(prefix="basin-volume-", ignore_cleanup_errors=True)
        self._loading = concurrent.futures.ThreadPoolExecutor(1).submit(Loaded.by, lambda: _load(parcel[0], setup))

    def ready(self) -> tuple[str, str]:
        """On which machine it is, and its folder there."""
        import ray

        return ray.get_runtime_context().get_node_id(), self._own.name

    def stop(self) -> None:
        self._stop.set()

    def close(self, left: Sequence[str]) -> None:
        """Clears its folder away, and those of the dead on this machine."""
        self._own.cleanup()
        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)

    def compute(
        self, keywords: Mapping[str, Any], named: str | None, files: Mapping[str, bytes], names: list[str], *curvatures: bytes
    ) -> tuple[dict[str, bytes], list[str], Message]:
        """Computes a task in a folder of its own; what that holds afterwards, and how it ended."""
        while not concurrent.futures.wait([self._loading], timeout=0.1).done:
            if self._stop.is_set():
                return {}, [], Ended(True, "")
        with tempfile.TemporaryDirectory(dir=self._own.name) as own:
            folder = Path(own) / (named or "run")
            notes: list[str] = []
            message: Message
            try:
                if named is not None:
                    _write(folder, {**files, **dict(zip(names, curvatures, strict=True))})
                is_stopped, found = compute(self._loading.result().asked(), keywords, None if named is None else folder, notes.append, self._stop)
                message = Ended(is_stopped, found)
            except Exception as error:
                message = Failed(Portable.of(error, f"the machine {platform.node()}"))
            return {name: content for name, content in _files(folder).items() if name not in names}, notes, message


def _load(parcel: Any, setup: Mapping[str, Any]) -> dict[str, Any]:
    import ray

    use_torch_settings(setup["torch"])
    asked = placed(unpack(io.BytesIO(ray.get(parcel)), setup["torch"] is not None, setup["place"]), setup["place"])
    return {**asked, "threads": setup["threads"]}
