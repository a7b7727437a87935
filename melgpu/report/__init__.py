"""A run to what a person looks at: report.html and tables in the terminal."""
