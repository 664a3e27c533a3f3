"""Components of a module by names: parameters, all of a module below it, and slices of parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from .._errors import UsageError

Slices = tuple[slice, ...]

_SHORT = re.compile(r"(l|layers?|stage)[ ._]?\d|(embed|unembed|norms|attn|mlp)$", re.IGNORECASE)
"""Names that the engine gives parts of the models that it loads itself."""


def split(names: str | Sequence[str]) -> list[str]:
    """The names of a list, or of a text with commas outside of brackets."""
    texts = [names] if isinstance(names, str) else list(names)
    if not all(isinstance(text, str) for text in texts):
        raise UsageError(f"component={names!r}: expected a name, or a list of names")
    found = [part.strip() for text in texts for part in re.split(r",(?![^\[]*\])", text)]
    return [part for part in found if part]


def named_slices(names: str | Sequence[str], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[tuple[str, Slices | None]]]:
    """By the names of parameters, what moves of each: a title and slices, none for all of it. Parts of one parameter stand in its order."""
    wanted: dict[str, list[Slices | None]] = {}
    texts = split(names)
    if not texts:
        raise UsageError("component= names nothing: leave it out, or name parameters")
    for text in texts:
        if text == "full":
            wanted |= {name: [None] for name in shapes}
            continue
        if "[" in text:
            name, own = _slice(text, shapes)
            wanted.setdefault(name, []).append(own)
            continue
        found = [name for name in shapes if name == text or name.startswith(f"{text}.")]
        if not found:
            raise UsageError(_unknown(text, shapes))
        for name in found:
            wanted.setdefault(name, []).append(None)
    return {name: _apart(name, own, shapes[name]) for name, own in wanted.items()}


def _unknown(text: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    first = next(iter(shapes))
    if _SHORT.match(text):
        return (
            f"component={text!r}: such names are those of models that the engine loads itself, by a path or hub id; of a module name parameters, as {first!r} "
            f"or {first + '[0:8]'!r}"
        )
    return f"component={text!r}: the module has no parameter of that name, nor below it; its names are like {first!r}"


def _slice(text: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, Slices]:
    name, _, rest = text.partition("[")
    name = name.strip()
    if name not in shapes:
        raise UsageError(_unknown(name, shapes))
    if not rest.rstrip().endswith("]"):
        raise UsageError(f"component={text!r}: a ] is missing at the end")
    shape = shapes[name]
    parts = rest.rstrip()[:-1].split(",")
    if len(parts) > len(shape):
        raise UsageError(f"component={text!r} has {len(parts)} axes, and {name} has {len(shape)}, of shape {list(shape)}")
    own = [_along(text, part.strip(), size, axis) for axis, (part, size) in enumerate(zip(parts, shape, strict=False))]
    return name, tuple(own + [slice(0, size) for size in shape[len(own) :]])


def _along(text: str, part: str, size: int, axis: int) -> slice:
    match = re.fullmatch(r"(-?\d+)?\s*(?:(:)\s*(-?\d+)?)?", part)
    if match is None or not part:
        raise UsageError(f"component={text!r}: {part!r} is no slice: write begin:end, a number, or :")
    first, colon, last = match.groups()
    numbers = [None if number is None else int(number) + (size if int(number) < 0 else 0) for number in (first, last)]
    start = 0 if numbers[0] is None else numbers[0]
    stop = start + 1 if colon is None else size if numbers[1] is None else numbers[1]
    if not 0 <= start <= size or not 0 <= stop <= size:
        raise UsageError(f"component={text!r}: {part} is outside of axis {axis}, which has {size} entries")
    if start >= stop:
        raise UsageError(f"component={text!r}: {part} is empty")
    return slice(start, stop)


def _apart(name: str, wanted: list[Slices | None], shape: tuple[int, ...]) -> list[tuple[str, Slices | None]]:
    """Parts of one parameter: each weight counts once."""
    whole = tuple(slice(0, size) for size in shape)
    if any(own is None or own == whole for own in wanted):
        return [(name, None)]
    # By their bounds, since slices have no hash.
    unique = {tuple((axis.start, axis.stop) for axis in own): own for own in wanted if own is not None}
    parts = [unique[bounds] for bounds in sorted(unique)]
    for number, one in enumerate(parts):
        for other in parts[number + 1 :]:
            if all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True)):
                raise UsageError(f"component= names weights of {name} twice, in {_title(name, one, shape)} and {_title(name, other, shape)}: cut one of them")
    return [(_title(name, own, shape), own) for own in parts]


def _title(name: str, own: Slices, shape: tuple[int, ...]) -> str:
    texts = [":" if axis == slice(0, size) else f"{axis.start}:{axis.stop}" for axis, size in zip(own, shape, strict=True)]
    return f"{name}[{', '.join(texts)}]"
