"""Data as batches that a module is called with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from .._errors import UsageError

_IGNORED = -100
"""The label of positions that have none, in transformers."""
_TOKENS = 2048
"""Tokens of sequences of one length that go through a forward pass together."""


@dataclass
class Batch:
    """What goes through one forward pass."""

    inputs: Any
    """A tensor, or a dict of them: token ids ``[B, T]``, images, features."""
    parts: range
    """The parts of the data in it: sequences, or the batch itself."""
    rows: torch.Tensor | None = None
    """Positions that count, as rows of the outputs ``[B T, V]``; None for all."""
    spans: list[slice] = field(default_factory=list)
    """Of every part, its rows among those that count."""
    labels: torch.Tensor | None = None
    """The data's own label of every row that counts, negative where there is none."""
    classes: torch.Tensor | None = None
    """The data's own class of every sequence."""


@dataclass(frozen=True)
class Batches:
    """The data: batches for passes over all of it, parts for single ones."""

    batches: tuple[Batch, ...]
    singles: tuple[Batch, ...]
    """Every part by itself."""
    is_text: bool
    name: str
    sha256: str
    words: str
    """What they are, for manifests and people."""
    has_more: bool = False
    """Whether there were more sequences than were asked for."""
    order: tuple[int, ...] = ()
    """Which sequence of the data each part is; the parts themselves where it is empty."""


