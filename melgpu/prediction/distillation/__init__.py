"""A teacher's networks to their distributions over the windows of a student's tracks, and the speed of both."""
