#!/usr/bin/env python3
"""See `python predict.py --help`; the command is in `melgpu/commands/predict.py`."""

from melgpu.commands import predict

if __name__ == "__main__":
    predict.command()
