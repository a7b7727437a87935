#!/usr/bin/env bash
# Predict a frozen list of music on a Slurm cluster: an array of parts, and a job that merges them when all have ended.
#
#   examples/slurm/submit.sh ARRAY RUN LIST DIR [FLAGS of predict.py]
#
#   python predict.py --list /music --write-list tracks.txt --parts 64
#   export SBATCH_ACCOUNT=... SBATCH_PARTITION=... SBATCH_TIMELIMIT=8:00:00    # what your cluster asks for
#   examples/slurm/submit.sh 0-63 runs/mine tracks.txt answers
#
# writes answers.parquet. Start it in the folder of predict.py, with the environment of melgpu active. Output is in
# answers.logs; where parts are missing, merge.log has the ARRAY that makes them, for the same command.
set -euo pipefail
array=$1 run=$2 list=$3 out=$4
shift 4
here=$(dirname "$(realpath "$0")")
mkdir -p "$out.logs"
parts=$(sbatch --parsable --array="$array" --output="$out.logs/part-%a.log" \
    "$here/part.sh" "$run" "$list" "$out" "$@")
parts=${parts%%;*} # without the cluster's name
# After any end: a merge that lacks parts says which ones, one that waits for success would never start.
merge=$(sbatch --parsable --dependency="afterany:$parts" --output="$out.logs/merge.log" \
    "$here/merge.sh" "$out" "$out.parquet")
echo "parts: job $parts, array $array; merge: job ${merge%%;*}; output: $out.logs"
