"""The run folder and its file formats: creation, current state, predictions, pseudo labels, timings."""
