"""The estimators side by side on networks: the table of studies 4 to 6 in docs/accuracy.md.

    python scripts/accuracy/networks.py small   [--out DIR] [--seeds N]
    python scripts/accuracy/networks.py digits  [--out DIR] [--seeds N] [--rows 256] [--sigma rms]
    python scripts/accuracy/networks.py lm CHECKPOINTS --data IDS.json [--out DIR]

Runs `target/release/basin-volume` (build it first: cargo build --release), prints a table in Markdown and writes it to DIR/STUDY.md. Every run has
its own folder in DIR, so that a study that was stopped goes on where it was. Needs nothing but Python's standard library.
"""
import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / "target" / "release" / "basin-volume"


def estimate(model, out, *flags):
    """The answers of one command, as lists of dictionaries with the common view of every estimator."""
    command = [str(BINARY), "estimate", str(model), "--out", str(out), "--json", *map(str, flags)]
    began = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    result = json.loads(done.stdout)
    print(f"{out}: {time.time() - began:.0f} s", file=sys.stderr)
    return result if isinstance(result, list) else [result]


def number(value):
    return "–" if value is None else f"{value:,.1f}".replace("-", "−")


def interval(low, high):
    return f"[{number(low)}, {number(high)}]"


class Table:
    """Rows of Markdown, printed as they come and written in the end."""

    def __init__(self, title, heading):
        self.lines = [f"### {title}", "", "| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
        print("\n".join(self.lines), flush=True)

    def row(self, *cells):
        self.lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        print(self.lines[-1], flush=True)

    def write(self, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(self.lines) + "\n")


def radial_row(table, name, result):
    answer = result["answer"]
    trust = result["radial"]["reliability"]
    table.row(name, "star", number(answer["log_probability"]), interval(*answer["interval"]), trust, "–", f"{answer['seconds']:.1f}")


def annealed_row(table, name, result):
    answer, own = result["answer"], result["annealed"]
    ways = f"outward {number(own['outward'][0])}, inward {number(own['inward'][0])}" if own["gap"] is not None else "incomplete"
    trust = f"{answer['trust']} ({ways}; overlap {own['overlap']:.3f})"
    table.row(name, answer["measures"], number(answer["log_probability"]), interval(*answer["interval"]), trust, f"{answer['gradients']:,}", f"{answer['seconds']:.0f}")


def spectral_row(table, name, result):
    answer = result["answer"]
    trust = f"guide (true cost {result['spectral']['true_cost']['ratio']:.3g} times the quadratic)"
    table.row(name, answer["measures"], number(answer["log_probability"]), interval(*answer["interval"]), trust, f"{answer['gradients']:,}", f"{answer['seconds']:.1f}")


HEADING = ["estimator", "set", "log-probability", "interval", "trust", "gradients", "seconds"]


def compare(table, model, out, common, annealed, preconditioners, seeds, star=True):
    """All estimators on one question; returns the annealed values of every seed."""
    for preconditioner in preconditioners:
        for proposal in ["centered", "shifted"]:
            if preconditioner == "none" and proposal == "shifted":
                continue
            folder = out / f"radial-{preconditioner}-{proposal}"
            flags = [] if proposal == "centered" else ["--proposal", proposal]
            result = estimate(model, folder, *common, "--samples", 200, "--preconditioner", preconditioner, *flags)[0]
            radial_row(table, f"radial, {preconditioner}, {proposal}", result)
    spectral_row(table, "spectral", estimate(model, out / "spectral", *common, "--estimator", "spectral")[0])
    values = {}
    for kind in ["basin", "star"] if star else ["basin"]:
        for seed in range(1, seeds + 1):
            folder = out / f"annealed-{kind}-{seed}"
            result = estimate(model, folder, *common, "--estimator", "annealed", "--set-kind", kind, "--seed", seed, *annealed)[0]
            annealed_row(table, f"annealed, seed {seed}", result)
            values.setdefault(kind, []).append(result["answer"]["log_probability"])
    for kind, found in values.items():
        mean = sum(found) / len(found)
        spread = math.sqrt(sum((x - mean) ** 2 for x in found) / max(1, len(found) - 1))
        table.row(f"annealed, mean of {len(found)} seeds", kind, number(mean), f"spread {spread:.1f} ({abs(100 * spread / mean):.1f} %)", "", "", "")
    return values


def small(arguments):
    folder = ROOT / "tests" / "golden" / "small_network"
    for sigma in ["0.422168", "1.398"]:
        table = Table(f"64-16-10 network, 1,210 weights, 256 inputs, cutoff 0.01, sigma {sigma}", HEADING)
        common = ["--data", folder / "inputs.safetensors", "--sigma", sigma]
        annealed = ["--set", "chains=4", "--set", "trajectories=24"]
        out = arguments.out / f"small-{sigma}"
        compare(table, folder, out, common, annealed, ["none", "fisher", "kronecker"], arguments.seeds)
        table.write(arguments.out / f"small-{sigma}.md")


def digits(arguments):
    table = Table(f"digits network, 1,089,034 weights, {arguments.rows} inputs, cutoff 0.01, sigma {arguments.sigma}", HEADING)
    common = ["--data", f"digits:train:{arguments.rows}" if arguments.rows else "digits:train", "--sigma", arguments.sigma]
    annealed = ["--set", "trajectories=10", "--set", "patience=8", "--set", "spacing=0.4", "--set", "settle=2", "--set", "effort=420"]
    out = arguments.out / f"digits-{arguments.rows}-{arguments.sigma}"
    compare(table, "digits-mlp", out, common, annealed, ["none", "adam2", "fisher", "low-rank"], arguments.seeds, star=False)
    table.write(arguments.out / f"digits-{arguments.rows}-{arguments.sigma}.md")


def lm(arguments):
    checkpoints = sorted(Path(arguments.checkpoints).glob("step-*"), key=lambda path: int(path.name.split("-")[1]))
    if not checkpoints:
        sys.exit(f"{arguments.checkpoints} holds no step-N folders: train with `basin-volume train lm`")
    table = Table("small language model, log-probability (nats) by training step", ["step", *HEADING])
    for checkpoint in checkpoints[:: arguments.every]:
        step = checkpoint.name.split("-")[1]
        rows = Table(f"step {step}", HEADING)
        common = ["--data", arguments.data]
        annealed = ["--set", "trajectories=6", "--set", "patience=3"]
        compare(rows, checkpoint, arguments.out / f"lm-{step}", common, annealed, ["none", "fisher"], 1, star=False)
        for line in rows.lines[4:]:
            table.lines.append(f"| {step} {line}")
    table.write(arguments.out / "lm.md")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["small", "digits", "lm"])
    parser.add_argument("checkpoints", nargs="?", help="for lm: the folder with step-N checkpoints")
    parser.add_argument("--data", help="for lm: token ids or text")
    parser.add_argument("--out", type=Path, default=Path("accuracy"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--sigma", default="rms")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    {"small": small, "digits": digits, "lm": lm}[arguments.study](arguments)


if __name__ == "__main__":
    main()
