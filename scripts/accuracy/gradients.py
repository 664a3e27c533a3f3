"""Gradients that chains take to an answer, against the number of weights and the heat at the end of the ladder, as a table and a figure.

    python scripts/accuracy/gradients.py run DIR --text FILE [--only NAME ...] [--seeds N] [--sweeps N] [--threads N]
    python scripts/accuracy/gradients.py table DIR
    python scripts/accuracy/gradients.py figure DIR gradients.png

`run` trains perceptrons on digits and language models on a text (3.5 MB of any) from a hundred to a million weights, and measures the basin of each
with the usual settings, a sweep at a time until there is an answer. It uses `target/release/basin-volume` (build it first: cargo build --release) and
goes on where it was stopped. Needs nothing but Python's standard library; the figure needs matplotlib.
"""
import argparse
import json
import math
import subprocess
from pathlib import Path

from networks import BINARY, Table

DIGITS = [("digits-4", 4, 1), ("digits-16", 16, 1), ("digits-32", 32, 2), ("digits-64", 64, 3), ("digits-128", 128, 4), ("digits-512", 512, 5)]
LANGUAGE = [("lm-8", 8), ("lm-16", 16), ("lm-32", 32), ("lm-64", 64), ("lm-128", 128)]
STEPS = [64, 512]


def call(program, *words):
    return subprocess.run([str(program), *map(str, words)], capture_output=True, text=True, check=False)


class Network:
    """A model with its data and question."""

    def __init__(self, name, model, flags):
        self.name, self.model, self.flags = name, model, flags


def networks(arguments):
    out = arguments.folder
    for name, width, depth in DIGITS:
        model = out / "models" / name
        if not model.exists() and wanted(arguments, name):
            call(arguments.program, "train", "digits", "--out", model, "--width", width, "--depth", depth).check_returncode()
        yield Network(name, model, ["--data", "digits:train:256", "--sigma", "0.1", "--cutoff", "0.01"])
    for name, width in LANGUAGE:
        model = out / "models" / name
        if not model.exists() and any(wanted(arguments, f"{name}-step{step}") for step in STEPS):
            sizes = ["--hidden-size", width, "--layers", 2, "--heads", 4, "--vocab-size", 300, "--max-seq-len", 64, "--steps", 600]
            call(arguments.program, "train", "lm", "--text", arguments.text, "--out", model, *sizes).check_returncode()
        for step in STEPS:
            flags = ["--data", arguments.text, "--max-seq-len", 32, "--val-size", 8, "--sigma", "0.12", "--cutoff", "0.1"]
            yield Network(f"{name}-step{step}", model / f"step{step}", flags)


def wanted(arguments, name):
    return not arguments.only or any(name.startswith(only) for only in arguments.only)


def run(arguments):
    for seed in range(arguments.seeds):
        for network in networks(arguments):
            if wanted(arguments, network.name):
                measure(arguments, network, seed)


def measure(arguments, network, seed):
    """Sweeps until there is an answer, with what each of them came to."""
    out = arguments.folder / "runs" / f"{network.name}-{seed}"
    file = arguments.folder / "results" / f"{network.name}-{seed}.json"
    sweeps = json.loads(file.read_text()) if file.exists() else []
    while len(sweeps) < arguments.sweeps and not (sweeps and sweeps[-1]["trust"] == "answer"):
        flags = [*network.flags, "--estimator", "annealed", "--seed", seed, "--out", out, "--threads", arguments.threads, "--json"]
        done = call(arguments.program, "estimate", network.model, *flags, *(["--continue"] if sweeps else []))
        if done.returncode != 0:
            print(f"{network.name}, seed {seed}: {done.stderr.strip().splitlines()[-1]}", flush=True)
            return
        result = json.loads(done.stdout)
        answer, details = result["answer"], result["annealed"]
        sweeps.append({
            "name": network.name,
            "seed": seed,
            "dimension": json.loads((out / "manifest.json").read_text())["dimension"],
            "trust": answer["trust"],
            "log_probability": answer["log_probability"],
            "interval": answer["interval"],
            "gap": details["gap"],
            "gradients": answer["gradients"],
            "seconds": answer["seconds"],
            "heat": details["beta"] * details["mean_cost"],
        })
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(sweeps, indent=1))
        print(f"{network.name}, seed {seed}, sweep {len(sweeps)}: {answer['log_probability']:.1f}, {answer['trust']}, {answer['gradients']} gradients", flush=True)


