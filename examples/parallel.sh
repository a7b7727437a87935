#!/usr/bin/env bash
# Predict a frozen list of music on one machine with GNU parallel: a process for each GPU.
#
#   examples/parallel.sh PARTS GPUS RUN LIST DIR [FLAGS of predict.py]
#
#   python predict.py --list /music --write-list tracks.txt --parts 64
#   examples/parallel.sh 64 8 runs/mine tracks.txt answers
#
# writes answers.parquet. Start it in the folder of predict.py, with the environment of melgpu active. A process that
# dies is started again, three times at most, while the others go on; the same command repeats what is missing.
set -euo pipefail
parts=$1 gpus=$2 run=$3 list=$4 out=$5
shift 5
workers=$((($(nproc) + gpus - 1) / gpus)) # all processes share the cores
# Slots count from 1, GPUs from 0. What fails for good is named by the merge.
seq 0 $((parts - 1)) | parallel --quote --jobs "$gpus" --retries 4 --line-buffer --tagstring 'part {}' \
    env 'CUDA_VISIBLE_DEVICES={= $_ = slot() - 1 =}' python predict.py --run "$run" --list "$list" \
    --part "{}/$parts" --out "$out" --set "loader.workers=$workers" "$@" || true
python predict.py --merge "$out" --out "$out.parquet"
