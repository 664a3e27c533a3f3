"""Small modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

VOCABULARY = 101


def language_model(**settings: Any) -> Any:
    """A GPT-NeoX of random weights, in training mode as transformers makes it."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    usual = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
    }
    return GPTNeoXForCausalLM(GPTNeoXConfig(**{**usual, **settings}))


def tied_model() -> Any:
    """A GPT-2, whose output head is its embedding, with transposed weights (Conv1D)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32))


def sequences(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths or (12, 12, 7, 20)]


def perceptron(*, norm: bool = False, outputs: int = 5) -> torch.nn.Module:
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = [torch.nn.Linear(8, 16)]
    if norm:
        layers.append(torch.nn.BatchNorm1d(16))
    layers += [torch.nn.GELU(), torch.nn.Dropout(0.1), torch.nn.Linear(16, outputs)]
    return torch.nn.Sequential(*layers)


def inputs(rows: int = 64) -> torch.Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(2))


class Words:
    """A tokenizer: a word is its length, a separator 0."""

    eos_token_id = 0
    pad_token_id = 1

    def __call__(self, text: str) -> Sequence[int]:
        return [2 + len(word) for word in text.split()]


class Snapshot:
    """Everything about a module that has to be the same afterwards."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._state = self._now()
        self._copies = {name: tensor.detach().clone() for name, tensor in self._tensors()}

    def _tensors(self) -> list[tuple[str, torch.Tensor]]:
        named: list[tuple[str, torch.Tensor]] = [(f"parameter {name}", tensor) for name, tensor in self._module.named_parameters()]
        return named + [(f"buffer {name}", tensor) for name, tensor in self._module.named_buffers()]

    def _now(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, tensor in self._tensors():
            found[name] = (id(tensor), tensor.data_ptr(), tensor.dtype, tensor.device, tensor.requires_grad, tensor.grad)
        for name, part in self._module.named_modules():
            found[f"module {name}"] = (part.training, len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks))
        return found

    def check(self) -> None:
        assert self._now() == self._state
        for name, tensor in self._tensors():
            copy = self._copies[name]
            if tensor.is_floating_point():
                kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
                assert torch.equal(tensor.detach().view(kind), copy.view(kind)), name
            else:
                assert torch.equal(tensor, copy), name
