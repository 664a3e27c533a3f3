"""Data of any form as batches for a module: texts, token ids, data sets, tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from .._errors import UsageError
from .._settings import SPLIT_TABLES, USUAL_LENGTH, USUAL_SIZE, TextSettings
from .batches import Batches, of_batches, of_sequences
from .parameters import inner

_Row = TypeVar("_Row")
_TEXT_ONLY = frozenset({"input_ids", "attention_mask", "labels", "label", "token_type_ids", "position_ids"})


def batches(module: torch.nn.Module, data: Any, settings: TextSettings, has_own_cost: bool, name: str | None = None) -> Batches:
    """The data as batches on the device of the module."""
    device = _device(module)
    if data is None:
        raise UsageError("data= is not given: expected texts, token ids, a data set, or tensors that the module is called with")
    if isinstance(data, (str, PathLike)):
        name = name or Path(str(data)).name
        if settings.chunk is None and Path(str(data)).suffix == ".txt":
            # A book is no document of its own.
            settings = replace(settings, chunk=True)
        data = _named(str(data), settings)
    if type(data).__name__ in SPLIT_TABLES:
        data = _one_table(data, settings)
    if hasattr(data, "columns") and hasattr(data, "__getitem__"):
        # A table of pandas or polars goes through its columns.
        if settings.text_key not in data.columns:
            raise UsageError(f"data= is a table with the columns {', '.join(map(str, data.columns))}: say which has the text with text_key=")
        data, name = data[settings.text_key], name or type(data).__name__
    name = name or _name_of(data)
    if has_own_cost:
        # The function knows what it is given.
        return _as_given([data] if isinstance(data, (torch.Tensor, Mapping)) else data, settings, device, name)
    if isinstance(data, np.ndarray):
        data = torch.from_numpy(np.ascontiguousarray(data))
    if isinstance(data, torch.Tensor):
        if not data.is_floating_point() and data.dim() == 2 and _is_language_model(module):
            return _sequences(module, ({"input_ids": row} for row in data), settings, device, name)
        return _as_given([data], settings, device, name)
    if isinstance(data, Mapping):
        if _is_batch_of_ids(module, data):
            return _sequences(module, _rows(data), settings, device, name)
        return _as_given([data], settings, device, name)
    return _iterable(module, data, settings, device, name)


def _iterable(module: torch.nn.Module, data: Iterable[Any], settings: TextSettings, device: torch.device, name: str) -> Batches:
    try:
        items = iter(data)
        first = next(items)
    except TypeError:
        raise UsageError(f"data= is {type(data).__name__}: expected texts, token ids, a data set, or tensors that the module is called with") from None
    except StopIteration:
        raise UsageError("data= is empty") from None
    everything = chain([first], items)
    if isinstance(first, str):
        return _texts(module, everything, settings, device, name)
    if isinstance(first, Mapping):
        if isinstance(first.get(settings.text_key), str):
            return _texts(module, (str(row[settings.text_key]) for row in everything), settings, device, name)
        ids = first.get("input_ids")
        if ids is not None and (not isinstance(ids, (torch.Tensor, np.ndarray)) or ids.ndim == 1) and not _is_nested(ids):
            return _sequences(module, everything, settings, device, name)
        if _is_batch_of_ids(module, first):
            return _sequences(module, (row for batch in everything for row in _rows(batch)), settings, device, name)
        if ids is not None and not isinstance(ids, torch.Tensor):
            _check_no_decoder(module)
        if not any(isinstance(value, (torch.Tensor, np.ndarray)) for value in first.values()):
            raise UsageError(f"data= has rows with the fields {', '.join(map(str, first))}: say which has the text with text_key=")
        return _as_given(everything, settings, device, name)
    if _is_row_of_ids(module, first):
        return _sequences(module, ({"input_ids": row} for row in everything), settings, device, name)
    if isinstance(first, (torch.Tensor, np.ndarray, list, tuple)):
        return _as_given(everything, settings, device, name)
    raise UsageError(f"data= is an iterable of {type(first).__name__}: expected texts, token ids, rows with {settings.text_key!r}, or tensors")


def _as_given(data: Iterable[Any], settings: TextSettings, device: torch.device, name: str) -> Batches:
    """Batches that the module is called with: nothing of them is chosen here."""
    given = [
        ("val_size", settings.val_size not in (None, USUAL_SIZE)),
        ("skip", settings.skip is not None),
        ("chunk", bool(settings.chunk)),
        ("positions", settings.positions != "all"),
        ("max_seq_len", settings.max_seq_len not in (None, USUAL_LENGTH)),
        ("pad_token_id", settings.pad_token_id is not None),
    ]
    for setting, is_given in given:
        if is_given:
            raise UsageError(f"{setting}= is for texts and token ids, but data= are batches, which the module is called with as they are: leave it out")
    return of_batches(data, device, name)


def _is_nested(ids: Any) -> bool:
    return isinstance(ids, (list, tuple)) and len(ids) > 0 and isinstance(ids[0], (list, tuple, torch.Tensor, np.ndarray))


def _is_batch_of_ids(module: torch.nn.Module, batch: Mapping[str, Any]) -> bool:
    """Whether a dict is what a language model is called with: padded token ids ``[B, T]`` with their mask."""
    return "input_ids" in batch and set(batch) <= _TEXT_ONLY and _is_language_model(module) and not has_decoder(module)


def _is_row_of_ids(module: torch.nn.Module, row: Any) -> bool:
    if isinstance(row, (list, tuple)):
        return bool(row) and all(isinstance(entry, (int, np.integer)) for entry in row)
    if isinstance(row, torch.Tensor):
        return row.dim() == 1 and not row.is_floating_point() and _is_language_model(module)
    return isinstance(row, np.ndarray) and row.ndim == 1 and row.dtype.kind in "iu" and _is_language_model(module)


def _rows(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a batch of token ids."""
    ids = batch["input_ids"]
    for number in range(len(ids)):
        yield {name: batch[name][number] for name in ("input_ids", "attention_mask", "labels", "label") if batch.get(name) is not None}


