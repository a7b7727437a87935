#!/usr/bin/env python3
"""See `python stack.py --help`; the command is in `melgpu/commands/stack.py`."""

from melgpu.commands import stack

if __name__ == "__main__":
    stack.command()
