"""Models in the wrappers of interpretability tools: unwrapped, or refused by name where their weights are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import basin_volume as bv
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from .models import VOCABULARY, Snapshot, language_model, sequences  # noqa: E402

QUICK: dict[str, Any] = {"samples": 4, "progress": False, "cutoff": 1e-3}


def tokenizer() -> Any:
    """Words w2, w3, ... of the vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, **{f"w{k}": k for k in range(2, VOCABULARY)}}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", eos_token="[UNK]")


def saved(folder: Path) -> str:
    language_model().save_pretrained(folder / "saved")
    tokenizer().save_pretrained(folder / "saved")
    return str(folder / "saved")


def plain(**settings: Any) -> bv.Result:
    result = bv.estimate(language_model().eval(), sequences(), out="plain", **{**QUICK, **settings})
    assert isinstance(result, bv.Result)
    return result


class Holder:
    """A wrapper that is no module itself."""

    def __init__(self, module: Any) -> None:
        self.model = module


def test_a_holder_of_a_module_is_unwrapped() -> None:
    module = language_model()
    before = Snapshot(module)
    result = bv.estimate(Holder(module), sequences(), **QUICK)
    before.check()
    assert isinstance(result, bv.Result)
    assert result.samples["radius"].tolist() == plain().samples["radius"].tolist()


def test_what_holds_no_weights_is_refused_by_name() -> None:
    class Remote:
        def __call__(self, text: str) -> str:
            return text

    with pytest.raises(bv.UsageError, match="model= that is Remote, no torch module and so taken for a cost of weights"):
        bv.estimate(Remote(), sequences(), **QUICK)
    with pytest.raises(bv.UsageError, match="model= is dict: expected a path, a torch module"):
        bv.estimate({}, sequences(), **QUICK)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nnsight(own_folder: Path) -> None:
    nnsight = pytest.importorskip("nnsight")
    module = language_model()
    before = Snapshot(module)
    result = bv.estimate(nnsight.NNsight(module), sequences(), **QUICK)
    before.check()
    assert isinstance(result, bv.Result)
    assert result.samples["radius"].tolist() == plain().samples["radius"].tolist()
    path = saved(own_folder)
    absent = nnsight.LanguageModel(path, tokenizer=path)
    with pytest.raises(bv.UsageError, match="embed_in.weight are not there .device meta.*was not dispatched"):
        bv.estimate(absent, sequences(), **QUICK)
    there = nnsight.LanguageModel(path, tokenizer=path, dispatch=True)
    found = bv.estimate(there, sequences(), **QUICK)
    assert isinstance(found, bv.Result)
    np.testing.assert_array_equal(found.samples["radius"], result.samples["radius"])
    assert bv.inspect(there, ["w3 w4 w5", "w9 w7"])["data"].startswith("2 sequences, 5 tokens")


def test_a_bridge_of_transformer_lens(own_folder: Path) -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    path = saved(own_folder)
    bridge = bridges.TransformerBridge.boot_transformers(path, hf_model=language_model().eval(), tokenizer=tokenizer())
    before = {name: tensor.detach().clone() for name, tensor in bridge.named_parameters()}
    flags = [part.training for part in bridge.modules()]
    ids = torch.tensor([sequences()[0]])
    logits = bridge(ids)
    result = bv.estimate(bridge, sequences(), **{**QUICK, "samples": 16})
    curved = bv.estimate(bridge, sequences(), preconditioner="kronecker", **{**QUICK, "samples": 4})
    for name, tensor in bridge.named_parameters():
        assert torch.equal(tensor, before[name]), name
    assert flags == [part.training for part in bridge.modules()]
    assert torch.equal(bridge(ids), logits)
    assert isinstance(result, bv.Result) and isinstance(curved, bv.Result)
    # The bridge keeps queries, keys and values twice; those that nothing is computed from are not weights.
    model = language_model()
    assert result.dimension == sum(tensor.numel() for tensor in model.parameters()) < sum(tensor.numel() for tensor in bridge.parameters())
    other = plain(samples=16)
    assert result.sigma == pytest.approx(other.sigma, rel=1e-6)
    # The same weights in another order: other directions of the same distribution.
    spread = np.std(other.samples["log_volume"]) / np.sqrt(16)
    assert abs(result.samples["log_volume"].mean() - other.samples["log_volume"].mean()) < 5 * spread * np.sqrt(2)
    notes = bv.inspect(bridge, ["w3 w4 w5"])["notes"]
    assert any("TransformerLens's" in note for note in notes) and not any("folded" in note for note in notes)
    bridge.enable_compatibility_mode()
    assert any("folded" in note for note in bv.inspect(bridge, ["w3 w4 w5"])["notes"])


def test_a_model_of_transformer_lens_itself() -> None:
    bridges = pytest.importorskip("transformer_lens.model_bridge")
    settings = {"n_layers": 1, "d_model": 16, "n_ctx": 32, "d_head": 8, "n_heads": 2, "d_mlp": 32, "d_vocab": VOCABULARY, "act_fn": "gelu"}
    bridge = bridges.TransformerBridge.boot_native({**settings, "normalization_type": "LN", "seed": 0})
    data = torch.tensor(sequences(8, 8))
    result = bv.estimate(bridge, data, **QUICK)
    assert isinstance(result, bv.Result) and set(result.samples["outcome"]) == {"converged"}
    assert result.manifest["problem"]["data"]["size"] == "2 sequences, 16 tokens, 16 positions count"
    with pytest.raises(bv.UsageError, match=f"outside the vocabulary 0..{VOCABULARY}"):
        bv.estimate(bridge, [[3, 400]], **QUICK)
    with pytest.raises(bv.UsageError, match="40 tokens, more than the 32 positions"):
        bv.estimate(bridge, [[3] * 40], **QUICK)
