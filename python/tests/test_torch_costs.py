"""Costs, gradients and scores of modules against plain torch in float64."""

from __future__ import annotations

import math
from typing import Any

import basin_volume as bv
import numpy as np
import pytest
from basin_volume import _engine

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from basin_volume._estimate import module_cost  # noqa: E402
from basin_volume._torch.divergence import Kept, divergences, draw, likelihood  # noqa: E402

from .models import inputs, language_model, perceptron, sequences, tied_model  # noqa: E402


def exact_divergence(model: Any, center: dict[str, Any], moved: dict[str, Any], data: list[list[int]]) -> float:
    """The mean KL divergence over all tokens, by plain torch in float64."""
    model = model.double().eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for ids in data:
            logs = []
            for weights in (center, moved):
                for name, tensor in model.named_parameters():
                    tensor.copy_(weights[name])
                logs.append(torch.log_softmax(model(torch.tensor([ids])).logits[0], -1))
            total += float((logs[0].exp() * (logs[0] - logs[1])).sum())
            count += len(ids)
    return total / count


@pytest.mark.parametrize("make", [language_model, tied_model])
def test_radii_and_volumes_by_plain_torch(make: Any) -> None:
    model = make()
    result = bv.estimate(model, sequences(), samples=3, seed=5, progress=False)
    assert isinstance(result, bv.Result)
    samples = result.samples
    center = {name: tensor.detach().double() for name, tensor in model.named_parameters()}
    flat = torch.cat([tensor.reshape(-1) for tensor in center.values()])
    sigma = float((flat.square().mean()).sqrt())
    assert result.sigma == pytest.approx(sigma, rel=1e-6)
    for index in range(3):
        values, scale = _engine.direction(5, index, result.dimension)
        v = torch.from_numpy(np.frombuffer(values, dtype=np.float32).astype(np.float64)) * scale
        radius = samples["radius"][index]
        moved, start = {}, 0
        for name, tensor in center.items():
            moved[name] = tensor + radius * v[start : start + tensor.numel()].view(tensor.shape)
            start += tensor.numel()
        cost = exact_divergence(make(), center, moved, sequences())
        # The radius's error in nats is D |d ln r|, with d ln C = slope d ln r.
        error = result.dimension * abs(math.log(cost / 1e-2)) / samples["slope"][index]
        assert error < samples["radius_error_nats"][index] + 1e-2, (error, samples["radius_error_nats"][index])
        assert samples["norm"][index] == pytest.approx(float(v.norm()), rel=1e-12)
        assert samples["center_dot"][index] == pytest.approx(float(v @ flat), rel=1e-6, abs=1e-9)
        integral = _engine.log_radial_integral(
            result.dimension, float(v @ v) / sigma**2, -float(v @ flat) / sigma**2, radius
        )
        d = result.dimension
        volume = (
            math.log(2.0)
            + 0.5 * d * math.log(math.pi)
            - math.lgamma(0.5 * d)
            - 0.5 * d * math.log(2 * math.pi * sigma**2)
            - float(flat @ flat) / (2 * sigma**2)
            + integral
        )
        assert samples["log_volume"][index] == pytest.approx(volume, abs=1e-2)


def test_gradients_are_those_of_the_cost() -> None:
    for model, data in [(language_model(), sequences()), (tied_model(), sequences()), (perceptron(), inputs())]:
        with module_cost(model, data) as cost:
            dimension = cost.parameters.dimension
            direction = np.random.default_rng(0).standard_normal(dimension).astype(np.float32)
            direction /= np.linalg.norm(direction)
            weights = cost._weights.flat + direction
            nats, gradient = cost.gradient(weights, 0, len(cost._data.singles))
            assert nats == pytest.approx(cost.cost(weights)[0], rel=1e-6)
            step = 2e-2
            up, down = (cost.cost(weights + sign * step * direction)[0] for sign in (1, -1))
            assert float(gradient @ direction) == pytest.approx((up - down) / (2 * step), rel=2e-3)
            parts = [cost.gradient(weights, k, k + 1) for k in range(len(cost._data.singles))]
            assert sum(part[0] for part in parts) == pytest.approx(nats, rel=1e-6)
            np.testing.assert_allclose(sum(part[1] for part in parts), gradient, atol=1e-6)


def test_every_parameter_has_its_gradient() -> None:
    module = perceptron()
    with module_cost(module, inputs()) as cost:
        weights = cost._weights.flat + 0.1 * np.random.default_rng(3).standard_normal(cost.parameters.dimension).astype(np.float32)
        _, gradient = cost.gradient(weights, 0, 1)
        start = 0
        for name, tensor in zip(cost.parameters.names, cost.parameters.tensors, strict=True):
            direction = np.zeros_like(weights)
            direction[start : start + tensor.numel()] = gradient[start : start + tensor.numel()]
            norm = float(np.linalg.norm(direction))
            assert norm > 0, name
            direction /= norm
            up, down = (cost.cost(weights + sign * 1e-2 * direction)[0] for sign in (1, -1))
            assert norm == pytest.approx((up - down) / 2e-2, rel=5e-3), name
            start += tensor.numel()


