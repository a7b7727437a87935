"""Everything that a GPU must settle, in steps that cannot end the run: `python -m benchmarks gpu`.

The command itself imports no torch. A worker process runs the steps that it is told, row by row; a row that raises,
crashes or hangs costs itself alone.
"""
