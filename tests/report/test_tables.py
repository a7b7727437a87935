from melgpu import console
from melgpu.report import tables


def test_a_table_of_scores(console_output):
    text = console_output(False)
    half = {"accuracy": 0.5, "interval": (0.24, 0.76), "tracks": 10, "pseudo_labelled": 6}
    quarter = {"accuracy": 0.25, "interval": (0.0, 0.75), "tracks": 4, "pseudo_labelled": 0}
    scores = {"resnet50": {"validation": half}, "blend [x]": {"validation": half, "public": quarter}}
    console.show(tables.score_table("Round 1", scores))
    for part in ("0.500", "0.24-0.76", "10 tracks", "4 tracks", "6 trained on", "0.250", "blend [x]"):
        assert part in text.getvalue(), text.getvalue()


def test_gains_have_their_interval():
    score = {"gain": 0.025, "gain_interval": (-0.05, 0.1)}
    line = tables.gain_line("blend", {"blend": {"validation": score, "public": {**score, "gain": -0.01}}, "mean": {}})
    expected = "validation +0.025 (-0.05 to +0.10), public -0.010 (-0.05 to +0.10)"
    assert line == f"blend against the mean of the networks: {expected}"


def test_a_less_accurate_predictor_than_the_mean_is_warned_of():
    assert tables.stacking_warning("blend", {"blend": {"validation": {"gain": 0.0, "tracks": 6}}}) is None
    assert tables.stacking_warning("blend", {"blend": {}}) is None
    assert tables.stacking_warning("mean", {"mean": {"validation": {"gain": 0.0, "tracks": 6}}}) is None
    warning = tables.stacking_warning("blend", {"blend": {"validation": {"gain": -0.1, "tracks": 6}}})
    assert (
        "more accurate than the blend: 6 may be too few to stack. A new run with --set stacking.final_predictor=mean"
        in warning
    )
