"""Music files with the tags of other programs, in each format whose tags melgpu writes."""

import struct
from pathlib import Path

import av
import mutagen
from mutagen.flac import FLAC, Picture
from mutagen.id3 import APIC, COMM, ID3, PRIV, TALB, TCON, TIT2, TPE1, TRCK, TXXX, TYER
from mutagen.mp4 import MP4, MP4Cover, MP4FreeForm

from tests.helpers import write_audio
from tests.helpers.foreign_files import encode, music

SUFFIXES = (".mp3", ".flac", ".ogg", ".opus", ".m4a")
TITLE, ARTIST, ALBUM = "Nhạc số 1", "Björk", "[a] / b; c"
COMMENT = "a comment of my own"
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20
LATIN1_TITLE = b"A title that only ID3v1 has".ljust(30, b"\0")


def write_bare(path: Path, seconds: float = 1.0) -> Path:
    """A file of some seconds without tags of somebody's."""
    if path.suffix == ".m4a":
        encode(path, music(seconds), "aac", "ipod")
    else:
        write_audio(path, seconds, 48_000, 2)
    return path


def write_tagged(path: Path, genre: str = "Old Genre", seconds: float = 1.0) -> Path:
    """A file with texts, a picture, a comment and fields that no program but its own knows."""
    write_bare(path, seconds)
    if path.suffix == ".mp3":
        id3_of_other_programs(genre).save(path)
    elif path.suffix == ".m4a":
        _tag_mp4(path, genre)
    else:
        _tag_vorbis(path, genre)
    return path


def id3_of_other_programs(genre: str) -> ID3:
    tag = ID3()
    for frame in (TIT2, TPE1, TALB, TCON):
        text = {TIT2: TITLE, TPE1: ARTIST, TALB: ALBUM, TCON: genre}[frame]
        tag.add(frame(encoding=3, text=[text]))
    tag.add(TRCK(encoding=0, text=["3/12"]))
    tag.add(COMM(encoding=3, lang="eng", desc="", text=[COMMENT]))
    tag.add(TXXX(encoding=3, desc="MusicBrainz Album Id", text=["x-1", "x-2"]))
    tag.add(PRIV(owner="somebody", data=b"\0\1\2"))
    tag.add(APIC(encoding=0, mime="image/jpeg", type=3, desc="front", data=JPEG))
    return tag


def _tag_vorbis(path: Path, genre: str) -> None:
    file = mutagen.File(path)
    if file.tags is None:
        file.add_tags()
    fields = [("TITLE", TITLE), ("Artist", ARTIST), ("ALBUM", ALBUM), ("GENRE", genre), ("genre", "another")]
    file.tags[:] = [*fields, ("COMMENT", COMMENT), ("MY_FIELD", "x"), ("MY_FIELD", "y")]
    if isinstance(file, FLAC):
        picture = Picture()
        picture.data, picture.mime, picture.type = JPEG, "image/jpeg", 3
        file.add_picture(picture)
    file.save()


def _tag_mp4(path: Path, genre: str) -> None:
    file = MP4(path)
    file["\xa9nam"], file["\xa9ART"], file["\xa9alb"], file["\xa9gen"] = [TITLE], [ARTIST], [ALBUM], [genre]
    file["\xa9cmt"] = [COMMENT]
    file["trkn"] = [(3, 12)]
    file["covr"] = [MP4Cover(JPEG, MP4Cover.FORMAT_JPEG)]
    file["----:com.apple.iTunes:MY_FIELD"] = [MP4FreeForm(b"x"), MP4FreeForm(b"y")]
    file.save()


def append_id3v1(path: Path, genre: int) -> bytes:
    """Add an ID3v1 tag, with a title of its own, to the end of a file; returns it."""
    tag = b"TAG" + LATIN1_TITLE + bytes(60) + b"1999" + b"an ID3v1 comment".ljust(28, b"\0") + b"\0\7" + bytes([genre])
    path.write_bytes(path.read_bytes() + tag)
    return tag


def prepend_id3v22(path: Path) -> None:
    """An ID3v2.2 tag, as old versions of iTunes write it."""
    frames = b"".join(
        name + struct.pack(">I", len(text) + 1)[1:] + b"\0" + text
        for name, text in ((b"TT2", b"Title"), (b"TP1", b"Artist"), (b"TYE", b"1999"), (b"TCO", b"(17)"))
    )
    size = bytes(len(frames) >> shift & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\2\0\0" + size + frames + path.read_bytes())


def save_id3v23(path: Path) -> None:
    """Replace the tag of a file by one of version 2.3, with several values in a frame."""
    tag = ID3()
    tag.add(TIT2(encoding=1, text=[TITLE]))
    tag.add(TPE1(encoding=1, text=["AC/DC", "Björk"]))
    tag.add(TYER(encoding=0, text=["1999"]))
    tag.add(TCON(encoding=0, text=["(17)"]))
    tag.save(path, v2_version=3, v23_sep=None)


def ffmpeg_tags(path: Path) -> dict[str, str]:
    """The tags that FFmpeg reads, with their names in lower case."""
    with av.open(str(path)) as file:
        tags = {**file.metadata, **file.streams.audio[0].metadata}
    return {name.lower(): value for name, value in tags.items()}
