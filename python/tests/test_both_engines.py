"""The same model through torch and through the engine's own forward passes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import basin_volume as bv
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from .models import language_model, sequences, tied_model  # noqa: E402


def llama() -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=101,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return transformers.LlamaForCausalLM(config)


FAMILIES = {"gpt_neox": language_model, "gpt2": tied_model, "llama": llama}


@pytest.mark.parametrize("family", FAMILIES)
def test_radii_agree_within_what_is_stated(family: str, own_folder: Path) -> None:
    model = FAMILIES[family]()
    data = sequences()
    model.save_pretrained(own_folder / "model")
    (own_folder / "ids.json").write_text(json.dumps(data))
    theirs = bv.estimate(model, data, samples=4, seed=3, progress=False)
    ours = bv.estimate(own_folder / "model", own_folder / "ids.json", samples=4, seed=3, progress=False)
    assert isinstance(theirs, bv.Result) and isinstance(ours, bv.Result)
    assert theirs.dimension == ours.dimension
    assert theirs.sigma == pytest.approx(ours.sigma, rel=1e-7)
    np.testing.assert_allclose(theirs.samples["norm"], ours.samples["norm"], rtol=1e-12)
    np.testing.assert_allclose(theirs.samples["center_dot"], ours.samples["center_dot"], rtol=1e-9)
    difference = np.abs(theirs.samples["log_volume"] - ours.samples["log_volume"])
    stated = theirs.samples["radius_error_nats"] + ours.samples["radius_error_nats"]
    assert np.all(difference <= 4 * stated + 1e-3), (difference, stated)


def test_curvatures_agree_in_kind(own_folder: Path) -> None:
    model, data = language_model(), sequences()
    model.save_pretrained(own_folder / "model")
    (own_folder / "ids.json").write_text(json.dumps(data))
    for preconditioner in ("fisher", "kronecker"):
        theirs = bv.estimate(model, data, samples=6, preconditioner=preconditioner, progress=False)
        ours = bv.estimate("model", "ids.json", samples=6, preconditioner=preconditioner, seed=0, progress=False)
        assert isinstance(theirs, bv.Result) and isinstance(ours, bv.Result)
        spread = np.std(ours.samples["log_volume"]) + np.std(theirs.samples["log_volume"])
        assert abs(np.mean(theirs.samples["log_volume"]) - np.mean(ours.samples["log_volume"])) < 3 * spread
