from pathlib import Path

import numpy as np
import pytest

from melgpu.data import manifest, manifest_builder
from melgpu.data.lists.sources import SourceList, read_source
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from tests.helpers.runs import ZALO_COUNTS, read_source_lists, read_source_text, touch


def test_build_reports_every_problem_at_once(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(8)] + [("0.mp3", "a"), ("single.mp3", "c")]
    source_lists = read_source_lists(tmp_path, rows, [("t.mp3", "unknown")])
    with pytest.raises(InputError) as caught:
        manifest_builder.build(source_lists, num_folds=4, seed=8)
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
    built = manifest_builder.build(source_lists, 3, 8, {paths[2], paths[5]})
    assert built.paths == tuple(paths)
    assert built.folds[[2, 5]].tolist() == [-1, -1]
    assert sorted(np.delete(built.folds, [2, 5]).tolist()) == [0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"than 3 folds: a \(2\); use fewer folds \(--set folds.num_folds=2\)"):
        manifest_builder.build(source_lists, 3, 8, {paths[0], paths[2]})


def test_the_same_file_twice_is_a_leak(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(6)]
    tests = [("t.mp3", ""), ("link.mp3", "")], [("p.mp3", ""), ("t.mp3", ""), ("5.mp3", "")]
    source_lists = read_source_lists(tmp_path, [*rows, ("./0.mp3", "a")], *tests)
    (tmp_path / "link.mp3").unlink()
    (tmp_path / "link.mp3").symlink_to(tmp_path / "3.mp3")
    with pytest.raises(InputError) as caught:
        manifest_builder.build(source_lists, 3, 8)
    assert len(caught.value.problems) == 4
    assert "./0.mp3 is the same file as 0.mp3" in str(caught.value)
    assert "link.mp3 is also a training track (3.mp3)" in str(caught.value)
    assert "t.mp3 is also a public test track (t.mp3)" in str(caught.value)
    assert "5.mp3 is also a training track (5.mp3)" in str(caught.value)


def test_a_class_needs_as_many_artists_as_folds(tmp_path):
    touch(tmp_path, *(f"{i}.mp3" for i in range(12)))
    text = "file,label,artist\n" + "".join(f"{i}.mp3,{'ab'[i % 2]},{'solo' if i % 2 else i}\n" for i in range(12))
    with pytest.raises(InputError, match=r"fewer tracks \(or artists\) than 3 folds: b \(1\);"):
        manifest_builder.build({"train": read_source_text(tmp_path / "x.csv", text)}, 3, 8)


def test_small_classes_may_be_trained_on_without_validation(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2]) for i in range(8)] + [(f"c{i}.mp3", "c") for i in range(3)]
    source_lists = read_source_lists(tmp_path, rows)
    built = manifest_builder.build(source_lists, 4, 8, small_classes="train")
    assert built.folds[8:].tolist() == [4, 4, 4]
    assert sorted(built.folds[:8].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    manifest.save(built, tmp_path / "manifest.csv")
    assert (manifest.load(tmp_path / "manifest.csv", 4).folds == built.folds).all()
    with pytest.raises(InputError, match="every class has fewer tracks"):
        manifest_builder.build(source_lists, 9, 8, small_classes="train")


def test_many_small_classes_are_one_problem(tmp_path):
    rows = [(f"{i}.mp3", f"class{i}") for i in range(30)]
    with pytest.raises(InputError) as caught:
        manifest_builder.build(read_source_lists(tmp_path, rows), 5, 8)
    (problem,) = caught.value.problems
    assert problem.startswith("30 of 30 classes have fewer tracks (or artists) than 5 folds: class0 (1), class1 (1), ")
    assert "class9 (1) and 20 more; leave them out" in problem


def test_names_that_are_not_utf8_are_rejected(tmp_path):
    name = b"caf\xe9.mp3".decode("utf-8", "surrogateescape")
    touch(tmp_path, *(f"{c}/{i}.mp3" for c in "ab" for i in range(3)), f"a/{name}")
    with pytest.raises(InputError, match="the file's name is not UTF-8"):
        manifest_builder.build({"train": read_source(tmp_path, None, labelled=True)}, 3, 8)


def test_one_class_is_rejected(tmp_path):
    with pytest.raises(InputError, match="at least two classes"):
        manifest_builder.build(read_source_lists(tmp_path, [(f"{i}.mp3", "a") for i in range(5)]), 5, 8)


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
    built = manifest_builder.build({"train": train}, 3, 8, {train.paths[4]})
    assert built.folds.tolist() == [0, 0, 1, 1, -1, 2, 0, 0, 1, 1, 2, 2]
    with pytest.raises(InputError, match=r"has 3 folds \(1, 2, 3\) and the recipe 5: --set folds.num_folds=3"):
        manifest_builder.build({"train": train}, 5, 8)


def test_the_five_folds_of_the_original_load(tmp_path):
    """A list of the form and counts of the one that its author published: each class dealt out, fold 0 first."""
    labels = [label for label, count in ZALO_COUNTS.items() for _ in range(count)]
    folds = [i % 5 for count in ZALO_COUNTS.values() for i in range(count)]
    order = np.random.default_rng(0).permutation(5158)
    lines = [f"{10**18 + i}.mp3,{labels[i]},{folds[i]}\n" for i in order]
    (tmp_path / "folds.csv").write_text("file,class,fold\n" + "".join(lines))
    recipe = load_recipe([], ["folds.column=fold"])
    listed = read_source(tmp_path / "folds.csv", None, True, recipe.folds.column)
    tracks = manifest_builder.build({"train": listed}, recipe.folds.num_folds, recipe.folds.seed)
    assert tracks.folds.tolist() == [folds[i] for i in order]
    assert tracks.labels == tuple(labels[i] for i in order)
    assert np.bincount(tracks.folds).tolist() == [1037, 1034, 1031, 1029, 1027]


def test_a_class_in_a_single_listed_fold_is_refused(tmp_path):
    rows = [(f"{i}.mp3", "ab"[i % 2], str(i % 2)) for i in range(6)]
    with pytest.raises(InputError, match="2 of 2 classes are in one fold of the list only"):
        manifest_builder.build({"train": read_with_folds(tmp_path, rows)}, 2, 8)


def test_a_test_label_that_only_looks_like_a_class_is_shown_beside_it(tmp_path):
    rows = [(f"{i}.mp3", ("rock", "pop")[i % 2]) for i in range(4)]
    with pytest.raises(
        InputError, match="has the label 'Rock', which no training track has; 'rock' only looks the same"
    ):
        manifest_builder.build(read_source_lists(tmp_path, rows, [("t.mp3", "Rock")]), 2, 8)
