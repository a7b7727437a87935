"""A recipe to what stands in the way of its training, before any audio is decoded."""
