#!/bin/bash
# A scan as a job array: every task computes its share of the samples of all points into a folder of its own, and the last step joins them.
#
#   sbatch --array=0-15 examples/slurm/scan.sh examples/pythia/checkpoints.toml runs/pythia
#   sbatch --dependency=afterok:JOB examples/slurm/merge.sh runs/pythia            (JOB as sbatch printed it)
#
# A task that was stopped goes on where it was when it is submitted again: the folders hold every finished sample. Annealed points have no
# shards; each of them falls to one of the tasks.
#SBATCH --job-name=basin-volume
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --output=scan-%A-%a.log
# Ctrl-C, a minute before the time is over, lets the samples in flight be finished.
#SBATCH --signal=B:INT@60

set -euo pipefail
config=${1:?the TOML file of the scan}
out=${2:?the folder for the shards}

# The models of the hub are fetched once: start one task first, or run `basin-volume inspect MODEL` on a machine with network.
exec basin-volume scan --config "$config" \
    --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
    --threads "${SLURM_CPUS_PER_TASK:-1}" \
    --out "$out/shard-$SLURM_ARRAY_TASK_ID"
