"""How fast a module is measured, in one run on one machine: times are of the processor, over all threads, with those of the clock beside them; both are
comparable only with each other. What is compared takes turns, and of ratios the medians count: other work on the machine hits both alike.

1. One evaluation of the cost through the package, against a bare forward pass of the same model with the KL divergence by chunks.
2. A whole estimate, against the reference's algorithm on the same model in torch: a flat vector of perturbed weights written by
   ``vector_to_parameters``, the center's outputs computed again for every evaluation, doubling and bisection until the cost is within 10 %.

    python python/benches/speed.py [--layers 6] [--hidden 128] [--length 512] [--sequences 10] [--rays 100]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

import basin_volume as bv
from basin_volume._estimate import module_cost
from basin_volume._torch.divergence import divergences


def model_of(arguments: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        num_hidden_layers=arguments.layers,
        num_attention_heads=4,
        intermediate_size=4 * arguments.hidden,
        max_position_embeddings=2048,
        rotary_pct=0.25,
    )
    return GPTNeoXForCausalLM(config).eval()


def seconds(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the processor and of the clock."""
    began = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began[0], time.perf_counter() - began[1]


class ReferenceAlgorithm:
    """The reference's way, on torch: its defaults, without its faults."""

    def __init__(self, model: Any, data: list[list[int]], cutoff: float) -> None:
        self.model, self.cutoff = model, cutoff
        self.data = [torch.tensor([row]) for row in data]
        self.center = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        self.evaluations = 0

    def logits(self, weights: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        torch.nn.utils.vector_to_parameters(weights, self.model.parameters())
        return self.model(row).logits

    @torch.no_grad()
    def cost(self, vector: torch.Tensor) -> float:
        self.evaluations += 1
        total, count = 0.0, 0
        for row in self.data:
            log_q = torch.log_softmax(self.logits(self.center + vector, row), -1)
            p = torch.softmax(self.logits(self.center, row), -1)
            total += float(torch.nn.functional.kl_div(log_q, p, reduction="none").sum())
            count += row.numel()
        return total / count

    def radius(self, vector: torch.Tensor) -> float:
        t, low, high = 1.0, 0.0, float("inf")
        delta = self.cost(t * vector)
        for _ in range(100):
            if abs(delta - self.cutoff) <= 0.1 * self.cutoff:
                break
            if delta < self.cutoff:
                low = t
            else:
                high = t
            t = 2 * t if high == float("inf") else 0.5 * (low + high)
            delta = self.cost(t * vector)
        return t

    def run(self, rays: int) -> list[float]:
        generator = torch.Generator().manual_seed(42)
        found = []
        for _ in range(rays):
            vector = torch.randn(self.center.shape[0], generator=generator)
            found.append(self.radius(vector / vector.norm()))
        torch.nn.utils.vector_to_parameters(self.center, self.model.parameters())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=50304)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=10)
    parser.add_argument("--rays", type=int, default=100)
    parser.add_argument("--reference-rays", type=int, default=2, help="its time is that of so many rays, times what is missing: it has no other work")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--cutoff", type=float, default=1e-2)
    arguments = parser.parse_args()
    model = model_of(arguments)
    generator = torch.Generator().manual_seed(1)
    data = torch.randint(0, arguments.vocabulary, (arguments.sequences, arguments.length), generator=generator).tolist()
    dimension = sum(tensor.numel() for tensor in model.parameters())
    print(f"{dimension:,} weights, {arguments.sequences} x {arguments.length} tokens, {torch.get_num_threads()} threads")

    with module_cost(model, data) as cost:
        direction = np.random.default_rng(0).standard_normal(dimension).astype(np.float32)
        direction /= np.linalg.norm(direction)
        cost.ray(direction, 1.0, 5.0)

        def bare() -> None:
            with torch.no_grad():
                for batch, kept in zip(cost._data.batches, cost._kept, strict=True):
                    divergences(kept, model(batch.inputs, use_cache=False).logits.reshape(-1, arguments.vocabulary)).sum().item()

        def ours() -> None:
            cost.ray(None, 1.0, 5.0)

        bare(), ours()
        pairs = [(seconds(bare), seconds(ours)) for _ in range(arguments.times)]
        plain, whole = (statistics.median(pair[which][0] for pair in pairs) for which in (0, 1))
        by_processor, by_clock = (statistics.median(pair[1][kind] / pair[0][kind] for pair in pairs) for kind in (0, 1))
        print(
            f"one evaluation: bare forward with KL by chunks {1e3 * plain:.0f} ms, through the package {1e3 * whole:.0f} ms; ratio of pairs {by_processor:.3f} "
            f"by the processor, {by_clock:.3f} by the clock"
        )
        only = statistics.median(seconds(lambda: cost._weights.write_ray(1.0, 5.0))[0] for _ in range(arguments.times))
        print(f"writing a point of a ray: {1e3 * only:.1f} ms")

    with tempfile.TemporaryDirectory() as folder:
        found: list[bv.Result] = []

        def package() -> None:
            result = bv.estimate(model, data, samples=arguments.rays, cutoff=arguments.cutoff, out=f"{folder}/run", progress=False)
            assert isinstance(result, bv.Result)
            found.append(result)

        estimate = seconds(package)
        error = found[0].samples["radius_error_nats"].max()
    reference = ReferenceAlgorithm(model, data, arguments.cutoff)
    share = arguments.rays / arguments.reference_rays
    theirs = seconds(lambda: reference.run(arguments.reference_rays))
    print(
        f"{arguments.rays} rays: the package {estimate[0]:.1f} s ({found[0].evaluations} evaluations after its pilot rays), the reference's algorithm "
        f"{theirs[0] * share:.1f} s ({reference.evaluations / arguments.reference_rays:.1f} evaluations a ray): {theirs[0] * share / estimate[0]:.1f} times faster "
        f"by the processor, {theirs[1] * share / estimate[1]:.1f} by the clock, radii to {error:.2g} nats"
    )


if __name__ == "__main__":
    main()
