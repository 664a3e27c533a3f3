"""A module is what it was, bit for bit, after every run, exception and interrupt."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import basin_volume as bv
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from .models import Snapshot, inputs, language_model, perceptron, sequences, tied_model  # noqa: E402

QUICK: dict[str, Any] = {"samples": 3, "progress": False, "cutoff": 1e-3}


def frozen() -> Any:
    model = language_model()
    for name, tensor in model.named_parameters():
        tensor.requires_grad_("layers.1" in name)
    return model


def half() -> Any:
    return language_model().to(torch.bfloat16)


def with_gradients() -> Any:
    model = language_model()
    for tensor in model.parameters():
        tensor.grad = torch.ones_like(tensor)
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "plain": language_model,
    "evaluating": lambda: language_model().eval(),
    "tied": tied_model,
    "frozen": frozen,
    "bfloat16": half,
    "float64": lambda: language_model().double(),
    "with gradients": with_gradients,
}


@pytest.mark.parametrize("name", MODELS)
def test_after_rays(name: str) -> None:
    model = MODELS[name]()
    before = Snapshot(model)
    result = bv.estimate(model, sequences(), **QUICK)
    before.check()
    assert isinstance(result, bv.Result)
    assert set(result.samples["outcome"]) == {"converged"}
    moving = [tensor.numel() for tensor in model.parameters() if tensor.requires_grad]
    assert result.dimension == sum(moving)


@pytest.mark.parametrize("name", ["plain", "tied", "bfloat16", "frozen"])
def test_after_gradients_and_curvatures(name: str) -> None:
    model = MODELS[name]()
    before = Snapshot(model)
    bv.estimate(model, sequences(6, 6), preconditioner="fisher", **QUICK)
    before.check()
    bv.estimate(model, sequences(6, 6), estimator="spectral", samples=1, settings={"steps": 4}, cutoff=1e-3, progress=False)
    before.check()


def test_with_batch_normalization_and_dropout() -> None:
    module = perceptron(norm=True)
    assert module.training
    before = Snapshot(module)
    result = bv.estimate(module, inputs(), **QUICK)
    before.check()
    assert isinstance(result, bv.Result) and set(result.samples["outcome"]) <= {"converged", "unbounded"}


def test_after_an_exception() -> None:
    module = perceptron()
    calls = 0

    def cost(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise ArithmeticError("lost")
        return model(batch).square().mean()

    before = Snapshot(module)
    with pytest.raises(ArithmeticError, match="lost"):
        bv.estimate(module, inputs(), cost=cost, cutoff=1e-3, samples=20, progress=False)
    before.check()


def test_after_an_interrupt_in_the_middle_of_a_forward_pass() -> None:
    module = perceptron()
    calls = 0

    def cost(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        found = model(batch)
        if calls == 60:
            signal.raise_signal(signal.SIGINT)
        return found.square().mean()

    before = Snapshot(module)
    with pytest.warns(UserWarning, match="stopped before it was complete"):
        result = bv.estimate(module, inputs(), cost=cost, cutoff=1e-3, samples=1000, progress=False)
    before.check()
    assert isinstance(result, bv.Result) and result.interrupted and 0 < result.samples["index"].size < 1000


def test_within_the_callers_contexts() -> None:
    model = language_model().eval()
    plain = bv.estimate(model, sequences(), out="plain", **QUICK)
    before = Snapshot(model)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        inside = bv.estimate(model, sequences(), out="inside", preconditioner="none", **QUICK)
        curved = bv.estimate(model, sequences(6), out="curved", preconditioner="fisher", **QUICK)
    before.check()
    assert isinstance(plain, bv.Result) and isinstance(inside, bv.Result) and isinstance(curved, bv.Result)
    assert inside.samples["radius"].tolist() == plain.samples["radius"].tolist()
    # Gradients work afterwards.
    model(torch.tensor(sequences(6))).logits.sum().backward()


def test_models_that_cannot_be_moved_are_refused_by_name() -> None:
    with torch.device("meta"):
        absent = perceptron()
    with pytest.raises(bv.UsageError, match="0.weight are not there.*meta"):
        bv.estimate(absent, inputs(), **QUICK)
    with pytest.raises(bv.UsageError, match="no parameter of Sequential requires a gradient"):
        bv.estimate(perceptron().requires_grad_(False), inputs(), **QUICK)
    twice = perceptron()
    twice.register_parameter("view", torch.nn.Parameter(twice[0].weight.detach().t()))
    with pytest.raises(bv.UsageError, match="share memory"):
        bv.estimate(twice, inputs(), **QUICK)
    with torch.inference_mode():
        inference = perceptron()
    with pytest.raises(bv.UsageError, match="inference_mode"):
        bv.estimate(inference, inputs(), **QUICK)


class Random(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + torch.randn(4)


def test_a_module_that_draws_numbers_is_refused() -> None:
    module = Random()
    before = Snapshot(module)
    with pytest.raises(bv.UsageError, match="gives other outputs when it is called again"):
        bv.estimate(module, inputs(), **QUICK)
    before.check()


def test_a_compiled_module() -> None:
    module = perceptron()
    compiled = torch.compile(module, backend="eager")
    before = Snapshot(module)
    result = bv.estimate(compiled, inputs(), **QUICK)
    before.check()
    plain = bv.estimate(module, inputs(), **QUICK)
    assert isinstance(result, bv.Result) and isinstance(plain, bv.Result)
    assert result.log_probability == pytest.approx(plain.log_probability, abs=1e-3)


def test_parametrized_weights_are_told() -> None:
    module = perceptron()
    torch.nn.utils.parametrizations.weight_norm(module[0])
    before = Snapshot(module)
    result = bv.estimate(module, inputs(), **QUICK)
    before.check()
    assert isinstance(result, bv.Result) and result.dimension == sum(tensor.numel() for tensor in module.parameters())


def test_adapters_alone_move() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        language_model(), peft.LoraConfig(r=2, target_modules=["query_key_value"], init_lora_weights=False, task_type="CAUSAL_LM")
    )
    before = Snapshot(model)
    result = bv.estimate(model, sequences(), **QUICK)
    before.check()
    assert isinstance(result, bv.Result)
    assert result.dimension == sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad) < 2000


def test_an_offloaded_model_is_refused() -> None:
    accelerate = pytest.importorskip("accelerate")
    model = accelerate.cpu_offload(language_model(), execution_device=torch.device("cpu"))
    with pytest.raises(bv.UsageError, match="are not there.*accelerate"):
        bv.estimate(model, sequences(), **QUICK)


def test_an_interrupt_while_it_is_restored_waits() -> None:
    from basin_volume._estimate import module_cost

    model = language_model().to(torch.bfloat16)
    before = Snapshot(model)
    cost = module_cost(model, sequences())
    cost.__enter__()
    undo, raised = cost._weights._undo, 0

    def interrupting() -> None:
        nonlocal raised
        raised += 1
        if raised < 3:
            raise KeyboardInterrupt

    undo.insert(len(undo) // 2, interrupting)
    with pytest.raises(KeyboardInterrupt):
        cost.__exit__(None, None, None)
    before.check()
    assert raised == 3


@pytest.mark.filterwarnings("ignore:stopped before it was complete")
def test_chains_on_a_module() -> None:
    module = torch.nn.Linear(8, 3)
    before = Snapshot(module)
    settings = {"trajectories": 20, "chains": 2}
    result = bv.estimate(module, inputs(16), cutoff=1e-2, estimator="annealed", settings=settings, progress=False, time_limit=20)
    before.check()
    assert isinstance(result, bv.Result)
    assert result.measures == "basin" and len(result.samples["cost"]) > 20


def test_a_loader_with_workers() -> None:
    rows = torch.utils.data.TensorDataset(inputs())
    loader = torch.utils.data.DataLoader(rows, batch_size=16, num_workers=2)
    bv.estimate(perceptron(), inputs(), out="first", **QUICK)
    result = bv.estimate(perceptron(), loader, out="second", **QUICK)
    assert isinstance(result, bv.Result) and result.samples["index"].size == 3


def test_on_a_thread_of_a_server() -> None:
    """Nothing depends on the main thread: signals are its matter alone."""
    model = language_model()
    before = Snapshot(model)
    found: list[bv.Result | bv.Results] = []
    worker = threading.Thread(target=lambda: found.append(bv.estimate(model, sequences(), **QUICK)))
    worker.start()
    worker.join(60)
    before.check()
    assert len(found) == 1
    here = bv.estimate(model, sequences(), out="here", **QUICK)
    assert isinstance(found[0], bv.Result) and isinstance(here, bv.Result)
    assert found[0].samples["radius"].tolist() == here.samples["radius"].tolist()


def test_two_threads_do_not_measure_one_module() -> None:
    """As two requests to one server: the second would take the weights of the first one's rays for the trained ones."""
    module = perceptron()
    before = Snapshot(module)
    inside, done = threading.Event(), threading.Event()

    def cost(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        if not torch.equal(module[0].bias, start):
            inside.set()
            done.wait(60)
        return model(batch).square().mean()

    start = module[0].bias.detach().clone()
    found: list[bv.Result | bv.Results] = []
    first = threading.Thread(target=lambda: found.append(bv.estimate(module, inputs(), cost=cost, **QUICK)))
    first.start()
    assert inside.wait(60)
    with pytest.raises(bv.UsageError, match="Sequential is being measured by another thread"):
        bv.estimate(module, inputs(), **QUICK)
    assert not torch.equal(module[0].bias, start)
    done.set()
    first.join(60)
    before.check()
    assert len(found) == 1
    # And afterwards anyone may.
    bv.estimate(module, inputs(), **QUICK)
    before.check()


def test_the_center_is_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from basin_volume._torch import weights

    module = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 3))
    before = [tensor.detach().clone() for tensor in module.parameters()]
    seen: list[bool] = []
    convert = weights.Weights._convert

    def watching(self: weights.Weights) -> None:
        convert(self)
        start = self._flat.data_ptr()
        end = start + self._flat.numel() * self._flat.element_size()
        seen.extend(start <= center.data_ptr() < end for center in self._centers)

    monkeypatch.setattr(weights.Weights, "_convert", watching)
    bv.estimate(module, inputs(16), samples=2, cutoff=1e-2, progress=False)
    assert seen == [True] * 4
    assert all(torch.equal(tensor, kept) for tensor, kept in zip(module.parameters(), before, strict=True))
