#!/bin/bash
# The same for the command line, built with `--features cuda`. torchrun shows every process all GPUs, and the program takes the one of its number;
# this script shows it that one alone, and refuses a process for which there is none, which would share one with another.
#
#   torchrun --nproc-per-node 8 --no-python examples/torchrun/command.sh estimate MODEL --data DATA --samples 100 --device cuda --out runs/model
set -euo pipefail
rank=${LOCAL_RANK:-0}
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    # Those of the job, by number or by name (GPU-..., MIG-...).
    IFS=', ' read -ra devices <<< "$CUDA_VISIBLE_DEVICES"
    [ "$rank" -lt "${#devices[@]}" ] || {
        echo "process $rank of this machine has no GPU: CUDA_VISIBLE_DEVICES lists ${#devices[@]}, start as many processes (--nproc-per-node)" >&2
        exit 2
    }
    export CUDA_VISIBLE_DEVICES=${devices[$rank]}
else
    export CUDA_VISIBLE_DEVICES=$rank
fi
exec basin-volume "$@" --shard auto
