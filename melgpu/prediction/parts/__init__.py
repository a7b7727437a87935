"""A frozen list of files to one table of predictions, in parts that any scheduler runs: a list and I of N to a part's
file, all of them to the table in the list's order. Memory does not depend on the length of the list.
"""