def _taken(rows: Iterable[_Row], settings: TextSettings, what: str = "sequences") -> tuple[list[_Row], bool]:
    """The sequences that are asked for, and whether there are more."""
    skip, size = settings.skip or 0, settings.val_size
    taken = list(islice(rows, skip, None if size is None else skip + size + 1))
    if not taken:
        raise UsageError(f"skip={skip} passes over all of data=: take less" if skip else f"data= has no {what}")
    # The usual number is what there is, at most; one that was asked for has to be there.
    if size is not None and size != USUAL_SIZE and len(taken) < size:
        raise UsageError(f"data= has {len(taken)} sequences, but val_size={size} asks for more: take val_size={len(taken)} or val_size=None for all")
    return taken[:size], size is not None and len(taken) > size


def _numbers(row: Any) -> list[int]:
    return [int(entry) for entry in (row.tolist() if isinstance(row, (torch.Tensor, np.ndarray)) else row)]


def _class(row: Mapping[str, Any]) -> int | None:
    """The class of a whole sequence."""
    label = row.get("labels", row.get("label"))
    if isinstance(label, (torch.Tensor, np.ndarray)) and label.ndim == 0:
        label = label.item()
    return int(label) if isinstance(label, (int, np.integer)) else None


def _unpadded(row: Mapping[str, Any]) -> tuple[list[int], list[int] | None]:
    """The token ids of a row, and its labels, where its mask says that there is something."""
    ids = _numbers(row["input_ids"])
    labels = None if row.get("labels") is None else row["labels"]
    if labels is not None and (not hasattr(labels, "__len__") or getattr(labels, "ndim", 1) != 1 or len(labels) != len(ids)):
        # Classes of whole sequences are no labels of tokens.
        labels = None
    if labels is not None:
        labels = _numbers(labels)
    if row.get("attention_mask") is None:
        return ids, labels
    kept = _numbers(row["attention_mask"])
    if len(kept) != len(ids):
        raise UsageError(f"data= has a row of {len(ids)} token ids with an attention_mask of {len(kept)} entries")
    return [token for token, here in zip(ids, kept, strict=True) if here], None if labels is None else [label for label, here in zip(labels, kept, strict=True) if here]


