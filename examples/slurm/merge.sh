#!/bin/bash
# Joins the parts of a job by hand, where no task saw that it was the last (a file system that tells late of new files, or tasks that never ran).
#
#   sbatch examples/slurm/merge.sh runs/pythia 16
#SBATCH --job-name=basin-volume-merge
#SBATCH --cpus-per-task=1
#SBATCH --time=00:30:00

set -euo pipefail
out=${1:?the folder of the job}
tasks=${2:?of how many tasks it was}

basin-volume merge "$out"/shards/*-of-"$tasks" --out "$out"
basin-volume report "$out" --html "$out.html"
