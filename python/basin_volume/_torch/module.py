"""A torch module with its data, as the engine's subject: what the mailbox asks is evaluated here."""

from __future__ import annotations

import hashlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from .. import _engine
from .._errors import EngineError, UsageError
from .._run import Parts, Recipe, Vector
from . import dense
from .batches import Batch, Batches, by_sequence, convert, mask_of
from .costs import Cost, CostFunction, Function, HalfSquares, KlDivergence
from .noise import Noise, measure
from .outputs import Caller
from .parameters import Parameters, inner, is_bridge, parametrized, select
from .vectors import Vectors
from .weights import Weights

_NEAR = 100.0
"""The noise is measured where the cost is within this factor of the cutoff."""


_LIBRARIES = frozenset({"torch", "torchvision", "transformers", "peft", "timm", "transformer_lens", "accelerate"})
"""Packages whose modules are known by their names."""


class ModuleCost:
    """Evaluates the cost of a module's weights. Between :meth:`__enter__` and :meth:`__exit__` the module belongs to it.

    Costs are in nats, weights and gradients float32 vectors of length D in the order of ``named_parameters()``.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        data: Batches,
        *,
        cost: str | CostFunction | None,
        parameters: str | None,
        exclude: str | None,
        component: str | Sequence[str] | None = None,
        positions: str,
        dtype: torch.dtype | None,
        cutoff: float,
        memory: int | None,
        name: str | None = None,
    ) -> None:
        self._module = module
        self._data = data
        self._memory = memory
        self._cutoff = cutoff
        self.parameters: Parameters = select(module, parameters, exclude, component)
        self.dtype = dtype or measured_dtype(self.parameters)
        self.name = name or _name(module)
        self._asked: dict[str, Any] = {"parameters": parameters, "exclude": exclude}
        if component is not None:
            self._asked["component"] = sorted(self.parameters.names)
        self._caller = caller = Caller(module, data.is_text, positions == "last", by_item=cost == "mse")
        self._is_last = positions == "last"
        convert(data, self.dtype, only_half=callable(cost))
        self._cost: Cost
        if callable(cost):
            self._cost = Function(module, cost)
        elif cost == "mse":
            self._cost = HalfSquares(caller)
        elif cost in (None, "kl"):
            self._cost = KlDivergence(caller, data.is_text)
        else:
            raise UsageError(f"cost={cost!r}: expected 'kl', 'mse', or a function (model, batch)")
        self._weights = Weights(module, self.parameters, self.dtype)
        self._vectors = Vectors(self.parameters.tensors[0].device, self._gradient_of)
        self._kept: list[Any] = []
        self._noise: Noise | None = None
        self._dense: list[dense.Layer] = []
        self.notes: list[str] = []

    # The module while it is measured

    def __enter__(self) -> ModuleCost:
        self._weights.__enter__()
        try:
            with _quiet(), torch.no_grad():
                self._fit_data()
                self._keep_center()
                self._check_determinism()
                if self._cost.has_scores and (found := dense.layers(self._module, self.parameters)):
                    single = self._data.singles[0]
                    self._dense = dense.called(found, lambda: self._caller.rows(single))
            self._say()
        except BaseException:
            self._weights.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._kept = []
        self._vectors.clear_all()
        self._weights.__exit__(*error)

    @property
    def data_words(self) -> str:
        """What the data are: how many sequences, tokens and positions, or rows."""
        return self._data.words

    def _fit_data(self) -> None:
        """Which rows of the outputs count, where only the outputs tell: one per sequence, or those that are not padding."""
        if isinstance(self._cost, Function):
            return
        if self._data.is_text:
            single = next((one for one in self._data.singles if one.inputs.shape[1] > 1), None)
            outputs = None if single is None else self._caller.outputs(single)
            if outputs is None or outputs.dim() != 2 or outputs.shape[0] != 1:
                return
            if self._is_last:
                raise UsageError(f"positions='last' is for outputs per token, and {self.name} gives one per sequence: leave it out")
            # Without a token for padding such models find the end of no sequence in a batch.
            one_by_one = getattr(getattr(inner(self._module), "config", None), "pad_token_id", 0) is None
            self._data = by_sequence(self._data, one_by_one)
            self._cost.words = self._cost.words.replace("tokens", "sequences")
            return
        for batch in self._data.batches:
            if isinstance(batch.inputs, Mapping) and {"labels", "decoder_attention_mask", "attention_mask"} & set(batch.inputs):
                if (found := mask_of(batch, self._caller.outputs(batch).shape)) is not None:
                    mask, labels = found
                    if not bool(mask.any()):
                        raise UsageError("a batch of data= has no position that counts: its labels are all -100, or its mask is zero")
                    batch.rows = mask.reshape(-1).nonzero().squeeze(-1)
                    batch.labels = None if labels is None else labels.reshape(-1)[batch.rows].long()

    def _keep_center(self) -> None:
        """The center's outputs, once, where they fit: beside the model, else in the memory of the host."""
        device = self.parameters.tensors[0].device
        allowed = self._memory if self._memory is not None else _free(torch.device("cpu"))
        used = 0
        for batch in self._data.batches:
            beside = device if device.type == "cpu" or used < _free(device) // 2 else torch.device("cpu")
            kept = self._cost.keep(batch, beside)
            used += self._cost.bytes(kept)
            if used > allowed:
                raise EngineError(
                    f"the center's outputs on these data take more than the {allowed / 1e9:.1f} GB that may be used: take fewer positions "
                    "(val_size=, max_seq_len=, positions='last') or allow more with memory="
                )
            self._kept.append(kept)
        self._count = sum(self._cost.count(kept) for kept in self._kept)

    def _check_determinism(self) -> None:
        """The same weights have to give the same outputs: else the cost at the center is not zero, and no radius means anything."""
        batch, kept = self._data.batches[0], self._kept[0]
        again = float(self._cost.nats(batch, kept).abs().max())
        # The same formula on the same bits gives exactly zero.
        if again != 0.0:
            draws = [name for name, part in inner(self._module).named_modules() if "Dropout" in type(part).__name__ or "DropPath" in type(part).__name__]
            hint = f" ({', '.join(draws[:3])})" if draws else ""
            raise UsageError(
                f"{self.name} gives other outputs when it is called again with the same weights (a cost of {again:.1e} nats at the center): it draws "
                f"random numbers in evaluation mode too{hint}, keeps a state, or uses kernels that are not deterministic; "
                "torch.use_deterministic_algorithms(True) helps against the last"
            )

    def _say(self) -> None:
        self.notes.append(f"{self.name}: {self.parameters.dimension:,} weights move; {self._data.words}")
        if self._data.has_more:
            self.notes.append(f"{self._data.name} has more sequences than that: val_size= takes more of them, val_size=None all.")
        measured = str(self.dtype).removeprefix("torch.")
        if self.dtype in (torch.float16, torch.bfloat16):
            self.notes.append(
                f"Measured in {measured}: the rounding of weights and outputs shifts radii by a share that grows as the cutoff falls; dtype='float32' avoids it."
            )
        if is_bridge(self._module):
            folded = getattr(inner(self._module), "compatibility_mode", False)
            self.notes.append(
                f"{self.name} is TransformerLens's: the weights are those that it computes with"
                + (", folded and centered by enable_compatibility_mode(), which is another parametrization with another volume." if folded else ".")
            )
        strange = parametrized(self._module)
        if strange:
            self.notes.append(f"{', '.join(strange[:3])}: weights computed from others (a parametrization); the volume is that of those others.")

    # What the engine is told

    def subject(self) -> _engine.Subject:
        """As the engine takes it; the module has to be entered."""
        shapes = [[name, list(tensor.shape)] for name, tensor in zip(self.parameters.names, self.parameters.parts(self.parameters.tensors), strict=True)]
        record: dict[str, Any] = {
            "model": {"name": self.name, "class": type(inner(self._module)).__name__, "framework": "torch", **_code(self._module)},
            "data": {"name": self._data.name, "sha256": self._data.sha256, "size": self._data.words},
            "cost": self._cost.words,
        }
        if not self.parameters.is_whole or any(self._asked.values()):
            record["moving"] = {**self._asked, "tensors": len(self.parameters.names)}
        device = self.parameters.tensors[0].device.type
        if device != "cpu" or self.dtype != torch.float32:
            record["device"] = {"kind": device, "precision": str(self.dtype).removeprefix("torch.")}
        description = {
            "name": self.name,
            "record": record,
            "provenance": {"torch": environment(self._module, self.dtype)},
            "layout": shapes,
            "parts": len(self._data.singles),
            "positions": self._count,
            "has_gradients": self._cost.has_gradients,
            "has_scores": self._cost.has_scores,
            "has_parts": self._data.is_text,
            "makes_directions": self._weights.makes_directions,
            "keeps_vectors": self._weights.keeps_vectors,
            "dense": [layer.describe() for layer in self._dense],
        }
        return _engine.Subject(json.dumps(description), self._weights.flat)

    # What is asked

    def release(self) -> None:
        """The last direction is of no use any more."""
        self._weights.drop_direction()

    def ray(self, direction: Vector | Recipe | None, center: float, step: float) -> tuple[float, float]:
        """The cost on a ray and one sd of its noise."""
        if direction is not None:
            with _quiet():
                self._weights.set_direction(direction)
        nats = self._on_ray(center, step)
        self._measure(center, step, nats)
        return nats, self._resolution(nats)

    def _measure(self, center: float, step: float, nats: float) -> None:
        """Measures the noise, once, where the cost is near the cutoff."""
        if self._noise is None and center == 1.0 and self._cutoff / _NEAR < nats < self._cutoff * _NEAR:
            # Half precision rounds the weights themselves: nearer points would be the same ones.
            spacing = 3e-2 if self.dtype in (torch.float16, torch.bfloat16) else 3e-3
            self._noise = measure(lambda step: self._on_ray(1.0, step), step, nats, spacing)

    def _resolution(self, nats: float) -> float:
        if self._noise is not None:
            return self._noise.resolution(nats)
        return abs(nats) * float(torch.finfo(self.dtype).eps) if np.isfinite(nats) else 0.0

    def _on_ray(self, center: float, step: float) -> float:
        with _quiet(), torch.no_grad():
            self._weights.write_ray(center, step)
            return self._nats()

    def _nats(self) -> float:
        total = [self._cost.nats(batch, kept).sum() for batch, kept in zip(self._data.batches, self._kept, strict=True)]
        return sum(float(part) for part in total) / self._count

    def parts(self, direction: Vector | Recipe | None, center: float, step: float) -> Parts | None:
        """The cost on a ray and that of every sequence, in the order of the data, from one pass; none for a sequence without positions."""
        if not self._data.is_text:
            return None
        if direction is not None:
            with _quiet():
                self._weights.set_direction(direction)
        found: list[tuple[float, int]] = []
        total = 0.0
        with _quiet(), torch.no_grad():
            self._weights.write_ray(center, step)
            for batch, kept in zip(self._data.batches, self._kept, strict=True):
                nats = self._cost.nats(batch, kept)
                total += float(nats.sum())
                found.extend((float(nats[span].mean()) if span.stop > span.start else 0.0, span.stop - span.start) for span in batch.spans)
        whole = total / self._count
        self._measure(center, step, whole)

        def part(nats: float, positions: int) -> tuple[float, float] | None:
            # The fewer positions, the less their noise averages out.
            return (nats, self._resolution(nats) * float(np.sqrt(self._count / positions))) if positions > 0 else None

        # Batches have the longest first.
        order = self._data.order or range(len(found))
        in_order = [one for _, one in sorted(zip(order, found, strict=True))]
        return (whole, self._resolution(whole)), [part(*one) for one in in_order]

    def cost(self, weights: Vector) -> tuple[float, float]:
        """The cost at these weights and one sd of its noise."""
        with _quiet(), torch.no_grad():
            self._weights.write(weights)
            nats = self._nats()
        return nats, self._resolution(nats)

    def _batches(self, start: int, stop: int) -> Iterator[tuple[Batch, Any]]:
        """Whole batches of the parts where the range covers them, single parts else, with what was kept of them."""
        for batch, kept in zip(self._data.batches, self._kept, strict=True):
            if start <= batch.parts.start and batch.parts.stop <= stop:
                yield batch, kept
            else:
                for part in range(max(start, batch.parts.start), min(stop, batch.parts.stop)):
                    yield self._data.singles[part], self._cost.part(kept, batch.spans[part - batch.parts.start])

    def gradient(self, weights: Vector, start: int, stop: int) -> tuple[float, Vector]:
        """What parts contribute to the cost, and the gradient of that."""
        out = np.zeros(self.parameters.dimension, dtype=np.float32)
        return self._differentiate(weights, start, stop, out), out

    def _differentiate(self, weights: Vector | torch.Tensor, start: int, stop: int, out: Vector | torch.Tensor) -> float:
        """What parts contribute to the cost; adds the gradient of that to a flat vector."""
        with _quiet():
            self._weights.write(weights)
        nats = 0.0
        for batch, kept in self._batches(start, stop):
            with _quiet(), torch.enable_grad():
                contribution, outputs, slopes = self._cost.backward(batch, kept, self._count)
                self._add_gradient(outputs, slopes, out)
            nats += contribution
        return nats

    def _gradient_of(self, weights: torch.Tensor, out: torch.Tensor) -> float:
        """The cost and its gradient, of vectors on the device."""
        out.zero_()
        return self._differentiate(weights, 0, len(self._data.singles), out)

    def vectors(self, operation: str, vectors: Sequence[int], factors: Sequence[float], normal: Any, values: Vector | None) -> Any:
        """Does something with vectors on the device of the weights."""
        if operation == "cost":
            with _quiet(), torch.no_grad():
                self._weights.write(self._vectors.of(vectors[0]))
                nats = self._nats()
            return nats, self._resolution(nats)
        with _quiet():
            return self._vectors.run(operation, vectors, factors, normal, values)

    def forget(self, vector: int) -> None:
        """The vector on the device with this number is of no use any more."""
        self._vectors.forget(vector)

    def _add_gradient(self, outputs: torch.Tensor, slopes: torch.Tensor, out: Vector | torch.Tensor) -> None:
        grads = torch.autograd.grad(outputs, self.parameters.tensors, slopes, allow_unused=True)
        self._weights.flatten(list(grads), out)

    def likelihood(self, weights: Vector, start: int, stop: int, seed: int, of_data: bool) -> tuple[float, Vector]:
        """The mean negative log-likelihood of labels, drawn from the model or (with random signs) the data's own, and its gradient."""
        assert isinstance(self._cost, KlDivergence)
        with _quiet():
            self._weights.write(weights)
        out = np.zeros(self.parameters.dimension, dtype=np.float32)
        nats = 0.0
        for batch, kept in self._batches(start, stop):
            uniforms = self._uniforms(batch, kept, seed)
            with _quiet(), torch.enable_grad():
                signs = torch.where(uniforms < 0.5, -1.0, 1.0) if of_data else None
                contribution, outputs, slopes = self._cost.scores(batch, None if of_data else uniforms, signs, self._count)
                self._add_gradient(outputs, slopes, out)
            nats += contribution
        return nats, out

    def _uniforms(self, batch: Batch, kept: Any, seed: int) -> torch.Tensor:
        """A number in [0, 1) for every position that counts: a pure function of the seed and the position."""
        before = 0
        for other, its in zip(self._data.batches, self._kept, strict=True):
            if other.parts.start <= batch.parts.start < other.parts.stop:
                if batch.parts.start > other.parts.start:
                    before += other.spans[batch.parts.start - other.parts.start].start
                break
            before += self._cost.count(its)
        drawn = _engine.label_uniforms(seed, before, before + self._cost.count(kept))
        return torch.frombuffer(drawn, dtype=torch.float64)

    def moments(
        self, weights: Vector, start: int, stop: int, probes: int, seed: int
    ) -> tuple[list[tuple[Vector, Vector]], Vector]:
        """Second moments of dense layers for drawn labels (K-FAC), and the squared gradient of the same labels per part."""
        assert isinstance(self._cost, KlDivergence)
        with _quiet():
            self._weights.write(weights)
        squares = np.zeros(self.parameters.dimension, dtype=np.float32)
        found = [layer.zeros() for layer in self._dense]
        for part in range(start, stop):
            for batch, kept in self._batches(part, part + 1):
                for probe in range(probes):
                    uniforms = self._uniforms(batch, kept, dense.probe_seed(seed, probe))
                    slope = np.zeros(self.parameters.dimension, dtype=np.float32)
                    with _quiet(), torch.enable_grad(), dense.watched(self._dense) as seen:
                        _, outputs, slopes = self._cost.scores(batch, uniforms, None, self._count)
                        self._add_gradient(outputs, slopes, slope)
                        seen.add(found, self._count, probes, self._through, batch.inputs.numel() if self._data.is_text else self._cost.count(kept))
                    squares += (self._count / probes) * slope * slope
        return [(inputs.reshape(-1), outputs.reshape(-1)) for inputs, outputs in found], squares

    @property
    def _through(self) -> int:
        """Positions that go through a layer, over all data: those that do not count go through it as well."""
        if self._data.is_text:
            return sum(int(batch.inputs.numel()) for batch in self._data.batches)
        return self._count


