"""Pictures to class probabilities: timm networks, their checkpoints, inference."""
