#!/usr/bin/env bash
#SBATCH --job-name=merge-genres
#SBATCH --mem=4G
#SBATCH --open-mode=truncate
# The parts in a folder -> one table.
exec python predict.py --merge "$1" --out "$2"