@contextmanager
def _quiet() -> Iterator[None]:
    """Out of the caller's inference mode, whose tensors have no gradients later, and of autocast, which would round what is measured."""
    with torch.inference_mode(False):
        kinds = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
        guards = [torch.autocast(kind, enabled=False) for kind in kinds]
        for guard in guards:
            guard.__enter__()
        try:
            yield
        finally:
            for guard in reversed(guards):
                guard.__exit__(None, None, None)


def measured_dtype(parameters: Parameters) -> torch.dtype:
    """float32 whatever is stored, where it fits; float64 where that is stored; else what is stored."""
    stored = {tensor.dtype for tensor in parameters.tensors}
    if torch.float64 in stored:
        return torch.float64
    half = {torch.float16, torch.bfloat16} & stored
    if not half:
        return torch.float32
    device = parameters.tensors[0].device
    # The weights once more in float32 beside what is stored.
    return torch.float32 if 5 * parameters.dimension < _free(device) else sorted(half, key=str)[0]


def _free(device: torch.device) -> int:
    """Bytes of memory that are free on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024 * 4 // 5
    except OSError:
        pass
    return 1 << 62


def _name(module: torch.nn.Module) -> str:
    config = getattr(inner(module), "config", None)
    path = getattr(config, "_name_or_path", None) or getattr(config, "name_or_path", None)
    return str(path).rstrip("/").split("/")[-1] if path else type(inner(module)).__name__


def _code(module: torch.nn.Module) -> dict[str, str]:
    """A hash of what the user's own classes compute in `forward`: another cell of a notebook with the same weights is another question."""
    own = {type(part) for part in inner(module).modules() if type(part).__module__.split(".")[0] not in _LIBRARIES}
    if not own:
        return {}
    digest = hashlib.sha256()
    for kind in sorted(own, key=lambda kind: kind.__qualname__):
        try:
            text = inspect.getsource(kind.forward)
        except (OSError, TypeError):
            code = getattr(kind.forward, "__code__", None)
            constants = [value for value in getattr(code, "co_consts", ()) if isinstance(value, (int, float, complex, str, bytes, tuple))]
            text = repr((getattr(code, "co_code", b""), constants, getattr(code, "co_names", ())))
        digest.update(f"{kind.__qualname__}\n{textwrap.dedent(text)}\n".encode())
    return {"code_sha256": digest.hexdigest()}


def environment(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, Any]:
    """With what the numbers are computed: what their last digits depend on."""
    device = next(inner(module).parameters()).device
    config = getattr(inner(module), "config", None)
    found: dict[str, Any] = {
        "version": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }
    attention = getattr(config, "_attn_implementation", None)
    if attention is not None:
        found["attention"] = attention
    return found
