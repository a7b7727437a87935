"""Reports of a run: report.html and tables in the terminal."""
