#!/bin/bash
# Joins the shards of examples/slurm/scan.sh into one scan, draws its figures and writes a page of it.
#SBATCH --job-name=basin-volume-merge
#SBATCH --cpus-per-task=1
#SBATCH --time=00:30:00

set -euo pipefail
out=${1:?the folder with the shards}

basin-volume merge "$out"/shard-* --out "$out/scan"
basin-volume report "$out/scan" --html "$out/scan.html"
