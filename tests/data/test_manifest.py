from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from melgpu.data import manifest
from melgpu.data.manifest import Split
from melgpu.data.sources import SourceList, read_source
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from tests.helpers.runs import ZALO_COUNTS, read_source_text, touch

HEADER = b"id,path,label,split,fold\n"


def read_source_lists(
    folder: Path,
    train: list[tuple[str, str]],
    public: list[tuple[str, str]] = (),
    private: list[tuple[str, str]] = (),
) -> dict:
    touch(folder, *(name for name, _ in (*train, *public, *private)))
    source_lists = {}
    for split, rows in (("train", train), ("public", public), ("private", private)):
        if rows:
            path = folder / f"{split}.csv"
            path.write_text("".join(f"{name},{label}\n" for name, label in rows))
            source_lists[split] = read_source(path, None, labelled=split == "train")
    return source_lists


def test_build_reports_every_problem_at_once(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(8)] + [("0.mp3", "a"), ("single.mp3", "c")]
    source_lists = read_source_lists(tmp_path, rows, [("t.mp3", "unknown")])
    with pytest.raises(InputError) as caught:
        manifest.build(source_lists, num_folds=4, seed=8)
    text = str(caught.value)
    assert len(caught.value.problems) == 3
    for expected in (
        "line 9: 0.mp3 is listed twice (first: " + str(tmp_path / "train.csv, line 1"),
        "1 of 3 classes have fewer tracks (or artists) than 4 folds: c (1); leave them out, or train on them",
        "t.mp3 has the label 'unknown'",
    ):
        assert expected in text


def test_unusable_tracks_have_no_fold_and_do_not_count(tmp_path):
    source_lists = read_source_lists(tmp_path, [(f"{i}.mp3", "ab"[i % 2]) for i in range(8)])
    paths = source_lists["train"].paths
    built = manifest.build(source_lists, 3, 8, {paths[2], paths[5]})
    assert built.paths == tuple(paths)
    assert built.folds[[2, 5]].tolist() == [-1, -1]
    assert sorted(np.delete(built.folds, [2, 5]).tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"than 3 folds: a \(2\); use fewer folds \(--set folds.num_folds=2\)"):
        manifest.build(source_lists, 3, 8, {paths[0], paths[2]})


def test_the_same_file_twice_is_a_leak(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(6)]
    tests = [("t.mp3", ""), ("link.mp3", "")], [("p.mp3", ""), ("t.mp3", ""), ("5.mp3", "")]
    source_lists = read_source_lists(tmp_path, [*rows, ("./0.mp3", "a")], *tests)
    (tmp_path / "link.mp3").unlink()
    (tmp_path / "link.mp3").symlink_to(tmp_path / "3.mp3")
    with pytest.raises(InputError) as caught:
        manifest.build(source_lists, 3, 8)
    assert len(caught.value.problems) == 4
    assert "./0.mp3 is the same file as 0.mp3" in str(caught.value)
    assert "link.mp3 is also a training track (3.mp3)" in str(caught.value)
    assert "t.mp3 is also a public test track (t.mp3)" in str(caught.value)
    assert "5.mp3 is also a training track (5.mp3)" in str(caught.value)


def test_a_class_needs_as_many_artists_as_folds(tmp_path):
    touch(tmp_path, *(f"{i}.mp3" for i in range(12)))
    text = "file,label,artist\n" + "".join(f"{i}.mp3,{'ab'[i % 2]},{'solo' if i % 2 else i}\n" for i in range(12))
    with pytest.raises(InputError, match=r"fewer tracks \(or artists\) than 3 folds: b \(1\);"):
        manifest.build({"train": read_source_text(tmp_path / "x.csv", text)}, 3, 8)


