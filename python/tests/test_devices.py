"""Several processes give what one does, whatever happens to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import basin_volume as bv
import numpy as np
import pytest
from basin_volume._parcel import is_factory
from basin_volume._processes import environment, places

from .bodies import Ball
from .workers import COSTS, estimate, same

TWO = ["cpu"] * 2


@pytest.fixture
def costs(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module that other processes can import."""
    (own_folder / "modules").mkdir()
    (own_folder / "modules" / "costs_for_processes.py").write_text(COSTS)
    monkeypatch.syspath_prepend(own_folder / "modules")
    monkeypatch.delitem(sys.modules, "costs_for_processes", raising=False)
    import costs_for_processes  # type: ignore[import-not-found]

    return costs_for_processes


def test_two_processes_are_one(costs: Any) -> None:
    whole = estimate(costs.Ball(), samples=10, out="whole")
    same(whole, estimate(costs.Ball(), samples=10, devices=TWO, out="two"))
    same(whole, estimate(costs.make, samples=10, devices=TWO, out="made"))
    assert len(list(Path("two/shards").glob("*-of-8"))) == 8
    # More samples, more processes than the shards were made for, and one process again.
    longer = estimate(costs.Ball(), samples=14, out="whole")
    same(longer, estimate(costs.Ball(), samples=14, devices=TWO, out="two"))
    same(longer, estimate(costs.Ball(), samples=14, devices=["cpu"] * 10, out="two"))
    last = estimate(costs.Ball(), samples=14, out="two")
    same(longer, last)
    # Samples with which folders are begun are copies, and none was computed twice.
    assert len(list(Path("two/shards").glob("0-of-*"))) == 2 and "doubled" not in last.manifest
    with pytest.raises((bv.UsageError, bv.EngineError), match="different run"):
        estimate(costs.Ball(), samples=14, seed=3, devices=TWO, out="two")


def test_a_run_of_one_process_is_continued_by_several(costs: Any) -> None:
    estimate(costs.Ball(), samples=6, out="run")
    before = Path("run/samples.jsonl").read_bytes()
    longer = estimate(costs.Ball(), samples=12, devices=TWO, out="run")
    assert Path("run/samples.jsonl").read_bytes().startswith(before)
    same(estimate(costs.Ball(), samples=12, out="whole"), longer)


def test_a_process_that_is_killed_costs_nothing(costs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    whole = estimate(costs.Ball(), samples=40, out="whole")
    dying = costs.Ball(dies=os.path.abspath("died"))
    same(whole, estimate(dying, samples=40, devices=TWO, out="two", progress=True))
    assert Path("died").exists() and "SIGKILL" in capsys.readouterr().err


def test_whoever_always_dies_is_given_up(costs: Any) -> None:
    with pytest.raises(bv.EngineError, match=r"workers died 3 times at .* \(exit code -9, SIGKILL.*its folder is .*shards"):
        estimate(costs.Ball(dies=os.path.abspath("died"), always=True), samples=400, devices=TWO, out="two")


def test_errors_arrive_in_words(costs: Any) -> None:
    with pytest.raises(ArithmeticError, match="no number here") as caught:
        estimate(costs.Ball(fails=True), samples=40, devices=TWO, out="two")
    assert "costs_for_processes" in "".join(caught.value.__notes__)
    with pytest.raises(bv.UsageError, match="center= has the shape"):
        estimate(costs.Ball(), center=np.zeros((2, 2)), devices=TWO, out="three")


def test_what_is_done_is_kept(costs: Any) -> None:
    # So many that no machine is through with them before it is stopped, and none is too slow to have begun.
    slow, many = costs.Ball(seconds=0.02), 3000

    def stop() -> None:
        while not any(path.read_text() for path in Path("two/shards").glob("*-of-*/samples.jsonl")):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=stop)
    watcher.start()
    with pytest.warns(UserWarning, match="stopped before it was complete"):
        part = estimate(slow, samples=many, devices=TWO, out="two")
    watcher.join()
    assert part.interrupted and 0 < len(part.samples["index"]) < many
    # All that is on disk is in the result: nobody computes on once it is joined.
    assert sum(len(path.read_text().splitlines()) for path in Path("two/shards").glob("*-of-*/samples.jsonl")) == len(part.samples["index"])
    with pytest.warns(UserWarning, match="stopped before it was complete"):
        more = estimate(slow, samples=many, devices=TWO, out="two", time_limit=15.0)
    assert more.interrupted and len(part.samples["index"]) <= len(more.samples["index"]) < many
    same(estimate(costs.Ball(), samples=many, out="whole"), estimate(costs.Ball(), samples=many, devices=TWO, out="two"))


def each(found: bv.Result | bv.Results) -> list[bv.Result]:
    return [found] if isinstance(found, bv.Result) else list(found)


