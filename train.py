#!/usr/bin/env python3
"""See `python train.py --help`; the command is in `melgpu/commands/train.py`."""

from melgpu.commands import train

if __name__ == "__main__":
    train.command()
