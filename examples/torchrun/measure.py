"""Rays of a Hugging Face model on every GPU of a machine, or on the processor.

    torchrun --nproc-per-node 8 examples/torchrun/measure.py EleutherAI/pythia-160m val.txt runs/pythia-160m

Every process measures its part of the rays with the model on its own GPU, and the last one joins them in the folder. No process group is needed:
nothing passes between the processes but the folder.
"""

import os
import sys
from pathlib import Path

import basin_volume as bv
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

name, data, out = sys.argv[1:]
device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
model = AutoModelForCausalLM.from_pretrained(name).to(device).eval()
texts = Path(data).read_text().split("\n\n")
result = bv.estimate(model, texts, tokenizer=AutoTokenizer.from_pretrained(name), max_seq_len=256, val_size=64, samples=100, shard="auto", out=out)
if result.folder == Path(out):
    # This process was the last, and has joined them all.
    print(result)
