"""The folder of a run and its file formats: what is there, what is missing, what it was made from."""
