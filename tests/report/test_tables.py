from melgpu import console
from melgpu.data.manifest import Split
from melgpu.report import tables
from melgpu.runs.scores import Score

SCORE = Score(
    accuracy=0.5,
    interval=(0.24, 0.76),
    num_tracks=10,
    num_pseudo_labelled=6,
    gain=0.025,
    gain_interval=(-0.05, 0.1),
    gain_p=0.5,
)


def changed(**changes) -> Score:
    return SCORE.model_copy(update=changes)


def test_a_table_of_scores(console_output):
    text = console_output(False)
    quarter = changed(accuracy=0.25, interval=(0.0, 0.75), num_tracks=4, num_pseudo_labelled=0)
    scores = {"resnet50": {Split.VALID: SCORE}, "blend [x]": {Split.VALID: SCORE, Split.PUBLIC: quarter}}
    console.show(tables.score_table("Round 1", scores, "blend [x]"))
    for part in ("validation", "public test", "0.500", "0.24-0.76", "10 tracks", "4 tracks", "6 trained on", "0.250"):
        assert part in text.getvalue(), text.getvalue()
    assert "blend [x] (final)" in text.getvalue()
    assert "resnet50 (final)" not in text.getvalue()


def test_gains_have_their_interval():
    scores = {"blend": {Split.VALID: SCORE, Split.PUBLIC: changed(gain=-0.01)}, "mean": {}}
    expected = "validation +0.025 (-0.05 to +0.10), public test -0.010 (-0.05 to +0.10)"
    assert tables.gain_line("blend", scores) == f"blend against the mean of the networks: {expected}"


def test_a_less_accurate_predictor_than_the_mean_is_warned_of():
    equal = changed(gain=0.0, num_tracks=6)
    assert tables.stacking_warning("blend", {"blend": {Split.VALID: equal}}, "x") is None
    assert tables.stacking_warning("blend", {"blend": {}}, "x") is None
    assert tables.stacking_warning("mean", {"mean": {Split.VALID: equal}}, "x") is None
    less_accurate = {"blend": {Split.VALID: changed(gain=-0.1, num_tracks=6)}}
    warning = tables.stacking_warning("blend", less_accurate, "stack.py --set stacking.final_predictor=mean")
    assert warning.endswith(
        "more accurate than the blend: 6 may be too few to stack. To take the mean: "
        "stack.py --set stacking.final_predictor=mean"
    )
