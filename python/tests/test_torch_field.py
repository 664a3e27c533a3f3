"""Models and data as people have them: what is measured is right, or it is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import basin_volume as bv
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from basin_volume._estimate import module_cost  # noqa: E402

from .models import VOCABULARY, Snapshot, Words, inputs, language_model, perceptron, sequences  # noqa: E402

nn = torch.nn
QUICK: dict[str, Any] = {"samples": 2, "progress": False, "cutoff": 1e-3}


def measured(model: Any, data: Any, **settings: Any) -> bv.Result:
    """An estimate that leaves the model as it was."""
    before = Snapshot(model)
    try:
        result = bv.estimate(model, data, **{**QUICK, **settings})
    finally:
        before.check()
    assert isinstance(result, bv.Result)
    return result


def cost_at(model: Any, data: Any, step: float = 0.01, **settings: Any) -> float:
    """The cost a step along a direction from the trained weights, through the package."""
    with module_cost(model, data, **settings) as cost:
        return cost.ray(direction(cost.parameters.dimension), 1.0, step)[0]


def direction(dimension: int) -> Any:
    return np.random.default_rng(0).standard_normal(dimension).astype(np.float32)


def by_torch(model: Any, outputs: Callable[[Any], list[Any]], step: float = 0.01) -> float:
    """The mean KL divergence over rows of outputs ``[n, V]`` there, by plain torch."""
    model = model.eval()
    with torch.no_grad():
        center = [torch.log_softmax(rows.double(), -1) for rows in outputs(model)]
        start, kept = 0, [tensor.clone() for tensor in model.parameters()]
        flat = torch.from_numpy(direction(sum(tensor.numel() for tensor in model.parameters())))
        for tensor in model.parameters():
            tensor.add_(flat[start : start + tensor.numel()].view(tensor.shape), alpha=step)
            start += tensor.numel()
        moved = [torch.log_softmax(rows.double(), -1) for rows in outputs(model)]
        for tensor, copy in zip(model.parameters(), kept, strict=True):
            tensor.copy_(copy)
    total = sum(float((p.exp() * (p - q)).sum()) for p, q in zip(center, moved, strict=True))
    return total / sum(rows.shape[0] for rows in center)


def encoder(kind: str = "BertForSequenceClassification") -> Any:
    torch.manual_seed(0)
    usual = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return getattr(transformers, kind)(transformers.BertConfig(**usual, max_position_embeddings=64, num_labels=3))


def padded(*lengths: int) -> dict[str, Any]:
    rows = sequences(*lengths)
    ids = torch.zeros(len(rows), max(lengths), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, : len(row)], mask[number, : len(row)] = torch.tensor(row), 1
    return {"input_ids": ids, "attention_mask": mask}


# Classifiers of texts


def test_a_classifier_of_texts_has_one_output_per_sequence() -> None:
    model, data = encoder(), sequences(8, 8, 5)
    expected = by_torch(model, lambda m: [m(torch.tensor([row])).logits for row in data])
    assert cost_at(model, data) == pytest.approx(expected, rel=1e-4)
    assert cost_at(model, padded(8, 8, 5)) == pytest.approx(expected, rel=1e-4)
    # A token that pads elsewhere is a token like others, where outputs are not per token.
    assert cost_at(model, data, pad_token_id=data[0][0]) == pytest.approx(expected, rel=1e-4)
    result = measured(model, data, per_sequence=True, preconditioner="fisher")
    parts = result.samples["costs_by_part"]
    assert parts.shape == (2, 3)
    np.testing.assert_allclose(parts.mean(1), 1e-3, rtol=1e-2)
    assert result.manifest["problem"]["data"]["size"] == "3 sequences, 21 tokens, one output each"
    with pytest.raises(bv.UsageError, match="positions='last' is for outputs per token"):
        measured(model, data, positions="last")


def test_its_labels_are_the_classes_of_the_sequences() -> None:
    model, batch, classes = encoder(), padded(8, 8, 5), torch.tensor([0, 2, 1])
    exact = 0.0
    model.eval()
    for row in range(3):
        kept = batch["attention_mask"][row].bool()
        loss = nn.functional.cross_entropy(model(batch["input_ids"][row][kept][None]).logits, classes[row : row + 1])
        exact += sum(float(g.double().square().sum()) for g in torch.autograd.grad(loss, list(model.parameters()), allow_unused=True) if g is not None) / 3
    # One sequence a batch: their squares are added by part.
    made = bv.precondition(model, {**batch, "labels": classes}, kind="squared-gradient", out="c.safetensors", progress=False)
    assert made["trace"] == pytest.approx(exact, rel=1e-3)


def test_a_classifier_without_a_token_for_padding_goes_one_by_one() -> None:
    torch.manual_seed(0)
    settings = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "num_labels": 3, "bos_token_id": 0, "eos_token_id": 0}
    model, data = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**settings)), sequences(8, 8, 5)
    assert cost_at(model, data) == pytest.approx(by_torch(model, lambda m: [m(torch.tensor([row])).logits for row in data]), rel=1e-4)


def test_labels_of_minus_100_are_none() -> None:
    model, rows = language_model(), sequences(6, 6)
    masked = [[-100, -100, -100, *row[3:]] for row in rows]
    exact, count = 0.0, 12
    model.eval()
    for row, label in zip(rows, masked, strict=True):
        logs = torch.log_softmax(model(torch.tensor([row])).logits[0], -1)
        for position in range(5):
            if label[position + 1] != -100:
                grads = torch.autograd.grad(logs[position, label[position + 1]], list(model.parameters()), retain_graph=True)
                exact += sum(float(g.double().square().sum()) for g in grads) / count
    draws = 40
    found = 0.0
    with module_cost(model, [{"input_ids": row, "labels": label} for row, label in zip(rows, masked, strict=True)]) as cost:
        for seed in range(draws):
            for part in range(2):
                _, gradient = cost.likelihood(cost._weights.flat, part, part + 1, seed, True)
                found += count * float(np.sum(gradient.astype(np.float64) ** 2)) / draws
    assert found == pytest.approx(exact, rel=0.15)


def test_an_encoder_with_a_decoder() -> None:
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0)
    model = transformers.T5ForConditionalGeneration(config)
    batch = {**padded(8, 8, 5), "labels": torch.tensor([[5, 6, 7], [7, 8, -100], [3, -100, -100]])}

    def outputs(m: Any) -> list[Any]:
        return [m(**batch).logits[batch["labels"] != -100]]

    assert cost_at(model, batch, 0.003) == pytest.approx(by_torch(model, outputs, 0.003), rel=1e-3)
    with pytest.raises(bv.UsageError, match="has an encoder and a decoder: give data= as batches with input_ids and labels"):
        measured(model, sequences(8, 8))
    with pytest.raises(bv.UsageError, match="labels are all -100"):
        measured(model, {**batch, "labels": torch.full((3, 3), -100)})


# Dtypes of what goes in


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("given", ["float16", "float64"])
def test_inputs_have_the_dtype_that_is_measured_in(stored: str, given: str) -> None:
    model = perceptron().to(getattr(torch, stored))
    data = inputs().half()
    exact = by_torch(perceptron().to(getattr(torch, stored)).double(), lambda m: [m(data.double())])
    assert cost_at(model, data.to(getattr(torch, given))) == pytest.approx(exact, rel=1e-3)
    if given == "float64":
        assert cost_at(model, data.double().numpy()) == pytest.approx(exact, rel=1e-3)


def test_a_cost_of_the_users_own_gets_inputs_that_fit() -> None:
    model, data = perceptron().bfloat16(), inputs().bfloat16()
    result = measured(model, data, cost=lambda m, batch: m(batch).square().mean())
    assert set(result.samples["outcome"]) == {"converged"}


# Shapes of what comes out


class Flat(nn.Module):
    """Regression with its last dimension squeezed away."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 1)

    def forward(self, x: Any) -> Any:
        return self.layer(x).squeeze(-1)


