"""The tags of one mp3, FLAC, Ogg Vorbis, Ogg Opus or MP4 file, through mutagen, an optional dependency.

The content of a file decides what it is. A tag has several genres, or none, as they are written: numbers of ID3v1 are
not resolved. What melgpu predicted is marked by a comment: in ID3 one with a description of its own, elsewhere one
more value beside those of other programs.
"""

import io
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from melgpu.audio import blocks
from melgpu.errors import InputError, one_line

SUFFIXES = (".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".m4b", ".mp4")
PREDICTION = re.compile(r"melgpu: (.*), confidence [01]\.\d\d", re.DOTALL)
COMMENT_NAME = "melgpu"  # the description of an ID3 comment
ID3V1_BYTES = 128
ID3V1_NO_GENRE = 255
ID3V1_COMMENT = "ID3v1 Comment"  # mutagen's description of it


class Tags(Protocol):
    """The tags of an open file. `others` are all but the genre and melgpu's comment, to be compared."""

    @property
    def genres(self) -> list[str]: ...

    @property
    def artist(self) -> str: ...

    @property
    def comments(self) -> list[str]: ...

    @property
    def others(self) -> object: ...

    def save(self, genre: str, comment: str) -> None: ...


def import_mutagen() -> ModuleType:
    """mutagen, with its modules that are used here. Raises InputError where it is not installed."""
    try:
        import mutagen.flac
        import mutagen.id3
        import mutagen.mp3
        import mutagen.mp4
        import mutagen.oggopus
        import mutagen.oggvorbis
    except ImportError:
        raise InputError("tags need mutagen: pip install 'melgpu[tags]'") from None
    return mutagen


def prediction_comment(label: str, confidence: float) -> str:
    return f"melgpu: {label}, confidence {confidence:.2f}"


def predicted_label(comments: list[str]) -> str | None:
    """The label that melgpu wrote into a file, by the comment beside it; None where there is none."""
    matches = filter(None, map(PREDICTION.fullmatch, comments))
    return next((match.group(1) for match in matches), None)


def resolve_genres(texts: list[str]) -> list[str]:
    """Genres as ID3 defines them: `17` and `(17)` are Rock, `(17)(18)` is two genres, `((x)` is `(x)`."""
    return import_mutagen().id3.TCON(encoding=3, text=texts).genres


def open_tags(path: str | Path) -> Tags:
    """The tags of a file. Raises InputError where it has another format, or is damaged."""
    mutagen = import_mutagen()
    kinds = (mutagen.mp3.MP3, mutagen.flac.FLAC, mutagen.oggvorbis.OggVorbis, mutagen.oggopus.OggOpus, mutagen.mp4.MP4)
    with blocks.open_file(Path(path)) as opened:  # no pipe, for which mutagen would wait
        head = opened.read(3)
    try:
        file = mutagen.File(path, options=kinds)
        # By the suffix mutagen would also take a wav for mp3, and write its tags in front.
        if isinstance(file, mutagen.mp3.MP3) and (head == b"ID3" or (head[0] == 0xFF and head[1] >= 0xE0)):
            return Id3Tags(path)
        if isinstance(file, mutagen.mp4.MP4):
            return Mp4Tags(file)
        if isinstance(file, kinds[1:4]):
            return VorbisTags(file)
    except Exception as error:  # mutagen raises what its parsers meet in damaged files
        raise InputError(f"its tags cannot be read ({one_line(error)})") from None
    raise InputError("its content is not mp3, FLAC, Ogg Vorbis, Opus or MP4, whose tags alone are used")


class Id3Tags:
    """ID3 of an mp3 file. It keeps its version, except that 2.2 becomes 2.3, which mutagen can write."""

    def __init__(self, path: str | Path):
        self._path = path
        self._id3 = import_mutagen().id3
        try:
            self._tag = self._id3.ID3(path, translate=False, load_v1=False)
            if self._tag.version[1] == 2:
                self._tag = self._id3.ID3(path, v2_version=3, load_v1=False)
        except self._id3.ID3NoHeaderError:
            self._tag = self._with_id3v1()
        self._version = 3 if self._tag.version[1] in (2, 3) else 4

    def _with_id3v1(self) -> Any:
        """ID3v2 with the fields of ID3v1 that it lacks, as a new one needs them: programs that see it read no other."""
        try:
            tag = self._id3.ID3(self._path)
        except self._id3.ID3NoHeaderError:
            return self._id3.ID3()
        for comment in tag.getall(f"COMM:{ID3V1_COMMENT}"):
            del tag[comment.HashKey]
            comment.desc = ""  # as other programs read it
            tag.add(comment)
        return tag

    @property
    def genres(self) -> list[str]:
        return self._texts("TCON") or self._texts("TCON", self._with_id3v1())

    @property
    def artist(self) -> str:
        artists = self._texts("TPE1") or self._texts("TPE1", self._with_id3v1())
        return artists[0] if artists else ""

    def _texts(self, name: str, tag: Any = None) -> list[str]:
        """The texts of a frame, here or in another tag."""
        tag = self._tag if tag is None else tag
        return [str(text) for frame in tag.getall(name) for text in frame.text]

    @property
    def comments(self) -> list[str]:
        return self._texts(f"COMM:{COMMENT_NAME}")

    @property
    def others(self) -> object:
        frames = {key: _content(frame) for key, frame in self._tag.items() if not self._is_replaced(key)}
        return frames, self._tag.unknown_frames

    def _is_replaced(self, key: str) -> bool:
        return key == "TCON" or key.startswith(f"COMM:{COMMENT_NAME}:")

    def save(self, genre: str, comment: str) -> None:
        for key in list(filter(self._is_replaced, self._tag)):
            del self._tag[key]
        self._tag.add(self._id3.TCON(encoding=3, text=[genre]))
        self._tag.add(self._id3.COMM(encoding=3, lang="eng", desc=COMMENT_NAME, text=[comment]))
        with open(self._path, "rb+") as file:
            id3v1 = _read_id3v1(file)
            self._tag.save(file, v2_version=self._version, v23_sep=None)  # with /, mutagen would join several values
            if id3v1:  # mutagen wrote it anew from ID3v2, which may have other texts
                file.seek(-ID3V1_BYTES, os.SEEK_END)
                file.write(id3v1[:-1] + bytes([self._id3v1_genre(genre)]))

    def _id3v1_genre(self, genre: str) -> int:
        names = [name.casefold() for name in self._id3.TCON.GENRES]
        return names.index(genre.casefold()) if genre.casefold() in names else ID3V1_NO_GENRE


def _content(frame: Any) -> dict[str, object]:
    """The fields of an ID3 frame, without the encoding of its texts, which depends on the version."""
    return {name: value for name, value in vars(frame).items() if name != "encoding"}


def _read_id3v1(file: io.BufferedRandom) -> bytes:
    """The ID3v1 tag at a file's end; empty without one."""
    if file.seek(0, os.SEEK_END) < ID3V1_BYTES:
        return b""
    file.seek(-ID3V1_BYTES, os.SEEK_END)
    block = file.read(ID3V1_BYTES)
    file.seek(0)
    return block if block.startswith(b"TAG") else b""


class VorbisTags:
    """Vorbis comments of a FLAC or Ogg file."""

    def __init__(self, file: Any):
        self._file = file

    @property
    def genres(self) -> list[str]:
        return self._values("genre")

    @property
    def artist(self) -> str:
        return next(iter(self._values("artist")), "")

    @property
    def comments(self) -> list[str]:
        return self._values("comment")

    def _values(self, name: str) -> list[str]:
        return [value for key, value in self._file.tags or [] if key.lower() == name]

    @property
    def others(self) -> object:
        fields = [field for field in self._file.tags or [] if not _is_replaced_field(*field)]
        blocks = getattr(self._file, "metadata_blocks", [])  # of FLAC: pictures, cue sheet, other programs' data
        kept = [block for block in blocks if block is not self._file.tags and not _is_padding(block)]
        return fields, [(block.code, block.write()) for block in kept]

    def save(self, genre: str, comment: str) -> None:
        if self._file.tags is None:
            self._file.add_tags()
        tags = self._file.tags
        tags[:] = [field for field in tags if not _is_replaced_field(*field)]
        tags.append(("GENRE", genre))
        tags.append(("COMMENT", comment))
        self._file.save()


def _is_replaced_field(key: str, value: str) -> bool:
    return key.lower() == "genre" or (key.lower() == "comment" and PREDICTION.fullmatch(value) is not None)


def _is_padding(block: Any) -> bool:
    return block.code == import_mutagen().flac.Padding.code


class Mp4Tags:
    """iTunes' tags of an MP4 file."""

    GENRE = "\xa9gen"
    COMMENT = "\xa9cmt"

    def __init__(self, file: Any):
        self._file = file

    @property
    def genres(self) -> list[str]:
        return list(self._values(self.GENRE))

    @property
    def artist(self) -> str:
        return next(iter(self._values("\xa9ART")), "")

    @property
    def comments(self) -> list[str]:
        return list(self._values(self.COMMENT))

    def _values(self, name: str) -> list[str]:
        return (self._file.tags or {}).get(name, [])

    def _other_comments(self) -> list[str]:
        return [comment for comment in self.comments if not PREDICTION.fullmatch(comment)]

    @property
    def others(self) -> object:
        tags = self._file.tags or {}
        return {name: tags[name] for name in tags if name not in (self.GENRE, self.COMMENT)}, self._other_comments()

    def save(self, genre: str, comment: str) -> None:
        if self._file.tags is None:
            self._file.add_tags()
        self._file.tags[self.GENRE] = [genre]
        self._file.tags[self.COMMENT] = [*self._other_comments(), comment]
        self._file.save()
