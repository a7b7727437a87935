"""Decoding with PyAV (FFmpeg) of what libsndfile does not read, or not to its end; imported where it is needed only."""

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from melgpu.audio.parts import UNREADABLE, FileSlice, Part, check_length
from melgpu.errors import InputError

if TYPE_CHECKING:
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer

WAV_PACKET_BYTES = 1 << 16  # FFmpeg's own 4,096 are little
# Containers of music. Not among them: playlists, which would have other files opened, and pictures and text.
DEMUXERS = (
    "aac,ac3,adx,aiff,amr,amrnb,amrwb,ape,asf,ast,au,avi,caf,dsf,dts,dtshd,eac3,flac,flv,gsm,iff,loas,"
    "matroska,webm,mlp,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpc,mpc8,mpeg,mpegts,nut,ogg,oma,qcp,rm,shn,sox,swf,tak,"
    "truehd,tta,voc,w64,wav,wv,xwma"
)
EXACT_LENGTHS = ("mov", "matroska")  # containers whose header has the length; others estimate it
MAX_RAW_AAC_BYTES = 8 << 20  # 9 minutes at 128 kbit/s; decoded at once
MAX_SHORTFALL_S = 0.25  # of it; more than delay and padding of an encoder
MAX_DAMAGED_PACKETS = 2  # at the beginning and at the end, where a recording may be cut
MAX_PLANES = 8  # of a frame; of more channels PyAV reads memory that is none of theirs
BLOCK_FRAMES = 1 << 13  # 0.2 s of a CD; a codec's own frames are little for Python
IO_BYTES = 1 << 17  # likewise, read at once
FULL_SCALES = {"u8": 1 << 7, "s16": 1 << 15, "s32": 1 << 31, "flt": 1, "dbl": 1}  # by sample format


