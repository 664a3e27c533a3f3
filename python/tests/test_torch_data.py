"""Data in the forms that people have it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import basin_volume as bv
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from basin_volume._estimate import module_cost  # noqa: E402

from .models import VOCABULARY, Words, inputs, language_model, perceptron, sequences  # noqa: E402

TEXTS = ["a bb ccc dddd", "ee f ggg", "hhhhh i jj kkk l mm nn"] * 5


def words(data: Any, **settings: Any) -> str:
    """What was made of the data."""
    with module_cost(language_model(), data, tokenizer=Words(), **settings) as cost:
        return cost._data.words


def ids(data: Any, **settings: Any) -> list[list[int]]:
    with module_cost(language_model(), data, tokenizer=Words(), **settings) as cost:
        return sorted(row for batch in cost._data.singles for row in batch.inputs.tolist())


def test_texts_in_all_forms_are_the_same() -> None:
    expected = sorted([2 + len(word) for word in text.split()] for text in TEXTS[:10])
    assert ids(TEXTS) == expected
    assert ids(iter(TEXTS)) == expected
    assert ids([{"text": text, "label": 3} for text in TEXTS]) == expected
    assert ids([{"story": text} for text in TEXTS], text_key="story") == expected
    Path("texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    assert ids("texts.jsonl") == expected
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": TEXTS})
    assert ids(table) == expected
    assert ids(table["text"]) == expected
    assert ids(table.to_iterable_dataset()) == expected


def test_token_ids_in_all_forms_are_the_same() -> None:
    data = sequences(8, 8, 8)
    expected = sorted(data)
    assert ids(data) == expected
    assert ids(torch.tensor(data)) == expected
    assert ids(np.array(data)) == expected
    assert ids([torch.tensor(row) for row in data]) == expected
    assert ids([np.array(row) for row in data]) == expected
    assert ids({"input_ids": torch.tensor(data), "attention_mask": torch.ones(3, 8)}) == expected
    assert ids([{"input_ids": row} for row in data]) == expected
    assert ids([{"input_ids": torch.tensor(data)}]) == expected
    Path("ids.json").write_text(json.dumps(data))
    assert ids("ids.json") == expected


def test_padding_never_goes_through_the_model() -> None:
    data = sequences(8, 5)
    padded = torch.zeros(2, 8, dtype=torch.int64)
    mask = torch.zeros(2, 8, dtype=torch.int64)
    for row, (sequence, left) in enumerate(zip(data, (False, True), strict=True)):
        place = slice(8 - len(sequence), 8) if left else slice(0, len(sequence))
        padded[row, place], mask[row, place] = torch.tensor(sequence), 1
    assert ids({"input_ids": padded, "attention_mask": mask}) == sorted(data)


def test_sizes_and_lengths() -> None:
    assert words(TEXTS).startswith("10 sequences")
    assert words(TEXTS, val_size=None).startswith("15 sequences")
    assert words(TEXTS, val_size=3, skip=2).startswith("3 sequences")
    with pytest.raises(bv.UsageError, match="has 15 sequences, but val_size=40"):
        words(TEXTS, val_size=40)
    with pytest.raises(bv.UsageError, match="skip=99"):
        words(TEXTS, skip=99)
    assert max(map(len, ids(TEXTS, max_seq_len=2))) == 2
    chunks = ids(TEXTS, chunk=True, max_seq_len=6)
    assert {len(chunk) for chunk in chunks} == {6}
    assert any(chunk[0] == 0 for chunk in chunks)


def test_positions_that_count() -> None:
    data = [[3, 4, 1, 5], [6, 7, 8, 1]]
    assert "8 positions count" in words(data)
    assert "6 positions count" in words(data, pad_token_id=1)
    assert "2 positions count" in words(data, pad_token_id=1, positions="last")
    with pytest.raises(bv.UsageError, match="positions='first'"):
        words(data, positions="first")
    with pytest.raises(bv.UsageError, match="every token of data= is the pad token"):
        words([[1, 1]], pad_token_id=1)


def test_the_last_position_is_that_of_the_whole() -> None:
    model, data = language_model(), sequences(6, 6, 9)
    direction = np.random.default_rng(0).standard_normal(sum(t.numel() for t in model.parameters())).astype(np.float32)
    with module_cost(model, data, positions="last") as last:
        found = last.ray(direction, 1.0, 0.01)[0]
        parts = last.parts(None, 1.0, 0.01)
    assert parts is not None and parts[0][0] == pytest.approx(found, rel=1e-6)
    assert np.mean([part[0] for part in parts[1] if part is not None]) == pytest.approx(found, rel=1e-6)
    total = []
    for row in data:
        with module_cost(model, [row]) as cost:
            cost.ray(direction, 1.0, 0.01)
            batch, kept = cost._data.batches[0], cost._kept[0]
            cost._weights.write_ray(1.0, 0.01)
            with torch.no_grad():
                total.append(float(cost._cost.nats(batch, kept)[-1]))
    assert np.mean(total) == pytest.approx(found, rel=1e-5)


def test_tensors_for_classifiers() -> None:
    module = perceptron()
    plain = bv.estimate(module, inputs(), samples=2, progress=False, out="a")
    split = bv.estimate(module, list(inputs().split(16)), samples=2, progress=False, out="b")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs(), torch.zeros(64)), batch_size=16)
    loaded = bv.estimate(module, loader, samples=2, progress=False, out="c")
    for other in (split, loaded):
        assert isinstance(plain, bv.Result) and isinstance(other, bv.Result)
        assert other.log_probability == pytest.approx(plain.log_probability, abs=1e-2)


def test_several_data_given_a_reference() -> None:
    data = {"one": sequences(8, 8), "two": sequences(5, 5, 5)}
    given = bv.estimate(language_model(), data, reference={"noise": sequences(7, 7, 3)}, samples=3, progress=False, out="given")
    comparison = json.loads(Path("given/comparison.json").read_text())
    dependence = comparison["dependence"]
    assert dependence["reference_scale"] == 0.8 and len(dependence["parts"]) == 2
    assert abs(dependence["nats"] - (dependence["all"] - sum(dependence["parts"]) + dependence["reference"])) < 1e-6
    assert "Dependence given noise" in given.summary()
    with pytest.raises(bv.UsageError, match="two or more"):
        bv.estimate(language_model(), sequences(8, 8), reference=sequences(3, 3), samples=1, progress=False)
    with pytest.raises(bv.UsageError, match="reference_scale"):
        bv.estimate(language_model(), data, reference_scale=0.5, samples=1, progress=False)


def test_several_data_by_name() -> None:
    data = {"one": sequences(8, 8), "two": sequences(5, 5, 5)}
    results = bv.estimate(language_model(), data, samples=4, progress=False)
    assert isinstance(results, bv.Results)
    assert results["one"].data == "one" and results["two"].data == "two"
    assert len(results) == 3
    assert results[2].log_probability <= min(results[0].log_probability, results[1].log_probability) + 1.0


def test_costs_by_sequence() -> None:
    result = bv.estimate(language_model(), sequences(), samples=2, per_sequence=True, progress=False)
    assert isinstance(result, bv.Result)
    assert result.samples["costs_by_part"].shape == (2, 4)


def test_volumes_by_sequence() -> None:
    result = bv.estimate(language_model(), sequences(), samples=3, per_sequence="volume", progress=False)
    assert isinstance(result, bv.Result)
    volumes = result.samples["log_volume_by_part"]
    assert volumes.shape == (3, 4) and np.isfinite(volumes).all()
    table = result.sequences
    assert sorted(table["sequence"]) == [0, 1, 2, 3]
    assert list(table["log_volume"]) == sorted(table["log_volume"], reverse=True)
    alone = bv.estimate(language_model(), sequences()[1:2], samples=3, progress=False)
    assert isinstance(alone, bv.Result)
    allowed = result.samples["radius_error_nats_by_part"][:, 1] + alone.samples["radius_error_nats"] + 0.01
    assert (np.abs(volumes[:, 1] - alone.samples["log_volume"]) <= allowed).all()
    with pytest.raises(bv.UsageError, match="expected True, False, 'cost' or 'volume'"):
        bv.estimate(language_model(), sequences(), samples=1, per_sequence="radius", progress=False)


def test_what_is_wrong_is_said() -> None:
    model = language_model()
    for data, settings, message in [
        (None, {}, "data= is not given"),
        ([], {}, "data= is empty"),
        ([[3, 400]], {}, f"token id 400, outside the vocabulary 0..{VOCABULARY}"),
        ([[3] * 70], {}, "70 tokens, more than the 64 positions"),
        (["a text"], {"tokenizer": None}, "give tokenizer="),
        ([{"story": "a text"}], {}, "text_key="),
        ([object()], {}, "data= is an iterable of object"),
    ]:
        with pytest.raises(bv.UsageError, match=message):
            bv.estimate(model, data, **{"tokenizer": Words(), "samples": 1, "progress": False, **settings})


def test_what_moves_is_chosen_by_name() -> None:
    model = language_model()
    result = bv.estimate(model, sequences(), parameters=r"layers\.1\.", exclude="bias$", samples=2, progress=False)
    assert isinstance(result, bv.Result)
    chosen = [t.numel() for n, t in model.named_parameters() if "layers.1." in n and not n.endswith("bias")]
    assert result.dimension == sum(chosen)
    with pytest.raises(bv.UsageError, match="is not a regular expression"):
        bv.estimate(model, sequences(), parameters="(", progress=False)
    with pytest.raises(bv.UsageError, match="leave no tensor to move"):
        bv.estimate(model, sequences(), parameters="nothing", progress=False)


def test_labels_of_the_data_are_those_of_pairs() -> None:
    module, classes = perceptron(), torch.arange(64) % 5
    with pytest.raises(bv.UsageError, match="labels of the data are not known"):
        bv.estimate(module, inputs(), preconditioner="squared-gradient", samples=2, progress=False)
    pairs = list(zip(inputs().split(1), classes.split(1), strict=True))
    exact = np.zeros(sum(tensor.numel() for tensor in module.parameters()))
    for row, label in pairs:
        module.eval().zero_grad()
        torch.nn.functional.cross_entropy(module(row), label).backward()
        exact += torch.cat([tensor.grad.reshape(-1) for tensor in module.parameters()]).double().numpy() ** 2 / 64
    made = bv.precondition(perceptron(), pairs, kind="squared-gradient", out="squares.safetensors", progress=False)
    assert made["trace"] == pytest.approx(exact.sum(), rel=1e-4)
    by_name = [{"input": row, "labels": label} for row, label in pairs]
    again = bv.precondition(perceptron(), by_name, kind="squared-gradient", out="again.safetensors", progress=False)
    assert again["trace"] == pytest.approx(made["trace"], rel=1e-6)


@pytest.mark.parametrize("kind", ["hessian", "kronecker", "low-rank", "learned"])
def test_every_curvature(kind: str) -> None:
    result = bv.estimate(perceptron(), inputs(), preconditioner=kind, samples=2, cutoff=1e-3, progress=False)
    assert isinstance(result, bv.Result) and result.name == f"radial, {kind}"


@pytest.mark.parametrize("prior", ["sphere", "lebesgue"])
def test_every_prior(prior: str) -> None:
    result = bv.estimate(perceptron(), inputs(), prior=prior, samples=2, cutoff=1e-3, progress=False)
    assert isinstance(result, bv.Result) and np.isfinite(result.log_probability)
