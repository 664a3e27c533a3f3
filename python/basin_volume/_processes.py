"""Workers that are processes of this machine, one for each device."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from ._errors import UsageError
from ._parcel import pack, placed, sent, torch_settings, unpack, use_torch_settings
from ._spread import Died, Ended, Failed, Message, Note, Task, check, spread
from ._worker import Loaded, Portable, compute

_SECONDS_TO_END = 3.0
"""How long a process that is not needed any more may take to notice."""


def estimate_on(devices: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The estimate by a process for each of the devices; where it is, and whether it was stopped."""
    check(asked, "devices")
    _refuse_inside()
    names = places(devices)
    with tempfile.TemporaryDirectory(prefix="basin-volume-") as folder:
        file = Path(folder) / "asked"
        with file.open("wb") as opened:
            of_main = pack(sent(asked), opened)
        main = _main_module(of_main) if of_main else None
        threads = asked["threads"] or max(1, _cores() // len(names))
        setup = {"file": os.fspath(file), "main": main, "torch": torch_settings(), "threads": threads}
        return spread(Processes(names, setup), asked)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _refuse_inside() -> None:
    if sys.modules["__main__"].__name__ == "__mp_main__":
        raise UsageError(
            "devices= starts processes that import this script, which calls it again: put the call, and all that only the script itself should do, under "
            'if __name__ == "__main__":'
        )


def _main_module(names: Sequence[str]) -> dict[str, str]:
    """How other processes import the main module, whose these classes and functions are."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None and spec.name != "__main__":
        return {"module": spec.name}
    if file is not None and Path(file).is_file():
        return {"path": os.path.abspath(file)}
    raise UsageError(
        f"{', '.join(names[:3])} of a notebook or prompt cannot be imported by other processes: move it to a module (a .py file) and import it, or give model= "
        "as a path or hub id"
    )


# Devices


def places(devices: Any) -> list[str]:
    """Names of devices as torch has them: ``cuda:0``, ``cpu``."""
    expected = 'expected a list such as [0, 1], ["cuda:0", "cuda:1"] or ["cpu"] * 2, or "all" for every CUDA device'
    if isinstance(devices, str):
        if devices != "all":
            raise UsageError(f"devices={devices!r}: {expected}")
        count = _visible()
        if not count:
            raise UsageError(
                'devices="all" found no CUDA device that torch can use: name them, devices=[0, 1], or share out the cores with devices=["cpu"] * 2'
            )
        return [f"cuda:{index}" for index in range(count)]
    if not isinstance(devices, Sequence) or not devices:
        raise UsageError(f"devices={devices!r}: {expected}")
    return [_place(one, expected) for one in devices]


def _place(device: Any, expected: str) -> str:
    if isinstance(device, int) and not isinstance(device, bool) and device >= 0:
        name = f"cuda:{device}"
    elif isinstance(device, str) or type(device).__name__ == "device":
        name = "cuda:0" if str(device) == "cuda" else str(device)
    else:
        raise UsageError(f"devices= has {device!r}: {expected}")
    kind, _, index = name.partition(":")
    if kind == "cuda" and not index.isdigit():
        raise UsageError(f"devices= has {device!r}: {expected}")
    if kind == "cuda" and (count := _visible()) is not None and int(index) >= count:
        raise UsageError(f"devices= has {device!r}, and torch sees {count} CUDA devices here: name those that are there, or \"all\"")
    return name


def _visible() -> int | None:
    """How many CUDA devices there are; None where nobody knows."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        import torch
    except ImportError:
        drivers = Path("/proc/driver/nvidia/gpus")
        there = len(list(drivers.iterdir())) if drivers.is_dir() else None
        return there if listed is None else len([one for one in listed.split(",") if one.strip()])
    return int(torch.cuda.device_count())


def environment(place: str, threads: int) -> dict[str, str]:
    """Of a process that sees this device alone, so that nothing of it lands on another."""
    found = {"OMP_NUM_THREADS": str(threads), **os.environ}
    kind, _, index = place.partition(":")
    if kind == "cuda":
        listed = [one.strip() for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one.strip()]
        found["CUDA_VISIBLE_DEVICES"] = listed[int(index)] if listed else index
    else:
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


# The parent


class Processes:
    """The pool of them. Each starts with its first task, and again after it died."""

    def __init__(self, names: Sequence[str], setup: Mapping[str, Any]) -> None:
        self.words = f"{len(names)} process{'es' if len(names) > 1 else ''}"
        self._names = list(names)
        self._setup = dict(setup)
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._came: queue.Queue[tuple[int, subprocess.Popen[bytes], Message]] = queue.Queue()

    def __len__(self) -> int:
        return len(self._names)

    def warm(self) -> None:
        """Starts all, so that they load while the first one computes."""
        for worker in range(len(self)):
            self._process(worker)

    def free(self, tasks: int) -> Sequence[int]:
        """Any of them."""
        return range(len(self))

    def give(self, worker: int, task: Task) -> None:
        """Begins a task."""
        self._say(self._process(worker), ("task", None if task.folder is None else os.fspath(task.folder), dict(task.keywords)))

    def next(self, seconds: float) -> tuple[int, Message] | None:
        """What happened."""
        try:
            worker, process, message = self._came.get(timeout=seconds)
        except queue.Empty:
            return None
        if isinstance(message, Died):
            if self._running.get(worker) is not process:
                return None
            del self._running[worker]
        return worker, message

    def stop(self) -> None:
        """Everyone ends as soon as they can."""
        for process in self._running.values():
            self._say(process, ("stop",))

    def close(self) -> None:
        """Ends all."""
        running = list(self._running.values())
        self._running.clear()
        for process in running:
            assert process.stdin is not None
            try:
                process.stdin.close()
            except OSError:
                pass
        for end in (None, subprocess.Popen.terminate, subprocess.Popen.kill):
            for process in running:
                if end is not None and process.poll() is None:
                    end(process)
            for process in running:
                try:
                    process.wait(_SECONDS_TO_END / len(running))
                except subprocess.TimeoutExpired:
                    pass

    def _process(self, worker: int) -> subprocess.Popen[bytes]:
        if (running := self._running.get(worker)) is not None:
            return running
        place = self._names[worker]
        # The paths first: this package may be found by them alone.
        command = f"import sys; sys.path[:] = {sys.path!r}; from basin_volume._processes import serve; serve()"
        process = subprocess.Popen(
            [sys.executable, "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(place, int(self._setup["threads"]))
        )
        self._running[worker] = process
        threading.Thread(target=self._listen, args=(worker, process), daemon=True).start()
        kind = place.partition(":")[0]
        self._say(process, {**self._setup, "argv": sys.argv, "place": kind, "name": place})
        return process

    def _listen(self, worker: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        while True:
            try:
                message: Message = pickle.load(process.stdout)
            except EOFError:
                break
            except Exception:
                # Cut short, or no message at all: nothing more can be understood.
                process.kill()
                break
            self._came.put((worker, process, message))
        self._came.put((worker, process, Died(_how(process.wait()))))

    @staticmethod
    def _say(process: subprocess.Popen[bytes], what: Any) -> None:
        assert process.stdin is not None
        try:
            pickle.dump(what, process.stdin)
            process.stdin.flush()
        except OSError:
            # Its death is told by whoever listens.
            pass


def _how(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "a signal"
    return f"exit code {code}, {name}{', often for want of memory' if name == 'SIGKILL' else ''}"


# The child


def serve() -> None:
    """What a process does from its beginning to its end: it reads from standard input, and answers on standard output."""
    # Ctrl-C in a terminal goes to all processes: the parent alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What costs print is not for the parent.
    os.dup2(2, 1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    _Serving(source, answers).serve()


class _Serving:
    def __init__(self, source: IO[bytes], answers: IO[bytes]) -> None:
        self._source = source
        self._answers = answers
        self._stop = threading.Event()
        self._is_loaded = threading.Event()
        self._tasks: queue.Queue[Any] = queue.Queue()
        self._setup: dict[str, Any] = pickle.load(source)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while (said := pickle.load(self._source))[0] != "stop":
                self._tasks.put(said[1:])
        except (EOFError, OSError):
            # The parent is through, or gone.
            pass
        if not self._is_loaded.is_set():
            # Nothing is computed yet, and nobody is to wait for a large model.
            os._exit(0)
        self._stop.set()
        self._tasks.put(None)

    def _tell(self, message: Message) -> None:
        try:
            pickle.dump(message, self._answers)
            self._answers.flush()
        except OSError:
            self._stop.set()

    def serve(self) -> None:
        """Computes what comes until nothing does."""
        # While another computes the first sample; what goes wrong is said when something is asked.
        loaded = Loaded.by(self._load)
        self._is_loaded.set()
        while (task := self._tasks.get()) is not None:
            out, keywords = task
            try:
                is_interrupted, folder = compute(loaded.asked(), keywords, out, lambda text: self._tell(Note(text)), self._stop)
                self._tell(Ended(is_interrupted, folder))
            except Exception as error:
                self._tell(Failed(Portable.of(error, self._setup["name"])))

    def _load(self) -> dict[str, Any]:
        setup = self._setup
        sys.argv = setup["argv"]
        if setup["main"] is not None:
            _import_main(**setup["main"])
        use_torch_settings(setup["torch"])
        return {**placed(unpack(Path(setup["file"]), setup["torch"] is not None, setup["place"]), setup["place"]), "threads": setup["threads"]}


def _import_main(module: str | None = None, path: str | None = None) -> None:
    """The parent's main module, as multiprocessing imports it: under another name, so that what it guards is not run."""
    import runpy
    from types import ModuleType

    main = ModuleType("__mp_main__")
    main.__dict__.update(__name__="__mp_main__")
    before = sys.modules["__main__"]
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    try:
        if module is not None:
            found = runpy.run_module(module, run_name="__mp_main__", alter_sys=False)
        else:
            assert path is not None
            found = runpy.run_path(path, run_name="__mp_main__")
    except BaseException:
        sys.modules["__main__"] = before
        raise
    main.__dict__.update(found)
