"""A job: one network of a run, in one round and fold."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One network on one fold of one round (rounds count from 1)."""

    round: int
    backbone: str
    fold: int

    @property
    def name(self) -> str:
        return f"{self.backbone}-fold{self.fold}"
