"""The star by chains beside rays with every preconditioner: how far below the truth rays stay. The table and the figure of docs/accuracy/stars.md.

    python scripts/accuracy/stars.py run NAME MODEL --out DIR --data DATA --sigma S --cutoff E [--set NAME=VALUE ...] [--seed N] [--rays N]
    python scripts/accuracy/stars.py table DIR
    python scripts/accuracy/stars.py figure DIR stars.png

`run` computes one network with `target/release/basin-volume` (build it first: cargo build --release) and goes on where it was stopped; the settings
are those of the chains. Needs nothing but Python's standard library; the figure needs matplotlib.
"""
import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from networks import BINARY

PROPOSALS = ["centered", "shifted"]
# Those that are computed from the network; moments of the optimizer are tried too where the checkpoint has them.
CURVATURES = ["fisher", "low-rank", "kronecker", "learned"]


def estimate(arguments, folder, *flags):
    """The result of one command, or nothing where the program says why there is none."""
    common = ["--data", arguments.data, "--sigma", arguments.sigma, "--cutoff", arguments.cutoff, "--seed", arguments.seed]
    command = [str(arguments.program), "estimate", arguments.model, *common, *arguments.more, "--out", str(folder), "--json", *flags]
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        print(f"{' '.join(flags)}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout)


def run(arguments):
    out = arguments.out / arguments.name
    rays = {}
    for preconditioner in ["none", "adam2", *CURVATURES]:
        for proposal in PROPOSALS if preconditioner in CURVATURES else PROPOSALS[:1]:
            flags = ["--estimator", "radial", "--samples", str(arguments.rays), "--preconditioner", preconditioner, "--proposal", proposal]
            result = estimate(arguments, out / f"{preconditioner}-{proposal}", *flags)
            if result is not None:
                rays[f"{preconditioner} {proposal}"] = {
                    "log_mean_exp": result["answer"]["log_probability"],
                    "mean": result["radial"]["mean"],
                    "seconds": result["answer"]["seconds"],
                }
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    result = estimate(arguments, out / "star", "--estimator", "annealed", "--set-kind", "star", *settings)
    star = None if result is None else {
        "answer": result["answer"],
        "dimension": json.loads((out / "star" / "manifest.json").read_text())["dimension"],
        "gap": result["annealed"]["gap"],
        "overlap": result["annealed"]["overlap"],
    }
    (out / "stars.json").write_text(json.dumps({"name": arguments.name, "rays": rays, "star": star}, indent=1))


def rows(folder):
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*/stars.json"))]
    words = lambda name: [int(word) if word.isdigit() else word for word in re.split(r"(\d+)", name)]
    return sorted((row for row in found if row["star"]), key=lambda row: (row["star"]["dimension"], words(row["name"])))


def nats(value):
    return "–" if value is None else f"{value:,.1f}".replace("-", "−") if abs(value) < 1e4 else f"{value:,.0f}".replace("-", "−")


def best(row):
    return max(row["rays"].items(), key=lambda item: item[1]["log_mean_exp"])


def table(arguments):
    heading = ["network", "weights", "star by chains", "gap", "overlap", "core time", "rays", "fisher", "kronecker", "the best of all", "short by"]
    print("| " + " | ".join(heading) + " |\n|" + "---|" * len(heading))
    for row in rows(arguments.folder):
        star, answer, rays = row["star"], row["star"]["answer"], row["rays"]
        low, high = answer["interval"]
        gap = "–" if star["gap"] is None else f"{100 * abs(star['gap'] / answer['log_probability']):.1f} %"
        both = lambda name: " / ".join(nats(rays.get(f"{name} {proposal}", {}).get("log_mean_exp")) for proposal in PROPOSALS)
        name, bound = best(row)
        short = answer["log_probability"] - bound["log_mean_exp"]
        cells = [
            row["name"],
            f"{star['dimension']:,}",
            f"{nats(answer['log_probability'])} [{nats(low)}, {nats(high)}], {answer['trust']}",
            gap,
            f"{star['overlap']:.2f}",
            f"{answer['seconds']:,.0f} s",
            nats(rays["none centered"]["log_mean_exp"]),
            both("fisher"),
            both("kronecker"),
            f"{nats(bound['log_mean_exp'])}, {name}",
            f"{nats(short)} nats, {bound['log_mean_exp'] / answer['log_probability']:.2f} times",
        ]
        print("| " + " | ".join(cells) + " |")


def figure(arguments):
    import matplotlib

    matplotlib.use("svg" if arguments.to.suffix == ".svg" else "agg")
    from matplotlib import pyplot

    found = rows(arguments.folder)
    picture, axes = pyplot.subplots(figsize=(8, 1.2 + 0.55 * len(found)))
    marks = {"none": ("x", "rays, no preconditioner"), "fisher": ("o", "rays, Fisher"), "kronecker": ("s", "rays, Kronecker"), "learned": ("^", "rays, learned")}
    for place, row in enumerate(reversed(found)):
        truth = row["star"]["answer"]["log_probability"]
        for preconditioner, (mark, label) in marks.items():
            values = [bound["log_mean_exp"] / truth for name, bound in row["rays"].items() if name.split()[0] == preconditioner]
            axes.plot(values, [place] * len(values), mark, color="#555555", label=label if place == 0 else None, fillstyle="none")
        low, high = row["star"]["answer"]["interval"]
        axes.plot([high / truth, low / truth], [place, place], "-", color="#c03030", linewidth=5, label="star by chains, interval" if place == 0 else None)
    axes.set_yticks(range(len(found)), [f"{row['name']} ({row['star']['dimension']:,} weights)" for row in reversed(found)])
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
    axes.set_xlabel("nats of description length, in parts of the star's own")
    axes.axvline(1.0, color="#c03030", linewidth=0.8)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.4, -0.18), ncol=3, frameon=False)
    picture.tight_layout()
    picture.savefig(arguments.to, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("run")
    one.add_argument("name")
    one.add_argument("model")
    one.add_argument("--out", type=Path, default=Path("stars"))
    for flag in ["--data", "--sigma", "--cutoff"]:
        one.add_argument(flag, required=True)
    one.add_argument("--set", action="append", default=[])
    one.add_argument("--seed", default="1")
    one.add_argument("--rays", type=int, default=100)
    one.add_argument("--program", type=Path, default=BINARY)
    one.add_argument("--more", nargs=argparse.REMAINDER, default=[], help="the rest goes to every estimate")
    of = commands.add_parser("table")
    of.add_argument("folder", type=Path)
    to = commands.add_parser("figure")
    to.add_argument("folder", type=Path)
    to.add_argument("to", type=Path)
    arguments = parser.parse_args()
    {"run": run, "table": table, "figure": figure}[arguments.command](arguments)


if __name__ == "__main__":
    main()
