"""The reference's interface, as its README shows it, and the numbers behind it."""

from __future__ import annotations

import math
import warnings

import basin_volume as bv
import numpy as np
import pytest
from basin_volume import VolumeConfig, VolumeEstimator

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from .models import Snapshot, Words, language_model  # noqa: E402

TEXTS = ["a bb ccc dddd", "ee f ggg", "hhhhh i jj kkk l mm nn"] * 5


def test_the_readme_runs() -> None:
    datasets = pytest.importorskip("datasets")
    model, tokenizer = language_model(), Words()
    tokenizer.pad_token_id = 1
    tokenizer.eos_token_id = 0
    dataset = datasets.Dataset.from_dict({"text": TEXTS})
    before = Snapshot(model)
    cfg = VolumeConfig(
        model=model,
        tokenizer=tokenizer,
        dataset=dataset,
        text_key="text",
        n_samples=10,
        cutoff=1e-2,
        max_seq_len=2048,
        val_size=10,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator = VolumeEstimator.from_config(cfg)
        result = estimator.run()
    before.check()
    assert result.estimates.shape == (10,) and result.estimates.dtype == torch.float64
    torch.testing.assert_close(result.deltas, torch.full((10,), 1e-2, dtype=torch.float64), rtol=0.1, atol=0)
    d, sigma = result.result.dimension, result.result.sigma
    assert sigma is not None
    constant = bv.log_hyperball_volume(d) + math.log(d) - d / 2 * math.log(2 * math.pi * sigma**2)
    torch.testing.assert_close(result.gaussint + constant - d * result.props.log(), result.estimates, rtol=0, atol=1e-6)
    assert float(bv.aggregate(result.estimates)) == pytest.approx(result.result.log_probability, abs=1e-6)
    assert result.logabsint is result.gaussint


def config(**settings: object) -> VolumeConfig:
    usual = {"model": language_model(), "tokenizer": Words(), "dataset": TEXTS, "n_samples": 2, "tqdm": False}
    return VolumeConfig(**{**usual, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "setting",
    [
        {"rtol": 0.01},
        {"iters": 100},
        {"init_mult": 2.0},
        {"allow_unconverged": True},
        {"cache_mode": "cpu"},
        {"implicit_vectors": True},
        {"block_size": 1024},
        {"data_batch_size": 4},
        {"batch_size": 1},
        {"model_batch_size": 1},
        {"tol": 0.1},
        {"y_tol": 10},
        {"debug": True},
        {"device": "cuda"},
    ],
)
def test_what_is_not_needed_is_taken_with_one_warning(setting: dict[str, object]) -> None:
    name = next(iter(setting))
    with pytest.warns(DeprecationWarning, match=f"{name}= is not needed any more: ") as caught:
        VolumeEstimator.from_config(config(**setting))
    assert len(caught) == 1


def test_what_means_something_is_mapped() -> None:
    whole = VolumeEstimator.from_config(config()).run()
    part = VolumeEstimator.from_config(config(filter_str="layers.1.", last_token_only=True, l2_reg=1e-3, chunking=True, max_seq_len=5)).run()
    assert part.result.dimension < whole.result.dimension
    assert part.result.manifest["l2_reg"] == 1e-3
    assert "positions count" in part.result.manifest["problem"]["data"]["size"]


def test_all_of_the_data_are_all() -> None:
    sizes = {None: "15 sequences", 10: "10 sequences", 4: "4 sequences"}
    for size, words in sizes.items():
        found = VolumeEstimator.from_config(config(val_size=size)).run().result.manifest["problem"]["data"]["size"]
        assert found.startswith(words)


def test_splits_are_those_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    from basin_volume import reference

    asked: list[tuple[object, dict[str, object]]] = []

    class Asked(Exception):
        pass

    def estimate(model: object, data: object, **settings: object) -> None:
        asked.append((data, settings))
        raise Asked

    monkeypatch.setattr(reference, "estimate", estimate)
    for given, data, split in [
        ({"model_type": "mlp", "split": "test"}, "digits:test", None),
        ({"model_type": "convnext", "model_name": "net", "dataset": "images", "split": "poison"}, "cifar:images:poison:1024", None),
        ({"model_type": "convnext", "model_name": "net", "dataset": "images", "val_size": 64}, "cifar:images:val:64", None),
        ({"model_type": "convnext", "model_name": "net", "dataset": "cifar:images:val:9"}, "cifar:images:val:9", None),
        ({"model_type": "pythia", "dataset": "some/data", "split": "train"}, "some/data", "train"),
    ]:
        with pytest.raises(Asked):
            VolumeEstimator.from_config(VolumeConfig(**given)).run()  # type: ignore[arg-type]
        assert asked[-1][0] == data and asked[-1][1].get("split") == split
    with pytest.raises(bv.UsageError, match="where the split stands as well"):
        VolumeEstimator.from_config(VolumeConfig(model_type="convnext", model_name="net", dataset="cifar:a:val:9", split="val")).run()


def test_what_cannot_be_is_refused() -> None:
    for setting, message in [
        ({"perturbation_mask": [1]}, "perturbation_mask="),
        ({"model": None}, "model= is not given"),
        ({"model_type": "rnn"}, "model_type='rnn'"),
        ({"model_type": "pythia", "dataset": None}, "dataset= is not given"),
    ]:
        with pytest.raises(bv.UsageError, match=message):
            VolumeEstimator.from_config(config(**setting)).run()


def test_integrals_and_caps() -> None:
    assert bv.log_hyperball_volume(3) == pytest.approx(math.log(4 / 3 * math.pi))
    assert bv.log_hypersphere_area(3) == pytest.approx(math.log(4 * math.pi))
    assert bv.log_hyperspherical_cap(3, 1.0) == pytest.approx(math.log(0.5 * (1 - math.cos(1.0))))
    assert bv.log_small_hyperspherical_cap(1000, 1e-3) == pytest.approx(bv.log_hyperspherical_cap(1000, 1e-3), abs=1e-2)
    # INT_0^x t^2 exp(-t^2/2) = sqrt(pi/2) erf(x/sqrt 2) - x exp(-x^2/2)
    exact = math.log(math.sqrt(math.pi / 2) * math.erf(1.5 / math.sqrt(2)) - 1.5 * math.exp(-1.125))
    assert bv.gaussint_ln_noncentral_erf(1.0, 0.0, 2, 1.5) == pytest.approx(exact, abs=1e-12)
    many = bv.gaussint_ln_noncentral_erf(a=1.0, b=torch.zeros(3), n=2, x1=torch.tensor([1.5, 1.5, 3.0]), c=-1.0, tol=1e-2, y_tol=5)
    assert many.dtype == torch.float64 and float(many[0]) == pytest.approx(exact - 1.0, abs=1e-6)
    values = np.array([[-1000.0, -1001.0], [0.0, 0.0]])
    np.testing.assert_allclose(bv.aggregate(values), [-1000.0 + math.log((1 + math.exp(-1)) / 2), 0.0])
