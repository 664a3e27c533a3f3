"""Adam's moments out of an optimizer in memory."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import basin_volume as bv
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from .models import Snapshot, inputs, perceptron  # noqa: E402

SETTINGS: dict[str, Any] = {"samples": 3, "sigma": 0.3, "exponent": 0.4, "eps": 1e-3, "progress": False}


def trained(groups: bool = False, steps: int = 3, kind: Any = None) -> tuple[Any, Any]:
    """A network and the optimizer that trained it."""
    module = perceptron()
    parameters: Any = list(module.parameters())
    if groups:
        parameters = [{"params": [p for p in parameters if p.dim() > 1]}, {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}]
    optimizer = (kind or torch.optim.AdamW)(parameters, lr=1e-3)
    target = torch.arange(64) % 5
    for _ in range(steps):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs()), target).backward()
        optimizer.step()
    return module.eval(), optimizer


def by_file(module: Any, optimizer: Any, key: str = "exp_avg_sq", **settings: Any) -> bv.Result:
    """The same moments out of a file, one tensor per parameter, as the command line takes it."""
    from safetensors.torch import save_file

    moving = settings.get("parameters", "")
    moments = {name: optimizer.state[tensor][key].clone() for name, tensor in module.named_parameters() if moving in name}
    save_file(moments, "moments.safetensors")
    result = bv.estimate(module, inputs(), preconditioner="moments.safetensors", **{**SETTINGS, **settings})
    assert isinstance(result, bv.Result)
    return result


def same(one: Any, other: bv.Result) -> None:
    assert isinstance(one, bv.Result)
    for name in ("radius", "log_volume", "norm", "center_dot"):
        np.testing.assert_array_equal(one.samples[name], other.samples[name])


@pytest.mark.parametrize(("choice", "key"), [("adam2", "exp_avg_sq"), ("adam1", "exp_avg")])
def test_the_moments_are_those_of_a_file(choice: str, key: str) -> None:
    module, optimizer = trained(groups=True)
    before = Snapshot(module)
    expected = by_file(module, optimizer, key)
    found = bv.estimate(module, inputs(), preconditioner=choice, optimizer=optimizer, **SETTINGS)
    before.check()
    same(found, expected)
    assert isinstance(found, bv.Result) and found.name == f"radial, {choice}"
    assert found.manifest["preconditioner"]["source"] == choice
    # The same question finds its folder, without anything of the file that was made.
    again = bv.estimate(module, inputs(), preconditioner=choice, optimizer=optimizer, **SETTINGS)
    assert isinstance(again, bv.Result) and again.folder == found.folder


def test_the_map_is_that_of_the_formula() -> None:
    module, optimizer = trained()
    found = bv.estimate(module, inputs(), preconditioner="adam2", optimizer=optimizer, prior="lebesgue", **{**SETTINGS, "sigma": None})
    assert isinstance(found, bv.Result)
    s = torch.cat([optimizer.state[tensor]["exp_avg_sq"].reshape(-1) for tensor in module.parameters()]).double()
    logs = -torch.log(s.abs() ** 0.4 + 1e-3)
    factors = torch.exp(logs - logs.mean()).numpy()
    from basin_volume import _engine

    for index in range(3):
        values, scale = _engine.direction(0, index, found.dimension)
        u = np.frombuffer(values, dtype=np.float32).astype(np.float64) * scale
        assert found.samples["norm"][index] == pytest.approx(float(np.linalg.norm(factors * u)), rel=1e-5)


def test_a_state_dict_and_names_are_the_same() -> None:
    module, optimizer = trained()
    expected = by_file(module, optimizer)
    named = {name: optimizer.state[tensor]["exp_avg_sq"] for name, tensor in module.named_parameters()}
    for given in (optimizer.state_dict(), named):
        same(bv.estimate(copy.deepcopy(module), inputs(), preconditioner="adam2", optimizer=given, **SETTINGS), expected)
    part = bv.estimate(module, inputs(), preconditioner="adam2", optimizer=optimizer, parameters="weight", **SETTINGS)
    other = by_file(module, optimizer, parameters="weight")
    same(part, other)


def test_frozen_parameters_have_no_moments() -> None:
    module = perceptron()
    module[0].requires_grad_(False)
    optimizer = torch.optim.Adam([tensor for tensor in module.parameters() if tensor.requires_grad], lr=1e-3)
    module(inputs()).square().mean().backward()
    optimizer.step()
    first = bv.estimate(module, inputs(), preconditioner="adam2", optimizer=optimizer, **SETTINGS)
    second = bv.estimate(module, inputs(), preconditioner="adam2", optimizer=optimizer.state_dict(), **SETTINGS)
    assert isinstance(first, bv.Result)
    same(second, first)


def test_what_has_no_moments_is_refused_in_words() -> None:
    module, optimizer = trained()
    fresh = torch.optim.Adam(module.parameters())
    _, in_groups = trained(groups=True)
    _, other = trained(kind=torch.optim.RMSprop)
    rms = torch.optim.RMSprop(module.parameters())
    rms.state = {tensor: other.state[mate] for tensor, mate in zip(module.parameters(), other.param_groups[0]["params"], strict=True)}
    transposed = {name: tensor.detach().t() for name, tensor in module.named_parameters()}
    for given, words in [
        (None, "needs its moments: give optimizer="),
        (fresh, "has no state of 0.weight"),
        (trained()[1], "does not hold 0.weight of the model"),
        (rms, "RMSprop, whose state of 0.weight has .*square_avg.*expected exp_avg_sq"),
        (in_groups.state_dict(), "2 groups of parameters without their names"),
        (torch.optim.Adam(perceptron()[0].parameters()).state_dict(), "2 parameters, but the model has 4"),
        ({"0.weight": torch.ones(16, 8)}, "without a tensor for 0.bias"),
        (transposed, r"shape \(8, 16\) for 0.weight"),
        (3, "optimizer= is int"),
    ]:
        with pytest.raises(bv.UsageError, match=words):
            bv.estimate(module, inputs(), preconditioner="adam2", optimizer=given, **SETTINGS)
    with pytest.raises(bv.UsageError, match='nothing uses its moments: add preconditioner="adam2"'):
        bv.estimate(module, inputs(), optimizer=optimizer, samples=1, progress=False)
    with pytest.raises(bv.UsageError, match="optimizer= means nothing for a model= that is a path"):
        bv.estimate(Path("model"), preconditioner="adam2", optimizer=optimizer, samples=1, progress=False)


def test_the_references_configuration_takes_them() -> None:
    from basin_volume import VolumeConfig, VolumeEstimator

    from .models import Words, language_model

    pytest.importorskip("transformers")
    model = language_model().eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    model(torch.arange(3, 15).reshape(1, -1)).logits.square().mean().backward()
    optimizer.step()
    usual: dict[str, Any] = {"model": model, "tokenizer": Words(), "dataset": ["a bb ccc", "dddd e ff g"], "n_samples": 2, "tqdm": False}
    config = VolumeConfig(preconditioner_type="adam", optimizer=optimizer, preconditioner_eps=1e-4, **usual)
    result = VolumeEstimator.from_config(config).run()
    assert result.result.name == "radial, adam2"
    with pytest.raises(bv.UsageError, match="give optimizer="):
        VolumeEstimator.from_config(VolumeConfig(preconditioner_type="adam", **usual)).run()