def test_outputs_without_a_last_dimension_are_one_per_item() -> None:
    model = Flat()
    with pytest.raises(bv.UsageError, match="one output per row"):
        measured(model, inputs())
    x = inputs().double()
    step = torch.from_numpy(direction(9)).double() * 0.01
    exact = float((x @ step[:8] + step[8]).square().mean()) / 2
    assert cost_at(model, inputs(), cost="mse") == pytest.approx(exact, rel=1e-4)


def test_outputs_of_images_say_nothing_of_classes() -> None:
    torch.manual_seed(0)
    model, images = nn.Conv2d(3, 4, 1), torch.randn(5, 3, 6, 6)
    with pytest.raises(bv.UsageError, match=r"\(5, 4, 6, 6\), of which it is not known where the classes are"):
        measured(model, images)
    step = torch.from_numpy(direction(16)).double() * 0.01
    moved = torch.einsum("oc,bchw->bohw", step[:12].view(4, 3), images.double()) + step[12:].view(1, 4, 1, 1)
    assert cost_at(model, images, cost="mse") == pytest.approx(float(moved.square().sum()) / 5 / 2, rel=1e-4)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Any, *, scale: Any) -> Any:
        return self.layer(x) * scale, x


def test_modules_that_take_names_and_give_tuples() -> None:
    exact = by_torch(Named(), lambda m: [m(inputs(), scale=2.0)[0]])
    assert cost_at(Named(), {"x": inputs(), "scale": torch.tensor(2.0), "label": torch.zeros(64)}) == pytest.approx(exact, rel=1e-4)
    assert cost_at(Named(), [{"x": part, "scale": 2.0} for part in inputs().split(16)]) == pytest.approx(exact, rel=1e-4)
    # One field besides the label needs no name; two need those of the module.
    assert cost_at(perceptron(), {"pixels": inputs(), "label": torch.zeros(64)}) == pytest.approx(cost_at(perceptron(), inputs()))
    with pytest.raises(bv.UsageError, match="fields left, right, but Sequential takes input"):
        measured(perceptron(), {"left": inputs(), "right": inputs()})
    with pytest.raises(TypeError, match="scale"):
        measured(Named(), inputs())


