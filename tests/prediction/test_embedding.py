import sys

import numpy as np
import pytest

from melgpu.errors import InputError
from melgpu.prediction import embedding
from melgpu.prediction.embedding import Embedding, write_embeddings

ROWS = [
    Embedding("a.mp3", np.array([0.5, -1.0, 2.0], np.float32), None),
    Embedding("caf\udce9.mp3", None, "the file's name is not UTF-8"),
    Embedding("b.flac", np.array([1.0, 0.0, 1e-9], np.float32), "decoding failed after 3.0 s"),
]


@pytest.mark.parametrize("row_group_size", [1, 2, 1024])
def test_embeddings_are_written_as_parquet(tmp_path, monkeypatch, row_group_size):
    pytest.importorskip("pyarrow")
    import pyarrow
    import pyarrow.parquet

    monkeypatch.setattr(embedding, "ROW_GROUP_SIZE", row_group_size)
    write_embeddings(tmp_path / "e.parquet", iter(ROWS))
    table = pyarrow.parquet.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["path", "error", "vector"]
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32())
    assert table["path"].to_pylist() == ["a.mp3", r"caf\udce9.mp3", "b.flac"]
    assert table["error"].to_pylist() == [None, "the file's name is not UTF-8", "decoding failed after 3.0 s"]
    vectors = table["vector"].to_pylist()
    assert vectors[1] is None
    np.testing.assert_array_equal(vectors[2], ROWS[2].vector)
    write_embeddings(tmp_path / "e.parquet", [])
    assert pyarrow.parquet.read_table(tmp_path / "e.parquet").num_rows == 0


def test_a_failure_leaves_the_earlier_table(tmp_path):
    pytest.importorskip("pyarrow")

    def failing():
        yield ROWS[0]
        raise RuntimeError("a full disk")

    write_embeddings(tmp_path / "e.parquet", ROWS)
    before = (tmp_path / "e.parquet").read_bytes()
    with pytest.raises(RuntimeError, match="a full disk"):
        write_embeddings(tmp_path / "e.parquet", failing())
    assert (tmp_path / "e.parquet").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_without_pyarrow_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'melgpu\[parquet\]'"):
        write_embeddings(tmp_path / "e.parquet", ROWS)
    assert not (tmp_path / "e.parquet").exists()
