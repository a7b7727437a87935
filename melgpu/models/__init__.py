"""Pictures to class probabilities: timm classifiers, their checkpoints, inference."""