def _texts(module: torch.nn.Module, texts: Iterable[str], settings: TextSettings, device: torch.device, name: str) -> Batches:
    _check_no_decoder(module)
    tokenizer = _tokenizer(module, settings)
    length = _length(module, settings)
    pad = settings.pad_token_id if settings.pad_token_id is not None else getattr(tokenizer, "pad_token_id", None)
    if settings.chunk:
        eos = settings.eos_token_id if settings.eos_token_id is not None else getattr(tokenizer, "eos_token_id", None)
        documents: Iterator[list[int]] = (_ids(tokenizer, text, False) for text in texts)
        # The separator of chunks is a token like others, also where it pads as well.
        return _chunked(module, documents, eos, settings, device, name)
    documents = (_ids(tokenizer, text, True)[:length] for text in texts)
    rows, has_more = _taken((ids for ids in documents if ids), settings, "text that gives tokens")
    return _made(module, rows, None, None, pad, settings, device, name, has_more)


def _chunked(
    module: torch.nn.Module, documents: Iterator[list[int]], eos: int | None, settings: TextSettings, device: torch.device, name: str
) -> Batches:
    if eos is None:
        raise UsageError("chunk=True joins documents by the end-of-text token, which nothing names here: give eos_token_id=")
    length = _length(module, settings)
    rows, has_more = _taken(_chunks(documents, eos, length), settings, f"{length} tokens, which make one chunk: lower max_seq_len=")
    return _made(module, rows, None, None, settings.pad_token_id if settings.pad_token_id != eos else None, settings, device, name, has_more)


def _made(
    module: torch.nn.Module,
    rows: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]] | None,
    classes: Sequence[int] | None,
    pad: int | None,
    settings: TextSettings,
    device: torch.device,
    name: str,
    has_more: bool,
) -> Batches:
    made = of_sequences(
        rows,
        labels=labels,
        classes=classes,
        pad=pad,
        positions=settings.positions,
        device=device,
        name=name,
        vocabulary=_vocabulary(module),
    )
    return replace(made, has_more=has_more)


def _ids(tokenizer: Any, text: str, with_special: bool) -> list[int]:
    if hasattr(tokenizer, "encode_plus") or hasattr(tokenizer, "convert_tokens_to_ids"):
        return list(tokenizer(text, add_special_tokens=with_special)["input_ids"])
    found = tokenizer(text) if callable(tokenizer) else tokenizer.encode(text)
    if isinstance(found, Mapping):
        found = found["input_ids"]
    return [int(token) for token in getattr(found, "ids", found)]


def _chunks(documents: Iterator[list[int]], eos: int, length: int) -> Iterator[list[int]]:
    """Documents joined by the separator, which is the first token as well, in pieces of exactly `length`; what is left over is dropped."""
    joined: list[int] = []
    for ids in documents:
        joined.append(eos)
        joined.extend(ids)
        while len(joined) >= length:
            yield joined[:length]
            joined = joined[length:]


def _tokenizer(module: torch.nn.Module, settings: TextSettings) -> Any:
    if settings.tokenizer is not None and not isinstance(settings.tokenizer, (str, PathLike)):
        return settings.tokenizer
    own = getattr(inner(module), "tokenizer", None)
    if settings.tokenizer is None and callable(own) and hasattr(own, "convert_tokens_to_ids"):
        return own
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


