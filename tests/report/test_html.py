import re
import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest

from melgpu.audio import duplicates
from melgpu.audio.duplicates import Duplicate
from melgpu.console import duration
from melgpu.data.manifest import EVALUATED_SPLITS, Split
from melgpu.errors import InputError
from melgpu.metrics import calibration_curve
from melgpu.models.metadata import Provenance
from melgpu.report import analysis, error_analysis, html, pseudo_label_counts, summary, training_times
from melgpu.runs.formats import pseudo_labels
from melgpu.runs.run import Run
from melgpu.stacking import evaluation
from tests.helpers import report_run

NOW = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)
VOID = {"meta", "img", "br"}
CHROMIUM = shutil.which("chromium")


class ParsedReport(HTMLParser):
    """Text by section, table rows by section, tags, attributes, and tags that are not balanced."""

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

    def text(self, section: str) -> str:
        return " ".join(self.sections[section].split())

    def row(self, section: str, name: str) -> list[str]:
        """The first row of a section whose row header is `name`."""
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows[section]]
        return next(row for row in rows if row[0].removesuffix("final prediction").rstrip() == name)


@pytest.fixture(scope="module")
def stacked_run(tmp_path_factory) -> Run:
    return report_run.make(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def text(stacked_run) -> str:
    return html.render(stacked_run, NOW)


@pytest.fixture(scope="module")
def report(text) -> ParsedReport:
    return ParsedReport(text)


def test_it_is_one_valid_self_contained_file(text, report):
    assert (report.open, report.unbalanced) == ([], [])
    assert len(set(report.ids)) == len(report.ids)
    assert not {"script", "link", "iframe", "object"} & set(report.tags)
    for name, value in report.attributes:
        assert not name.startswith("on")
        if name in ("src", "href"):
            assert value.startswith(("data:", "#"))
        if name == "href":
            assert value[1:] in report.ids
    style = text[text.index("<style>") : text.index("</style>")]
    assert "@import" not in style
    assert "url(" not in text


def test_names_are_shown_as_they_are_and_escaped(text, report, stacked_run):
    assert "<script" not in text
    for name in report_run.CLASSES:
        assert name in report.text("classes")
        assert name in report.text("metadata")
    assert "a 'device' & more" in report.text("header")
    assert "<b>.mp3" in report.text("quarantine")
    assert "decoding failed after 3.0 s" in report.text("quarantine")
    assert report.text("header").startswith("melgpu run run 24 tracks, 3 classes")


def test_scores_are_those_of_the_tracks(report, stacked_run):
    evaluated = evaluation.load(stacked_run.paths.evaluation(2))
    names = {name: analysis.PREDICTOR_NAMES.get(name, name) for name in evaluated.predictors}
    for predictor, probs in zip(evaluated.predictors, evaluated.probs, strict=True):
        row = report.row("scores", names[predictor])
        for split, cells in zip(EVALUATED_SPLITS, zip(row[1::2], row[2::2], strict=True), strict=True):
            rows = [row for row, row_split in enumerate(evaluated.splits) if row_split == split]
            labels = evaluated.labels[rows]
            correct = probs[rows].argmax(1) == labels
            assert cells[0].split()[0] == f"{100 * np.mean(correct):.1f}"
            mean_correct = evaluated.probs[2, rows].argmax(1) == labels
            gain = f"{100 * (np.mean(correct) - np.mean(mean_correct)):+.1f}"
            gain = gain.replace("-", "\N{MINUS SIGN}").replace("+0.0", "0.0")
            if predictor in stacked_run.round_spec(2).backbones or predictor == "mean":
                assert cells[1] == ""
            else:
                assert cells[1].split()[0] == gain
                assert cells[1].endswith(("better", "worse", "not significant"))
    assert "tracks are used for scores only." in report.text("caveats")
    assert "Networks train for one epoch: none is chosen." in report.text("caveats")


def test_folds_have_scores_of_tracks_and_windows(report, stacked_run):
    scores = analysis.fold_scores(analysis.round_results(stacked_run)[0])
    rows = [[" ".join(cell.split()) for cell in row] for row in report.rows["scores"]]
    for predictor in ("resnet50", "mean"):
        cells = [
            cell
            for score in scores[predictor].values()
            for cell in (
                f"{100 * score.accuracy:.1f}",
                "" if score.window_accuracy is None else f"{100 * score.window_accuracy:.1f}",
            )
        ]
        assert [analysis.PREDICTOR_NAMES.get(predictor, predictor), *cells] in rows


def test_pseudo_labels_and_their_gains(report, stacked_run):
    for counts in pseudo_label_counts.count_by_class(stacked_run, 1):
        row = report.row("pseudo-labels", counts.name)
        assert row[1] == str(counts.count)
        assert row[-1] == (f"{counts.correct} of {counts.labelled}" if counts.labelled else "")
    after, before, _ = analysis.round_results(stacked_run)
    comparisons = analysis.compare(before.evaluation, after.evaluation)["blend"]
    row = report.row("pseudo-labels", analysis.PREDICTOR_NAMES["blend"])
    for comparison, accuracies, gain in zip(comparisons.values(), row[1::2], row[2::2], strict=True):
        assert accuracies == f"{100 * comparison.baseline_accuracy:.1f} → {100 * comparison.accuracy:.1f}"
        assert gain.endswith(summary.significance(comparison.gain, comparison.gain_p))


def test_the_selection_of_pseudo_labels_is_described(stacked_run, report, monkeypatch):
    monkeypatch.setattr(Provenance, "differences", lambda *provenances: [])  # the evaluations have another recipe
    assert "(a probability above 20\xa0%) are training" in report.sections["pseudo-labels"]
    spec = stacked_run.recipe.pseudo.model_copy(update={"agreement": 0.5, "max_per_class": 7})
    strict = replace(stacked_run, recipe=stacked_run.recipe.model_copy(update={"pseudo": spec}))
    saved = stacked_run.paths.pseudo_labels(1).read_bytes()
    pseudo_labels.save([], stacked_run.paths.pseudo_labels(1), 1, strict.recipe.digest())
    section = ParsedReport(html.render(strict, NOW)).sections["pseudo-labels"]
    assert "20\xa0%, the same class from at least 50\xa0% of the networks, the 7 most confident of a class)" in section
    stacked_run.paths.pseudo_labels(1).write_bytes(saved)


def test_confusion_matrix_and_calibration_of_each_split(report, stacked_run):
    evaluated = evaluation.load(stacked_run.paths.evaluation(2))
    for split in EVALUATED_SPLITS:
        rows = evaluated.rows(split)
        predicted, labels = evaluated.final_probs[rows].argmax(1), evaluated.labels[rows]
        assert f"{split.description}, {len(rows)} tracks" in report.text("classes")
        error = calibration_curve(evaluated.final_probs[rows], labels).expected_error
        assert f"gap between confidence and accuracy, is {100 * error:.1f} points" in report.text("calibration")
        for class_index, name in enumerate(stacked_run.class_names):
            of_class = labels == class_index
            assert f"{np.sum(predicted[of_class] == class_index)} of {of_class.sum()}" in report.text("classes")
            counts = [str(np.sum(predicted[of_class] == k)) for k in range(3)]
            assert [f"{class_index + 1}{name}", *counts] in [
                ["".join(cell.split("\n")) for cell in row] for row in report.rows["classes"]
            ]


def test_the_calibration_has_what_a_minimum_confidence_keeps(report, stacked_run):
    evaluated = evaluation.load(stacked_run.paths.evaluation(2))
    rows = evaluated.rows(Split.PRIVATE)  # all splits have labels: private test tracks are the least biased
    confidences = evaluated.final_probs[rows].max(1)
    correct = evaluated.final_probs[rows].argmax(1) == evaluated.labels[rows]
    assert "--min-confidence P writes unsure in place of a label" in report.text("calibration")
    assert f"of {len(rows)} private test tracks it would keep" in report.text("calibration")
    for minimum in (0.5, 0.7, 0.8, 0.9, 0.95):
        kept = confidences >= minimum
        _, kept_cell, accuracy_cell = report.row("calibration", str(minimum))
        assert kept_cell.startswith(f"{100 * kept.mean():.1f} ")
        assert kept_cell.endswith(f", {kept.sum()} of {len(rows)}")
        if kept.any():
            assert accuracy_cell.startswith(f"{100 * correct[kept].mean():.1f} ")
            assert accuracy_cell.endswith(f", {correct[kept].sum()} of {kept.sum()}")
        else:
            assert accuracy_cell == ""


def test_the_worst_errors_are_shown_in_order(report, stacked_run):
    errors = error_analysis.worst_errors(evaluation.load(stacked_run.paths.evaluation(2)))
    assert re.findall(r"(\w+\.wav) ", report.text("errors")) == [error.id for error in errors]
    windows = error_analysis.worst_windows(stacked_run, 2, errors)
    starts = re.findall(r"(\d:\d\d) to", report.text("errors"))
    assert starts == [duration(window.start_s) for window in windows]
    assert report.tags.count("audio") == len(errors)


def test_training_times_are_given_by_backbone(report, stacked_run):
    for result in analysis.round_results(stacked_run):
        for name, folds in training_times.training_logs(result.run, result.round_number).items():
            training = training_times.training_time(stacked_run, name, folds)
            rows = [row[:4] for row in report.rows["time"]]
            assert [name, str(training.networks), str(training.epochs), duration(training.total_s)] in rows
    assert report.row("time", "predict")[1:5] == ["1", "0:08", "150 windows", "20.0"]


def test_recipe_and_folder_are_given(report, stacked_run):
    assert " ".join((stacked_run.folder / "recipe.toml").read_text().split()) in report.text("metadata")
    assert str(stacked_run.folder.resolve()) in report.text("metadata")
    assert f"Python {stacked_run.environment.python}" in report.text("metadata")
    assert "23 Nov 2026, 14:05 UTC" in report.text("header")
    assert f"torch {stacked_run.environment.packages['torch']}" in report.text("header")
    if commit := stacked_run.environment.git_commit:
        assert f"commit {commit[:7]} " in report.text("header")
        assert commit in report.text("metadata")


def test_after_round_1_the_report_has_one_round(tmp_path):
    run = report_run.create(tmp_path, ("a", "b"), 4, True, audio=False)
    with pytest.raises(InputError, match="no round is stacked yet"):
        html.write(run)
    report_run.stack(run, 1)
    html.write(run)
    report = ParsedReport(run.paths.report.read_text(encoding="utf-8"))
    assert report.unbalanced == report.open == []
    assert "round 1 of 2" in report.text("header")
    assert "Round 2" not in report.text("scores")
    assert "None are selected yet." in report.text("pseudo-labels")
    assert "No file is in quarantine" in report.text("header")


def test_without_labels_there_are_no_scores(tmp_path):
    run = report_run.make(tmp_path, labelled=False, audio=False)
    for round_number in (1, 2):
        path = run.paths.evaluation(round_number)
        evaluated = evaluation.load(path)
        evaluation.save(replace(evaluated, labels=np.full(len(evaluated.labels), -1)), path)
    report = ParsedReport(html.render(run, NOW))
    assert report.unbalanced == report.open == []
    assert "so there is no accuracy" in report.text("header")
    assert "No labels are known" in report.text("errors")
    assert "with a known label" not in report.text("pseudo-labels")


def test_without_predictions_only_the_worst_errors_are_missing(tmp_path):
    run = report_run.make(tmp_path, audio=False)
    shutil.rmtree(run.paths.predictions_folder(2))
    report = ParsedReport(html.render(run, NOW))
    assert report.unbalanced == report.open == []
    assert "predictions of the windows were deleted" in report.text("errors")
    assert "validation, 8 tracks" in report.text("scores")


def test_test_sets_without_labels_are_left_out(tmp_path):
    report = ParsedReport(html.render(report_run.make(tmp_path, labelled=False, audio=False), NOW))
    assert "validation, 8 tracks" in report.text("scores")
    assert "public test," not in report.text("scores")


def test_many_classes_have_confused_pairs_instead_of_a_matrix(tmp_path):
    run = report_run.make(tmp_path, classes=tuple(f"class {n}" for n in range(30)), per_class=3, audio=False)
    report = ParsedReport(html.render(run, NOW))
    assert report.unbalanced == report.open == []
    assert "Confusion matrix" not in report.text("classes")
    evaluated = evaluation.load(run.paths.evaluation(2))
    confusion = analysis.confusion_matrix(analysis.round_results(run)[0], Split.VALID)
    truth, predicted = next(analysis.most_confused(confusion, 1))
    counts = f"{confusion[truth, predicted]} of {confusion[truth].sum()}"
    assert f"class {truth} predicted as class {predicted}: {counts}" in report.text("classes")
    assert "No such file" in report.text("errors")
    assert len(evaluated.class_names) == 30


@pytest.mark.parametrize("name", ["log", "predictions", "timings", "evaluation"])
def test_damaged_files_are_named(stacked_run, name):
    path = {
        "log": stacked_run.paths.training_log(stacked_run.jobs(2)[0]),
        "predictions": stacked_run.paths.predictions(stacked_run.jobs(2)[0]),
        "timings": stacked_run.paths.timings,
        "evaluation": stacked_run.paths.evaluation(1),
    }[name]
    saved = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match=re.escape(str(path))):
        html.render(stacked_run, NOW)
    path.write_bytes(saved)


