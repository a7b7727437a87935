"""How fast do waveforms become pictures, and how near is that to the machine's limit?

    python -m benchmarks.bench_features [--recipe NAME] [--batch-sizes 1 8 64] [--threads 1] [--plot FILE.png]

melgpu's engines and the baseline front ends on the same waves (B, T): each gives float32 pictures (B, 3, S, S). The
limit on a CPU is the FFT of such windows alone (torch.stft, at the fastest batch size), on a GPU the bytes that must
move (waves in, one picture out) divided by the measured bandwidth of a large copy. A rate above its limit fails the
run.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import measurement, plots, roofline, timing
from benchmarks.cli import make_parser, recipe_of
from melgpu import cli
from melgpu.features.log_mel import LogMel
from melgpu.features.precision import float32_precision
from melgpu.recipe import Recipe
from melgpu.recipe_schema import MelSpec

FrontEnd = Callable[[torch.Tensor], torch.Tensor]
Builders = dict[str, Callable[[], FrontEnd]]  # by name; each fails where its front end does not run here


def engines(recipe: Recipe, device: torch.device) -> dict[str, Callable[[], LogMel]]:
    """melgpu's engines for a device."""
    names = ("nnaudio", "fft", *(["fused"] if device.type == "cuda" else []))
    return {name: partial(_engine, name, recipe, device) for name in names}


def _engine(name: str, recipe: Recipe, device: torch.device) -> LogMel:
    """Raises InputError for pictures that the engine does not draw."""
    return measurement.front_end(measurement.with_value(recipe, "mel.engine", name), device)


def baselines(recipe: Recipe, device: torch.device) -> Builders:
    """Front ends of other libraries."""
    args = recipe.mel, recipe.audio.sample_rate
    builders: Builders = {"stock nnAudio": partial(_stock_nnaudio, *args, device, "ieee")}
    if device.type == "cuda":
        builders["stock nnAudio, TF32"] = partial(_stock_nnaudio, *args, device, "tf32")
    builders["torchaudio"] = partial(_torchaudio, *args, device)
    builders["torchlibrosa"] = partial(_torchlibrosa, *args, device)
    if device.type == "cpu":
        builders["librosa"] = partial(_librosa, *args)
    return builders


