"""Costs of weights: the estimate of a known volume, exceptions, interrupts."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
import warnings
from pathlib import Path

import basin_volume as bv
import numpy as np
import pytest

from .bodies import Ball, Valley


def test_the_volume_of_a_ball_is_exact() -> None:
    ball = Ball()
    result = bv.estimate(ball, cutoff=0.05, samples=20, prior="lebesgue", progress=False)
    assert isinstance(result, bv.Result)
    assert result.log_probability == pytest.approx(ball.log_volume(0.05), abs=1e-4)
    assert result.trust == "answer"
    assert result.measures == "star"
    assert not result.interrupted
    samples = result.samples
    assert samples["index"].tolist() == list(range(20))
    np.testing.assert_allclose(samples["radius"] * samples["norm"], ball.radius(0.05), rtol=1e-6)
    assert set(samples["outcome"]) == {"converged"}


def test_a_function_needs_its_center() -> None:
    with pytest.raises(bv.UsageError, match="center= is not given"):
        bv.estimate(lambda weights: float(weights @ weights), progress=False)
    result = bv.estimate(lambda weights: float(weights @ weights), center=np.zeros(5), samples=3, prior="lebesgue", progress=False)
    assert isinstance(result, bv.Result) and result.dimension == 5


@pytest.mark.parametrize("estimator", ["spectral", "annealed"])
def test_estimators_that_need_a_gradient_take_one_or_refuse(estimator: str) -> None:
    with pytest.raises(bv.UsageError, match=r'Ball has a cost without a gradient.*estimator="radial"'):
        bv.estimate(Ball(), estimator=estimator, sigma=0.7, progress=False)
    settings = {"trajectories": 40, "chains": 2} if estimator == "annealed" else {}
    result = bv.estimate(Valley(), cutoff=0.05, estimator=estimator, sigma=0.7, settings=settings, progress=False)
    rays = bv.estimate(Valley(), cutoff=0.05, sigma=0.7, samples=200, progress=False)
    assert isinstance(result, bv.Result) and isinstance(rays, bv.Result)
    assert result.log_probability == pytest.approx(rays.log_probability, abs=1.0)
    assert len(next(iter(result.samples.values()))) > 0


def test_a_learning_coefficient_is_that_of_the_closed_form() -> None:
    settings = {"n_beta": 50.0, "localization": 4.0, "metric": "none"}
    result = bv.estimate(Valley(), estimator="llc", settings=settings, progress=False)
    assert isinstance(result, bv.Result) and result.learning_coefficient is not None
    # 1/2 n_beta h/(n_beta h + localization) a weight, h = 2.
    truth = 12 * 0.5 * 100.0 / 104.0
    error = result.diagnostics["standard_error"]
    assert abs(result.learning_coefficient - truth) < 4.0 * error < 0.25 * truth
    assert (result.trust, result.measures) == ("answer", "posterior") and np.isnan(result.log_probability)
    assert "learning coefficient" in repr(result) and "Learning coefficient" in result.summary()
    samples = result.samples
    assert set(samples["chain"]) == {0, 1, 2, 3} and set(samples["phase"]) == {"outward", "settle"}
    again = bv.load(result.folder)
    assert isinstance(again, bv.Result) and again.learning_coefficient == result.learning_coefficient
    with pytest.raises(bv.UsageError, match="n_beta"):
        bv.estimate(Valley(), estimator="llc", progress=False)
    with pytest.raises(bv.UsageError, match="cutoff"):
        bv.estimate(Valley(), estimator="llc", cutoff=0.5, settings=settings, progress=False)
    with pytest.raises(bv.UsageError, match="localization"):
        bv.estimate(Valley(), estimator="llc", settings={"n_beta": 50.0, "localization": -1.0}, progress=False)


def test_a_folder_that_is_named_is_continued(own_folder: Path) -> None:
    ball = Ball()
    bv.estimate(ball, samples=4, sigma=1.0, out="run", progress=False)
    before = ball.calls
    result = bv.estimate(ball, samples=9, sigma=1.0, out="run", progress=False)
    assert isinstance(result, bv.Result)
    assert len(result.samples["index"]) == 9 and ball.calls > before
    again = bv.load(own_folder / "run")
    assert isinstance(again, bv.Result)
    assert again.log_probability == result.log_probability
    with pytest.raises(bv.EngineError, match="cutoff"):
        bv.estimate(ball, samples=9, sigma=1.0, cutoff=0.5, out="run", progress=False)


def test_without_a_folder_nothing_old_is_found() -> None:
    first = bv.estimate(Ball(scale=2.0), samples=2, prior="lebesgue", progress=False)
    second = bv.estimate(Ball(scale=3.0), samples=2, prior="lebesgue", progress=False)
    assert isinstance(first, bv.Result) and isinstance(second, bv.Result)
    assert first.folder != second.folder
    assert second.log_probability < first.log_probability


class Broken(Ball):
    def cost(self, weights: np.ndarray) -> float:
        if self.calls > 30:
            raise ArithmeticError("the device is lost")
        return super().cost(weights)


def test_an_exception_of_the_cost_is_the_callers_and_what_was_done_is_kept(own_folder: Path) -> None:
    with pytest.raises(ArithmeticError, match="the device is lost") as caught:
        bv.estimate(Broken(), samples=50, sigma=1.0, out="run", progress=False)
    assert any(entry.name == "cost" for entry in caught.traceback)
    result = bv.load("run")
    assert isinstance(result, bv.Result)
    assert result.interrupted and 0 < len(result.samples["index"]) < 50
    finished = bv.estimate(Ball(), samples=50, sigma=1.0, out="run2", progress=False)
    assert isinstance(finished, bv.Result)
    np.testing.assert_array_equal(finished.samples["radius"][: len(result.samples["radius"])], result.samples["radius"])


def test_settings_that_cannot_be_are_refused_in_words_of_python() -> None:
    for given, words in [
        ({"cutoff": -1.0}, "cutoff= is -1: expected a finite number of nats > 0"),
        ({"samples": 0}, "samples= is 0: expected 1 to"),
        ({"estimator": "magic"}, "estimator='magic': expected one of radial, spectral, annealed, llc, all"),
        ({"sigma": "wide"}, "sigma= is 'wide': expected a finite number or 'rms' or 'weight-decay'"),
        ({"settings": {"steps": 3}}, "no setting|unknown|steps"),
        ({"preconditioner": "fisher"}, 'does not give the scores.*preconditioner="none"'),
        ({"dtype": "float64"}, "dtype= means nothing for a model= that is Ball"),
        ({"shard": "3/2"}, "shard"),
    ]:
        with pytest.raises(bv.UsageError, match=words):
            bv.estimate(Ball(), progress=False, **given)  # type: ignore[arg-type]


def test_a_cost_that_draws_numbers_is_refused() -> None:
    random = np.random.default_rng(0)
    with pytest.raises(bv.UsageError, match="draws random numbers"):
        bv.estimate(lambda weights: float(random.normal()), center=np.ones(3), progress=False)


class Slow(Ball):
    def cost(self, weights: np.ndarray) -> float:
        time.sleep(0.01)
        return super().cost(weights)


@pytest.mark.parametrize("estimator", ["radial", "annealed"])
def test_an_interrupt_returns_what_is_done(estimator: str) -> None:
    class SlowValley(Slow, Valley):
        pass

    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.warns(UserWarning, match="stopped before it was complete"):
        result = bv.estimate(SlowValley(), samples=10_000 if estimator == "radial" else 5, sigma=1.0, estimator=estimator, progress=False)
    assert time.monotonic() - began < 4.0
    assert isinstance(result, bv.Result) and result.interrupted
    if estimator == "radial":
        assert len(result.samples["radius"]) > 3


def test_an_interrupt_with_nothing_done_is_raised() -> None:
    class Stuck(Ball):
        def cost(self, weights: np.ndarray) -> float:
            self.calls += 1
            if self.calls > 2:
                signal.raise_signal(signal.SIGINT)
                time.sleep(0.01)
            return super().cost(weights)

    with pytest.raises(KeyboardInterrupt):
        bv.estimate(Stuck(), samples=5, sigma=1.0, progress=False)


def test_a_time_limit_returns_what_is_done() -> None:
    with pytest.warns(UserWarning, match="stopped before"):
        result = bv.estimate(Slow(), samples=100_000, sigma=1.0, time_limit=1.0, progress=False)
    assert isinstance(result, bv.Result) and result.interrupted and result.samples["index"].size > 0


def test_the_cost_is_evaluated_on_the_callers_thread_with_its_context() -> None:
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")
    seen: set[tuple[int, str]] = set()

    class Looking(Ball):
        def cost(self, weights: np.ndarray) -> float:
            seen.add((threading.get_ident(), place.get()))
            return super().cost(weights)

    token = place.set("here")
    try:
        bv.estimate(Looking(), samples=3, sigma=1.0, progress=False)
    finally:
        place.reset(token)
    assert seen == {(threading.get_ident(), "here")}


def test_several_threads_estimate_side_by_side() -> None:
    found: dict[int, float] = {}

    def work(number: int) -> None:
        result = bv.estimate(Ball(scale=1.0 + number), samples=20, prior="lebesgue", progress=False)
        assert isinstance(result, bv.Result)
        found[number] = result.log_probability

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert found[number] == pytest.approx(Ball(scale=1.0 + number).log_volume(1e-2), abs=1e-3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_estimates_too() -> None:
    bv.estimate(Ball(), samples=2, sigma=1.0, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 1
        try:
            result = bv.estimate(Ball(), samples=2, sigma=1.0, progress=False)
            code = 0 if isinstance(result, bv.Result) and result.samples["index"].size == 2 else 2
        finally:
            os._exit(code)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_results_read_well(own_folder: Path) -> None:
    result = bv.estimate(Ball(), samples=10, sigma=1.0, out="run", progress=False)
    assert isinstance(result, bv.Result)
    assert "nats" in repr(result) and "star" in repr(result)
    assert "<table>" in result._repr_html_()
    text = result.summary()
    assert "Ball" in text and "Run folder: run" in text
    page = result.save_page(own_folder / "page.html")
    assert "Ball" in page.read_text()
    with pytest.raises(AttributeError):
        result.trust = "answer"  # type: ignore[misc]


def test_several_estimators_come_together() -> None:
    settings = {"annealed.trajectories": 40, "annealed.chains": 2}
    results = bv.estimate(Valley(), cutoff=0.05, sigma=0.7, samples=20, estimator="all", settings=settings, progress=False)
    assert isinstance(results, bv.Results)
    assert [result.folder.name for result in results] == ["radial", "spectral", "annealed", "star"]
    assert [result.measures for result in results] == ["star", "ellipsoid", "basin", "star"]
    assert results["star"].estimator == results["annealed"].estimator == "annealed"
    assert "Trust" in results.verdict
    assert "<table>" in results._repr_html_()
    with pytest.raises(KeyError, match="expected one of"):
        results["magic"]
