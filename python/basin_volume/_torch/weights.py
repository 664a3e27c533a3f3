"""A module's weights while they are measured: written in place, and what they were afterwards, bit for bit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

import numpy as np
import torch

from .._errors import EngineError, UsageError
from .._run import Recipe, Vector
from .directions import can_make, normals
from .parameters import Parameters, inner

_lock = threading.Lock()
_claims: dict[int, list[tuple[int, object]]] = {}
"""By the identity of a parameter, who measures it: threads and their contexts. Several data are several contexts of one thread."""

ORDINARY = {torch.float32, torch.float64}
"""Dtypes in which a center is exact in what is written."""


class Weights:
    """Writes points of rays into the parameters of a module.

    Entering turns the module to `dtype` and evaluation mode; leaving restores every bit: weights, buffers, dtypes, training flags. Memory beside the
    module: a center in the stored dtype, the same in float32 for the engine, and whatever directions are given.
    """

    def __init__(self, module: torch.nn.Module, parameters: Parameters, dtype: torch.dtype | None) -> None:
        self._module = inner(module)
        self._outer = module
        self._parameters = parameters
        self._dtype = dtype
        self._undo: list[Callable[[], None]] = []
        self._flat = torch.empty(0, dtype=torch.float32)
        self.flat: Vector = self._flat.numpy()
        """The center in float32, once the module is entered."""
        self._centers: list[torch.Tensor] = []
        self._directions: list[torch.Tensor] = []

    def __enter__(self) -> Weights:
        try:
            self._claim()
            with torch.inference_mode(False), torch.no_grad():
                self._read_center()
                self._evaluate_only()
                self._keep_buffers()
                self._convert()
        except BaseException:
            self._restore()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _claim(self) -> None:
        """One thread at a time: what another one wrote in the middle of its work would be taken for trained weights, and put back as such."""
        token = object()
        thread = threading.get_ident()
        tensors = list(self._module.parameters())
        with _lock:
            if any(owner != thread for tensor in tensors for owner, _ in _claims.get(id(tensor), ())):
                raise UsageError(
                    f"{type(self._module).__name__} is being measured by another thread, which moves its weights: wait until that is done, or give each thread a "
                    "copy (copy.deepcopy)"
                )
            for tensor in tensors:
                _claims.setdefault(id(tensor), []).append((thread, token))

        def release() -> None:
            with _lock:
                for tensor in tensors:
                    left = [claim for claim in _claims.get(id(tensor), ()) if claim[1] is not token]
                    if left:
                        _claims[id(tensor)] = left
                    else:
                        _claims.pop(id(tensor), None)

        self._undo.append(release)

    def _read_center(self) -> None:
        self._flat = torch.empty(self._parameters.dimension, dtype=torch.float32)
        parts = self._parameters.parts(self._parameters.tensors)
        for name, view, tensor in zip(self._parameters.names, self._parameters.views(self._flat), parts, strict=True):
            view.copy_(tensor.detach())
            if not bool(torch.isfinite(view).all()):
                raise UsageError(f"{name} has weights that are NaN or infinite: there is nothing to measure around them")
        self.flat = self._flat.numpy()

    def _evaluate_only(self) -> None:
        modules = list(self._outer.modules()) if self._outer is not self._module else list(self._module.modules())
        flags = [(part, part.training) for part in modules]

        def restore() -> None:
            for part, training in flags:
                part.training = training

        self._undo.append(restore)
        for part in modules:
            part.training = False

    def _keep_buffers(self) -> None:
        """Buffers are put back as objects and as bits: a forward pass may write into them or replace them."""
        for part in self._module.modules():
            for name, buffer in list(part._buffers.items()):
                if buffer is None or buffer.is_meta:
                    continue
                copy = buffer.detach().clone()

                def restore(
                    part: torch.nn.Module = part, name: str = name, buffer: torch.Tensor = buffer, copy: torch.Tensor = copy
                ) -> None:
                    part._buffers[name] = buffer
                    if not _same_bits(buffer, copy):
                        buffer.copy_(copy)

                self._undo.append(restore)
                if self._dtype is not None and buffer.is_floating_point() and buffer.dtype != self._dtype:
                    part._buffers[name] = copy.to(self._dtype)

    def _convert(self) -> None:
        """The parameters in the measured dtype. What they were stays where it is, and is the center."""
        views = self._parameters.views(self._flat)
        moving = {id(tensor): view for tensor, view in zip(self._parameters.tensors, views, strict=True)}
        stored: dict[int, torch.Tensor] = {}
        for tensor in self._module.parameters():
            original = tensor.data
            is_other = self._dtype is not None and tensor.is_floating_point() and tensor.dtype != self._dtype
            if is_other:
                assert self._dtype is not None
                stored[id(tensor)] = original
                tensor.data = original.to(self._dtype)

                def put_back(tensor: torch.nn.Parameter = tensor, original: torch.Tensor = original) -> None:
                    tensor.data = original

                self._undo.append(put_back)
            elif id(tensor) in moving:
                # The flat center is one copy already, where it has the same bits in the same memory.
                view = moving[id(tensor)]
                is_copy = original.device == view.device and original.shape == view.shape and _same_bits(original, view)
                stored[id(tensor)] = view if is_copy else original.clone()

                def write_back(tensor: torch.nn.Parameter = tensor, copy: torch.Tensor = stored[id(tensor)]) -> None:
                    tensor.detach().copy_(copy)
                    if not _same_bits(tensor, copy):
                        raise EngineError("the weights could not be restored: something else writes to the module while it is measured")

                self._undo.append(write_back)
        self._centers = self._parameters.parts([stored[id(tensor)] for tensor in self._parameters.tensors])

    def _restore(self) -> None:
        """What was changed, in the opposite order. An interrupt has to wait: every step can be done twice, and all of them have to be done."""
        self._directions = []
        interrupt: KeyboardInterrupt | None = None
        while self._undo:
            try:
                with torch.inference_mode(False), torch.no_grad():
                    self._undo[-1]()
                self._undo.pop()
            except KeyboardInterrupt as raised:
                interrupt = raised
        self._centers = []
        if interrupt is not None:
            raise interrupt

    @property
    def makes_directions(self) -> bool:
        """Whether directions are made where the weights are: on graphics cards, to which they would have to be sent."""
        return all(can_make(tensor.device) for tensor in self._parameters.tensors)

    def set_direction(self, direction: Vector | Recipe) -> None:
        """The coordinates `y` (float32, length D) of the points to come, on the devices of the parameters."""
        self._directions = []
        if isinstance(direction, Recipe):
            start = 0
            for tensor in self._parameters.parts(self._parameters.tensors):
                made = normals(direction, start, tensor.numel(), tensor.device)
                self._directions.append(made.view(tensor.shape))
                start += tensor.numel()
            return
        views = self._parameters.views(torch.from_numpy(direction))
        self._directions = [view.to(tensor.device) for view, tensor in zip(views, self._parameters.tensors, strict=True)]

    def _moving(self) -> list[torch.Tensor]:
        """What moves of the parameters, as views of their memory."""
        return self._parameters.parts([tensor.detach() for tensor in self._parameters.tensors])

    def drop_direction(self) -> None:
        """Gives its memory back."""
        self._directions = []

    def write_ray(self, center: float, step: float) -> None:
        """Writes ``center * c + step * y``: one operation per tensor, in place, nothing allocated."""
        with torch.no_grad():
            for tensor, origin, direction in zip(self._moving(), self._centers, self._directions, strict=True):
                target = tensor
                if center == 1.0:
                    if target.dtype in ORDINARY:
                        torch.add(origin, direction, alpha=step, out=target)
                    else:
                        # Rounded once: the sum is float32.
                        target.copy_(torch.add(origin, direction, alpha=step))
                else:
                    target.copy_(origin).mul_(center).add_(direction, alpha=step)

    @property
    def keeps_vectors(self) -> bool:
        """Whether the states of chains are kept where the weights are: on one graphics card."""
        return self.makes_directions and len({tensor.device for tensor in self._parameters.tensors}) == 1

    def write(self, weights: Vector | torch.Tensor) -> None:
        """Writes a flat vector (float32, length D), on whatever device."""
        flat = weights if isinstance(weights, torch.Tensor) else torch.from_numpy(weights)
        with torch.no_grad():
            for tensor, view in zip(self._moving(), self._parameters.views(flat), strict=True):
                tensor.copy_(view)

    def write_center(self) -> None:
        """Writes the center."""
        with torch.no_grad():
            for tensor, origin in zip(self._moving(), self._centers, strict=True):
                tensor.copy_(origin)

    def flatten(self, tensors: list[torch.Tensor | None], out: Vector | torch.Tensor) -> None:
        """Adds tensors in the shapes of the parameters to a flat vector, on whatever device; none counts as zero."""
        flat = out if isinstance(out, torch.Tensor) else torch.from_numpy(out)
        slices = self._parameters.slices or (None,) * len(tensors)
        for view, tensor, own in zip(self._parameters.views(flat), tensors, slices, strict=True):
            if tensor is not None:
                view.add_((tensor if own is None else tensor[own]).detach().to(device=flat.device, dtype=torch.float32))


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_floating_point() and one.numel() > 0:
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[one.element_size()]
        return bool(torch.equal(one.detach().contiguous().view(kind), other.detach().contiguous().view(kind)))
    return bool(torch.equal(one.detach(), other.detach()))


def bytes_of(parameters: Parameters) -> int:
    """Bytes of the moving weights as they are stored."""
    return int(np.sum([part.numel() * part.element_size() for part in parameters.parts(parameters.tensors)]))