def test_how_far_to_believe_the_scores_is_on_every_page(report, stacked_run, tmp_path_factory):
    text = report.text("caveats")
    assert text.startswith("How far to believe this Number of tracks")
    for part in ("Epochs", "Nested: validation tracks", "Pseudo labels", "Same recordings Not searched for", "Artists"):
        assert part in text
    assert "Trust most the score on private test tracks" in report.text("header")
    run = report_run.make(tmp_path_factory.mktemp("duplicates"), audio=False)
    paths = run.manifest.paths
    pairs = [Duplicate(paths[0], path, 0.01) for path in paths[1:]]
    duplicates.save(run.paths.duplicates, pairs)
    shutil.rmtree(run.folder / "round2")
    text = ParsedReport(html.render(run, NOW)).text("caveats")
    assert "Pseudo labels" not in text  # of round 1
    assert f"Files with the same recording: {len(pairs)}" in text
    assert f"{paths[-1]} (private test): 1% of the bits differ" in text
    assert "The first 20; all are in duplicates.csv" in text


@pytest.mark.skipif(not CHROMIUM, reason="no browser")
def test_there_is_no_overflow_on_a_phone_or_a_desktop(text, tmp_path):
    (tmp_path / "report.html").write_text(text.replace("<details", "<details open"), encoding="utf-8")
    widths = (390, 1280)
    frames = "".join(f'<iframe src="report.html" style="width:{width}px;height:500px"></iframe>' for width in widths)
    script = (
        "onload = () => document.body.textContent = 'WIDTHS ' + [...document.querySelectorAll('iframe')].map(f => "
        "f.contentDocument.documentElement.scrollWidth + '/' + f.contentDocument.documentElement.clientWidth).join(' ')"
    )
    (tmp_path / "frames.html").write_text(f"<!doctype html><body>{frames}<script>{script}</script></body>")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", f"file://{tmp_path / 'frames.html'}"]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    match = re.search(r"WIDTHS (\d+)/(\d+) (\d+)/(\d+)", dumped)
    assert match, dumped
    phone, phone_frame, desktop, desktop_frame = map(int, match.groups())
    assert 370 <= phone_frame <= 390
    assert (phone, desktop) == (phone_frame, desktop_frame)
    assert 1260 <= desktop_frame <= 1280
