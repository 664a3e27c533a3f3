"""Do memorised texts stand out? Volumes of passages that a small language model was trained on 0, 1, 10 and 100 times.

    python scripts/per_sequence/repetitions.py --work /tmp/repetitions FILE...

FILE... are plain texts, half a megabyte or more in all (README files, a book). From them come passages of PASSAGE characters, PER_GROUP for every
number of repetitions, and the rest of the training text. The passages are written between the paragraphs of the rest in a random order. Needs the
program `basin-volume` (`--program`), and nothing but Python's own library. Prints a table; writes `repetitions.csv`, and `--figure FILE.svg`.
"""

from __future__ import annotations

import argparse
import array
import csv
import json
import math
import random
import subprocess
from pathlib import Path

REPETITIONS = (0, 1, 10, 100)
PER_GROUP = 16
PASSAGE = 80
REST = 300_000
TRAIN = ["--hidden-size", "32", "--layers", "2", "--heads", "4", "--vocab-size", "300", "--max-seq-len", "64"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder of texts, network and runs")
    parser.add_argument("--program", default="basin-volume")
    parser.add_argument("--steps", default="600")
    parser.add_argument("--samples", default="40")
    parser.add_argument("--preconditioner", default="none")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    groups = write_texts(args.files, args.work)
    network = args.work / "net"
    train = ["train", "lm", "--text", str(args.work / "train.txt"), "--out", str(network), "--steps", args.steps, "--no-checkpoints", *TRAIN]
    if not (network / "config.json").exists():
        subprocess.run([args.program, *train], check=True)
    run = args.work / f"run-{args.preconditioner}"
    estimate = ["estimate", str(network), "--data", str(args.work / "passages.jsonl"), "--val-size", str(len(groups)), "--max-seq-len", "64"]
    estimate += ["--per-sequence", "volume", "--samples", args.samples, "--preconditioner", args.preconditioner, "--out", str(run)]
    subprocess.run([args.program, *estimate], check=True)
    with (run / "sequences.csv").open(newline="", encoding="utf-8") as file:
        rows = {int(row["sequence"]): row for row in csv.DictReader(file)}
    result = json.loads((run / "result.json").read_text())["radial"]
    print(f"evaluations per ray: {result['evaluations_per_sample']:.1f}, median {result['evaluations_median']}")
    losses = losses_of(args.program, network, args.work, len(groups))
    points = [(repetitions, float(rows[k]["mean_log_volume"]), float(rows[k]["log_volume"])) for k, repetitions in enumerate(groups)]
    with (args.work / "repetitions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("repetitions", "mean_log_volume", "log_volume"), *points])
    for repetitions in REPETITIONS:
        means = [mean for other, mean, _ in points if other == repetitions]
        volumes = [volume for other, _, volume in points if other == repetitions]
        loss = [loss for other, loss in zip(groups, losses, strict=True) if other == repetitions]
        print(f"{repetitions:4} times: loss {sum(loss) / len(loss):.2f} nats per token, mean log-volume {words(means)}, log-mean-exp {words(volumes)}")
    unseen = [mean for repetitions, mean, _ in points if repetitions == 0]
    for repetitions in REPETITIONS[1:]:
        seen = [mean for other, mean, _ in points if other == repetitions]
        share = sum((a < b) + 0.5 * (a == b) for a in seen for b in unseen) / (len(seen) * len(unseen))
        print(f"{repetitions:4} times: smaller than a passage never seen in {share:.0%} of pairs")
    if args.figure:
        args.figure.write_text(figure(points), encoding="utf-8")


def write_texts(files: list[Path], work: Path) -> list[int]:
    """Writes `train.txt` and `passages.jsonl`; gives the number of repetitions of every passage."""
    draw = random.Random(0)
    text = "\n".join(path.read_text(encoding="utf-8", errors="ignore") for path in sorted(files))
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    paragraphs = list(dict.fromkeys(p for p in paragraphs if p.isascii() and len(p) > 100 and "http" not in p and "|" not in p))
    draw.shuffle(paragraphs)
    count = PER_GROUP * len(REPETITIONS)
    passages = [paragraph[:PASSAGE] for paragraph in paragraphs[:count]]
    groups = [REPETITIONS[k % len(REPETITIONS)] for k in range(count)]
    pieces = [passage for passage, repetitions in zip(passages, groups, strict=True) for _ in range(repetitions)]
    size = 0
    for paragraph in paragraphs[count:]:
        pieces.append(paragraph)
        size += len(paragraph)
        if size > REST:
            break
    draw.shuffle(pieces)
    (work / "train.txt").write_text("\n\n".join(pieces), encoding="utf-8")
    lines = [json.dumps({"text": passage}) for passage in passages]
    (work / "passages.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(pieces)} pieces, {sum(map(len, pieces))} characters, {size} of them of the rest")
    return groups


def losses_of(program: str, network: Path, work: Path, count: int) -> list[float]:
    """The loss of the network on every passage, nats per token: what it remembers."""
    out = work / "logits.safetensors"
    data = ["--data", str(work / "passages.jsonl"), "--val-size", str(count), "--max-seq-len", "64"]
    subprocess.run([program, "logits", str(network), *data, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    raw = out.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:start])

    def values(name: str, kind: str) -> array.array[float]:
        begin, end = header[name]["data_offsets"]
        return array.array(kind, raw[start + begin : start + end])

    losses = []
    for k in range(count):
        tokens, logits = values(f"tokens.{k}", "q"), values(f"logits.{k}", "f")
        width = len(logits) // len(tokens)
        total = 0.0
        for position, token in enumerate(tokens[1:]):
            row = logits[position * width : (position + 1) * width]
            most = max(row)
            total += most + math.log(sum(math.exp(logit - most) for logit in row)) - row[int(token)]
        losses.append(total / max(1, len(tokens) - 1))
    return losses


def words(values: list[float]) -> str:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:,.0f} (sd {deviation:,.0f})"


def figure(points: list[tuple[int, float, float]]) -> str:
    """A point per passage, by repetitions."""
    width, height, left, bottom = 460, 300, 80, 50
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    margin = 0.06 * (high - low)
    low, high = low - margin, high + margin

    def y(value: float) -> float:
        return (height - bottom) - (value - low) / (high - low) * (height - bottom - 20)

    def x(repetitions: int) -> float:
        return left + 50 + 105 * REPETITIONS.index(repetitions)

    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 6)
    ticks = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    for tick in ticks:
        parts.append(f'<line x1="{left}" x2="{width - 10}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:,.0f}</text>')
    for repetitions in REPETITIONS:
        group = [p[1] for p in points if p[0] == repetitions]
        middle = sum(group) / len(group)
        for k, value in enumerate(group):
            shift = 24 * (k / (len(group) - 1) - 0.5)
            parts.append(f'<circle cx="{x(repetitions) + shift:.1f}" cy="{y(value):.1f}" r="3" fill="#1f77b4" fill-opacity="0.6"/>')
        parts.append(
            f'<line x1="{x(repetitions) - 22}" x2="{x(repetitions) + 22}" y1="{y(middle):.1f}" y2="{y(middle):.1f}" stroke="#d62728" stroke-width="2"/>'
        )
        parts.append(f'<text x="{x(repetitions)}" y="{height - bottom + 18}" text-anchor="middle">{repetitions}</text>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 10}" text-anchor="middle">times in the training text</text>')
    parts.append(f'<text transform="translate(14 {(height - bottom) / 2 + 10}) rotate(-90)" text-anchor="middle">mean log-volume (nats)</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
