"""ConvNeXt V2 "atto" (patch size 1, images of 32 x 32): basin-volume beside PyTorch, in the same run, taking turns on the same cores.

    pip install torch==2.6.0 transformers==4.51.3 && python scripts/bench/convnextv2.py [--threads 1 2] [--images 32] [--rounds 5]

Forward: all logits, and the KL divergence from those of the center; PyTorch without gradients, channels first and channels last, the faster
of the two counts. Gradient: forward and backward of that divergence. Step: one of a training with AdamW (multi-tensor) and stochastic depth 0.1 in
PyTorch, on images that are there already; ours cuts and flips them, too. Ours is the benchmark `convnextv2` (the same shapes; random weights in
both). Both measure a few repeats in turns; the least time of all rounds counts, so that other work on the machine hurts neither. Version 4.51
of transformers takes a slow and wrong norm in global response normalization (huggingface/transformers#38015): it is put right here first.
Prints one line per number of threads: milliseconds of both, and ours over theirs.
"""

import argparse
import json
import os
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def torch_model(images):
    import torch
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification
    from transformers.models.convnextv2 import modeling_convnextv2

    def response(self, states):
        norm = torch.linalg.vector_norm(states, ord=2, dim=(1, 2), keepdim=True)
        return self.weight * (states * (norm / (norm.mean(dim=-1, keepdim=True) + 1e-6))) + self.bias + states

    modeling_convnextv2.ConvNextV2GRN.forward = response
    config = ConvNextV2Config(
        image_size=32, patch_size=1, num_stages=4, depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320], num_labels=10
    )
    model = ConvNextV2ForImageClassification(config).eval()
    inputs = torch.rand(images, 3, 32, 32)
    with torch.no_grad():
        center = torch.log_softmax(model(inputs).logits, -1)
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))
    return model, inputs, center


def torch_training(images, layout):
    """One step of the training after another: a function without arguments."""
    import torch
    from transformers import ConvNextV2Config, ConvNextV2ForImageClassification

    config = ConvNextV2Config(
        image_size=32, patch_size=1, num_stages=4, depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320], num_labels=10, drop_path_rate=0.1
    )
    model = ConvNextV2ForImageClassification(config).train().to(memory_format=layout)
    inputs = torch.rand(images, 3, 32, 32).contiguous(memory_format=layout)
    labels = torch.arange(images) % 10
    parameters = list(model.parameters())
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    others = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), foreach=True)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs).logits, labels).backward()
        optimizer.step()

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", nargs="*", type=int, default=sorted({1, min(2, os.cpu_count() or 1)}))
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours", help="the built benchmark, instead of building it")
    arguments = parser.parse_args()

    import torch

    def divergence(model, inputs, center):
        logs = torch.log_softmax(model(inputs).logits, -1)
        return torch.nn.functional.kl_div(logs, center, log_target=True, reduction="batchmean")

    def forward(*problem):
        with torch.inference_mode():
            divergence(*problem)

    def gradient(model, *rest):
        model.zero_grad(set_to_none=False)
        divergence(model, *rest).backward()

    def least(work, *problem):
        times = []
        for _ in range(arguments.repeats):
            began = time.perf_counter()
            work(*problem)
            times.append(1e3 * (time.perf_counter() - began))
        return min(times)

    command = [arguments.ours] if arguments.ours else ["cargo", "bench", "--quiet", "-p", "basin-volume-models", "--bench", "convnextv2", "--"]
    model, inputs, center = torch_model(arguments.images)
    last = inputs.contiguous(memory_format=torch.channels_last)
    steps = [torch_training(arguments.images, layout) for layout in (torch.contiguous_format, torch.channels_last)]
    print(f"{'':<10} threads  {'torch':>9} {'last':>9} {'ours':>9} {'ratio':>6}   ({arguments.images} images)")
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        options = ["--wait", "--images", str(arguments.images), "--threads", str(threads), "--repeats", str(arguments.repeats)]
        ours = subprocess.Popen(command + options, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        found = {"forward": [], "gradient": [], "step": []}
        for _ in range(arguments.rounds + 1):
            ours.stdin.write("\n")
            ours.stdin.flush()
            own = json.loads(ours.stdout.readline())
            for what, work in (("forward", forward), ("gradient", gradient)):
                theirs = least(work, model, inputs, center), least(work, model, last, center)
                found[what].append((*theirs, own[what]["least"]))
            found["step"].append((*(least(step) for step in steps), own["step"]["least"]))
        ours.stdin.close()
        ours.wait()
        for what, times in found.items():
            # The first round warms up.
            first, channels_last, own = (min(column) for column in zip(*times[1:]))
            ratio = own / min(first, channels_last)
            print(f"{what:<10} {threads:>7}  {first:>9.1f} {channels_last:>9.1f} {own:>9.1f} {ratio:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
