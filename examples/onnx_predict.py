"""Classify a music file with a file of melgpu-export: python onnx_predict.py model.onnx song.mp3

Needs neither melgpu nor PyTorch: pip install onnxruntime soundfile soxr
"""

import json
import sys

import numpy as np
import onnxruntime
import soundfile
import soxr


def read_track(path: str, sample_rate: int, track_s: float) -> np.ndarray:
    """Mono at the network's rate, cut or repeated to `track_s`, shape (samples,)."""
    with soundfile.SoundFile(path) as file:
        num_frames = int((track_s + 0.5) * file.samplerate)  # a little more: the resampler's edge is cut off
        samples = file.read(num_frames, dtype="float32", always_2d=True)
        wave = soxr.resample(samples.mean(axis=1), file.samplerate, sample_rate)
    if not len(wave):
        sys.exit(f"{path} contains no audio")
    return np.resize(wave, round(track_s * sample_rate))


def main(model: str, path: str) -> None:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["melgpu"])
    track = read_track(path, about["sample_rate"], about["track_s"])
    if about["form"] == "track":  # exported with --track
        (probs,) = session.run(None, {"wave": track})
    else:
        length = about["window_samples"]
        hop = round(about["hop_s"] * about["sample_rate"])
        count = int((about["track_s"] - about["window_s"]) / about["hop_s"] + 1e-6) + 1
        starts = [min(i * hop, len(track) - length) for i in range(count)]
        windows = [track[None, start : start + length] for start in starts]
        probs = np.mean([session.run(None, {"waves": window})[0][0] for window in windows], axis=0)
    for i in np.argsort(-probs):
        print(f"{probs[i]:.4f}  {about['class_names'][i]}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
