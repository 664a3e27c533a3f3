"""Workers that are actors of Ray, on this machine or many. They write nothing that is kept: what they compute comes back, and is written here."""

from __future__ import annotations

import io
import platform
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ._errors import EngineError, UsageError
from ._parcel import pack, placed, sent, torch_settings, unpack, use_torch_settings
from ._spread import Died, Ended, Failed, Message, Note, Task, check, spread
from ._worker import Loaded, Portable, compute

_CURVATURE = "curvature.safetensors"
_KEPT = frozenset({"manifest.json", "samples.jsonl", "result.json", _CURVATURE})
"""What comes back of a run folder; figures are drawn of the whole."""


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
        places = _places(ray, count, asked["threads"])
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


class _Places:
    """How many actors, and what each is given."""

    def __init__(self, count: int, cores: int, is_gpu: bool) -> None:
        self.count = count
        self.cores = cores
        self.is_gpu = is_gpu


def _places(ray: Any, count: int | None, threads: int | None) -> _Places:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes]
    cards = sum(int(node.get("GPU", 0)) for node in nodes)
    if cards > 0:
        count = count or cards
        per_actor = threads or max(1, min(int(node.get("CPU", 1)) // max(1, int(node["GPU"])) for node in nodes if node.get("GPU")))
        if count > cards:
            raise UsageError(f"devices={count} with ray=: the cluster has {cards} GPUs, one for every actor: ask for no more")
    elif threads is None and count is None:
        # One for every machine, as large as the smallest allows.
        per_actor = max(1, min((one for one in cores if one > 0), default=1))
        count = sum(one // per_actor for one in cores)
    else:
        per_actor = threads or max(1, sum(cores) // (count or 1))
        if threads is None:
            per_actor = min(per_actor, max(cores, default=1))
        count = count or sum(one // per_actor for one in cores)
    room = sum(one // per_actor for one in cores)
    if count == 0 or room < count:
        raise UsageError(
            f"the cluster has no room for {max(1, count)} actors of {per_actor} cores: it has {sum(cores)} cores on {len(nodes)} machines; ask for fewer "
            "with devices= or threads="
        )
    return _Places(count, per_actor, cards > 0)


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
            # One thread computes, the other is there to be told to stop.
            max_concurrency=2,
        )
        self._actors: dict[int, Any] = {}
        self._busy: dict[Any, tuple[int, Task]] = {}
        self._curvatures: dict[str, Any] = {}
        self._notes: deque[tuple[int, Message]] = deque()

    def __len__(self) -> int:
        return self._places.count

    def warm(self) -> None:
        """Starts all."""
        for worker in range(len(self)):
            self._actor(worker)

    def _actor(self, worker: int) -> Any:
        if worker not in self._actors:
            self._actors[worker] = self._kind.remote(self._parcel, self._setup)
        return self._actors[worker]

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
        answer = self._actor(worker).compute.remote(dict(task.keywords), named, files, list(curvatures), *curvatures.values())
        self._busy[answer] = (worker, task)

    def next(self, seconds: float) -> tuple[int, Message] | None:
        """What happened."""
        if self._notes:
            return self._notes.popleft()
        ready, _ = self._ray.wait(list(self._busy), timeout=seconds) if self._busy else ([], [])
        if not ready:
            return None
        worker, task = self._busy.pop(ready[0])
        try:
            answer = self._ray.get(ready[0])
        except self._ray.exceptions.RayActorError as error:
            del self._actors[worker]
            return worker, Died(_first_line(error))
        except self._ray.exceptions.RayError as error:
            raise EngineError(f"an actor of Ray failed: {_first_line(error)}") from error
        files, notes, message = answer
        self._notes.extend((worker, Note(text)) for text in notes)
        if task.folder is not None:
            _write(task.folder, files)
        return worker, message

    def stop(self) -> None:
        """Everyone ends as soon as they can."""
        for worker, _ in self._busy.values():
            self._actors[worker].stop.remote()

    def close(self) -> None:
        """Ends all."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


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
    def __init__(self, parcel: bytes, setup: Mapping[str, Any]) -> None:
        self._stop = threading.Event()
        self._loaded = Loaded.by(lambda: _load(parcel, setup))

    def stop(self) -> None:
        self._stop.set()

    def compute(
        self, keywords: Mapping[str, Any], named: str | None, files: Mapping[str, bytes], names: list[str], *curvatures: bytes
    ) -> tuple[dict[str, bytes], list[str], Message]:
        """Computes a task in a folder of its own; what that holds afterwards, and how it ended."""
        with tempfile.TemporaryDirectory(prefix="basin-volume-") as own:
            folder = Path(own) / (named or "run")
            notes: list[str] = []
            message: Message
            try:
                if named is not None:
                    _write(folder, {**files, **dict(zip(names, curvatures, strict=True))})
                is_stopped, found = compute(self._loaded.asked(), keywords, None if named is None else folder, notes.append, self._stop)
                message = Ended(is_stopped, found)
            except Exception as error:
                message = Failed(Portable.of(error, f"the machine {platform.node()}"))
            return {name: content for name, content in _files(folder).items() if name not in names}, notes, message


def _load(parcel: bytes, setup: Mapping[str, Any]) -> dict[str, Any]:
    use_torch_settings(setup["torch"])
    asked = placed(unpack(io.BytesIO(parcel), setup["torch"] is not None, setup["place"]), setup["place"])
    return {**asked, "threads": setup["threads"]}
