"""Chains whose states live on the device of the weights."""

from __future__ import annotations

from typing import Any

import basin_volume as bv
import numpy as np
import pytest
from basin_volume import _engine

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from basin_volume._torch import module, vectors, weights  # noqa: E402

from .models import language_model, sequences  # noqa: E402


def test_operations_are_those_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "_PIECE", 1000)
    generator = np.random.default_rng(0)
    dimension = 2_345
    x, y, c = (generator.standard_normal(dimension).astype(np.float32) for _ in range(3))
    kept = vectors.Vectors(torch.device("cpu"), lambda weights, gradient: 0.0)

    def run(operation: str, numbers: list[int], factors: list[float] | None = None, **more: Any) -> Any:
        return kept.run(operation, numbers, factors or [], more.get("normal"), more.get("values"))

    def begin() -> None:
        for number, values in enumerate((x, y, c)):
            run("vector_of", [number], values=values)

    def close(number: int, expected: np.ndarray[Any, Any]) -> None:
        np.testing.assert_allclose(run("read", [number]), expected, rtol=1e-6, atol=1e-6)

    a, b, m = (values.astype(np.float64) for values in (x, y, c))
    begin()
    run("offset", [0, 1, 2], [0.75, 0.3])
    close(0, 0.3 * (b - 0.75 * m))
    begin()
    run("place", [0, 2], [0.75, 0.3])
    close(0, 0.75 * m + 0.3 * a)
    begin()
    run("add", [0, 1], [-0.2])
    close(0, a - 0.2 * b)
    begin()
    run("multiply", [0, 1])
    close(0, a * b)
    begin()
    run("turn", [0, 1], [np.sin(0.3), np.cos(0.3)])
    close(0, np.cos(0.3) * a + np.sin(0.3) * b)
    close(1, np.cos(0.3) * b - np.sin(0.3) * a)
    begin()
    assert run("inner", [0, 1]) == pytest.approx(float(a @ b), rel=1e-12)
    assert run("distance_squared", [0, 2], [0.75]) == pytest.approx(float(((a - 0.75 * m) ** 2).sum()), rel=1e-12)
    run("zeros", [3], [float(dimension)])
    run("fill_normal", [3], normal=(5, 3, 1))
    values, _ = _engine.direction(5, 3, dimension)
    np.testing.assert_array_equal(run("read", [3]).view(np.uint32), np.frombuffer(values, dtype=np.uint32))
    run("clear", [3])
    close(3, np.zeros(dimension))
    # What was handed over is a copy.
    run("clear", [0])
    assert x.any()
    kept.forget(3)
    kept.forget(3)
    with pytest.raises(KeyError):
        kept.of(3)
    with pytest.raises(ValueError, match="no operation"):
        run("invert", [0])


SETTINGS = {"chains": 2, "trajectories": 4, "effort": 10, "patience": 1, "settle": 1, "spacing": 1.0}


@pytest.mark.parametrize(("kind", "more"), [("basin", {}), ("basin", {"metric": "diagonal"}), ("star", {"star_points": 2})])
def test_nothing_of_the_size_of_the_weights_is_sent_for_a_step(
    kind: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: str) -> bv.Result:
        settings = {**SETTINGS, **more}
        result = bv.estimate(
            language_model(), sequences(), cutoff=1.0, sigma=0.03, estimator="annealed", set_kind=kind, settings=settings, out=out, progress=False
        )
        assert isinstance(result, bv.Result)
        return result

    sent = run("sent")
    calls: list[str] = []
    done = module.ModuleCost.vectors

    def counting(self: module.ModuleCost, operation: str, *rest: Any) -> Any:
        calls.append(operation)
        return done(self, operation, *rest)

    monkeypatch.setattr(weights, "can_make", lambda device: True)
    monkeypatch.setattr(module.ModuleCost, "vectors", counting)
    kept = run("kept")
    gradients = calls.count("gradient")
    assert gradients > 100
    # States alone: where a chain begins, and after a block.
    assert calls.count("read") + calls.count("vector_of") < gradients / 2
    # The same momenta and steps, rounded at other places: the same ladder until chaos parts them.
    assert kept.log_probability == pytest.approx(sent.log_probability, abs=3.0 + 0.02 * abs(sent.log_probability))


def test_vectors_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "can_make", lambda device: True)
    most, left = 0, -1
    done = module.ModuleCost.vectors
    cleared = vectors.Vectors.clear_all

    def watching(self: module.ModuleCost, *rest: Any) -> Any:
        nonlocal most
        found = done(self, *rest)
        most = max(most, len(self._vectors._kept))
        return found

    def clear_all(self: vectors.Vectors) -> None:
        nonlocal left
        left = len(self._kept)
        cleared(self)

    monkeypatch.setattr(module.ModuleCost, "vectors", watching)
    monkeypatch.setattr(vectors.Vectors, "clear_all", clear_all)
    bv.estimate(language_model(), sequences(), cutoff=1.0, sigma=0.03, estimator="annealed", settings=SETTINGS, progress=False)
    # Two chains with eight vectors each, the center, the anchor, and a few on their way.
    assert 10 < most < 32
    assert left <= 2
