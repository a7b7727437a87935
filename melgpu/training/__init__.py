"""Window batches to checkpoints of trained networks."""
