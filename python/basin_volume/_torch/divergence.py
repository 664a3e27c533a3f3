"""KL divergence between kept outputs and those of moved weights, by chunks of positions.

Per position ``KL = sum_v p_v (expm1(d_v) - d_v)`` with ``d = log q - log p``: all terms are >= 0 and nothing cancels, so that 1e-8 nats still have
three digits from float32 logits. ``d = delta - log1p(sum p expm1(delta))`` with ``delta`` the difference of the logits; an error of that logarithm
counts only squared. Positions are added in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import _engine

_CHUNK = 1 << 20
"""Logits that are worked on at once."""


@dataclass(frozen=True)
class Kept:
    """The center's outputs at the positions that count."""

    logits: torch.Tensor
    """``[n, V]``."""
    log_normalizer: torch.Tensor
    """The log of their normalization, ``[n, 1]``."""
    favorite: torch.Tensor
    """The class of the largest, ``[n, 1]``."""

    @classmethod
    def of(cls, logits: torch.Tensor, place: torch.device) -> Kept:
        """Keeps logits ``[n, V]`` on a device."""
        exact = torch.cat([torch.logsumexp(chunk.double(), -1, keepdim=True) for chunk in logits.split(rows(logits))])
        favorite = logits.argmax(-1, keepdim=True)
        # A copy of its own: the logits may be a view of a much larger tensor.
        return cls(logits.detach().to(place, copy=True), exact.to(place, logits.dtype), favorite.to(place))

    def part(self, span: slice) -> Kept:
        """What was kept of some rows."""
        return Kept(self.logits[span], self.log_normalizer[span], self.favorite[span])

    @property
    def bytes(self) -> int:
        """What it takes."""
        return int(self.logits.numel() * self.logits.element_size())


def rows(logits: torch.Tensor) -> int:
    """Positions of a chunk."""
    return max(1, _CHUNK // max(1, int(logits.shape[-1])))


def measured(logits: torch.Tensor) -> torch.Tensor:
    """Logits in a dtype that divergences are computed in."""
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


def divergences(kept: Kept, logits: torch.Tensor, slopes: torch.Tensor | None = None) -> torch.Tensor:
    """``KL(p || q)`` of every position ``[n]``, float64 nats; ``softmax(logits) - p`` is written to `slopes` ``[n, V]``, if given."""
    if all(_is_plain(tensor) for tensor in (logits, kept.logits, logits if slopes is None else slopes)):
        nats = _by_engine(kept, logits, slopes)
        return nats if bool(torch.isfinite(nats).all()) else _plain(kept, logits, slopes)
    size = rows(logits)
    found = []
    for start in range(0, logits.shape[0], size):
        here = slice(start, start + size)
        z = measured(logits[here])
        center = kept.logits[here].to(z.device)
        p = torch.sub(center, kept.log_normalizer[here].to(z.device)).exp_()
        delta = torch.sub(z, center)
        work = torch.expm1(delta)
        delta.sub_(torch.log1p(work.mul_(p).sum(-1, keepdim=True)))
        torch.expm1(delta, out=work)
        if slopes is not None:
            # q - p = p expm1(d)
            slopes[here].copy_(p * work)
        found.append(work.sub_(delta).mul_(p).sum(-1))
    nats = torch.cat(found).double() if found else logits.new_zeros(0, dtype=torch.float64)
    if not bool(torch.isfinite(nats).all()):
        nats = _plain(kept, logits, slopes)
    return nats


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether the engine can read the memory of a tensor."""
    return bool(tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous())


def _by_engine(kept: Kept, logits: torch.Tensor, slopes: torch.Tensor | None) -> torch.Tensor:
    """The same formula, one pass over the logits."""
    flat = logits.detach()
    shifts = flat.gather(-1, kept.favorite) - kept.logits.gather(-1, kept.favorite)
    out = None if slopes is None else slopes.detach().reshape(-1).numpy()
    found = _engine.divergences(
        kept.logits.reshape(-1).numpy(),
        kept.log_normalizer.reshape(-1).contiguous().numpy(),
        flat.reshape(-1).numpy(),
        shifts.reshape(-1).numpy(),
        torch.get_num_threads(),
        out,
    )
    return torch.frombuffer(found, dtype=torch.float64) if found else torch.zeros(0, dtype=torch.float64)


def _plain(kept: Kept, logits: torch.Tensor, slopes: torch.Tensor | None) -> torch.Tensor:
    """In float64 with its larger range: where differences of logits are large nothing cancels."""
    found = []
    size = rows(logits)
    for start in range(0, logits.shape[0], size):
        here = slice(start, start + size)
        z, center = logits[here], kept.logits[here]
        log_q = torch.log_softmax(z.double(), -1)
        log_p = torch.log_softmax(center.to(z.device).double(), -1)
        # 0 log 0 is 0, also where q is 0 as well.
        p = log_p.exp()
        if slopes is not None:
            slopes[here].copy_(log_q.exp() - p)
        found.append(torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum(-1))
    return torch.cat(found)


def draw(logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """A label for every position ``[n]`` by the inverse distribution function at numbers in [0, 1), in float64."""
    labels = []
    for z, u in zip(logits.split(rows(logits)), uniforms.split(rows(logits)), strict=True):
        cumulative = torch.softmax(z.double(), -1).cumsum(-1)
        chosen = torch.searchsorted(cumulative, (u.to(z.device) * cumulative[:, -1]).unsqueeze(-1), right=True).squeeze(-1)
        labels.append(chosen.clamp_(max=z.shape[-1] - 1))
    return torch.cat(labels)


def likelihood(logits: torch.Tensor, labels: torch.Tensor, signs: torch.Tensor | None, slopes: torch.Tensor) -> torch.Tensor:
    """``-log p(label)`` of every position ``[n]``, float64; its slopes ``softmax - onehot`` (times a sign) are written to `slopes` ``[n, V]``."""
    found = []
    size = rows(logits)
    for start in range(0, logits.shape[0], size):
        here = slice(start, start + size)
        log_q = torch.log_softmax(measured(logits[here]), -1)
        chosen = labels[here].unsqueeze(-1)
        nats = -log_q.gather(-1, chosen).squeeze(-1).double()
        slope = log_q.exp_()
        slope.scatter_add_(-1, chosen, torch.full_like(chosen, -1.0, dtype=slope.dtype))
        if signs is not None:
            sign = signs[here].to(slope.device)
            nats = nats * sign.double()
            slope.mul_(sign.to(slope.dtype).unsqueeze(-1))
        slopes[here].copy_(slope)
        found.append(nats)
    return torch.cat(found) if found else logits.new_zeros(0, dtype=torch.float64)
