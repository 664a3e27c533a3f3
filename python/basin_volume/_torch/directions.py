"""Directions made where the weights are, with the bits of the engine: docs/directions.md written in torch.

Words of 32 bits stand in int64, whose products wrap. Every operation on float32 is one of its own, rounded by itself.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .._run import Recipe

_PURPOSE = 1
"""The number of directions among the purposes."""
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_WORD = 0xFFFFFFFF
_ROOT_HALF = 0x3F3504F3
_UNIT = 2.0**-32
_CHUNK = 1 << 22
"""Numbers that are made at once: about 100 MB of words on their way."""


def _single(bits: int) -> float:
    number: float = struct.unpack("<f", struct.pack("<I", bits))[0]
    return number


# Polynomials, of the highest power first.
_LOGARITHM = [_single(b) for b in (0xBE32E3BE, 0x3E928250, 0xBE98C293, 0x3EA9AE98, 0xBECC6960, 0x3F00024D, 0xBF2AAB7A, 0x3F7FFFFD)]
_DOUBLING = _single(0xBFB17218)
_SINE = [_single(b) for b in (0xBB96C981, 0x3DA32F49, 0xBF255DDD, 0x3FC90FDB)]
_COSINE = [_single(b) for b in (0xBCA74225, 0x3E81D848, 0xBF9DE9CE)]


def can_make(device: torch.device) -> bool:
    """Whether directions are made on this device. Elsewhere the engine's own are as near."""
    return str(device.type) == "cuda"


def normals(recipe: Recipe, start: int, count: int, device: torch.device, purpose: int = _PURPOSE) -> torch.Tensor:
    """The coordinates ``start .. start + count`` of a direction, float32 on this device; or of another vector of normals, by its purpose."""
    out = torch.empty(count, dtype=torch.float32, device=device)
    key = _key(recipe.seed, purpose)
    done = 0
    while done < count:
        first = start + done
        # Chunks end with a block of four, so that no block but the first and the last is made twice.
        size = min(_CHUNK - first % 4, count - done)
        blocks = torch.arange(first // 4, (first + size + 3) // 4, dtype=torch.int64, device=device)
        a, b, c, d = words(key, blocks, recipe.index)
        made = torch.stack([*pair(a, b), *pair(c, d)], dim=1).reshape(-1)
        out[done : done + size] = made[first % 4 : first % 4 + size]
        done += size
    return out


def _mix(x: int) -> int:
    mask = 2**64 - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def _key(seed: int, purpose: int) -> tuple[int, int]:
    key = _mix((_mix(seed) + purpose * 0x9E3779B97F4A7C15) % 2**64)
    return key & _WORD, key >> 32


def words(key: tuple[int, int], blocks: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox4x32-10 of the counters (block, index)."""
    a, b = blocks & _WORD, (blocks >> 32) & _WORD
    c, d = torch.full_like(a, index & _WORD), torch.full_like(a, index >> 32)
    for step in range(_ROUNDS):
        first, second = ((key[i] + step * _WEYL[i]) & _WORD for i in (0, 1))
        # The shift repeats the sign of a product that wrapped; the mask takes it away again.
        p, q = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = ((q >> 32) & _WORD) ^ b ^ first, q & _WORD, ((p >> 32) & _WORD) ^ d ^ second, p & _WORD
    return a, b, c, d


def _horner(x: torch.Tensor, coefficients: Sequence[float]) -> torch.Tensor:
    total = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x
        total = total + coefficient
    return total


def pair(radius_word: torch.Tensor, angle_word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two normals of every pair of words: Box and Muller's transform."""
    is_upper = radius_word >= 1 << 31
    end = torch.where(is_upper, _WORD - radius_word, radius_word)
    distance = (end.to(torch.float32) + 0.5) * _UNIT
    uniform = torch.where(is_upper, 1.0 - distance, distance)
    offset = uniform.view(torch.int32) - _ROOT_HALF
    exponent = (offset >> 23).to(torch.float32)
    mantissa = ((offset & 0x007FFFFF) + _ROOT_HALF).view(torch.float32)
    f = torch.where(offset < 0, mantissa - 1.0, -distance)
    logarithm = _horner(f, _LOGARITHM) * f
    logarithm = (logarithm + -2.0) * f
    squared = exponent * _DOUBLING
    squared = squared + logarithm
    # On processors torch's square root is off by a unit of the last place for some numbers; that in float64, rounded, is right.
    radius = squared.sqrt() if squared.is_cuda else squared.double().sqrt().float()

    place = ((angle_word << 2) & _WORD) | 2
    place = place - ((place >> 31) << 32)
    h = place.to(torch.float32) * _UNIT
    square = h * h
    sine = _horner(square, _SINE) * h
    cosine = _horner(square, _COSINE) * square
    cosine = cosine + 1.0
    radius = torch.where(angle_word >> 31 == 1, -radius, radius)
    is_swapped = (angle_word >> 30) & 1 == 1
    return radius * torch.where(is_swapped, sine, cosine), radius * torch.where(is_swapped, cosine, sine)
