"""Music genres from raw audio: `load` makes a run's networks predict, `LogMel` is their front end alone.

    model = melgpu.load("runs/mine")
    for prediction in model.predict(["song.mp3", "folder/"]):
        print(prediction.path, prediction.label, prediction.confidence)

These names and what they return are stable; the packages below them may change.
"""

from typing import TYPE_CHECKING

__all__ = ["LogMel", "__version__", "load"]

if TYPE_CHECKING:
    from melgpu.features.front_end import LogMel
    from melgpu.prediction.api import load

    __version__: str
else:  # hidden from type checkers, which would take every name for one of the module's

    def __getattr__(name: str) -> object:
        # On first use (PEP 562): `--help` and every decoding process import this package, and need no torch.
        if name in ("LogMel", "load"):
            from melgpu import process

            process.open_standard_streams()
            process.set_user_name()  # before torch is imported
        if name == "LogMel":
            from melgpu.features.front_end import LogMel

            return LogMel
        if name == "load":
            from melgpu.prediction.api import load

            return load
        if name == "__version__":
            from importlib import metadata

            return metadata.version("melgpu")
        raise AttributeError(f"module 'melgpu' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
