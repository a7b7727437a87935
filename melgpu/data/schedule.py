"""A window index to the schedule of its tracks: the order of first use, and the batch after which each is dropped."""

import numpy as np

from melgpu.data.windows import WindowIndex, first_occurrence, unique_inverse


class Schedule:
    """When each track of a window index is needed: known before anything is decoded."""

    def __init__(self, index: WindowIndex, batch_size: int):
        rows, inverse = unique_inverse(index.tracks)
        first = first_occurrence(inverse, len(rows))
        last = len(index) - 1 - first_occurrence(inverse[::-1], len(rows))
        first_batch = first // batch_size
        last_batch = last // batch_size
        num_batches = -(-len(index) // batch_size)  # rounded up: the last batch may be smaller
        self.rows = rows[np.argsort(first)]  # in the order of first use
        # Sorted by their last batch, the tracks that end in a batch are one slice.
        by_last_batch = np.argsort(last_batch, kind="stable")
        self._rows_by_end = rows[by_last_batch]
        self._end_offsets = np.searchsorted(last_batch[by_last_batch], np.arange(num_batches + 1))
        begins = np.bincount(first_batch, minlength=num_batches)
        ends = np.bincount(last_batch, minlength=num_batches)
        # Tracks that end in a batch are needed until it is complete: they count as open in it.
        num_open = begins.cumsum() - ends.cumsum() + ends
        self.max_open = int(num_open.max(initial=0))  # tracks needed at the same time

    def rows_that_end(self, step: int) -> list[int]:
        """The tracks whose last window is in a batch."""
        return self._rows_by_end[self._end_offsets[step] : self._end_offsets[step + 1]].tolist()
