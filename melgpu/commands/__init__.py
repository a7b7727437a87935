"""Command lines to work done and an exit code: the parsers and mains of train.py, predict.py and stack.py."""
