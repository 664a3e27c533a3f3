"""What a cost is computed with: the keywords that `estimate`, `precondition`, `inspect` and `scan` share, each with one meaning and one default."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from os import PathLike
from typing import TYPE_CHECKING, Any

from ._errors import UsageError
from ._request import cost_json

if TYPE_CHECKING:
    import torch

USUAL_LENGTH = 2048
"""Tokens of the longest sequence where nothing is said, or as many as the model has positions."""
USUAL_SIZE = 10
"""Sequences where nothing is said, or as many as there are."""

SPLIT_TABLES = ("DatasetDict", "IterableDatasetDict")
"""What tables of `datasets` in splits are called: they are mappings, but not several data."""


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """How text becomes token ids."""

    tokenizer: Any = None
    text_key: str = "text"
    max_seq_len: int | None = USUAL_LENGTH
    val_size: int | None = USUAL_SIZE
    skip: int | None = None
    chunk: bool | None = None
    positions: str = "all"
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    split: str | Sequence[str] | None = None
    data_config: str | Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class CostSettings(TextSettings):
    """Which cost, on how much of the data, of which weights, computed with what. :func:`basin_volume.estimate` says what each means."""

    cost: str | Callable[..., Any] | None = None
    parameters: str | None = None
    exclude: str | None = None
    component: str | Sequence[str] | None = None
    dtype: Any = None
    device: Any = None

    def __post_init__(self) -> None:
        if self.positions not in ("all", "last"):
            raise UsageError(f"positions={self.positions!r}: expected 'all' or 'last'")
        for name, least in (("max_seq_len", 1), ("val_size", 1), ("skip", 0), ("pad_token_id", 0), ("eos_token_id", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < least):
                raise UsageError(f"{name}={value!r}: expected a whole number of at least {least}")

    @classmethod
    def of(cls, keywords: dict[str, Any]) -> CostSettings:
        """Those among the keywords of a call."""
        return cls(**{field.name: keywords[field.name] for field in fields(cls)})

    def given(self) -> list[str]:
        """The names of those that are not at their defaults."""
        return [field.name for field in fields(self) if (value := getattr(self, field.name)) is not field.default and value != field.default]

    def refuse_for_weights(self, what: str) -> None:
        """A cost of weights has no data, no names and no device."""
        for name in self.given():
            raise UsageError(f"{name}= means nothing for a model= that is {what}: leave it out")

    def for_engine(self, data: Any, what: str = "a path or hub id") -> str:
        """The cost of a model that the engine loads itself, as JSON."""
        if self.cost is not None:
            raise UsageError(f"cost= means nothing for a model= that is {what}: leave it out")
        for name, unit in (("val_size", "sequences"), ("max_seq_len", "tokens")):
            if getattr(self, name) is None:
                raise UsageError(f"{name}=None (all there are) is for torch modules: say how many {unit} with {name}=")
        return cost_json(
            data=paths(data),
            text_key=None if self.text_key == "text" else self.text_key,
            data_config=self.data_config,
            split=self.split,
            max_seq_len=None if self.max_seq_len == USUAL_LENGTH else self.max_seq_len,
            val_size=None if self.val_size == USUAL_SIZE else self.val_size,
            skip=self.skip,
            chunk=self.chunk,
            tokenizer=_tokenizer_path(self.tokenizer),
            eos_token_id=self.eos_token_id,
            positions=None if self.positions == "all" else self.positions,
            pad_token_id=self.pad_token_id,
            parameters=self.parameters,
            exclude=self.exclude,
            component=self.component,
            device=None if self.device is None else str(self.device),
            dtype=None if self.dtype is None else str(self.dtype).removeprefix("torch."),
        )

    def torch_dtype(self) -> torch.dtype | None:
        """In which a module is measured; None for float32 where it fits."""
        import torch

        if self.dtype is None or isinstance(self.dtype, torch.dtype):
            dtype = self.dtype
        else:
            names = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
            names |= {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}
            dtype = names.get(str(self.dtype).removeprefix("torch."))
        if self.dtype is not None and dtype not in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            raise UsageError(f"dtype={self.dtype!r}: expected one of float32, float64, bfloat16, float16")
        return dtype


def paths(data: Any) -> list[str]:
    """Data of a model that the engine loads itself."""
    if data is None:
        return []
    if isinstance(data, (str, PathLike)):
        return [os.fspath(data)]
    if isinstance(data, Sequence) and all(isinstance(one, (str, PathLike)) for one in data):
        return [os.fspath(one) for one in data]
    raise UsageError(f"data= is {type(data).__name__}: a model that the engine loads itself takes paths and hub ids; load the model with torch for other data")


def _tokenizer_path(tokenizer: Any) -> str | None:
    if tokenizer is None or isinstance(tokenizer, (str, PathLike)):
        return None if tokenizer is None else os.fspath(tokenizer)
    raise UsageError(f"tokenizer= is {type(tokenizer).__name__}: a model that the engine loads itself takes a folder or hub id")