def _hash(arrays: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        cpu = array.detach().to("cpu").contiguous()
        digest.update(f"{cpu.dtype} {tuple(cpu.shape)};".encode())
        # bfloat16 has no numpy form of its own.
        digest.update(np.asarray(cpu.view(torch.uint8) if cpu.dim() else cpu.reshape(1).view(torch.uint8)).tobytes())
    return digest.hexdigest()


def of_sequences(
    sequences: Sequence[Sequence[int]],
    *,
    labels: Sequence[Sequence[int]] | None = None,
    classes: Sequence[int] | None = None,
    pad: int | None,
    positions: str,
    device: torch.device,
    name: str,
    vocabulary: int | None,
) -> Batches:
    """Sequences of token ids: no padding ever goes through the model, and positions whose input is the pad token do not count.

    `labels` are those of transformers: in the places of the tokens that they name, -100 where there is none; without them a label is the next token.
    """
    rows = [list(sequence) for sequence in sequences]
    if not rows or not all(rows):
        raise UsageError("data= has no tokens" if not rows else "data= has an empty sequence: leave it out")
    largest = max(max(row) for row in rows)
    if min(min(row) for row in rows) < 0 or (vocabulary is not None and largest >= vocabulary):
        raise UsageError(f"data= has the token id {largest}, outside the vocabulary 0..{vocabulary} of the model: is it another tokenizer's?")
    order = sorted(range(len(rows)), key=lambda k: (-len(rows[k]), k))
    # Parts are numbered in the order of their batches.
    ordered = [rows[k] for k in order]
    named = ordered if labels is None else [list(labels[k]) for k in order]
    kinds = None if classes is None else [classes[k] for k in order]
    batches = []
    start = 0
    while start < len(ordered):
        length = len(ordered[start])
        stop = start + 1
        while stop < len(ordered) and len(ordered[stop]) == length and (stop + 1 - start) * length <= _TOKENS:
            stop += 1
        batches.append(_batch(ordered[start:stop], named[start:stop], range(start, stop), pad, positions, device))
        start = stop
    singles = tuple(_batch([sequence], [named[k]], range(k, k + 1), pad, positions, device) for k, sequence in enumerate(ordered))
    if kinds is not None:
        for batch in (*batches, *singles):
            batch.classes = torch.tensor(kinds[batch.parts.start : batch.parts.stop], device=device)
    if not any(span.stop > span.start for batch in batches for span in batch.spans):
        raise UsageError(f"every token of data= is the pad token {pad}, so no position counts: check pad_token_id=")
    # Labels of the data's own are part of what they are.
    told = (ordered if labels is None else ordered + named) + ([] if kinds is None else [kinds])
    ids = [torch.tensor(sequence, dtype=torch.int64) for sequence in told]
    tokens = sum(len(row) for row in rows)
    counting = sum(span.stop - span.start for batch in batches for span in batch.spans)
    words = f"{len(rows)} sequences, {tokens} tokens, {counting} positions count"
    return Batches(tuple(batches), singles, True, name, _hash(ids), words, order=tuple(order))


def _batch(sequences: list[list[int]], named: list[list[int]], parts: range, pad: int | None, positions: str, device: torch.device) -> Batch:
    ids = torch.tensor(sequences, dtype=torch.int64)
    counts = torch.ones_like(ids, dtype=torch.bool) if pad is None else ids != pad
    if positions == "last":
        # Of those that count, the last of every sequence.
        order = torch.arange(ids.shape[1]).expand_as(ids)
        last = torch.where(counts, order, torch.full_like(order, -1)).amax(-1, keepdim=True)
        counts = counts & (order == last)
    rows = counts.reshape(-1).nonzero().squeeze(-1)
    spans, start = [], 0
    for count in counts.sum(-1).tolist():
        spans.append(slice(start, start + count))
        start += count
    next_ids = torch.cat([torch.tensor(named, dtype=torch.int64)[:, 1:], torch.full((ids.shape[0], 1), -1)], -1).reshape(-1)
    labels = next_ids[rows].to(device)
    is_all = rows.numel() == ids.numel()
    return Batch(ids.to(device), parts, None if is_all else rows.to(device), spans, labels)


def by_sequence(data: Batches, one_by_one: bool) -> Batches:
    """The same for a module with one output per sequence."""
    for batch in {id(batch): batch for batch in (*data.batches, *data.singles)}.values():
        batch.rows, batch.labels = None, batch.classes
        batch.spans = [slice(k, k + 1) for k in range(len(batch.parts))]
    words = f"{data.words.rpartition(', ')[0]}, one output each"
    return replace(data, batches=data.singles if one_by_one else data.batches, words=words)


def convert(data: Batches, dtype: torch.dtype, only_half: bool) -> None:
    """Turns what is floating, or only what has half precision, to the dtype in which the module is measured."""
    half = (torch.float16, torch.bfloat16)

    def converted(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            wanted = value.dtype in half and dtype not in half if only_half else value.is_floating_point()
            return value.to(dtype) if wanted else value
        if isinstance(value, Mapping):
            return {key: converted(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(converted(entry) for entry in value)
        return value

    for batch in {id(batch): batch for batch in (*data.batches, *data.singles)}.values():
        batch.inputs = converted(batch.inputs)


def mask_of(batch: Batch, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor | None] | None:
    """Where the outputs ``[B, T, V]`` of a dict of tensors are not padding, and the labels there, as transformers has them."""
    if not isinstance(batch.inputs, Mapping) or len(shape) != 3:
        return None
    labels = batch.inputs.get("labels")
    if isinstance(labels, torch.Tensor) and labels.shape == shape[:2] and not labels.is_floating_point():
        return labels != _IGNORED, labels
    for name in ("decoder_attention_mask", "attention_mask"):
        mask = batch.inputs.get(name)
        if isinstance(mask, torch.Tensor) and mask.shape == shape[:2]:
            return mask.bool(), None
    return None


def of_batches(data: Iterable[Any], device: torch.device, name: str) -> Batches:
    """Batches as they are: tensors, dicts or tuples of them; every batch is a part, and the first of a pair is what the module is called with."""
    batches = [_given(_moved(batch, device), k) for k, batch in enumerate(data)]
    if not batches:
        raise UsageError("data= has no batches")
    tensors = [tensor for batch in batches for tensor in _tensors(batch.inputs)]
    if not tensors:
        raise UsageError(f"data= is an iterable of {type(batches[0].inputs).__name__}: expected tensors, dicts of tensors, or texts with a tokenizer")
    for number, batch in enumerate(batches):
        if any(tensor.dim() > 0 and tensor.shape[0] == 0 for tensor in _tensors(batch.inputs)):
            raise UsageError(f"batch {number} of data= has no rows: leave it out")
    rows = sum(next(iter(_tensors(batch.inputs))).shape[0] for batch in batches if next(iter(_tensors(batch.inputs))).dim())
    words = f"{rows} rows in {len(batches)} batch{'es' if len(batches) > 1 else ''}"
    return Batches(tuple(batches), tuple(batches), False, name, _hash(tensors), words)


def _given(inputs: Any, number: int) -> Batch:
    """A batch as it was given, with its labels: the second of a pair, or `labels` of a dict, where there is a class for every row."""
    labels = inputs.get("labels") if isinstance(inputs, Mapping) else inputs[1] if isinstance(inputs, (list, tuple)) and len(inputs) == 2 else None
    first = next(iter(_tensors(inputs)), None)
    is_classes = (
        isinstance(labels, torch.Tensor)
        and isinstance(first, torch.Tensor)
        and labels.dim() == 1
        and not labels.is_floating_point()
        and first.dim() > 0
        and labels.shape[0] == first.shape[0]
    )
    return Batch(inputs, range(number, number + 1), labels=labels.long() if is_classes and labels is not None else None)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        # What was made in inference mode has no gradients later.
        return (value.clone() if value.is_inference() else value.detach()).to(device)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value)).to(device)
    if isinstance(value, Mapping):
        return {key: _moved(entry, device) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(entry, device) for entry in value) if type(value) in (list, tuple) else tuple(_moved(e, device) for e in value)
    return value


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _tensors(entry)
