import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from melgpu.console import duration
from melgpu.errors import InputError
from melgpu.metrics import calibration_curve
from melgpu.report import analysis, error_analysis, html, summary
from melgpu.runs import pseudo_labels
from melgpu.runs.run import Run
from melgpu.stacking import evaluation
from melgpu.stacking.evaluation import SPLITS
from tests.helpers import report_run

NOW = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)
VOID = {"meta", "img", "br"}
CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """What a browser is shown: text by section, table rows by section, attributes, tags that do not balance."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.unbalanced, self.ids = [], [], []
        self.sections, self.rows, self.attributes, self.tags = {}, {}, [], []
        self._section = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag in ("header", "section"):
            self._section = dict(attrs).get("id", tag)
        if tag == "tr":
            self.rows.setdefault(self._section, []).append([])
        if tag in ("td", "th"):
            self.rows[self._section][-1].append("")
        if tag not in VOID:
            self.open.append(tag)
        if tag == "br":
            self.handle_data(" ")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.sections[self._section] = self.sections.get(self._section, "") + data
            if {"td", "th"} & set(self.open):
                self.rows[self._section][-1][-1] += data

    def said(self, section: str) -> str:
        return " ".join(self.sections[section].split())

    def row(self, section: str, name: str) -> list[str]:
        """The first row of a section whose head is `name`."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows[section]]
        return next(row for row in rows if row[0].removesuffix(" the answer").removesuffix("the answer") == name)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Run:
    return report_run.make(tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def text(shown) -> str:
    return html.render(shown, NOW)


@pytest.fixture(scope="module")
def read(text) -> Page:
    return Page(text)


def test_it_is_one_whole_file_that_asks_for_nothing(text, read):
    assert (read.open, read.unbalanced) == ([], [])
    assert len(set(read.ids)) == len(read.ids)
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    for name, value in read.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("data:", "#"))
        if name == "href":
            assert value[1:] in read.ids
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style
    assert "url(" not in text


def test_names_are_shown_as_they_are_and_escaped(text, read, shown):
    assert "<script" not in text
    for name in report_run.CLASSES:
        assert name in read.said("classes")
        assert name in read.said("about")
    assert "a 'device' & more" in read.said("header")
    assert "<b>.mp3" in read.said("files")
    assert "broken after 3.0 s" in read.said("files")
    assert read.said("header").startswith("melgpu run run 24 tracks, 3 classes")


def test_scores_are_those_of_the_tracks(read, shown):
    told = evaluation.load(shown.evaluation_path(2))
    names = {name: analysis.PREDICTOR_NAMES.get(name, name) for name in told.predictors}
    for judge, probs in zip(told.predictors, told.probs, strict=True):
        row = read.row("scores", names[judge])
        for split, cells in zip(SPLITS, zip(row[1::2], row[2::2], strict=True), strict=True):
            right = [p.argmax() == k for p, k, s in zip(probs, told.labels, told.splits, strict=True) if s == split]
            assert cells[0].split()[0] == f"{100 * np.mean(right):.1f}"
            plain = [
                p.argmax() == k for p, k, s in zip(told.probs[2], told.labels, told.splits, strict=True) if s == split
            ]
            gain = f"{100 * (np.mean(right) - np.mean(plain)):+.1f}".replace("-", "\N{MINUS SIGN}").replace(
                "+0.0", "0.0"
            )
            if judge in shown.spec(2).backbones or judge == "mean":
                assert cells[1] == ""
            else:
                assert cells[1].split()[0] == gain
                assert cells[1].endswith(("better", "worse", "not told from chance"))
    assert "Labels of test sets chose nothing" in read.said("scores")
    assert "kept the epoch with the best window accuracy" in read.said("scores")


def test_folds_show_tracks_and_windows(read, shown):
    scores = analysis.fold_scores(analysis.round_results(shown)[0])
    rows = [[" ".join(cell.split()) for cell in row] for row in read.rows["scores"]]
    for judge in ("resnet50", "mean"):
        cells = [
            cell
            for tracks, windows in scores[judge].values()
            for cell in (f"{100 * tracks:.1f}", "" if windows is None else f"{100 * windows:.1f}")
        ]
        assert [analysis.PREDICTOR_NAMES.get(judge, judge), *cells] in rows