@pytest.mark.parametrize("more", [{"preconditioner": ["none", "fisher", "kronecker"]}, {"estimator": "spectral"}])
def test_runs_of_several_folders_and_of_the_spectrum(more: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    from .models import inputs, perceptron

    settings = {"progress": False, "threads": 1, "samples": 5, **more}
    whole = bv.estimate(perceptron(), inputs(), **settings)
    two = bv.estimate(perceptron(), inputs(), **settings, devices=TWO, out="two")
    for one, other in zip(each(whole), each(two), strict=True):
        assert one.log_probability == other.log_probability and not other.interrupted
        for record, again in zip(one.records, other.records, strict=True):
            # The noise that errors are due to is measured in every process.
            assert {**record, "radius_error_nats": 0.0} == {**again, "radius_error_nats": 0.0}


def test_a_language_model_in_two_processes() -> None:
    pytest.importorskip("transformers")
    from .models import Snapshot, language_model, sequences

    model, data = language_model(), sequences()
    before = Snapshot(model)
    whole = bv.estimate(model, data, samples=6, threads=1, progress=False)
    assert isinstance(whole, bv.Result) and len(whole.samples["index"]) == 6
    # Without a name the folder is that of the same call in one process.
    longer = bv.estimate(model, data, samples=8, threads=1, progress=False, devices=TWO)
    assert isinstance(longer, bv.Result) and longer.folder == whole.folder and not longer.interrupted
    fresh = bv.estimate(model, data, samples=8, threads=1, progress=False, out="fresh")
    assert isinstance(fresh, bv.Result)
    same(fresh, longer)
    before.check()


def test_the_moments_of_an_optimizer() -> None:
    torch = pytest.importorskip("torch")
    from .models import inputs, perceptron

    module, rows = perceptron(), inputs()
    optimizer = torch.optim.AdamW(module.parameters())
    module(rows).square().sum().backward()
    optimizer.step()
    settings: dict[str, Any] = {"samples": 4, "preconditioner": "adam2", "optimizer": optimizer, "sigma": "rms"}
    same(estimate(module, rows, **settings), estimate(module, rows, **settings, devices=TWO, out="two"))


SCRIPT = """
import sys
import basin_volume as bv, numpy as np

class Ball:
    center = np.ones(4)
    def cost(self, weights):
        return float(np.sum((weights - self.center) ** 2))

def run():
    print(len(bv.estimate(Ball(), samples=5, sigma=1.0, progress=False, out=sys.argv[1], devices=["cpu"] * 2).samples["index"]))
"""


def test_what_is_of_the_main_module(own_folder: Path) -> None:
    def said(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=120, check=False)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    (own_folder / "guarded.py").write_text(SCRIPT + "if __name__ == '__main__':\n    run()\n")
    (own_folder / "plain.py").write_text(SCRIPT + "run()\n")
    assert said("guarded.py", "a") == "5"
    assert 'under if __name__ == "__main__"' in said("plain.py", "b")
    # As in a notebook: nothing that could be imported.
    assert "Ball of a notebook or prompt cannot be imported by other processes: move it to a module" in said("-c", SCRIPT + "run()", "c")


def test_processes_end_with_their_parent(costs: Any, own_folder: Path) -> None:
    script = (
        "import basin_volume as bv, costs_for_processes as c\n"
        "bv.estimate(c.Ball(seconds=0.05), samples=400, sigma=1.0, progress=False, out='two', devices=['cpu'] * 2)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.fspath(own_folder / "modules")})
    deadline = time.monotonic() + 60
    while len(list(Path("two/shards").glob("*-of-8/samples.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (children := _children(process.pid))
    process.kill()
    process.wait()
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


def _children(parent: int) -> list[str]:
    found = Path(f"/proc/{parent}/task/{parent}/children")
    if not found.exists():
        pytest.skip("this system does not say which processes a process has")
    return found.read_text().split()


def test_what_cannot_be_shared_is_refused(costs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings, words in [
        ({"estimator": "annealed"}, "estimator='annealed' is one job, run it several times with a seed= each"),
        ({"estimator": "all"}, "devices= is for estimator"),
        ({"shard": "0/2"}, "shard= does not go with devices="),
        ({"device": "cpu"}, "device= does not go with devices="),
        ({"extend": True}, "extend= does not go with devices="),
        ({"samples": 0}, "samples=0: expected a whole number"),
        ({"threads": 0}, "threads=0: expected a whole number"),
        ({"devices": 2}, "devices=2: expected a list"),
        ({"devices": []}, r"devices=\[\]: expected a list"),
        ({"devices": "cuda:0"}, "devices='cuda:0': expected a list"),
        ({"devices": [-1]}, "devices= has -1"),
        ({"data": (row for row in [1])}, "data= is a generator, which can be read once"),
        ({"model": Ball(), "center": lambda: 0}, "center= cannot be sent to other processes"),
    ]:
        with pytest.raises(bv.UsageError, match=words):
            estimate(**{"model": costs.Ball(), "devices": TWO, **settings})
    hooked = Ball()
    hooked.extra = lambda: 0  # type: ignore[attr-defined]
    with pytest.raises(bv.UsageError, match=r"model= cannot be sent .* model=factory"):
        estimate(hooked, devices=TWO)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(bv.UsageError, match=r"ray= needs the package ray: pip install 'basin-volume\[ray\]'"):
        estimate(costs.Ball(), ray=True)
    monkeypatch.setattr("basin_volume._processes._visible", lambda: 0)
    with pytest.raises(bv.UsageError, match='devices="all" found no CUDA device'):
        estimate(costs.Ball(), devices="all")
    with pytest.raises(bv.UsageError, match="devices= has 1, and torch sees 0 CUDA devices here"):
        estimate(costs.Ball(), devices=[1])


def test_devices_and_what_a_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basin_volume._processes._visible", lambda: 4)
    assert places("all") == ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]
    assert places([0, "cuda:2", "cuda", "cpu"]) == ["cuda:0", "cuda:2", "cuda:0", "cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert environment("cuda:1", 3)["CUDA_VISIBLE_DEVICES"] == "6" and environment("cpu", 3)["CUDA_VISIBLE_DEVICES"] == ""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert environment("cuda:1", 3)["CUDA_VISIBLE_DEVICES"] == "1"
    assert is_factory(Ball) and is_factory(lambda: Ball()) and not is_factory(Ball()) and not is_factory(lambda weights: 0.0) and not is_factory("net")
