"""The local learning coefficient of one small language model by devinterp 2 and by basin-volume, in one run.

    python scripts/llc/compare.py MODEL TEXT --program target/release/basin-volume --out FOLDER

MODEL is a folder that transformers loads (`basin-volume train lm` makes one), TEXT a file of its language. Needs devinterp 2.0.1 with torch and transformers.

Both sample exp(-n_beta C(w) - localization/2 |w - c|^2) with the same cost C, the mean KL divergence from the model's own predictions over all positions
of the same sequences, so both estimate the same expectation n_beta E[C]. devinterp takes Langevin steps of mini-batches at several learning rates, as
somebody has to who does not know the right one; basin-volume takes Hamiltonian trajectories of the whole cost. A gradient is one of the whole cost: a
step on a part of the sequences counts as that part. Printed is a table in Markdown: the mean and the spread over seeds, the standard error of one seed
(autocorrelation included, the first fifth left out in either), and the gradients to a standard error of 5 %.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from devinterp.slt.llc import compute_llc
from devinterp.slt.sampling import sample
from transformers import AutoModelForCausalLM, AutoTokenizer

WANTED = 0.05
"""The relative standard error that both are compared at."""
BURN_IN = 0.2
"""The share of a chain that is not counted."""


def autocorrelation(chains: np.ndarray) -> float:
    """Steps per independent value: ``1 + 2 sum rho`` while pairs of neighbouring correlations are positive (Geyer 1992); `chains` is [chain, step]."""
    centered = chains - chains.mean()
    length = chains.shape[1]

    def correlation(lag: int) -> float:
        return float((centered[:, : length - lag] * centered[:, lag:]).mean())

    zero, total = correlation(0), -1.0
    for pair in range(length // 4):
        both = (correlation(2 * pair) + correlation(2 * pair + 1)) / zero
        if both <= 0.0:
            break
        total += 2.0 * both
    return max(total, 1.0)


def by_devinterp(model: torch.nn.Module, ids: list[list[int]], lr: float, seed: int, asked: argparse.Namespace) -> dict[str, float]:
    """One run of devinterp: its own number, and the same without the first fifth of the steps."""
    # Its losses are those of a next token, one fewer than there are tokens: a token more, which is not looked at, gives all positions a loss.
    dataset = Dataset.from_dict({"input_ids": [sequence + [0] for sequence in ids]}).with_format("torch")
    with torch.no_grad():
        center = {tuple(sequence): model(torch.tensor([sequence])).logits[0].log_softmax(-1) for sequence in ids}

    def divergence(moved: torch.nn.Module, input_ids: torch.Tensor) -> torch.Tensor:
        log_q = moved(input_ids[:, :-1]).logits.log_softmax(-1)
        log_p = torch.stack([center[tuple(sequence)] for sequence in input_ids[:, :-1].tolist()])
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        samples = sample(
            model=model,
            dataset=dataset,
            observables={},
            lr=lr,
            n_beta=asked.n_beta,
            localization=asked.localization,
            num_chains=asked.chains,
            num_draws=asked.steps,
            batch_size=asked.batch,
            init_seed=1000 * seed,
            loss_fn=divergence,
            device="cpu",
            output_path=Path(folder) / "samples.zarr",
        )
        found = compute_llc(samples).load()
    seconds = time.perf_counter() - began
    trace = asked.n_beta * (found["loss_trace"].values.astype(np.float64) - float(found["init_loss"]))
    counted = trace[:, int(BURN_IN * trace.shape[1]) :]
    tau = autocorrelation(counted)
    error = math.sqrt(counted.var() * tau / counted.size)
    value = float(counted.mean())
    gradients = trace.size * asked.batch / len(ids)
    return {
        "own": float(found["llc_mean"]),
        "value": value,
        "error": error,
        "gradients": gradients,
        "needed": gradients * (error / (WANTED * value)) ** 2,
        "seconds": seconds,
    }


def by_basin_volume(asked: argparse.Namespace, ids_file: Path, seed: int) -> dict[str, float]:
    """One run of basin-volume with its default settings but for the density."""
    out = asked.out / f"ours-{seed}"
    command = [str(asked.program), "estimate", str(asked.model), "--data", str(ids_file), "--estimator", "llc"]
    command += ["--seed", str(seed), "--threads", str(asked.threads), "--out", str(out), "--json"]
    command += ["--set", f"n_beta={asked.n_beta}", "--set", f"localization={asked.localization}", "--set", f"chains={asked.chains}"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(ran.stderr)
    found = json.loads(ran.stdout)
    answer, own = found["answer"], found["llc"]
    value, error = answer["learning_coefficient"], own["standard_error"]
    return {
        "own": value,
        "value": value,
        "error": error,
        "gradients": answer["gradients"],
        "needed": answer["gradients"] * (error / (WANTED * value)) ** 2,
        "seconds": answer["seconds"],
        "r_hat": own["r_hat"],
        "trust": answer["trust"],
    }


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """A line of the table."""
    values = np.array([run["value"] for run in runs])
    if not np.isfinite(values).all():
        return f"| {name} | diverged | | | | | |"
    own = np.mean([run["own"] for run in runs])
    error = np.mean([run["error"] for run in runs])
    needed, spent = np.mean([run["needed"] for run in runs]), np.mean([run["gradients"] for run in runs])
    seconds = np.mean([run["seconds"] for run in runs])
    spread = values.std(ddof=1) if len(values) > 1 else math.nan
    return f"| {name} | {own:.2f} | {values.mean():.2f} | {spread:.2f} | {error:.2f} | {spent:,.0f} in {seconds:.0f} s | {needed:,.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--program", type=Path, required=True, help="the basin-volume binary")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--n-beta", type=float, default=30.0, help="inverse temperature (devinterp's examples have 30)")
    parser.add_argument("--localization", type=float, default=100.0)
    parser.add_argument("--lr", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3], help="learning rates of devinterp")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--chains", type=int, default=4)
    parser.add_argument("--steps", type=int, default=500, help="steps of each of devinterp's chains")
    parser.add_argument("--batch", type=int, default=16, help="sequences in a step of devinterp")
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--length", type=int, default=32, help="tokens of a sequence")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(asked.threads)
    asked.out.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).eval()
    tokens = AutoTokenizer.from_pretrained(asked.model)(asked.text.read_text(encoding="utf-8")[:200_000])["input_ids"]
    ids = [tokens[start : start + asked.length] for start in range(0, asked.sequences * asked.length, asked.length)]
    ids_file = asked.out / "ids.json"
    ids_file.write_text(json.dumps(ids), encoding="utf-8")
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{weights:,} weights, {asked.sequences} x {asked.length} tokens, n_beta {asked.n_beta}, localization {asked.localization}, {asked.seeds} seeds\n")
    print("| | own number | mean | spread over seeds | standard error | gradients | gradients to 5 % |")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, list[dict[str, Any]]] = {}
    for name, one in [
        ("basin-volume", lambda seed: by_basin_volume(asked, ids_file, seed)),
        *[(f"devinterp, lr {lr:g}", lambda seed, lr=lr: by_devinterp(model, ids, lr, seed, asked)) for lr in asked.lr],
    ]:
        runs = []
        for seed in range(1, asked.seeds + 1):
            try:
                runs.append(one(seed))
            except Exception as error:  # noqa: BLE001: a chain that diverged is a result
                runs.append({"own": math.nan, "value": math.nan, "why": str(error)})
        found[name] = runs
        print(row(name, runs), flush=True)
    (asked.out / "compare.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
