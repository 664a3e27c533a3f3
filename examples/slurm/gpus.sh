#!/bin/bash
# Rays of one large model on eight GPUs of two nodes, a task for each. The program has to be built for them:
# `cargo build --release --features cuda`.
#
#   sbatch examples/slurm/gpus.sh mistralai/Mistral-7B-v0.1 val.jsonl runs/mistral
#SBATCH --job-name=basin-volume
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --output=rays-%j.log
# Sent to the tasks themselves, two minutes before the time is over.
#SBATCH --signal=TERM@120

set -euo pipefail
model=${1:?a checkpoint folder or a model of the hub}
data=${2:?the data}
out=${3:?the folder of the run}

# Every task sees one GPU. `srun` is what makes tasks: without it the batch script would compute one part alone, and is refused. Since Slurm 22.05 it
# does not take over the cores of a task from the lines above by itself.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    basin-volume estimate "$model" --data "$data" --device cuda --dtype bf16 --samples 100 --shard auto --out "$out"
