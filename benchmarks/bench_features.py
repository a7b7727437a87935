"""How fast do waveforms become pictures, and how near is that to what the machine can do?

    python -m benchmarks.bench_features [--recipe NAME] [--batch-sizes 1 8 64] [--threads 1] [--plot FILE.png]

Engines and the front ends that people use instead, side by side on the same waves: every one ends in (B, 3, S, S)
float32 pictures. The limit is, on a CPU, the bare FFT of such windows (torch.stft, of as many at once as is fastest),
on a GPU the bytes that must move (waves in, one picture out) over the measured bandwidth of a large copy. A rate above
its limit fails the run.
"""

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.box import SIMPLE
from rich.table import Table

from benchmarks import measurement, plots, roofline, timing
from benchmarks.cli import arguments, recipe_of
from melgpu import cli
from melgpu.features.log_mel import LogMel
from melgpu.recipe import MelSpec, Recipe

FrontEnd = Callable[[torch.Tensor], torch.Tensor]


def engines(spec: MelSpec, sample_rate: int, device: torch.device) -> Iterator[tuple[str, FrontEnd]]:
    """melgpu's own engines that run on this device, by name."""
    for engine in ("nnaudio", "fft", *(["fused"] if device.type == "cuda" else [])):
        yield engine, LogMel(spec.model_copy(update={"engine": engine}), sample_rate).to(device)


def peers(spec: MelSpec, sample_rate: int, device: torch.device) -> Iterator[tuple[str, FrontEnd]]:
    """The front ends that people use instead, by name."""
    yield "stock nnAudio", _stock_nnaudio(spec, sample_rate, device, "ieee")
    if device.type == "cuda":
        yield "stock nnAudio, TF32", _stock_nnaudio(spec, sample_rate, device, "tf32")
    yield "torchaudio", _torchaudio(spec, sample_rate, device)
    if importlib.util.find_spec("torchlibrosa"):
        yield "torchlibrosa", _torchlibrosa(spec, sample_rate, device)
    if device.type == "cpu":
        yield "librosa", _librosa(spec, sample_rate)


def _pictures(decibels: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    """What all peers need after their dB stage: scale, turn, resize, replicate."""
    pictures = (decibels / spec.top_db + 1).flip(-2).unsqueeze(1)
    size = (spec.image_size, spec.image_size)
    return F.interpolate(pictures, size, mode="bilinear", antialias=True).expand(-1, 3, -1, -1)


def _decibels(power: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    """dB re each window's maximum, as one writes it by hand."""
    level = 10 * torch.log10(power.clamp(min=1e-10))
    return (level - level.amax((-2, -1), keepdim=True)).clamp(min=-spec.top_db)


def _stock_nnaudio(spec: MelSpec, sample_rate: int, device: torch.device, precision: str) -> FrontEnd:
    from nnAudio.features.mel import MelSpectrogram

    mel = MelSpectrogram(
        sr=sample_rate, n_fft=spec.n_fft, hop_length=spec.hop_length, n_mels=spec.n_mels, verbose=False
    ).to(device)

    def front_end(waves: torch.Tensor) -> torch.Tensor:
        torch.backends.cudnn.conv.fp32_precision = precision
        pictures = _pictures(_decibels(mel(waves), spec), spec)
        torch.backends.cudnn.conv.fp32_precision = "none"
        return pictures

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
    """What bounds the rate on this device, whatever the batch, and the bound in windows/s."""
    device = waves.device
    if device.type == "cpu":
        return "bare FFT", max(_fft_rate(spec, waves[:size]) for size in (1, 2, 4, len(waves)))
    bandwidth = roofline.copy_bandwidth(device)
    return f"memory at {bandwidth / 1e12:.2f} TB/s", bandwidth / (4 * waves.shape[1] + 4 * spec.image_size**2)


def _fft_rate(spec: MelSpec, waves: torch.Tensor) -> float:
    """Windows a second of spectra alone; those of many windows at once are memory that malloc takes anew each time."""
    hann = torch.hann_window(spec.n_fft)
    call = lambda: torch.stft(waves, spec.n_fft, spec.hop_length, window=hann, return_complex=True)  # noqa: E731
    return len(waves) / min(timing.measure(call, waves.device, 0.25))


def run(recipe: Recipe, batch_sizes: list[int], device: torch.device, seconds: float) -> dict:
    """Time every contender at every batch size."""
    sample_rate, window_s = recipe.audio.sample_rate, recipe.windows.window_s
    result = {"benchmark": "features", **timing.machine(device), "window_s": window_s, "rows": []}
    bound, most = limit(recipe.mel, measurement.noise(recipe, max(batch_sizes), device))
    for batch_size in batch_sizes:
        waves = measurement.noise(recipe, batch_size, device)
        ours = ((f"melgpu {name}", own) for name, own in engines(recipe.mel, sample_rate, device))
        for name, front_end in itertools.chain(ours, peers(recipe.mel, sample_rate, device)):
            row = time_front_end(front_end, waves, seconds)
            row |= {"limit": bound, "limit_windows_per_s": most, "share_of_limit": row["windows_per_s"] / most}
            result["rows"].append({"front_end": name, "batch_size": batch_size, **row})
    return result


def time_front_end(front_end: FrontEnd, waves: torch.Tensor, seconds: float) -> dict:
    """Windows a second and peak memory of a front end on waves (B, T)."""
    before = timing.reset_peak_memory(waves.device)
    samples = timing.measure(lambda: front_end(waves), waves.device, seconds)
    peak_mib = timing.peak_memory(waves.device) - before
    return measurement.rates_of([len(waves) / own for own in samples]) | {"peak_mib": peak_mib, "samples_s": samples}


def table(result: dict) -> Table:
    """What a person reads."""
    first = result["rows"][0]
    shown = Table(
        title=f"Pictures from waveforms on {result['device']}, {result['threads']} CPU threads",
        caption=f"limit: {first['limit_windows_per_s']:,.0f} windows/s ({first['limit']})",
        box=SIMPLE,
    )
    for column in ("front end", "batch", "windows/s", "quartiles", "times real time", "share of limit", "peak MiB"):
        shown.add_column(column, justify="left" if column == "front end" else "right")
    for row in result["rows"]:
        low, high = row["quartiles"]
        shown.add_row(
            row["front_end"],
            str(row["batch_size"]),
            f"{row['windows_per_s']:,.1f}",
            f"{low:,.1f}-{high:,.1f}",
            f"{row['windows_per_s'] * result['window_s']:,.0f}",
            f"{row['share_of_limit']:.1%}",
            f"{row['peak_mib']:,.0f}",
        )
    return shown


def plot(result: dict, path: Path) -> None:
    """Rates by front end, one group of bars a batch size."""
    rates = {(row["front_end"], f"batch of {row['batch_size']}"): row["windows_per_s"] for row in result["rows"]}
    unit = f"windows of {result['window_s']:g} s a second"
    plots.bars(rates, unit, f"Pictures from waveforms, {result['device']}", path)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64], metavar="B")
    parser.add_argument("--seconds", type=float, default=1.0, help="time for each figure (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, one core)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="keep a plot")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(recipe_of(args), args.batch_sizes, cli.select_device(args.device), args.seconds)
    timing.console().print(table(result))
    if args.plot:
        plot(result, args.plot)
    beyond = (row["front_end"] for row in result["rows"] if row["share_of_limit"] > 1)
    return timing.finish(result, args.out, beyond)


if __name__ == "__main__":
    cli.run(main)
