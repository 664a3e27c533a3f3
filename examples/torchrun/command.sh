#!/bin/bash
# The same for the command line: torchrun shows every process all GPUs, the program takes the first that it sees.
#
#   torchrun --nproc-per-node 8 --no-python examples/torchrun/command.sh estimate MODEL --data DATA --samples 100 --device cuda --out runs/model
set -euo pipefail
export CUDA_VISIBLE_DEVICES=${LOCAL_RANK:-0}
exec basin-volume "$@" --shard auto
