"""The command-line interfaces of train.py, predict.py and stack.py: parsers and mains."""