# Parameters


def test_data_parallel_is_its_module() -> None:
    one, other = cost_at(nn.DataParallel(language_model()), sequences()), cost_at(language_model(), sequences())
    assert one == pytest.approx(other, rel=1e-6)
    measured(nn.DataParallel(perceptron()), inputs(), preconditioner="kronecker")


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(0.3 * torch.randn(4, 8).t())

    def forward(self, x: Any) -> Any:
        return x @ self.weight


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_that_are_not_contiguous(dtype: str) -> None:
    model = Transposed().to(getattr(torch, dtype))
    assert not model.weight.is_contiguous()
    exact = by_torch(Transposed().to(getattr(torch, dtype)).float(), lambda m: [m(inputs())])
    assert cost_at(model, inputs()) == pytest.approx(exact, rel=1e-4)
    measured(model, inputs(), preconditioner="fisher")


def test_images_with_channels_last() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 8, 8)
    assert cost_at(model, images) == pytest.approx(by_torch(model, lambda m: [m(images)]), rel=1e-4)
    measured(model, images, preconditioner="kronecker")


class Expanded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 8).expand(4, 8))

    def forward(self, x: Any) -> Any:
        return x @ self.weight.t()


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, dtype=torch.complex64))

    def forward(self, x: Any) -> Any:
        return (x.to(torch.complex64) @ self.weight).abs()


def spoiled(value: float, used: bool) -> Any:
    module = perceptron()
    if not used:
        module.register_parameter("unused", nn.Parameter(torch.zeros(3)))
    with torch.no_grad():
        (module[0].weight if used else module.unused).view(-1)[0] = value
    return module


def test_parameters_that_cannot_be_measured_are_named() -> None:
    for model, words in [
        (Expanded(), "elements of weight share memory"),
        (Complex(), "weight is complex"),
        (spoiled(float("nan"), True), "0.weight has weights that are NaN"),
        (spoiled(float("inf"), False), "unused has weights that are NaN or infinite"),
    ]:
        with pytest.raises(bv.UsageError, match=words):
            measured(model, inputs())
    with pytest.raises(bv.UsageError, match="0.weight has no shape yet"):
        bv.estimate(nn.Sequential(nn.LazyLinear(4)), inputs(), **QUICK)


