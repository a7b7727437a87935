import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu.data import manifest, manifest_builder
from melgpu.data.lists.sources import SourceList
from melgpu.data.manifest import Split
from melgpu.errors import InputError
from tests.helpers.runs import read_source_lists, read_source_text, touch

HEADER = b"id,path,label,split,fold\n"


CELLS = st.one_of(
    st.sampled_from(
        ["a", "/a", "", "x", "train", "public", "valid", "0", "-1", "1_0", "9" * 5000, "\0", '"', "\u0661"]
    ),
    st.text(st.characters(codec="utf-8"), max_size=3),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(
    st.lists(st.lists(CELLS, min_size=5, max_size=6), max_size=3), st.sampled_from(["", ",content", ",submission_id"])
)
def test_nothing_in_a_manifest_raises_anything_but_a_named_problem(tmp_path, rows, column):
    header = HEADER.decode().strip() + column
    path = tmp_path / "m.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]), encoding="utf-8")
    try:
        loaded = manifest.load(path, 3)
    except InputError as error:
        loaded = error
    assert isinstance(loaded, manifest.Manifest) or "m.csv: not a manifest" in str(loaded)


def test_a_loaded_manifest_equals_the_saved_one(tmp_path):
    rows = [(f'ü "{i}",\n.mp3', str(i % 2)) for i in range(4)]
    for name, _ in rows:
        touch(tmp_path, name)
    train = SourceList(
        [n for n, _ in rows], [str(tmp_path / n) for n, _ in rows], [c for _, c in rows], [""] * 4, [""] * 4
    )
    tracks = manifest_builder.build({"train": train}, 2, 8)
    manifest.save(tracks, tmp_path / "manifest.csv")
    loaded = manifest.load(tmp_path / "manifest.csv", 2)
    assert loaded == tracks
    assert (loaded.folds == tracks.folds).all()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not enough values"),
        (b"\xff\xfe", "can't decode"),
        (b"file,label\n", "its columns are file, label"),
        (HEADER, "not enough values"),
        (HEADER + b"a,/a\n", "not enough values"),
        (HEADER + b"a,/a,x,train,0\nb,/b\n", "shorter"),
        (HEADER + b"a,/a,x,train,zero\n", "invalid literal"),
        (HEADER + b"a,/a,x,train," + b"9" * 30, "too large"),
        (HEADER + b"a,/a,x,train,4\n", "a fold other than 0 to 3"),
        (HEADER + b"a,/a,x,train,-2\n", "a fold other than 0 to 3"),
        (HEADER + b"a,/a,x,public,0\n", "or of a test track"),
        (HEADER + b"a,/a,x,secret,0\n", "'secret' is not a valid Split"),
        (HEADER + b"a,/a,x,valid,0\n", "a split other than train, public, private"),
        (HEADER + b"a,/a,x,train,0\na,/b,x,train,1\n", "listed twice"),
        (b"id,path,label,split,fold,content\na,/a,x,train,0,7\n", "a content that is not a size and a hash"),
        (b"id,path,label,split,fold,content,more\na,/a,x,train,0,,\n", "its columns are id, path"),
        (HEADER + b"a" * 200_000 + b",/a,x,train,0\n", "field larger"),
    ],
)
def test_malformed_manifests_are_rejected(tmp_path, content, reason):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(InputError, match=rf"x\.csv: not a manifest: .*{reason}"):
        manifest.load(tmp_path / "x.csv", 3)


def test_ids_of_a_test_list_are_those_of_its_submission(tmp_path):
    touch(tmp_path, "t.mp3", "u.mp3", "p.mp3")
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(4)]
    public = read_source_text(tmp_path / "public.csv", "id,file\n17,t.mp3\n4,u.mp3\n", labelled=False)
    source_lists = read_source_lists(tmp_path, rows, private=[("p.mp3", "")]) | {"public": public}
    tracks = manifest_builder.build(source_lists, 2, 8)
    assert tracks.ids[4:] == ("t.mp3", "u.mp3", "p.mp3")
    manifest.save(tracks, tmp_path / "manifest.csv")
    for same in (tracks, manifest.load(tmp_path / "manifest.csv", 2)):
        assert same.ids_for_submission("public") == ["17", "4"]
        assert same.ids_for_submission("private") == ["p.mp3"]


def test_contents_are_optional_and_kept(tmp_path):
    tracks = manifest_builder.build(read_source_lists(tmp_path, [(f"{i}.mp3", "ab"[i % 2]) for i in range(4)]), 2, 8)
    manifest.save(tracks, tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text().startswith("id,path,label,split,fold\n".replace("\n", ""))
    assert manifest.load(tmp_path / "old.csv", 2).contents == ()
    with_contents = manifest.with_contents(tracks)
    manifest.save(with_contents, tmp_path / "new.csv")
    assert manifest.load(tmp_path / "new.csv", 2) == with_contents
    assert [content.partition("-")[0] for content in with_contents.contents] == ["1"] * 4


def test_pseudo_labels_never_replace_training_labels(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(4)]
    tracks = manifest_builder.build(read_source_lists(tmp_path, rows, [("t.mp3", "")]), 2, 8)
    assert manifest.with_labels(tracks, [4], ["b"]).labels[4] == "b"
    assert tracks.labels[4] == ""
    with pytest.raises(ValueError, match="training track"):
        manifest.with_labels(tracks, [0], ["b"])


def test_class_indices(made):
    indices = made.manifest.class_indices(made.class_names)
    assert indices.tolist() == [0, 1] * 6 + [-1, -1]


def test_a_fold_holds_out_its_validation_tracks(made):
    for fold in range(3):
        train, valid = made.manifest.fold_rows(fold)
        assert not set(train) & set(valid)
        assert sorted([*train, *valid]) == list(range(12))
        assert made.manifest.fold_splits(fold).count(Split.VALID) == len(valid)


def test_tracks_without_usable_audio_are_in_no_fold(made):
    made.manifest.folds[[0, 5]] = -1
    for fold in range(3):
        train, valid = made.manifest.fold_rows(fold)
        assert not {0, 5} & {*train.tolist(), *valid.tolist()}
    assert made.manifest.prior.tolist() == [0.5, 0.5]  # five tracks of each class are left
