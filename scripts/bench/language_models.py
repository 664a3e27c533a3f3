"""One evaluation of the KL cost of a language model: basin-volume beside PyTorch, in the same run, on the same cores.

    pip install torch==2.6.0 transformers==4.51.3 && python scripts/bench/language_models.py [--shapes pythia-14m smollm2-135m] [--threads 1 2]

PyTorch does what anyone would write with transformers: forward, log-softmax, KL to the stored log-probabilities of the center; all in
float32, without gradients, the center computed once. Ours is the benchmark `language_model_cost` (the same shapes and numbers of tokens,
random weights in both). Prints one line per shape and number of threads: milliseconds (median) of both, and the ratio.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pythia(hidden, layers, heads):
    return dict(
        model_type="gpt_neox", vocab_size=50304, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden, rotary_pct=0.25, use_parallel_residual=True, max_position_embeddings=2048,
    )


SHAPES = {
    "pythia-14m": (pythia(128, 6, 4), 4, 256),
    "pythia-14m-long": (pythia(128, 6, 4), 1, 2048),
    "pythia-70m": (pythia(512, 6, 8), 4, 256),
    "pythia-160m": (pythia(768, 12, 12), 4, 256),
    "smollm2-135m": (
        dict(
            model_type="llama", vocab_size=49152, hidden_size=576, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
            intermediate_size=1536, rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True, max_position_embeddings=2048,
        ),
        2,
        256,
    ),
}


def torch_times(name, threads, repeats):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.set_num_threads(threads)
    config, sequences, length = SHAPES[name]
    config = dict(config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).eval()
    ids = (torch.arange(sequences)[:, None] * 7919 + torch.arange(length)[None, :] * 104729) % config["vocab_size"]

    def median(work):
        work()
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            work()
            times.append(1e3 * (time.perf_counter() - began))
        return statistics.median(times)

    with torch.inference_mode():
        center = torch.log_softmax(model(ids).logits, -1)
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn_like(parameter))

        def cost():
            logs = torch.log_softmax(model(ids).logits, -1)
            return torch.nn.functional.kl_div(logs, center, log_target=True, reduction="sum") / ids.numel()

        body = getattr(model, "gpt_neox", None) or model.model
        return dict(body=median(lambda: body(ids)), evaluation=median(cost))


def our_times(name, threads, repeats):
    command = ["cargo", "bench", "--quiet", "-p", "basin-volume-models", "--bench", "language_model_cost", "--"]
    command += [name, "--threads", str(threads), "--repeats", str(repeats), "--json"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    times = json.loads(output.strip().splitlines()[-1])["ms"]
    return {what: value["median"] for what, value in times.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", default=["pythia-14m", "smollm2-135m"], choices=list(SHAPES))
    parser.add_argument("--threads", nargs="*", type=int, default=sorted({1, min(2, os.cpu_count() or 1)}))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    print(f"{'shape':<16} threads  {'torch body':>10} {'ours':>8} {'ratio':>6}   {'torch cost':>10} {'ours':>8} {'ratio':>6}")
    for name in arguments.shapes:
        for threads in arguments.threads:
            theirs, ours = torch_times(name, threads, arguments.repeats), our_times(name, threads, arguments.repeats)
            cells = "   ".join(
                f"{theirs[what]:>10.1f} {ours[what]:>8.1f} {theirs[what] / ours[what]:>6.2f}" for what in ("body", "evaluation")
            )
            print(f"{name:<16} {threads:>7}  {cells}", flush=True)


if __name__ == "__main__":
    main()
