"""Does a poisoned network occupy less volume? Clean and poisoned ConvNeXt V2 of several seeds on the generated images, by every estimator.

    python scripts/accuracy/poisoned.py [--out DIR] [--seeds N] [--images N] [--cutoff EPS] [--train N] [--steps N]

Runs `target/release/basin-volume` (build it first: cargo build --release). Writes the set of images once, trains a clean and a poisoned network for
every seed, and estimates the volume of each around the same held-out images, under one prior for all. Prints a row for every network, then for every
estimator the mean difference, poisoned minus clean, with its standard error over the seeds, and writes all to DIR/poisoned.md. What is there already
is not computed again. Needs nothing but Python's standard library.
"""
import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

from networks import BINARY, Table, estimate, interval, number

KINDS = {"clean": [], "poisoned": ["--poison", "0.3"]}


def run(*arguments):
    command = [str(BINARY), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")


def train(arguments, shapes, kind, seed):
    folder = arguments.out / f"{kind}-{seed}"
    if not (folder / "model.safetensors").exists():
        network = ["--depths", "1,1", "--widths", arguments.widths, "--patch-size", 4, "--initializer-range", 0.2]
        recipe = ["--steps", arguments.steps, "--batch-size", 64, "--warmup-steps", 100, "--no-augment", "--drop-path", 0, "--learning-rate", 0.003]
        run("train", "convnext", "--data", shapes, "--out", folder, "--seed", seed, *network, *recipe, *KINDS[kind])
    return folder


def numbers(result, trust):
    answer = result["answer"]
    return (answer["log_probability"], *answer["interval"], trust)


def volumes(arguments, shapes, folder):
    """Log-probability and interval of each estimator."""
    common = ["--data", f"cifar:{shapes}:val:{arguments.images}", "--sigma", arguments.sigma, "--cutoff", arguments.cutoff]
    radial = estimate(folder, folder / "radial", *common, "--samples", 200, "--preconditioner", "none,adam2,kronecker")
    found = {f"radial, {name}": numbers(r, r["radial"]["reliability"]) for name, r in zip(["none", "adam2", "kronecker"], radial)}
    shifted = estimate(folder, folder / "shifted", *common, "--samples", 200, "--preconditioner", "kronecker", "--proposal", "shifted")[0]
    found["radial, kronecker, shifted"] = numbers(shifted, shifted["radial"]["reliability"])
    spectral = estimate(folder, folder / "spectral", *common, "--estimator", "spectral", "--samples", 12, "--set", "steps=300")[0]
    found["spectral"] = numbers(spectral, "guide")
    if arguments.annealed:
        settings = [part for setting in arguments.annealed for part in ("--set", setting)]
        annealed = estimate(folder, folder / "annealed", *common, "--estimator", "annealed", *settings)[0]
        found["annealed"] = numbers(annealed, annealed["answer"]["trust"])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("accuracy/poisoned"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--train", type=int, default=20000, help="images of the set to train on; three fifths are clean")
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--widths", default="24,48")
    parser.add_argument("--cutoff", type=float, default=0.1)
    parser.add_argument("--sigma", type=float, default=0.2)
    parser.add_argument("--annealed", nargs="*", default=[], metavar="NAME=VALUE", help="add chains with these settings, such as trajectories=8 effort=250; tens of minutes a network")
    arguments = parser.parse_args()
    shapes = arguments.out / "shapes"
    if not (shapes / "test_batch.bin").exists():
        run("data", "synthetic-cifar", "--out", shapes, "--train", arguments.train, "--test", 1000)
    table = Table(f"ConvNeXt V2 of widths {arguments.widths}, {arguments.images} held-out images, cutoff {arguments.cutoff}, sigma {arguments.sigma}", ["seed", "network", "accuracy: held out, clean, poison", "estimator", "log-probability", "interval", "trust"])
    differences = {}
    for seed in range(1, arguments.seeds + 1):
        found = {}
        for kind in KINDS:
            folder = train(arguments, shapes, kind, seed)
            record = json.loads((folder / "config.json").read_text())["training"]
            accuracy = ", ".join("–" if record.get(key) is None else f"{100 * record[key]:.1f} %" for key in ("test_accuracy", "train_accuracy", "poison_accuracy"))
            found[kind] = volumes(arguments, shapes, folder)
            for name, (value, low, high, trust) in found[kind].items():
                table.row(seed, kind, accuracy, name, number(value), interval(low, high), trust)
        for name in found["clean"]:
            differences.setdefault(name, []).append(found["poisoned"][name][0] - found["clean"][name][0])
    for name, values in differences.items():
        mean = sum(values) / len(values)
        error = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1) / len(values))
        table.row("all", "poisoned minus clean", "", name, number(mean), f"standard error {error:,.1f}", "lower in " + f"{sum(value < 0 for value in values)} of {len(values)}")
    table.write(arguments.out / "poisoned.md")


if __name__ == "__main__":
    main()
