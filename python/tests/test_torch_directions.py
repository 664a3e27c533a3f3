"""Directions made by torch have the bits of the engine's."""

from __future__ import annotations

import basin_volume as bv
import numpy as np
import pytest
from basin_volume import _engine

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from basin_volume._run import Recipe  # noqa: E402
from basin_volume._torch import directions, weights  # noqa: E402

from .models import language_model, sequences  # noqa: E402


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (5, 3), (2**64 - 1, 2**32 + 7)])
def test_every_bit_is_that_of_the_engine(seed: int, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dimension = 200_003
    values, _ = _engine.direction(seed, index, dimension)
    expected = np.frombuffer(values, dtype=np.uint32)
    # Chunks that are small, and one that is larger than the vector.
    for chunk, (start, stop) in [(1 << 12, (0, dimension)), (1 << 22, (0, dimension)), (1 << 12, (4097, 150_002)), (64, (61, 64))]:
        monkeypatch.setattr(directions, "_CHUNK", chunk)
        found = directions.normals(Recipe(seed, index), start, stop - start, torch.device("cpu"))
        np.testing.assert_array_equal(found.numpy().view(np.uint32), expected[start:stop])


def test_a_run_with_directions_of_its_own_device_is_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"samples": 4, "seed": 9, "progress": False}
    sent = bv.estimate(language_model(), sequences(), out="sent", **settings)  # type: ignore[arg-type]
    asked: list[Recipe] = []
    original = directions.normals

    def normals(recipe: Recipe, start: int, count: int, device: torch.device) -> torch.Tensor:
        asked.append(recipe)
        return original(recipe, start, count, device)

    monkeypatch.setattr(weights, "normals", normals)
    monkeypatch.setattr(weights, "can_make", lambda device: True)
    made = bv.estimate(language_model(), sequences(), out="made", **settings)  # type: ignore[arg-type]
    assert isinstance(sent, bv.Result) and isinstance(made, bv.Result)
    # The forecast times a direction of its own.
    assert {recipe.index for recipe in asked if recipe.seed == 9} >= {0, 1, 2, 3}
    for name in ("radius", "log_volume", "norm", "center_dot"):
        np.testing.assert_array_equal(sent.samples[name], made.samples[name])


def test_what_a_map_has_changed_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    original = directions.normals

    def normals(recipe: Recipe, start: int, count: int, device: torch.device) -> torch.Tensor:
        # The forecast times a direction without a map.
        assert recipe.seed != 9, "a direction of a preconditioner is not made of normals alone"
        return original(recipe, start, count, device)

    monkeypatch.setattr(weights, "normals", normals)
    monkeypatch.setattr(weights, "can_make", lambda device: True)
    curvature = np.linspace(0.5, 2.0, sum(tensor.numel() for tensor in language_model().parameters()), dtype=np.float32)
    from safetensors.numpy import save_file

    save_file({"diagonal": curvature}, "diagonal.safetensors")
    result = bv.estimate(language_model(), sequences(), samples=1, seed=9, preconditioner="diagonal.safetensors", progress=False)
    assert isinstance(result, bv.Result) and len(result.samples["radius"]) == 1
