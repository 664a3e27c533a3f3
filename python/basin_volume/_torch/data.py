"""Data of any form as batches for a module: texts, token ids, data sets, tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .._errors import UsageError
from .batches import Batches, of_batches, of_sequences
from .parameters import inner

_USUAL_SIZE = 10
_TEXT_ONLY = frozenset({"input_ids", "attention_mask", "labels", "token_type_ids", "position_ids"})


@dataclass(frozen=True)
class TextSettings:
    """How text becomes token ids."""

    tokenizer: Any = None
    text_key: str = "text"
    max_seq_len: int | None = 2048
    val_size: int | None = _USUAL_SIZE
    skip: int = 0
    chunk: bool = False
    positions: str = "all"
    pad_token_id: int | None = None
    eos_token_id: int | None = None
    split: str | None = None
    data_config: str | None = None


def batches(module: torch.nn.Module, data: Any, settings: TextSettings, has_own_cost: bool, name: str | None = None) -> Batches:
    """The data as batches on the device of the module."""
    device = _device(module)
    if data is None:
        raise UsageError("data= is not given: expected texts, token ids, a data set, or tensors that the module is called with")
    if isinstance(data, (str, PathLike)):
        data, name = _named(str(data), settings), name or Path(str(data)).name
    name = name or _name_of(data)
    if has_own_cost:
        # The function knows what it is given.
        return of_batches([data] if isinstance(data, (torch.Tensor, Mapping)) else data, device, name)
    if isinstance(data, torch.Tensor):
        if not data.is_floating_point() and data.dim() == 2 and _is_language_model(module):
            return _sequences(module, data.tolist(), settings, device, name)
        return of_batches([data], device, name)
    if isinstance(data, np.ndarray):
        return batches(module, torch.from_numpy(np.ascontiguousarray(data)), settings, has_own_cost, name)
    if isinstance(data, Mapping):
        ids = data.get("input_ids")
        if ids is not None and _is_language_model(module) and set(data) <= _TEXT_ONLY:
            return _sequences(module, _unpadded(ids, data.get("attention_mask")), settings, device, name)
        return of_batches([data], device, name)
    return _iterable(module, data, settings, device, name)


def _iterable(module: torch.nn.Module, data: Iterable[Any], settings: TextSettings, device: torch.device, name: str) -> Batches:
    items = iter(data)
    try:
        first = next(items)
    except StopIteration:
        raise UsageError("data= is empty") from None

    def everything() -> Iterator[Any]:
        yield first
        yield from items

    if isinstance(first, str):
        return _texts(module, everything(), settings, device, name)
    if isinstance(first, Mapping):
        if settings.text_key in first and isinstance(first[settings.text_key], str):
            return _texts(module, (str(row[settings.text_key]) for row in everything()), settings, device, name)
        ids = first.get("input_ids")
        if ids is not None and (not isinstance(ids, torch.Tensor) or ids.dim() == 1):
            return _sequences(module, _rows_of_ids(everything(), settings), settings, device, name)
        if ids is not None and _is_language_model(module) and set(first) <= _TEXT_ONLY:
            rows = (row for batch in everything() for row in _unpadded(batch["input_ids"], batch.get("attention_mask")))
            return _sequences(module, _taken(rows, settings), settings, device, name)
        if not any(isinstance(value, (torch.Tensor, np.ndarray)) for value in first.values()):
            raise UsageError(f"data= has rows with the fields {', '.join(map(str, first))}: say which has the text with text_key=")
        return of_batches(everything(), device, name)
    if isinstance(first, (list, tuple)) and first and all(isinstance(entry, (int, np.integer)) for entry in first):
        return _sequences(module, _taken(everything(), settings), settings, device, name)
    if isinstance(first, torch.Tensor) and first.dim() == 1 and not first.is_floating_point() and _is_language_model(module):
        return _sequences(module, [row.tolist() for row in _taken(everything(), settings)], settings, device, name)
    if isinstance(first, np.ndarray) and first.ndim == 1 and first.dtype.kind in "iu" and _is_language_model(module):
        return _sequences(module, [row.tolist() for row in _taken(everything(), settings)], settings, device, name)
    if isinstance(first, (torch.Tensor, np.ndarray, list, tuple)):
        return of_batches(everything(), device, name)
    raise UsageError(f"data= is an iterable of {type(first).__name__}: expected texts, token ids, rows with {settings.text_key!r}, or tensors")


def _rows_of_ids(rows: Iterable[Mapping[str, Any]], settings: TextSettings) -> list[list[int]]:
    found = []
    for row in _taken(rows, settings):
        mask = row.get("attention_mask")
        found.extend(_unpadded([row["input_ids"]], None if mask is None else [mask]))
    return found


def _taken(rows: Iterable[Any], settings: TextSettings) -> list[Any]:
    stop = None if settings.val_size is None else settings.skip + settings.val_size
    taken = list(islice(rows, settings.skip, stop))
    _check_size(len(taken), settings)
    return taken


def _check_size(found: int, settings: TextSettings) -> None:
    if found == 0:
        raise UsageError(f"skip={settings.skip} passes over all of data=: take less")
    # The usual number is what there is, at most; one that was asked for has to be there.
    if settings.val_size is not None and settings.val_size != _USUAL_SIZE and found < settings.val_size:
        raise UsageError(f"data= has {found} sequences, but val_size={settings.val_size} asks for more: take val_size={found} or val_size=None for all")


def _unpadded(ids: Any, mask: Any) -> list[list[int]]:
    rows = torch.as_tensor(np.asarray(ids)) if not isinstance(ids, torch.Tensor) else ids
    if mask is None:
        return [list(map(int, row)) for row in rows.tolist()]
    kept = torch.as_tensor(np.asarray(mask)) if not isinstance(mask, torch.Tensor) else mask
    return [row[here.bool()].tolist() for row, here in zip(rows.cpu(), kept.cpu(), strict=True)]


def _texts(module: torch.nn.Module, texts: Iterable[str], settings: TextSettings, device: torch.device, name: str) -> Batches:
    tokenizer = _tokenizer(module, settings)
    length = _length(module, settings)
    pad = settings.pad_token_id if settings.pad_token_id is not None else getattr(tokenizer, "pad_token_id", None)
    if settings.chunk:
        eos = settings.eos_token_id if settings.eos_token_id is not None else getattr(tokenizer, "eos_token_id", None)
        if eos is None:
            raise UsageError("chunk=True joins documents by the end-of-text token, which the tokenizer does not name: give eos_token_id=")
        # The separator of chunks is a token like others, also where it pads as well.
        pad = settings.pad_token_id if settings.pad_token_id != eos else None
        sequences = _taken(_chunks(texts, tokenizer, eos, length), settings)
    else:
        documents = (_ids(tokenizer, text, True)[:length] for text in texts)
        sequences = _taken((ids for ids in documents if ids), settings)
    return of_sequences(
        sequences, pad=pad, positions=settings.positions, device=device, name=name, vocabulary=_vocabulary(module)
    )


def _ids(tokenizer: Any, text: str, with_special: bool) -> list[int]:
    if hasattr(tokenizer, "encode_plus") or hasattr(tokenizer, "convert_tokens_to_ids"):
        return list(tokenizer(text, add_special_tokens=with_special)["input_ids"])
    found = tokenizer(text) if callable(tokenizer) else tokenizer.encode(text)
    if isinstance(found, Mapping):
        found = found["input_ids"]
    return [int(token) for token in getattr(found, "ids", found)]


def _chunks(texts: Iterable[str], tokenizer: Any, eos: int, length: int) -> Iterator[list[int]]:
    """Documents joined by the separator, which is the first token as well, in pieces of exactly `length`; what is left over is dropped."""
    joined: list[int] = []
    for text in texts:
        joined.append(eos)
        joined.extend(_ids(tokenizer, text, False))
        while len(joined) >= length:
            yield joined[:length]
            joined = joined[length:]


def _tokenizer(module: torch.nn.Module, settings: TextSettings) -> Any:
    if settings.tokenizer is not None and not isinstance(settings.tokenizer, (str, PathLike)):
        return settings.tokenizer
    named = settings.tokenizer or getattr(getattr(inner(module), "config", None), "_name_or_path", None)
    if not named:
        raise UsageError("data= is text, and the model does not say where its tokenizer is: give tokenizer=")
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UsageError("data= is text: give tokenizer= (an object that makes token ids), or install transformers") from None
    try:
        return AutoTokenizer.from_pretrained(str(named))
    except Exception as error:
        raise UsageError(f"the tokenizer of {named} could not be loaded ({error}): give tokenizer=") from error


def _sequences(
    module: torch.nn.Module, sequences: Sequence[Sequence[int]], settings: TextSettings, device: torch.device, name: str
) -> Batches:
    most = _positions(module)
    for number, sequence in enumerate(sequences):
        if most is not None and len(sequence) > most:
            raise UsageError(f"sequence {number} of data= has {len(sequence)} tokens, more than the {most} positions of the model: cut it shorter")
    return of_sequences(
        sequences, pad=settings.pad_token_id, positions=settings.positions, device=device, name=name, vocabulary=_vocabulary(module)
    )


def _named(data: str, settings: TextSettings) -> Any:
    """A file of text or of ids, or a data set of the hub."""
    path = Path(data)
    if path.suffix == ".json" and path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".jsonl" and path.is_file():
        return _lines(path)
    if path.suffix == ".txt" and path.is_file():
        return [path.read_text(encoding="utf-8")]
    try:
        import datasets
    except ImportError:
        raise UsageError(f"data={data!r} is read with the package datasets, which is not installed: give the texts themselves") from None
    if path.is_dir() and (path / "state.json").exists():
        return datasets.load_from_disk(data)
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return datasets.load_dataset(path.suffix[1:], data_files=data, split="train")
    return datasets.load_dataset(data, name=settings.data_config, split=settings.split or "test")


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)


def _device(module: torch.nn.Module) -> torch.device:
    """Where the inputs go: to the first weights."""
    for tensor in inner(module).parameters():
        return tensor.device
    return torch.device("cpu")


def _config(module: torch.nn.Module) -> Any:
    return getattr(inner(module), "config", None) or getattr(inner(module), "cfg", None)


def _is_language_model(module: torch.nn.Module) -> bool:
    """Whether token ids go in: the module has embeddings of tokens."""
    return any(isinstance(part, torch.nn.Embedding) for part in inner(module).modules()) or _vocabulary(module) is not None


def _vocabulary(module: torch.nn.Module) -> int | None:
    embeddings = getattr(inner(module), "get_input_embeddings", None)
    if callable(embeddings):
        try:
            return int(embeddings().weight.shape[0])
        except (AttributeError, NotImplementedError, TypeError):
            pass
    return None


def _positions(module: torch.nn.Module) -> int | None:
    config = _config(module)
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    return None


def _length(module: torch.nn.Module, settings: TextSettings) -> int:
    most = _positions(module)
    asked = settings.max_seq_len
    if asked is not None and asked < 1:
        raise UsageError(f"max_seq_len={asked}: expected at least 1")
    if most is None:
        return asked if asked is not None else 2048
    return most if asked is None else min(asked, most)


def _name_of(data: Any) -> str:
    info = getattr(data, "info", None)
    named = getattr(info, "dataset_name", None)
    return str(named) if named else type(data).__name__