class Shared(nn.Module):
    """Two layers with one matrix, and one layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x: Any) -> Any:
        return self.last(torch.tanh(self.second(torch.tanh(self.first(torch.tanh(self.first(x)))))))


def test_parameters_shared_between_modules_count_once() -> None:
    result = measured(Shared(), inputs())
    assert result.dimension == 64 + 8 + 8 + 27
    assert cost_at(Shared(), inputs()) == pytest.approx(by_torch(Shared(), lambda m: [m(inputs())]), rel=1e-4)
    with module_cost(Shared(), inputs()) as cost:
        assert [layer.name for layer in cost._dense] == ["last.weight"]
    measured(Shared(), inputs(), preconditioner="kronecker")


def normalized(kind: str) -> Any:
    made = {
        "weight": nn.utils.parametrizations.weight_norm,
        "spectral": nn.utils.parametrizations.spectral_norm,
        "old": nn.utils.weight_norm,
    }
    module = perceptron()
    made[kind](module[0])
    return module


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["weight", "spectral", "old"])
def test_normalized_weights_move_by_what_they_are_made_of(kind: str) -> None:
    exact = by_torch(normalized(kind), lambda m: [m(inputs())])
    assert cost_at(normalized(kind), inputs()) == pytest.approx(exact, rel=1e-3)
    measured(normalized(kind).bfloat16(), inputs(), preconditioner="kronecker")


class Integers(nn.Module):
    """Quantized weights with the scales of their rows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("quantized", torch.randint(-127, 128, (16, 8), dtype=torch.int8))
        self.scale = nn.Parameter(torch.full((16,), 0.01))
        self.last = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        return self.last(x @ (self.quantized.float() * self.scale[:, None]).t())


def test_quantized_buffers_stay() -> None:
    result = measured(Integers(), inputs())
    assert result.dimension == 16 + 51


# Layers under K-FAC


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = nn.Linear(16, VOCABULARY)

    def forward(self, x: Any) -> Any:
        h = self.embedding(x)
        return self.last(self.attention(h, h, h, need_weights=False)[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(VOCABULARY, 8, sparse=True)
        self.cells = nn.LSTM(8, 12, batch_first=True)
        self.last = nn.Linear(12, VOCABULARY)

    def forward(self, x: Any) -> Any:
        return self.last(self.cells(self.embedding(x))[0])


def stack() -> Any:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Embedding(VOCABULARY, 16), nn.TransformerEncoder(layer, 1), nn.Linear(16, VOCABULARY))


@pytest.mark.parametrize(
    ("make", "dense"),
    [
        # The projection of attention is a Linear that is never called: it gets a diagonal.
        (Attention, ["last.weight"]),
        (Recurrent, ["last.weight"]),
        (stack, ["1.layers.0.linear1.weight", "1.layers.0.linear2.weight", "2.weight"]),
    ],
)
def test_layers_that_are_no_matrices_times_their_input_get_a_diagonal(make: Any, dense: list[str]) -> None:
    with module_cost(make(), sequences()) as cost:
        assert [layer.name for layer in cost._dense] == dense
        moments, squares = cost.moments(cost._weights.flat, 0, 4, 1, 0)
        for layer, (ins, outs) in zip(cost._dense, moments, strict=True):
            assert np.trace(ins.reshape(layer.inputs, -1)) > 0 and np.trace(outs.reshape(layer.outputs, -1)) > 0, layer.name
    measured(make(), sequences(), preconditioner="kronecker")
    assert cost_at(make(), sequences()) == pytest.approx(by_torch(make(), lambda m: [m(torch.tensor([row]))[0] for row in sequences()]), rel=1e-3)


def test_gradients_work_where_the_caller_has_none() -> None:
    with torch.no_grad():
        first = measured(perceptron(), inputs(), preconditioner="kronecker", out="first")
    second = measured(perceptron(), inputs(), preconditioner="kronecker", out="second")
    assert first.samples["radius"].tolist() == second.samples["radius"].tolist()


# Data


def test_data_that_are_nothing_are_refused() -> None:
    datasets = pytest.importorskip("datasets")
    empty = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(0, 8)), batch_size=4)
    table = datasets.Dataset.from_dict({"text": ["a bb"] * 30})
    splits = datasets.DatasetDict({"train": table, "test": table})
    for model, data, words in [
        (perceptron(), torch.zeros(0, 8), "batch 0 of data= has no rows"),
        (perceptron(), empty, "data= is empty"),
        (perceptron(), 5, "data= is int"),
        (language_model(), ["", ""], "data= has no text that gives tokens"),
        (language_model(), datasets.Dataset.from_dict({"text": []}), "data= is empty"),
        (language_model(), splits, "DatasetDict of the splits train, test: say which with split="),
        (language_model(), "some words of a text", "texts themselves stand in a list"),
        (language_model(), "no/where", "could not be loaded"),
    ]:
        with pytest.raises(bv.UsageError, match=words):
            bv.estimate(model, data, tokenizer=Words(), **QUICK)
    with pytest.raises(bv.UsageError, match="data= has no 64 tokens, which make one chunk"):
        bv.estimate(language_model(), ["a bb"], tokenizer=Words(), chunk=True, **QUICK)