def test_small_classes_may_be_trained_on_without_validation(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(8)] + [(f"c{i}.mp3", "c") for i in range(3)]
    source_lists = read_source_lists(tmp_path, rows)
    built = manifest.build(source_lists, 4, 8, small_classes="train")
    assert built.folds[8:].tolist() == [4, 4, 4]
    assert sorted(built.folds[:8].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    manifest.save(built, tmp_path / "manifest.csv")
    assert (manifest.load(tmp_path / "manifest.csv", 4).folds == built.folds).all()
    with pytest.raises(InputError, match="every class has fewer tracks"):
        manifest.build(source_lists, 9, 8, small_classes="train")


def test_many_small_classes_are_one_problem(tmp_path):
    rows = [(f"{i}.mp3", f"class{i}") for i in range(30)]
    with pytest.raises(InputError) as caught:
        manifest.build(read_source_lists(tmp_path, rows), 5, 8)
    (problem,) = caught.value.problems
    assert problem.startswith("30 of 30 classes have fewer tracks (or artists) than 5 folds: class0 (1), class1 (1), ")
    assert "class9 (1) and 20 more; leave them out" in problem


def test_names_that_are_not_utf8_are_rejected(tmp_path):
    name = b"caf\xe9.mp3".decode("utf-8", "surrogateescape")
    touch(tmp_path, *(f"{c}/{i}.mp3" for c in "ab" for i in range(3)), f"a/{name}")
    with pytest.raises(InputError, match="the file's name is not UTF-8"):
        manifest.build({"train": read_source(tmp_path, None, labelled=True)}, 3, 8)


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


def test_one_class_is_rejected(tmp_path):
    with pytest.raises(InputError, match="at least two classes"):
        manifest.build(read_source_lists(tmp_path, [(f"{i}.mp3", "a") for i in range(5)]), 5, 8)


def test_a_loaded_manifest_equals_the_saved_one(tmp_path):
    rows = [(f'ü "{i}",\n.mp3', str(i % 2)) for i in range(4)]
    for name, _ in rows:
        touch(tmp_path, name)
    train = SourceList(
        [n for n, _ in rows], [str(tmp_path / n) for n, _ in rows], [c for _, c in rows], [""] * 4, [""] * 4
    )
    tracks = manifest.build({"train": train}, 2, 8)
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


def read_with_folds(folder: Path, rows: list[tuple[str, str, str]], artist: str = "") -> SourceList:
    touch(folder, *(name for name, _, _ in rows))
    path = folder / "folds.csv"
    path.write_text("file,label,fold,artist\n" + "".join(f"{','.join(row)},{artist}\n" for row in rows))
    return read_source(path, None, True, "fold")


def test_listed_folds_are_taken_as_they_are(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2], str(1 + i // 2 % 3)) for i in range(12)]
    train = read_with_folds(tmp_path, rows, "Anna")
    assert train.notes == [
        f"{tmp_path}/folds.csv: its folds 1, 2, 3 are the folds 0 to 2",
        f"{tmp_path}/folds.csv: 1 artists have tracks in several of its folds: Anna",
    ]
    built = manifest.build({"train": train}, 3, 8, {train.paths[4]})
    assert built.folds.tolist() == [0, 0, 1, 1, -1, 2, 0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"has 3 folds \(1, 2, 3\) and the recipe 5: --set folds.num_folds=3"):
        manifest.build({"train": train}, 5, 8)


def test_the_five_folds_of_the_original_load(tmp_path):
    """A list of the form and counts of the one that its author published: each class dealt out, fold 0 first."""
    labels = [label for label, count in ZALO_COUNTS.items() for _ in range(count)]
    folds = [i % 5 for count in ZALO_COUNTS.values() for i in range(count)]
    order = np.random.default_rng(0).permutation(5158)
    lines = [f"{10**18 + i}.mp3,{labels[i]},{folds[i]}\n" for i in order]
    (tmp_path / "folds.csv").write_text("file,class,fold\n" + "".join(lines))
    recipe = load_recipe([], ["folds.column=fold"])
    listed = read_source(tmp_path / "folds.csv", None, True, recipe.folds.column)
    tracks = manifest.build({"train": listed}, recipe.folds.num_folds, recipe.folds.seed)
    assert tracks.folds.tolist() == [folds[i] for i in order]
    assert tracks.labels == tuple(labels[i] for i in order)
    assert np.bincount(tracks.folds).tolist() == [1037, 1034, 1031, 1029, 1027]


def test_a_class_in_a_single_listed_fold_is_refused(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2], str(i % 2)) for i in range(6)]
    with pytest.raises(InputError, match="2 of 2 classes are in one fold of the list only"):
        manifest.build({"train": read_with_folds(tmp_path, rows)}, 2, 8)


def test_ids_of_a_test_list_are_those_of_its_submission(tmp_path):
    touch(tmp_path, "t.mp3", "u.mp3", "p.mp3")
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(4)]
    public = read_source_text(tmp_path / "public.csv", "id,file\n17,t.mp3\n4,u.mp3\n", labelled=False)
    source_lists = read_source_lists(tmp_path, rows, private=[("p.mp3", "")]) | {"public": public}
    tracks = manifest.build(source_lists, 2, 8)
    assert tracks.ids[4:] == ("t.mp3", "u.mp3", "p.mp3")
    manifest.save(tracks, tmp_path / "manifest.csv")
    for same in (tracks, manifest.load(tmp_path / "manifest.csv", 2)):
        assert same.ids_for_submission("public") == ["17", "4"]
        assert same.ids_for_submission("private") == ["p.mp3"]


def test_contents_are_optional_and_kept(tmp_path):
    tracks = manifest.build(read_source_lists(tmp_path, [(f"{i}.mp3", "ab"[i % 2]) for i in range(4)]), 2, 8)
    manifest.save(tracks, tmp_path / "old.csv")
    assert (tmp_path / "old.csv").read_text().startswith("id,path,label,split,fold\n".replace("\n", ""))
    assert manifest.load(tmp_path / "old.csv", 2).contents == ()
    with_contents = manifest.with_contents(tracks)
    manifest.save(with_contents, tmp_path / "new.csv")
    assert manifest.load(tmp_path / "new.csv", 2) == with_contents
    assert [content.partition("-")[0] for content in with_contents.contents] == ["1"] * 4


def test_a_test_label_that_only_looks_like_a_class_is_shown_beside_it(tmp_path):
    rows = [(f"{i}.mp3", ("rock", "pop")[i % 2]) for i in range(4)]
    with pytest.raises(
        InputError, match="has the label 'Rock', which no training track has; 'rock' only looks the same"
    ):
        manifest.build(read_source_lists(tmp_path, rows, [("t.mp3", "Rock")]), 2, 8)


def test_pseudo_labels_never_replace_training_labels(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(4)]
    tracks = manifest.build(read_source_lists(tmp_path, rows, [("t.mp3", "")]), 2, 8)
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