def _sequences(module: torch.nn.Module, rows: Iterable[Mapping[str, Any]], settings: TextSettings, device: torch.device, name: str) -> Batches:
    """Rows of token ids, with a mask and labels where they have them."""
    _check_no_decoder(module)
    if settings.chunk:
        eos = settings.eos_token_id if settings.eos_token_id is not None else getattr(settings.tokenizer, "eos_token_id", None)
        return _chunked(module, (_unpadded(row)[0] for row in rows), eos, settings, device, name)
    taken, has_more = _taken(rows, settings)
    most, longest = _positions(module), settings.max_seq_len
    found = [_unpadded(row) for row in taken]
    sequences = [ids[:longest] for ids, _ in found]
    for number, sequence in enumerate(sequences):
        if most is not None and len(sequence) > most:
            raise UsageError(f"sequence {number} of data= has {len(sequence)} tokens, more than the {most} positions of the model: max_seq_len={most} cuts it")
    labels = [(ids if own is None else own)[:longest] for ids, own in found] if any(own is not None for _, own in found) else None
    kinds = [_class(row) for row in taken]
    classes = [kind for kind in kinds if kind is not None]
    return _made(module, sequences, labels, classes if len(classes) == len(kinds) else None, settings.pad_token_id, settings, device, name, has_more)


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
    if path.is_dir() and any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
        return datasets.load_from_disk(data)
    if path.is_file() and path.suffix in (".csv", ".parquet"):
        return datasets.load_dataset(path.suffix[1:], data_files=data, split="train")
    if not path.exists() and (data.count("/") > 1 or any(letter.isspace() for letter in data)):
        raise UsageError(f"data={data!r} is no file, no folder and no hub id owner/name: texts themselves stand in a list")
    found: list[Any] = []
    configs: list[str | None] = [*_several(settings.data_config)] or [None]
    try:
        for config in configs:
            splits = _several(settings.split) or datasets.get_dataset_split_names(data, config)
            if len(splits) > 1 and settings.split is None:
                raise UsageError(f"data={data!r} has the splits {', '.join(splits)}: say which with split=")
            found.extend(datasets.load_dataset(data, name=config, split=split) for split in splits)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"data={data!r} could not be loaded ({error}): give a file, a folder, a hub id, or the data themselves") from error
    return found[0] if len(found) == 1 else chain.from_iterable(found)


def _several(value: str | Sequence[str] | None) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _one_table(data: Mapping[str, Any], settings: TextSettings) -> Any:
    """The split that is meant of a table with several (DatasetDict)."""
    wanted = _several(settings.split) or list(data)
    if len(wanted) > 1 and settings.split is None:
        raise UsageError(f"data= is a {type(data).__name__} of the splits {', '.join(data)}: say which with split=, or give data[{wanted[0]!r}]")
    for name in wanted:
        if name not in data:
            raise UsageError(f"split={name!r}: data= has the splits {', '.join(data)}")
    return data[wanted[0]] if len(wanted) == 1 else chain.from_iterable(data[name] for name in wanted)


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


def has_decoder(module: torch.nn.Module) -> bool:
    """Whether it is an encoder with a decoder, each with an input of its own."""
    return bool(getattr(_config(module), "is_encoder_decoder", False))


def _check_no_decoder(module: torch.nn.Module) -> None:
    if has_decoder(module):
        raise UsageError(
            f"{type(inner(module)).__name__} has an encoder and a decoder: give data= as batches with input_ids and labels (or decoder_input_ids), padded, as "
            "tensors"
        )


def _vocabulary(module: torch.nn.Module) -> int | None:
    embeddings = getattr(inner(module), "get_input_embeddings", None)
    if callable(embeddings):
        try:
            return int(embeddings().weight.shape[0])
        except (AttributeError, NotImplementedError, TypeError):
            pass
    size = getattr(_config(module), "d_vocab", None)
    return size if isinstance(size, int) and size > 0 else None


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
