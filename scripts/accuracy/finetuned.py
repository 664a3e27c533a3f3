"""What a fine-tuning costs: a small language model fine-tuned on a few passages, measured under a prior around its base. The table of docs/pairs.md.

    python scripts/accuracy/finetuned.py BASE --text FILE [--out DIR] [--passages N ...] [--epochs N ...] [--program FILE]

BASE is a checkpoint of `basin-volume train lm`; the passages are sequences of 64 tokens from the end of the text. Each network is fine-tuned by AdamW
with torch and transformers, and measured on the passages that it was fine-tuned on, and on others: by rays under a prior around zero and around the
base, and by chains around the base. Goes on where it was stopped.
"""
import argparse
import json
import subprocess
import sys
from pathlib import Path

from networks import BINARY, Table, number

LENGTH = 64


def passages(base, text, count):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer(text.read_text(errors="ignore")[-200_000:])["input_ids"]
    cut = [ids[start : start + LENGTH] for start in range(0, len(ids) - LENGTH, LENGTH)]
    return cut[: 2 * count]


def tune(base, own, epochs, out):
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, torch_dtype=torch.float32)
    data = torch.tensor(own)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(epochs):
        loss = model(data, labels=data).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(out)
    for file in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]:
        if (base / file).exists():
            (out / file).write_bytes((base / file).read_bytes())
    with torch.no_grad():
        return model(data, labels=data).loss.item()


def estimate(program, model, data, out, *flags):
    common = ["--data", data, "--cutoff", "0.1", "--seed", "1", "--samples", "100", "--out", out, "--json"]
    if "annealed" in flags:
        common[-5:-3] = []
    done = subprocess.run(list(map(str, [program, "estimate", model, *common, *flags])), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{model}: {done.stderr}")
    return json.loads(done.stdout)["answer"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("finetuned"))
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--epochs", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--sigma", default="0.02", help="around the base; one for all, since the difference grows with the epochs")
    parser.add_argument("--program", type=Path, default=BINARY)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = passages(arguments.base, arguments.text, arguments.passages)
    data = arguments.out / "passages.json"
    data.write_text(json.dumps(found[: arguments.passages]))
    table = Table("What a fine-tuning costs", ["epochs", "loss", "rays, around zero", "rays, around the base", "chains, around the base", "trust"])
    for epochs in arguments.epochs:
        out = arguments.out / f"epochs-{epochs}"
        record = out / "loss.json"
        if not record.exists():
            out.mkdir(exist_ok=True)
            loss = tune(arguments.base, found[: arguments.passages], epochs, out)
            record.write_text(json.dumps(loss))
        around = ["--prior-mean", arguments.base, "--sigma", arguments.sigma]
        zero = estimate(arguments.program, out, data, arguments.out / f"zero-{epochs}", "--sigma", arguments.sigma)
        rays = estimate(arguments.program, out, data, arguments.out / f"base-{epochs}", *around)
        chains = estimate(arguments.program, out, data, arguments.out / f"chains-{epochs}", *around, "--estimator", "annealed")
        interval = f"[{number(chains['interval'][0])}, {number(chains['interval'][1])}]"
        table.row(
            epochs, f"{json.loads(record.read_text()):.3f}", number(zero["log_probability"]), number(rays["log_probability"]),
            f"{number(chains['log_probability'])} {interval}", chains["trust"],
        )
    table.write(arguments.out / "finetuned.md")


if __name__ == "__main__":
    main()
