from dataclasses import replace

import numpy as np
import pytest

from melgpu.data.manifest import Split
from melgpu.metrics import wilson_interval
from melgpu.report import analysis, confidence
from melgpu.report.confidence import KeptTracks, kept_tracks
from tests.helpers import report_run


@pytest.fixture(scope="module")
def last_round(tmp_path_factory) -> analysis.RoundResult:
    return analysis.round_results(report_run.make(tmp_path_factory.mktemp("confidence"), audio=False))[0]


def test_tracks_are_counted_by_their_confidence():
    probs = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9], [0.4, 0.3, 0.3]])
    labels = np.array([0, 0, 2, 0])
    assert kept_tracks(probs, labels, 0.5) == KeptTracks(0.5, 4, 3, 2)
    assert kept_tracks(probs, labels, 0.8) == KeptTracks(0.8, 4, 2, 1)
    assert kept_tracks(probs, labels, 0.9) == KeptTracks(0.9, 4, 1, 1)
    assert kept_tracks(probs, labels, 0.95) == KeptTracks(0.95, 4, 0, 0)


def test_fractions_have_wilson_intervals():
    row = KeptTracks(0.7, 40, 30, 24)
    assert (row.fraction, row.accuracy) == (0.75, 0.8)
    # Wilson's interval worked out by hand: (p + z^2/2n -+ z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n)
    for interval, p, n in ((row.fraction_interval, 0.75, 40), (row.accuracy_interval, 0.8, 30)):
        z = 1.959964
        half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        expected = np.array([p + z**2 / (2 * n) - half, p + z**2 / (2 * n) + half]) / (1 + z**2 / n)
        np.testing.assert_allclose(interval, expected, atol=1e-6)
    assert KeptTracks(0.9, 5, 0, 0).fraction_interval == wilson_interval(0, 5)


def test_the_table_is_of_the_least_biased_split(last_round):
    evaluated = last_round.evaluation
    table = confidence.confidence_table(last_round, evaluated.scores())
    assert table.split == Split.PRIVATE
    assert [row.min_confidence for row in table.rows] == [0.5, 0.7, 0.8, 0.9, 0.95]
    final = evaluated.predictors.index("blend")
    for row in table.rows:
        tracks = kept = correct = 0
        for split, label, probs in zip(evaluated.splits, evaluated.labels, evaluated.probs[final], strict=True):
            if split == "private" and label >= 0:
                tracks += 1
                if max(probs) >= row.min_confidence:
                    kept += 1
                    correct += list(probs).index(max(probs)) == label
        assert (row.tracks, row.kept, row.correct) == (tracks, kept, correct)
    assert 0 < table.rows[0].kept < table.rows[0].tracks


def test_without_test_labels_the_table_is_of_validation_tracks(last_round):
    evaluated = last_round.evaluation
    is_valid = np.array(evaluated.splits) == "valid"
    labels = np.where(is_valid, evaluated.labels, -1)
    valid_only = replace(last_round, evaluation=replace(evaluated, labels=labels))
    table = confidence.confidence_table(valid_only, valid_only.evaluation.scores())
    assert (table.split, table.rows[0].tracks) == (Split.VALID, is_valid.sum())
    unlabelled = replace(last_round, evaluation=replace(evaluated, labels=np.full_like(labels, -1)))
    assert confidence.confidence_table(unlabelled, unlabelled.evaluation.scores()) is None