def decode_blocks(file: FileSlice, part: Part, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (sample rate in Hz, samples, shape (frames, channels), float32) per block, from frame `start` of a part on.

    Of several audio streams the first. Raises InputError.
    """
    av = _import_av()
    try:
        with _open(file, part.size_ignored) as container:
            stream = _first_audio_stream(container)
            end = sys.maxsize
            if part.num_samples is not None:
                # FFmpeg would trim where a Xing header says that the stream ends.
                stream.codec_context.flags2 |= av.codec.context.Flags2.skip_manual
                delay = round(_seconds(stream, stream.start_time) * stream.codec_context.sample_rate)
                start += delay
                end = delay + part.num_samples
            yield from _joined(_trimmed_blocks(container, stream, start, end))
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, InputError):  # which is a ValueError
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{UNREADABLE} ({reason})") from None


def _joined(blocks: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of at least `BLOCK_FRAMES`, of one format each; at an error what was decoded before it."""
    block_format = 0, 0
    pending: list[np.ndarray] = []
    num_pending = 0
    failure: Exception | None = None
    try:
        for rate, block in blocks:
            if pending and ((rate, block.shape[1]) != block_format or num_pending >= BLOCK_FRAMES):
                yield block_format[0], np.concatenate(pending)
                pending = []
                num_pending = 0
            block_format = rate, block.shape[1]
            pending.append(block)
            num_pending += len(block)
    except Exception as error:  # raised below
        failure = error
    if pending:
        yield block_format[0], np.concatenate(pending)
    if failure:
        raise failure


def _trimmed_blocks(
    container: "InputContainer", stream: "AudioStream", start: int, end: int
) -> Iterator[tuple[int, np.ndarray]]:
    position = 0
    decoded_s = 0.0
    for frame in _frames(container, stream):
        block = _to_float(frame)[max(0, start - position) : end - position]
        position += frame.samples
        decoded_s += frame.samples / frame.sample_rate
        if len(block):
            yield frame.sample_rate, block
        if position >= end:  # a tag may follow, which is no audio
            return
    check_length(_claimed_s(container, stream), decoded_s, MAX_SHORTFALL_S)


def read_packets(file: FileSlice) -> Iterator[bytes]:
    """The compressed packets of a file's first audio stream. Raises InputError."""
    av = _import_av()
    try:
        with _open(file, size_ignored=False) as container:
            yield from map(bytes, container.demux(_first_audio_stream(container)))
    except av.FFmpegError as error:
        raise InputError(f"{UNREADABLE} ({error.strerror})") from None


def header_duration_s(file: FileSlice) -> float | None:
    """Duration in s by a file's header, possibly an estimate; None without one."""
    av = _import_av()
    with contextlib.suppress(av.FFmpegError), _open(file, size_ignored=False) as container:
        return container.duration / av.time_base if container.duration else None  # in units of 1 / time_base s
    return None


def _import_av() -> ModuleType:
    try:
        import av
    except ImportError:
        raise InputError("it needs PyAV, which is not installed: pip install av") from None
    return av


def _open(file: FileSlice, size_ignored: bool) -> "InputContainer":
    """The container in a file without a name: FFmpeg would believe its suffix, and see a protocol before a colon."""
    options = {"format_whitelist": DEMUXERS, "max_size": str(WAV_PACKET_BYTES)}
    if size_ignored:
        options["ignore_length"] = "1"
    file.seek(0)
    av = _import_av()
    try:
        # Tags that are not UTF-8 would raise.
        return av.open(file, "r", options=options, metadata_errors="ignore", buffer_size=IO_BYTES)
    except (av.error.InvalidDataError, av.error.ArgumentError):  # of no container, or of one that is not among these
        raise InputError(f"{UNREADABLE} (its content is damaged, or of no known format)") from None


def _first_audio_stream(container: "InputContainer") -> "AudioStream":
    av = _import_av()
    if not container.streams.audio:
        raise InputError("contains no audio")
    stream = container.streams.audio[0]
    if stream.codec_context is None:
        raise InputError(f"{UNREADABLE} (FFmpeg has no decoder for it)")
    for other in container.streams:
        if other is not stream:
            other.discard = av.stream.Discard.all
    stream.codec_context.thread_count = 1  # decoding processes are parallel already
    stream.codec_context.options = {"err_detect": "crccheck+explode"}  # a damaged frame is an error, not noise
    return stream


def _frames(container: "InputContainer", stream: "AudioStream") -> "Iterator[AudioFrame]":
    """The decoded frames of a stream. A damaged packet raises, except at the beginning and the end."""
    av = _import_av()
    errors: list[Exception] = []
    is_started = False
    packets = _packets_of_raw_aac(container, stream) if _is_raw_aac(container, stream) else container.demux(stream)
    for packet in packets:
        try:
            frames = stream.codec_context.decode(packet)
        except av.FFmpegError as error:
            errors.append(error)
            continue
        if frames:
            if errors and (is_started or len(errors) > MAX_DAMAGED_PACKETS):
                raise errors[0]
            errors.clear()
            is_started = True
        yield from frames
    if len(errors) > MAX_DAMAGED_PACKETS or (errors and not is_started):
        raise errors[0]


def _is_raw_aac(container: "InputContainer", stream: "AudioStream") -> bool:
    """Whether this is a wav file with AAC frames without headers: only their decoder finds where they end."""
    context = stream.codec_context
    return container.format.name == "wav" and context.name == "aac" and bool(context.extradata)


def _packets_of_raw_aac(container: "InputContainer", stream: "AudioStream") -> "Iterator[Packet | None]":
    """One packet of all frames, which the decoder takes one after another."""
    data = b""
    for packet in container.demux(stream):
        data += bytes(packet)
        if len(data) > MAX_RAW_AAC_BYTES:
            raise InputError(f"{UNREADABLE} (more than {MAX_RAW_AAC_BYTES >> 20} MiB of AAC in wav)")
    yield _import_av().Packet(data)
    yield None


def _to_float(frame: "AudioFrame") -> np.ndarray:
    """The samples of a frame, shape (frames, channels), float32 of full scale 1."""
    channels = frame.layout.nb_channels
    if frame.format.is_planar and channels > MAX_PLANES:
        raise InputError(f"{UNREADABLE} ({channels} channels)")
    samples = frame.to_ndarray()  # (channels, frames), or (1, frames x channels) where channels are interleaved
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
    sample_format = frame.format.name.removesuffix("p")
    if sample_format == "flt":
        return samples
    if sample_format not in FULL_SCALES:
        raise InputError(f"{UNREADABLE} (samples of format {sample_format})")
    if sample_format == "u8":
        samples = samples.astype(np.int16) - 128
    return samples.astype(np.float32) / np.float32(FULL_SCALES[sample_format])


def _claimed_s(container: "InputContainer", stream: "AudioStream") -> float | None:
    """The length in s that a container's header has exactly, if it does."""
    if not container.format.name.startswith(EXACT_LENGTHS):
        return None
    if stream.duration:
        return _seconds(stream, stream.duration)
    if len(container.streams) > 1 or not container.duration:  # a film may be longer than its audio
        return None
    return container.duration / _import_av().time_base


def _seconds(stream: "AudioStream", time: int | None) -> float:
    return float((time or 0) * (stream.time_base or 0))
