"""A round of a run: every job that is not trained yet."""

from collections.abc import Mapping

from melgpu.training.stage_timer import shares


def training_detail(loss: float, accuracy: float, best: float, seconds: Mapping[str, float]) -> str:
    """Two lines: how well a training does, and where its time goes; `best` is below 0 before the first validation."""
    so_far = f", {best:.3f} on validation at best" if best >= 0 else ""
    stages = ", ".join(f"{stage} {share:.0%}" for stage, share in shares(dict(seconds)).items() if share >= 0.005)
    return f"loss {loss:.3f}, accuracy {accuracy:.3f} on training windows{so_far}\ntime: {stages}"
