"""What counts as another behaviour: KL of softmax outputs, squared differences, or a function of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from .._errors import UsageError
from .batches import Batch
from .divergence import Kept, divergences, draw, likelihood, measured
from .outputs import Caller

CostFunction = Callable[[torch.nn.Module, Any], Any]


class Cost(Protocol):
    """A cost that is a mean over positions."""

    words: str
    has_scores: bool
    has_gradients: bool

    def keep(self, batch: Batch, place: torch.device) -> Any:
        """What is kept of the center's outputs on a batch."""

    def count(self, kept: Any) -> int:
        """Positions of what was kept."""

    def bytes(self, kept: Any) -> int:
        """Bytes of what was kept."""

    def part(self, kept: Any, span: slice) -> Any:
        """What was kept of some rows."""

    def nats(self, batch: Batch, kept: Any) -> torch.Tensor:
        """The costs of the positions of a batch, float64 ``[n]``."""

    def backward(self, batch: Batch, kept: Any, count: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Their sum over `count`, what has the graph, and its slopes: the gradient is that of ``(outputs * slopes).sum()``."""


class KlDivergence:
    """``KL(softmax at the center || softmax)`` per position."""

    has_scores = True
    has_gradients = True

    def __init__(self, caller: Caller, is_text: bool) -> None:
        self._caller = caller
        self.words = f"mean over the {'tokens' if is_text else 'rows'} of KL(center || perturbed), nats"

    def keep(self, batch: Batch, place: torch.device) -> Kept:
        logits = measured(self._caller.rows(batch))
        if logits.shape[-1] < 2:
            raise UsageError(
                'the module has one output per row, of which a softmax makes nothing: say cost="mse" for regression, or cost= as a function (model, batch)'
            )
        if not bool(torch.isfinite(logits).all()):
            raise UsageError("the outputs at the trained weights are not finite: the model gives NaN or infinity on these data")
        return Kept.of(logits, place)

    def count(self, kept: Kept) -> int:
        return int(kept.logits.shape[0])

    def bytes(self, kept: Kept) -> int:
        return kept.bytes

    def part(self, kept: Kept, span: slice) -> Kept:
        return kept.part(span)

    def nats(self, batch: Batch, kept: Kept) -> torch.Tensor:
        return divergences(kept, self._caller.rows(batch))

    def backward(self, batch: Batch, kept: Kept, count: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        logits = self._caller.rows(batch)
        with torch.no_grad():
            slopes = torch.empty_like(logits)
            nats = divergences(kept, logits, slopes)
            return float(nats.sum()) / count, logits, slopes.div_(count)

    def scores(
        self, batch: Batch, uniforms: torch.Tensor | None, signs: torch.Tensor | None, count: int
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """The mean negative log-likelihood of labels drawn at `uniforms`, or of the data's own with `signs`, as in :meth:`backward`."""
        logits = self._caller.rows(batch)
        with torch.no_grad():
            slopes = torch.empty_like(logits)
            if uniforms is not None:
                nats = likelihood(logits, draw(logits, uniforms), None, slopes)
            else:
                if batch.labels is None:
                    raise UsageError(
                        "the labels of the data are not known: give batches as pairs (inputs, classes), or use preconditioner='fisher', whose labels are "
                        "drawn from the model"
                    )
                known = batch.labels >= 0
                nats = likelihood(logits, batch.labels.clamp(min=0), signs, slopes)
                nats = torch.where(known, nats, torch.zeros_like(nats))
                slopes[~known] = 0.0
            return float(nats.sum()) / count, logits, slopes.div_(count)


class HalfSquares:
    """Half the squared difference of the outputs per row: the KL divergence of normal distributions of variance 1 around them."""

    has_scores = False
    has_gradients = True
    words = "mean over the rows of |outputs - outputs of the center|^2 / 2, nats for outputs of variance 1"

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def keep(self, batch: Batch, place: torch.device) -> torch.Tensor:
        outputs = measured(self._caller.rows(batch)).detach()
        if not bool(torch.isfinite(outputs).all()):
            raise UsageError("the outputs at the trained weights are not finite: the model gives NaN or infinity on these data")
        return outputs.to(place, copy=True)

    def count(self, kept: torch.Tensor) -> int:
        return int(kept.shape[0])

    def bytes(self, kept: torch.Tensor) -> int:
        return int(kept.numel() * kept.element_size())

    def part(self, kept: torch.Tensor, span: slice) -> torch.Tensor:
        return kept[span]

    def nats(self, batch: Batch, kept: torch.Tensor) -> torch.Tensor:
        outputs = measured(self._caller.rows(batch))
        return (outputs - kept.to(outputs.device)).double().square().sum(-1) / 2

    def backward(self, batch: Batch, kept: torch.Tensor, count: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        outputs = self._caller.rows(batch)
        with torch.no_grad():
            difference = outputs.detach() - kept.to(outputs.device, outputs.dtype)
            nats = float(difference.double().square().sum()) / 2 / count
            return nats, outputs, difference / count


class Function:
    """A function (model, batch) of the user's, less its value at the center, mean over the batches."""

    has_scores = False

    def __init__(self, module: torch.nn.Module, function: CostFunction) -> None:
        self._module = module
        self._function = function
        self.has_gradients = True
        self.words = "mean over the batches of a function (model, batch), less its value at the center"

    def _value(self, batch: Batch) -> Any:
        value = self._function(self._module, batch.inputs)
        if isinstance(value, torch.Tensor) and value.numel() != 1:
            raise UsageError(f"cost= gives a tensor of shape {tuple(value.shape)}: expected one number per batch, such as its mean")
        return value

    def keep(self, batch: Batch, place: torch.device) -> float:
        value = self._value(batch)
        with torch.enable_grad():
            again = self._value(batch)
        self.has_gradients = self.has_gradients and isinstance(again, torch.Tensor) and again.requires_grad
        return float(value)

    def count(self, kept: float) -> int:
        return 1

    def bytes(self, kept: float) -> int:
        return 0

    def part(self, kept: float, span: slice) -> float:
        return kept

    def nats(self, batch: Batch, kept: float) -> torch.Tensor:
        return torch.tensor([float(self._value(batch)) - kept], dtype=torch.float64)

    def backward(self, batch: Batch, kept: float, count: int) -> tuple[float, torch.Tensor, torch.Tensor]:
        value = self._value(batch)
        if not isinstance(value, torch.Tensor):
            raise UsageError("cost= gives a number without a graph: gradients need a tensor")
        return (float(value.detach()) - kept) / count, value, torch.full_like(value, 1.0 / count)