@pytest.mark.parametrize("scale", [1e-5, 1e-3, 1e-1, 3.0, 300.0])
def test_divergences_hold_their_digits(scale: float) -> None:
    generator = torch.Generator().manual_seed(0)
    center = 5.0 * torch.randn(7, 1000, generator=generator)
    moved = center + scale * torch.randn(7, 1000, generator=generator)
    log_p, log_q = (torch.log_softmax(z.double(), -1) for z in (center, moved))
    d = log_q - log_p
    # Without cancellation also here.
    exact = (log_p.exp() * torch.where(d.abs() < 1e-2, d**2 / 2 + d**3 / 6 + d**4 / 24, torch.expm1(d) - d)).sum(-1)
    if scale > 10:
        exact = (log_p.exp() * (log_p - log_q)).sum(-1)
    slopes = torch.empty_like(moved)
    found = divergences(Kept.of(center, torch.device("cpu")), moved, slopes)
    torch.testing.assert_close(found, exact, rtol=3e-3 if scale < 1e-4 else 1e-4, atol=0)
    torch.testing.assert_close(slopes.double(), log_q.exp() - log_p.exp(), rtol=1e-3, atol=1e-6)
    assert float(divergences(Kept.of(center, torch.device("cpu")), center).abs().max()) == 0.0


def test_drawn_labels_have_the_models_frequencies() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).expand(20_000, 4)
    uniforms = torch.frombuffer(_engine.label_uniforms(3, 0, 20_000), dtype=torch.float64)
    labels = draw(logits, uniforms)
    expected = torch.softmax(logits[0], -1)
    found = torch.bincount(labels, minlength=4) / 20_000
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    slopes = torch.empty(20_000, 4)
    nats = likelihood(logits, labels, None, slopes)
    entropy = -(expected * expected.log()).sum()
    assert float(nats.mean()) == pytest.approx(float(entropy), abs=0.02)
    torch.testing.assert_close(slopes.mean(0), torch.zeros(4), atol=0.02, rtol=0)


def test_the_fisher_diagonal_is_the_curvature() -> None:
    """Drawn labels, many of them, against the exact diagonal by sums over all labels."""
    module = perceptron().double()
    data = inputs(6)
    parameters = list(module.parameters())
    exact = torch.zeros(sum(tensor.numel() for tensor in parameters), dtype=torch.float64)
    module.eval()
    for row in data.double():
        logs = torch.log_softmax(module(row), -1)
        for label in range(logs.shape[0]):
            grads = torch.autograd.grad(logs[label], parameters, retain_graph=True)
            exact += logs[label].exp().detach() * torch.cat([grad.reshape(-1) for grad in grads]).square() / len(data)
    with module_cost(perceptron(), list(data.split(1))) as cost:
        flat = cost._weights.flat
        draws = 300
        found = np.zeros(cost.parameters.dimension)
        for seed in range(draws):
            for part in range(6):
                _, gradient = cost.likelihood(flat, part, part + 1, seed, False)
                found += 6 * gradient.astype(np.float64) ** 2 / draws
    assert found.sum() == pytest.approx(float(exact.sum()), rel=0.05)
    assert np.corrcoef(found, exact.numpy())[0, 1] > 0.97


def test_regression_says_so() -> None:
    module = perceptron(outputs=1)
    with pytest.raises(bv.UsageError, match='one output per row.*cost="mse"'):
        bv.estimate(module, inputs(), progress=False)
    result = bv.estimate(module, inputs(), cost="mse", samples=3, progress=False)
    assert isinstance(result, bv.Result) and set(result.samples["outcome"]) == {"converged"}
    with pytest.raises(bv.UsageError, match="cost='hinge'"):
        bv.estimate(module, inputs(), cost="hinge", progress=False)


def test_a_cost_of_the_users_own_has_gradients() -> None:
    module = perceptron()
    target = torch.arange(64) % 5

    def loss(model: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    batches = list(zip(inputs().split(32), target.split(32), strict=True))
    with module_cost(module, batches, cost=loss) as cost:
        direction = np.random.default_rng(0).standard_normal(cost.parameters.dimension).astype(np.float32)
        weights = cost._weights.flat + 0.05 * direction
        nats, gradient = cost.gradient(weights, 0, 2)
        assert nats == pytest.approx(cost.cost(weights)[0], abs=1e-6)
        up, down = (cost.cost(weights + sign * 1e-3 * direction)[0] for sign in (1, -1))
        assert float(gradient @ direction) == pytest.approx((up - down) / 2e-3, rel=1e-2)
    result = bv.estimate(module, batches, cost=lambda model, batch: float(loss(model, batch).detach()), samples=2, progress=False)
    assert isinstance(result, bv.Result)


def test_noise_is_told_beside_the_radius() -> None:
    single = bv.estimate(language_model(), sequences(), samples=3, progress=False)
    half = bv.estimate(language_model(), sequences(), samples=3, dtype="bfloat16", progress=False)
    assert isinstance(single, bv.Result) and isinstance(half, bv.Result)
    assert half.samples["radius_error_nats"].max() > 10 * single.samples["radius_error_nats"].max()
    assert half.manifest["problem"]["device"] == {"kind": "cpu", "precision": "bfloat16"}
    environment = half.manifest["notes"]["torch"]
    assert {"version", "device", "dtype", "threads", "matmul_precision", "attention"} <= set(environment)