def test_pseudo_labels_and_what_they_changed(read, shown):
    for one in analysis.pseudo_label_counts(shown, 1):
        row = read.row("pseudo", one.name)
        assert row[1] == str(one.count)
        assert row[-1] == (f"{one.right} of {one.known}" if one.known else "")
    after, before, _ = analysis.round_results(shown)
    gains = analysis.compare(before.evaluation, after.evaluation)["blend"]
    row = read.row("pseudo", analysis.PREDICTOR_NAMES["blend"])
    for gain, change, difference in zip(gains.values(), row[1::2], row[2::2], strict=True):
        assert change == f"{100 * gain.before:.1f} → {100 * gain.after:.1f}"
        assert difference.endswith(summary.significance(gain.gain, gain.p))


def test_the_rules_of_pseudo_labels_are_told(shown, read):
    assert "(a probability above 20\xa0%) are training" in read.sections["pseudo"]
    rules = shown.recipe.pseudo.model_copy(update={"agreement": 0.5, "max_per_class": 7})
    strict = replace(shown, recipe=shown.recipe.model_copy(update={"pseudo": rules}))
    kept = shown.pseudo_path(1).read_bytes()
    pseudo_labels.save([], shown.pseudo_path(1), 1, strict.recipe.digest())
    told = Page(html.render(strict, NOW)).sections["pseudo"]
    assert "20\xa0%, the same class from at least 50\xa0% of the networks, the surest 7 of a class)" in told
    shown.pseudo_path(1).write_bytes(kept)


def test_classes_and_calibration_of_each_split(read, shown):
    told = evaluation.load(shown.evaluation_path(2))
    for split in SPLITS:
        rows = told.rows(split)
        right = told.final_probs[rows].argmax(1) == told.labels[rows]
        assert f"{summary.SPLIT_NAMES[split]}, {len(rows)} tracks" in read.said("classes")
        error = calibration_curve(told.final_probs[rows], told.labels[rows]).error
        assert f"The mean gap between sure and right is {100 * error:.1f} points" in read.said("trust")
        for number, name in enumerate(shown.class_names):
            own = told.labels[rows] == number
            assert f"{right[own].sum()} of {own.sum()}" in read.said("classes")
            counts = [str(np.sum(told.final_probs[rows][own].argmax(1) == k)) for k in range(3)]
            assert [f"{number + 1}{name}", *counts] in [
                ["".join(cell.split("\n")) for cell in row] for row in read.rows["classes"]
            ]


def test_the_worst_mistakes_are_shown_in_order(read, shown):
    worst = error_analysis.worst_errors(evaluation.load(shown.evaluation_path(2)))
    assert re.findall(r"(\w+\.wav) ", read.said("errors")) == [mistake.id for mistake in worst]
    windows = error_analysis.worst_windows(shown, 2, worst)
    starts = re.findall(r"(\d:\d\d) to", read.said("errors"))
    assert starts == [duration(window.start_s) for window in windows]
    assert read.tags.count("audio") == len(worst)


def test_time_is_told_network_by_network(read, shown):
    for chapter in analysis.round_results(shown):
        for name, own in analysis.training_logs(chapter.run, chapter.number).items():
            one = analysis.training_time(shown, name, own)
            rows = [row[:4] for row in read.rows["time"]]
            assert [name, str(one.networks), str(one.epochs), duration(one.total_s)] in rows
    assert read.row("time", "predict")[1:5] == ["1", "0:08", "150 windows", "20.0"]


def test_recipe_and_place_are_there(read, shown):
    assert " ".join((shown.folder / "recipe.toml").read_text().split()) in read.said("about")
    assert str(shown.folder.resolve()) in read.said("about")
    assert f"Python {shown.environment['python']}" in read.said("about")
    assert "23 Nov 2026, 14:05 UTC" in read.said("header")
    assert f"torch {shown.environment['packages']['torch']}" in read.said("header")
    if commit := shown.environment["git_commit"]:
        assert f"commit {commit[:7]} " in read.said("header")
        assert commit in read.said("about")


