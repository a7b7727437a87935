import os

from melgpu.audio.content import CONTENT_ID, HASHED_BYTES, content_id, size_of


def test_size_and_beginning_tell_files_apart(tmp_path):
    beginning = bytes(range(256)) * (HASHED_BYTES // 256)
    texts = {"a": beginning + b"1", "b": beginning + b"12", "c": b"x" + beginning, "empty": b""}
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text)
    contents = {name: content_id(str(tmp_path / name)) for name in texts}
    assert len(set(contents.values())) == 4
    assert all(CONTENT_ID.fullmatch(content) for content in contents.values())
    assert {name: size_of(content) for name, content in contents.items()} == {k: len(v) for k, v in texts.items()}
    (tmp_path / "copy").write_bytes(texts["a"])
    assert content_id(str(tmp_path / "copy")) == contents["a"]


def test_what_cannot_be_read_has_none(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert [content_id(str(path)) for path in (tmp_path, tmp_path / "absent", tmp_path / "pipe", "https://x/a")] == [
        ""
    ] * 4
    assert content_id("a\0b") == ""