def rows(folder):
    """By network the last state of each seed, from the smallest."""
    by_name = {}
    for path in sorted((folder / "results").glob("*.json")):
        sweeps = json.loads(path.read_text())
        if sweeps:
            by_name.setdefault(sweeps[-1]["name"], []).append({**sweeps[-1], "sweeps": len(sweeps)})
    return sorted(by_name.values(), key=lambda runs: (runs[0]["dimension"], runs[0]["name"]))


def exponent(runs, key):
    """Least squares of ln gradients against the logarithm of a quantity: exponent and its standard error."""
    points = [(math.log(run[key]), math.log(run["gradients"])) for run in runs if run["trust"] == "answer"]
    count = len(points)
    if count < 3:
        return None
    x, y = (sum(point[axis] for point in points) / count for axis in (0, 1))
    square = sum((point[0] - x) ** 2 for point in points)
    slope = sum((point[0] - x) * (point[1] - y) for point in points) / square
    rest = sum((point[1] - y - slope * (point[0] - x)) ** 2 for point in points)
    return slope, math.sqrt(rest / (count - 2) / square), math.exp(y - slope * x)


def table(arguments):
    lines = Table("Gradients to an answer", ["network", "weights", "log-probability", "beta E[C]", "sweeps", "gradients", "answers"])
    for runs in rows(arguments.folder):
        every = lambda key, form: ", ".join(format(run[key], form) for run in runs)
        answers = sum(run["trust"] == "answer" for run in runs)
        lines.row(
            runs[0]["name"], f"{runs[0]['dimension']:,}", every("log_probability", ",.1f"), every("heat", ",.0f"), every("sweeps", "d"),
            every("gradients", ",d"), f"{answers} of {len(runs)}",
        )
    for kind in ["digits", "lm"]:
        for key, words in [("dimension", "weights"), ("heat", "beta E[C]")]:
            found = exponent([run for runs in rows(arguments.folder) for run in runs if run["name"].startswith(kind)], key)
            if found:
                print(f"{kind}: gradients go like {words}^({found[0]:.2f} +- {found[1]:.2f})")


def figure(arguments):
    import matplotlib

    matplotlib.use("svg" if arguments.to.suffix == ".svg" else "agg")
    from matplotlib import pyplot

    picture, panels = pyplot.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    kinds = [("digits", "o", "#2b6cb0", "perceptrons"), ("lm", "s", "#c03030", "language models")]
    for axes, key, words in [(panels[0], "dimension", "weights"), (panels[1], "heat", "beta E[C] at the cutoff")]:
        for kind, mark, color, label in kinds:
            runs = [run for runs in rows(arguments.folder) for run in runs if run["name"].startswith(kind)]
            for is_answer in [True, False]:
                of = [run for run in runs if (run["trust"] == "answer") == is_answer]
                fill = "full" if is_answer else "none"
                axes.plot([run[key] for run in of], [run["gradients"] for run in of], mark, color=color, fillstyle=fill, label=label if is_answer and key == "heat" else None)
            found = exponent(runs, key)
            if found:
                ends = [min(run[key] for run in runs), max(run[key] for run in runs)]
                axes.plot(ends, [found[2] * end ** found[0] for end in ends], "-", color=color, linewidth=0.8)
                axes.annotate(f"{found[0]:.2f} ± {found[1]:.2f}", (ends[1], found[2] * ends[1] ** found[0]), color=color, fontsize=8, ha="right")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(words)
    panels[0].set_ylabel("gradients to an answer")
    panels[1].legend(fontsize=8, frameon=False, loc="lower right")
    picture.tight_layout()
    picture.savefig(arguments.to, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("folder", type=Path)
    one.add_argument("--text", type=Path, required=True)
    one.add_argument("--only", nargs="*", default=[])
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--sweeps", type=int, default=3)
    one.add_argument("--threads", type=int, default=1)
    one.add_argument("--program", type=Path, default=BINARY)
    of = commands.add_parser("table")
    of.add_argument("folder", type=Path)
    to = commands.add_parser("figure")
    to.add_argument("folder", type=Path)
    to.add_argument("to", type=Path)
    arguments = parser.parse_args()
    {"run": run, "table": table, "figure": figure}[arguments.command](arguments)


if __name__ == "__main__":
    main()