def test_after_round_1_it_shows_what_is_there(tmp_path):
    made = report_run.start(tmp_path, ("a", "b"), 4, True, audio=False)
    with pytest.raises(InputError, match="no round is stacked yet"):
        html.write(made)
    report_run.stack(made, 1)
    html.write(made)
    read = Page(made.report_path.read_text(encoding="utf-8"))
    assert read.unbalanced == read.open == []
    assert "round 1 of 2" in read.said("header")
    assert "Round 2" not in read.said("scores")
    assert "None were chosen yet." in read.said("pseudo")
    assert "No file is in quarantine" in read.said("header")


def test_labels_that_nobody_knows_are_no_scores(tmp_path):
    made = report_run.make(tmp_path, labelled=False, audio=False)
    for number in (1, 2):
        path = made.evaluation_path(number)
        told = evaluation.load(path)
        evaluation.save(replace(told, labels=np.full(len(told.labels), -1)), path)
    read = Page(html.render(made, NOW))
    assert read.unbalanced == read.open == []
    assert "nothing can be said about right and wrong" in read.said("header")
    assert "No labels are known" in read.said("errors")
    assert "rightly" not in read.said("pseudo")


def test_without_the_predictions_all_but_the_mistakes_is_shown(tmp_path):
    made = report_run.make(tmp_path, audio=False)
    shutil.rmtree(made.predictions_folder(2))
    read = Page(html.render(made, NOW))
    assert read.unbalanced == read.open == []
    assert "predictions were deleted" in read.said("errors")
    assert "validation, 8 tracks" in read.said("scores")


def test_test_sets_without_labels_are_left_out(tmp_path):
    read = Page(html.render(report_run.make(tmp_path, labelled=False, audio=False), NOW))
    assert "validation, 8 tracks" in read.said("scores")
    assert "public test," not in read.said("scores")


def test_many_classes_are_told_by_their_confusions(tmp_path):
    made = report_run.make(tmp_path, classes=tuple(f"class {n}" for n in range(30)), per_class=3, audio=False)
    read = Page(html.render(made, NOW))
    assert read.unbalanced == read.open == []
    assert "All answers" not in read.said("classes")
    told = evaluation.load(made.evaluation_path(2))
    table = analysis.confusion_matrix(analysis.round_results(made)[0], "validation")
    truth, answer = next(analysis.most_confused(table, 1))
    pair = f"class {truth} taken for class {answer}: {table[truth, answer]} of {table[truth].sum()}"
    assert pair in read.said("classes")
    assert "No such file" in read.said("errors")
    assert len(told.class_names) == 30


@pytest.mark.parametrize("name", ["log", "predictions", "times", "judged"])
def test_damaged_files_are_named(shown, name):
    path = {
        "log": shown.job_folder(shown.jobs(2)[0]) / "log.csv",
        "predictions": shown.predictions_path(shown.jobs(2)[0]),
        "times": shown.timings_path,
        "judged": shown.evaluation_path(1),
    }[name]
    kept = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=re.escape(str(path))):
        html.render(shown, NOW)
    path.write_bytes(kept)


@pytest.mark.skipif(not CHROMIUM, reason="no browser")
def test_nothing_overflows_a_phone_or_a_desktop(text, tmp_path):
    (tmp_path / "page.html").write_text(text.replace("<details", "<details open"), encoding="utf-8")
    frames = "".join(f'<iframe src="page.html" style="width:{width}px;height:500px"></iframe>' for width in (390, 1280))
    script = (
        "onload = () => document.body.textContent = 'WIDTHS ' + [...document.querySelectorAll('iframe')].map(f => "
        "f.contentDocument.documentElement.scrollWidth + '/' + f.contentDocument.documentElement.clientWidth).join(' ')"
    )
    (tmp_path / "frames.html").write_text(f"<!doctype html><body>{frames}<script>{script}</script></body>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'frames.html'}"]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    widths = re.search(r"WIDTHS (\d+)/(\d+) (\d+)/(\d+)", dumped)
    assert widths, dumped
    phone, phone_frame, desktop, desktop_frame = map(int, widths.groups())
    assert 370 <= phone_frame <= 390
    assert (phone, desktop) == (phone_frame, desktop_frame)
    assert 1260 <= desktop_frame <= 1280