def _pictures(decibels: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    """dB (B, M, N) to pictures, which all baselines share: scale, flip, resize, replicate."""
    pictures = (decibels / spec.top_db + 1).flip(-2).unsqueeze(1)
    size = (spec.image_size, spec.image_size)
    return F.interpolate(pictures, size, mode="bilinear", antialias=True).expand(-1, 3, -1, -1)


def _decibels(power: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    """Power (B, M, N) to dB re each window's maximum, in plain PyTorch."""
    level = 10 * torch.log10(power.clamp(min=1e-10))
    return (level - level.amax((-2, -1), keepdim=True)).clamp(min=-spec.top_db)


def _stock_nnaudio(
    spec: MelSpec, sample_rate: int, device: torch.device, precision: Literal["ieee", "tf32"]
) -> FrontEnd:
    from nnAudio.features.mel import MelSpectrogram

    mel = MelSpectrogram(
        sr=sample_rate, n_fft=spec.n_fft, hop_length=spec.hop_length, n_mels=spec.n_mels, verbose=False
    ).to(device)

    def front_end(waves: torch.Tensor) -> torch.Tensor:
        with float32_precision(precision):
            return _pictures(_decibels(mel(waves), spec), spec)

    return front_end


def _torchaudio(spec: MelSpec, sample_rate: int, device: torch.device) -> FrontEnd:
    import torchaudio

    mel = torchaudio.transforms.MelSpectrogram(
        sample_rate, spec.n_fft, hop_length=spec.hop_length, n_mels=spec.n_mels, norm="slaney", mel_scale="slaney"
    ).to(device)
    return lambda waves: _pictures(_decibels(mel(waves), spec), spec)


def _torchlibrosa(spec: MelSpec, sample_rate: int, device: torch.device) -> FrontEnd:
    from torchlibrosa.stft import LogmelFilterBank, Spectrogram

    spectrogram = Spectrogram(n_fft=spec.n_fft, hop_length=spec.hop_length).to(device)
    mel = LogmelFilterBank(sr=sample_rate, n_fft=spec.n_fft, n_mels=spec.n_mels, top_db=spec.top_db, ref=1.0).to(device)

    def front_end(waves: torch.Tensor) -> torch.Tensor:
        level = mel(spectrogram(waves))[:, 0].mT
        return _pictures((level - level.amax((-2, -1), keepdim=True)).clamp(min=-spec.top_db), spec)

    return front_end


def _librosa(spec: MelSpec, sample_rate: int) -> FrontEnd:
    import librosa
    import numpy as np

    def decibels(wave: np.ndarray) -> torch.Tensor:
        power = librosa.feature.melspectrogram(
            y=wave, sr=sample_rate, n_fft=spec.n_fft, hop_length=spec.hop_length, n_mels=spec.n_mels
        )
        return torch.from_numpy(librosa.power_to_db(power, ref=np.max, top_db=spec.top_db))

    return lambda waves: _pictures(torch.stack([decibels(wave) for wave in waves.numpy()]), spec)


def limit(spec: MelSpec, waves: torch.Tensor) -> tuple[str, float]:
    """What limits the rate on this device at any batch size, and the limit in windows/s."""
    device = waves.device
    if device.type == "cpu":
        return "bare FFT", max(_fft_rate(spec, waves[:size]) for size in (1, 2, 4, len(waves)))
    bandwidth = roofline.copy_bandwidth(device)
    return f"memory at {bandwidth / 1e12:.2f} TB/s", bandwidth / (4 * waves.shape[1] + 4 * spec.image_size**2)


def _fft_rate(spec: MelSpec, waves: torch.Tensor) -> float:
    """Windows a second of spectra alone; for many windows at once malloc returns fresh memory in each call."""
    hann = torch.hann_window(spec.n_fft)
    call = lambda: torch.stft(waves, spec.n_fft, spec.hop_length, window=hann, return_complex=True)  # noqa: E731
    return len(waves) / min(timing.measure(call, waves.device, 0.25))


def run(recipe: Recipe, batch_sizes: list[int], device: torch.device, seconds: float) -> dict:
    """Time all front ends at every batch size; one that fails here costs its rows."""
    window_s = recipe.windows.window_s
    result = {"benchmark": "features", **timing.describe_machine(device), "window_s": window_s}
    rows: list[dict] = []
    failed: dict[str, str] = {}
    limit_name, limit_rate = limit(recipe.mel, measurement.noise(recipe, max(batch_sizes), device))
    builders: Builders = {f"melgpu {name}": build for name, build in engines(recipe, device).items()}
    builders |= baselines(recipe, device)
    for name, build in builders.items():
        try:
            front_end = build()
            for batch_size in batch_sizes:
                row = time_front_end(front_end, measurement.noise(recipe, batch_size, device), seconds)
                row |= {"limit": limit_name, "limit_windows_per_s": limit_rate}
                row |= {"share_of_limit": row["windows_per_s"] / limit_rate}
                rows.append({"front_end": name, "batch_size": batch_size, **row})
        except Exception as error:  # each library fails in its own way
            failed[name] = measurement.failure(error)
    rows.sort(key=lambda row: batch_sizes.index(row["batch_size"]))  # stable: by batch size, then as built
    return {**result, "rows": rows, "failed": failed}


def time_front_end(front_end: FrontEnd, waves: torch.Tensor, seconds: float) -> dict:
    """Windows a second and peak memory of a front end on waves (B, T)."""
    before = timing.reset_peak_memory(waves.device)
    samples = timing.measure(lambda: front_end(waves), waves.device, seconds)
    peak_mib = timing.peak_memory(waves.device) - before
    return measurement.rate_summary([len(waves) / call_s for call_s in samples]) | {
        "peak_mib": peak_mib,
        "samples_s": samples,
    }


def make_table(result: dict) -> Table:
    """Rates by front end and batch size, for the terminal."""
    first = result["rows"][0]
    table = Table(
        title=f"Pictures from waveforms on {result['device']}, {result['threads']} CPU threads",
        caption=f"limit: {first['limit_windows_per_s']:,.0f} windows/s ({first['limit']})",
        box=SIMPLE,
    )
    for column in ("front end", "batch", "windows/s", "quartiles", "times real time", "of its limit", "peak MiB"):
        table.add_column(column, justify="left" if column == "front end" else "right")
    for row in result["rows"]:
        low, high = row["quartiles"]
        table.add_row(
            row["front_end"],
            str(row["batch_size"]),
            f"{row['windows_per_s']:,.1f}",
            f"{low:,.1f}-{high:,.1f}",
            f"{row['windows_per_s'] * result['window_s']:,.0f}",
            f"{row['share_of_limit']:.1%}",
            f"{row['peak_mib']:,.0f}",
        )
    return table


def plot(result: dict, path: Path) -> None:
    """Rates by front end, one group of bars a batch size."""
    rates = {(row["front_end"], f"batch of {row['batch_size']}"): row["windows_per_s"] for row in result["rows"]}
    unit = f"windows of {result['window_s']:g} s a second"
    plots.bars(rates, unit, f"Pictures from waveforms, {result['device']}", path)


def main() -> int:
    parser = make_parser(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64], metavar="B")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds for each measurement (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, one core)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="save a plot")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(recipe_of(args), args.batch_sizes, cli.select_device(args.device), args.seconds)
    timing.console().print(make_table(result))
    for name, reason in result["failed"].items():
        timing.console().print(f"{name} failed: {reason}")
    if args.plot:
        plot(result, args.plot)
    implausible = (row["front_end"] for row in result["rows"] if row["share_of_limit"] > 1)
    return timing.finish(result, args.out, implausible)


if __name__ == "__main__":
    cli.run(main)
