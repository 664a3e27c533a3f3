#!/bin/bash
# A scan as a job array: every task computes its share of the samples of all points, and the last one joins them in the folder.
#
#   sbatch --array=0-15 examples/slurm/scan.sh examples/pythia/checkpoints.toml runs/pythia
#
# A task that was stopped goes on where it was when the same array is submitted again: the folders hold every finished sample. Chains have no shards;
# each of their points falls to one of the tasks, so 30 checkpoints by 3 estimators on 8 tasks is this very command. Where no task saw that all others
# were done, merge.sh joins them by hand.
#SBATCH --job-name=basin-volume
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=scan-%A-%a.log
# Two minutes before the time is over the samples in flight are finished.
#SBATCH --signal=B:TERM@120

set -euo pipefail
config=${1:?the TOML file of the scan}
out=${2:?the folder of the scan}

# The models of the hub are fetched once: start one task first, or run `basin-volume inspect MODEL` on a machine with network.
exec basin-volume scan --config "$config" --shard auto --threads "${SLURM_CPUS_PER_TASK:-1}" --out "$out"
