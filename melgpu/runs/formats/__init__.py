"""Files of a run folder that hold results: from typed values to files, and back, validated."""
