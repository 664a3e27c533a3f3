"""Actors of Ray give what one process does, on a cluster of this machine."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import basin_volume as bv
import pytest
from basin_volume._ray import _Actor

from .workers import COSTS, estimate, same

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
ray = pytest.importorskip("ray", reason="ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


def costs() -> Any:
    """A class of no module that can be imported: it travels by value, as what is written in a notebook does."""
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec(COSTS, namespace)
    return namespace["Ball"]


def folders() -> set[Path]:
    return set(Path(tempfile.gettempdir()).glob("basin-volume-*"))


@contextmanager
def occupied(cores: int) -> Iterator[None]:
    """With somebody else at work in the cluster."""

    @ray.remote(num_cpus=cores)
    class Other:
        def here(self) -> None:
            pass

    other = Other.remote()
    ray.get(other.here.remote())
    yield
    ray.kill(other)


def test_two_actors_are_one_process(cluster: None) -> None:
    before = folders()
    ball = costs()
    whole = estimate(ball(), samples=9, out="whole")
    same(whole, estimate(ball(), samples=9, out="two", ray=True, devices=2))
    same(whole, estimate(ball, samples=9, out="made", ray=True))
    # One process goes on with what actors began, and actors with that.
    longer = estimate(ball(), samples=12, out="two")
    same(estimate(ball(), samples=12, out="whole"), longer)
    longest = estimate(ball(), samples=20, out="two", ray=True)
    same(estimate(ball(), samples=20, out="whole"), longest)
    # The first sample is in a folder of its own and in a shard, and was computed once.
    assert "doubled" not in longest.manifest
    assert folders() == before


def test_an_actor_that_is_killed(cluster: None, capsys: pytest.CaptureFixture[str]) -> None:
    ball, before = costs(), folders()
    dying = ball(dies=os.path.abspath("died"))
    same(estimate(ball(), samples=40, out="whole"), estimate(dying, samples=40, out="two", ray=True, devices=2, progress=True))
    assert Path("died").exists() and "it is given out again" in capsys.readouterr().err
    with pytest.raises(bv.EngineError, match="workers died 3 times at .*its folder is .*shards"):
        estimate(ball(dies=os.path.abspath("died"), always=True), samples=400, out="three", ray=True, devices=2)
    assert folders() == before


def test_a_cluster_that_is_occupied(cluster: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("basin_volume._ray.NOTED", 1.0)
    ball = costs()
    with occupied(2):
        with pytest.raises(bv.Interrupted, match="was over before the first sample"):
            estimate(ball(), samples=9, out="two", ray=True, devices=2, time_limit=3.0, progress=True)
        assert "Waiting for room in the cluster: 0 of 2 workers have started." in capsys.readouterr().err
        timer = threading.Timer(3.0, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            estimate(ball(), samples=9, out="two", ray=True, devices=2)
        timer.join()
    with occupied(1):
        # Whoever has started does all of it.
        found = estimate(ball(seconds=0.01), samples=24, out="two", ray=True, devices=2, progress=True)
        assert "1 of 2 workers have started." in capsys.readouterr().err
    same(estimate(ball(), samples=24, out="whole"), found)


def test_errors_and_limits(cluster: None) -> None:
    ball = costs()
    with pytest.raises((ArithmeticError, bv.EngineError), match="no number here"):
        estimate(ball(fails=True), samples=40, out="two", ray=True)
    for settings, words in [
        ({"estimator": "llc"}, "ray= is for estimator"),
        ({"devices": [0, 1]}, r"devices=\[0, 1\] with ray=: expected how many actors"),
        ({"devices": 50}, "devices=50 with ray=: the cluster has room for 2 actors of 1 core, ask for no more"),
        ({"threads": 3}, "ray= found no room for an actor of 3 cores: the largest machine has 2 cores, give fewer threads="),
        ({"threads": 0}, "threads=0: expected a whole number"),
        ({"device": "cpu"}, "device= does not go with ray="),
    ]:
        with pytest.raises(bv.UsageError, match=words):
            estimate(ball(), out="three", **{"ray": True, **settings})


def test_actors_that_never_start(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable(_Actor):
        def __init__(self, parcel: Any, setup: Any) -> None:
            raise ImportError("nothing of the sort is on this machine")

    monkeypatch.setattr("basin_volume._ray._Actor", Unable)
    with pytest.raises(bv.EngineError, match=r"died 3 times at their start \(ImportError: nothing of the sort is on this machine\)"):
        estimate(costs()(), out="two", ray=True, devices=2)


def test_what_is_done_comes_back(cluster: None) -> None:
    with pytest.warns(UserWarning, match="stopped before it was complete"):
        part = estimate(costs()(seconds=0.02), samples=5000, out="two", ray=True, devices=2, time_limit=40.0)
    assert part.interrupted and 0 < len(part.samples["index"]) < 5000


def test_a_module_and_its_curvature(cluster: None) -> None:
    pytest.importorskip("torch")
    from .models import inputs, perceptron

    settings: dict[str, Any] = {"progress": False, "threads": 1, "samples": 5, "preconditioner": ["none", "fisher"]}
    whole, two = bv.estimate(perceptron(), inputs(), **settings), bv.estimate(perceptron(), inputs(), **settings, ray=True, out="two")
    assert isinstance(whole, bv.Results) and isinstance(two, bv.Results)
    for one, other in zip(whole, two, strict=True):
        same(one, other)
