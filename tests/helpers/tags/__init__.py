"""Shared by tests of tags."""
