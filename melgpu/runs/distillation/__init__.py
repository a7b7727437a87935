"""A finished run, the teacher, to the distributions that another run, its student, learns."""
