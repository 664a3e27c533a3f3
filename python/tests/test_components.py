"""Components of torch modules: parameters by name and slices of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import basin_volume as bv
from basin_volume._torch.components import named_slices, split
from basin_volume._torch.parameters import select

SHAPES = {"a.weight": (6, 4), "a.bias": (6,), "b.weight": (3, 6)}


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3))


def test_names_and_slices_mean_what_they_mean_in_python() -> None:
    assert split("a.weight[0:2, :], b.weight,") == ["a.weight[0:2, :]", "b.weight"]
    assert named_slices("a", SHAPES) == {"a.weight": [("a.weight", None)], "a.bias": [("a.bias", None)]}
    assert named_slices("a.weight[-2:, 1]", SHAPES) == {"a.weight": [("a.weight[4:6, 1:2]", (slice(4, 6), slice(1, 2)))]}
    assert named_slices(["a.weight[0]", "a.weight[2:3]", "a.weight[0]"], SHAPES)["a.weight"] == [
        ("a.weight[0:1, :]", (slice(0, 1), slice(0, 4))),
        ("a.weight[2:3, :]", (slice(2, 3), slice(0, 4))),
    ]
    assert named_slices("a.weight[:]", SHAPES) == {"a.weight": [("a.weight", None)]}


@pytest.mark.parametrize(
    ("component", "words"),
    [
        ("c", "no parameter of that name"),
        ("l0h1", "models that the engine loads itself"),
        ("a.weight[0", "a ] is missing"),
        ("a.weight[0:9]", "outside of axis 0, which has 6 entries"),
        ("a.weight[2:2]", "is empty"),
        ("a.weight[0:4:2]", "is no slice"),
        ("a.bias[0, 1]", "has 2 axes"),
        ("a.weight[0:2], a.weight[1:3]", "twice"),
        (" ", "names nothing"),
        ([3], "expected a name"),
    ],
)
def test_what_is_not_there_is_refused(component: object, words: str) -> None:
    with pytest.raises(bv.UsageError, match=words.replace("[", r"\[")):
        named_slices(component, SHAPES)  # type: ignore[arg-type]


def test_only_the_component_moves_and_everything_is_restored() -> None:
    module, data = net(), torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    chosen = select(module, None, None, ["0.weight[0:2, :]", "2.bias"])
    assert (chosen.names, chosen.dimension, chosen.is_whole) == (("0.weight[0:2, :]", "2.bias"), 11, False)
    result = bv.estimate(module, data, component=["0.weight[0:2, :]", "2.bias"], samples=4, sigma=0.5, progress=False)
    assert isinstance(result, bv.Result) and result.manifest["dimension"] == 11
    assert result.manifest["problem"]["moving"]["component"] == ["0.weight[0:2, :]", "2.bias"]
    for name, tensor in module.named_parameters():
        assert torch.equal(tensor, before[name]), name


def test_a_component_is_a_model_of_its_own() -> None:
    """The same rows as a parameter of their own, the others as a buffer: the same rays."""

    class Split(torch.nn.Module):
        def __init__(self, whole: torch.nn.Linear) -> None:
            super().__init__()
            self.top = torch.nn.Parameter(whole.weight.detach()[1:3].clone())
            self.register_buffer("rows", whole.weight.detach().clone())
            self.register_buffer("bias", whole.bias.detach().clone())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, torch.cat([self.rows[:1], self.top, self.rows[3:]]), self.bias)

    torch.manual_seed(3)
    whole, data = torch.nn.Linear(5, 4), torch.randn(30, 5)
    settings = {"samples": 5, "sigma": 0.7, "progress": False, "cutoff": 0.02}
    ours = bv.estimate(whole, data, component="weight[1:3, :]", **settings)
    theirs = bv.estimate(Split(whole), data, parameters="top", **settings)
    assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-6)
    fisher = bv.estimate(whole, data, component="weight[1:3, :]", preconditioner="fisher", **settings)
    other = bv.estimate(Split(whole), data, parameters="top", preconditioner="fisher", **settings)
    assert np.isclose(fisher.log_probability, other.log_probability, rtol=1e-4)
