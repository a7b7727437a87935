#!/usr/bin/env bash
#SBATCH --job-name=genres
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --requeue
#SBATCH --open-mode=append
# One part of a list, a task of submit.sh's array; predict.py reads the number of the part from SLURM_ARRAY_TASK_ID.
set -uo pipefail
run=$1 list=$2 out=$3
shift 3
code=0
python predict.py --run "$run" --list "$list" --out "$out" "$@" || code=$?
# Slurm queues tasks again when their node is lost, but not when a program is killed, as for its memory.
if ((code > 128 && ${SLURM_RESTART_COUNT:-0} < 3)); then
    echo "exit code $code: queued again, to go on where it was"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60 # until Slurm ends this script
fi
exit "$code"
