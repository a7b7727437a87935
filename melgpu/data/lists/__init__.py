"""Lists of tracks, CSV files and folders, to source lists: files, labels, artists, folds; nothing is decoded."""