def test_tables_and_streams() -> None:
    datasets, pandas = pytest.importorskip("datasets"), pytest.importorskip("pandas")
    table = datasets.Dataset.from_dict({"text": ["a bb ccc"] * 30})
    table.save_to_disk("table")
    for data, settings in [
        (table, {}),
        (table.to_iterable_dataset(), {}),
        (datasets.DatasetDict({"train": table, "test": table}), {"split": "test"}),
        (datasets.DatasetDict({"test": table}), {}),
        (pandas.DataFrame({"text": ["a bb ccc"] * 30, "label": [0] * 30}), {}),
        ("table", {}),
    ]:
        found = bv.inspect(language_model(), data, tokenizer=Words(), **settings)
        assert found["data"] == "10 sequences, 30 tokens, 30 positions count"
        assert any("has more sequences than that" in note for note in found["notes"])
    assert bv.inspect(language_model(), table, tokenizer=Words(), val_size=None)["data"].startswith("30 sequences")
    with pytest.raises(bv.UsageError, match="table with the columns words: say which has the text"):
        bv.inspect(language_model(), pandas.DataFrame({"words": ["a"]}), tokenizer=Words())


def test_how_many_sequences_is_said_in_one_way_for_all_forms() -> None:
    ids = torch.tensor(sequences(*[5] * 14))
    for data in (ids, ids.tolist(), ids.numpy(), {"input_ids": ids}, [{"input_ids": row} for row in ids.tolist()], [{"input_ids": ids[:7]}, {"input_ids": ids[7:]}]):
        assert bv.inspect(language_model(), data)["data"].startswith("10 sequences, 50 tokens")
        assert bv.inspect(language_model(), data, val_size=3, skip=2, max_seq_len=4)["data"].startswith("3 sequences, 12 tokens")
        assert bv.inspect(language_model(), data, chunk=True, eos_token_id=0, max_seq_len=12)["data"].startswith("7 sequences, 84 tokens")
    for name, value in [("val_size", 3), ("skip", 1), ("chunk", True), ("positions", "last"), ("max_seq_len", 5), ("pad_token_id", 0)]:
        with pytest.raises(bv.UsageError, match=f"{name}= is for texts and token ids, but data= are batches"):
            bv.estimate(perceptron(), inputs(), **QUICK, **{name: value})


def test_a_book_is_cut_into_chunks() -> None:
    from pathlib import Path

    Path("book.txt").write_text("a bb ccc dddd " * 40)
    assert bv.inspect(language_model(), "book.txt", tokenizer=Words(), max_seq_len=20)["data"].startswith("8 sequences, 160 tokens")
    assert bv.inspect(language_model(), "book.txt", tokenizer=Words(), max_seq_len=20, chunk=False)["data"].startswith("1 sequences, 20 tokens")


def test_another_computation_with_the_same_weights_is_another_question() -> None:
    """As when a cell of a notebook is changed and run again."""
    found = []
    for body in ("torch.tanh(self.layer(x))", "self.layer(torch.tanh(x))", "self.layer(2 * x)", "self.layer(3 * x)"):
        scope: dict[str, Any] = {"torch": torch, "nn": nn}
        exec(
            "class Net(nn.Module):\n"
            "    def __init__(self):\n        super().__init__()\n        torch.manual_seed(0)\n        self.layer = nn.Linear(8, 4)\n"
            f"    def forward(self, x):\n        return {body}\n",
            scope,
        )
        found.append(measured(scope["Net"](), inputs()))
    assert len({result.folder for result in found}) == 4
    assert len({tuple(result.samples["radius"].tolist()) for result in found}) == 4
