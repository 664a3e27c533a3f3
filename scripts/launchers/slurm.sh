#!/bin/bash
# `--shard auto` under a real Slurm of one node, which this script starts and stops: a job of several tasks by srun, an array, a job that is ended
# with Slurm's signal and submitted again, and a batch script that forgot srun. Needs Debian's slurmctld, slurmd and munge, and root.
#
#   apt-get install slurmctld slurmd munge; cargo build; scripts/launchers/slurm.sh target/debug/basin-volume
#
# Ends with 0 and "all of Slurm is understood", or with what went wrong.
set -euo pipefail

program=$(realpath "${1:-target/debug/basin-volume}")
root=$(realpath "$(dirname "$0")/../..")
for needed in slurmctld slurmd munged sbatch srun; do
    command -v "$needed" > /dev/null || { echo "$needed is not here: apt-get install slurmctld slurmd munge"; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "the daemons need root"; exit 77; }

work=$(mktemp -d)
export SLURM_CONF=$work/slurm.conf
host=$(hostname -s)
# Ends the daemons by the files that have their numbers, waits for them, and leaves nothing behind; what went wrong is shown before.
stop() {
    local code=$? file pid
    cd /
    [ "$code" = 0 ] || tail -n 50 "$work"/slurm*.log "$work"/munge/log 2> /dev/null || true
    for file in "$work"/slurmctld.pid "$work"/slurmd.pid "$work"/munge/pid; do
        pid=$(cat "$file" 2> /dev/null) && kill "$pid" 2> /dev/null || continue
        for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
    done
    rm -rf "$work"
    exit "$code"
}
trap stop EXIT

mkdir -p "$work"/{state,spool,munge}
chmod 755 "$work"
dd if=/dev/urandom of="$work/munge/key" bs=1024 count=1 2> /dev/null
chmod 400 "$work/munge/key"
munged --socket="$work/munge.socket" --key-file="$work/munge/key" --pid-file="$work/munge/pid" --log-file="$work/munge/log" \
    --seed-file="$work/munge/seed" --force > /dev/null 2>&1
cat > "$SLURM_CONF" << END
ClusterName=test
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$work/munge.socket
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort=36817
SlurmdPort=36818
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.pid
SlurmdSpoolDir=$work/spool
StateSaveLocation=$work/state
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.log
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=20
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
END
slurmctld
slurmd
for _ in $(seq 60); do [ "$(sinfo -h -o %t 2> /dev/null)" = idle ] && break; sleep 0.5; done
[ "$(sinfo -h -o %t)" = idle ] || { echo "Slurm does not start here"; exit 77; }

cd "$work"
model=$root/tests/golden/small_network
ask="$program estimate $model --data $model/inputs.safetensors --threads 1 --samples"
script() { printf '#!/bin/bash\n%s\n' "$2" > "$1"; }
fail() { echo "wrong: $1"; shift; cat "$@" 2> /dev/null; exit 1; }
same() { cmp <(sort "$1/samples.jsonl") <(sort alone/samples.jsonl) || fail "$1 differs from what one process computes" ./*.log; }
count() { cat "$1"/shards/*/samples.jsonl 2> /dev/null | wc -l; }

$ask 24 --out alone > /dev/null 2>&1

script srun.sh "srun --ntasks=4 --overcommit $ask 24 --shard auto --out srun"
sbatch --wait --ntasks=2 --output=srun.log srun.sh > /dev/null || fail "srun" srun.log
[ -f srun/manifest.json ] || $ask 24 --shard auto --out srun > /dev/null 2>&1 || true
[ -f srun/manifest.json ] || "$program" merge srun/shards/*-of-4 --out srun > /dev/null
same srun

script array.sh "$ask 24 --shard auto --out array"
sbatch --wait --array=1-5:2 --output=array-%a.log array.sh > /dev/null || fail "an array" array-*.log
[ -f array/manifest.json ] || fail "nobody joined the array" array-*.log
same array

# Ended a moment after it began, by the signal that Slurm sends before the time is over; submitted again it goes on.
script signal.sh "exec $ask 6000 --shard auto --out signal"
job=$(sbatch --parsable --array=0-0 --signal=B:TERM@60 --output=signal.log signal.sh)
for _ in $(seq 200); do [ "$(count signal)" -gt 5 ] && break; sleep 0.05; done
scancel --batch --signal=TERM "$job"
for _ in $(seq 200); do [ -z "$(squeue -h -j "$job" 2> /dev/null)" ] && break; sleep 0.1; done
before=$(count signal)
{ [ "$before" -gt 5 ] && [ "$before" -lt 6000 ]; } || fail "$before samples after the signal" signal.log
grep -q "the same command continues it" signal.log || fail "no word of how to go on" signal.log
sbatch --wait --array=0-0 --output=signal.log signal.sh > /dev/null || fail "going on" signal.log
[ "$(wc -l < signal/samples.jsonl)" = 6000 ] || fail "not all samples after going on" signal.log

script forgot.sh "$ask 24 --shard auto --out forgot"
sbatch --wait --ntasks=2 --output=forgot.log forgot.sh > /dev/null && fail "a batch script is no task" forgot.log
grep -q "start the program with .srun." forgot.log || fail "a batch script is not told what to do" forgot.log

echo "all of Slurm is understood"
