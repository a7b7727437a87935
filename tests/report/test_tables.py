from types import SimpleNamespace

from melgpu import console
from melgpu.data.manifest import Split
from melgpu.report import tables
from melgpu.runs.formats.scores import Candidate, RoundScores, Score, Selection
from tests.helpers import report_run

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


def test_the_answer_of_a_round_is_marked(tmp_path, capsys):
    run = report_run.make(tmp_path, audio=False)
    for round_number in (1, 2):
        tables.show_scores(run, round_number)
        output = capsys.readouterr().out
        assert "blend (final) " in output
        assert output.count("(final)") == 1


def test_one_network_needs_no_mark(tmp_path, capsys):
    run = report_run.make(tmp_path, audio=False)
    settings = run.scores(1).settings.model_copy(update={"blend": {}})
    scores = {"resnet50": {Split.VALID: SCORE}, "mean": {Split.VALID: SCORE}}
    alone = RoundScores(settings=settings, final_predictor="mean", selection=None, scores=scores)
    spec = run.round_spec(1).model_copy(update={"backbones": ("resnet50",), "blend": {}})
    names = {"variant_suffix": "", "last_round": 2, "command_line": run.command_line}
    one = SimpleNamespace(scores=lambda _: alone, round_spec=lambda _: spec, **names)
    tables.show_scores(one, 1)
    output = capsys.readouterr().out
    assert "resnet50" in output
    assert "mean" not in output
    assert "(final)" not in output
    two = spec.model_copy(update={"backbones": ("resnet50", "xception")})
    one.round_spec = lambda _: two
    alone.scores["xception"] = alone.scores["resnet50"]
    tables.show_scores(one, 1)
    assert "mean (final)" in capsys.readouterr().out  # without stackers the mean is the answer


def test_the_mean_is_not_advised_where_auto_selected_it(tmp_path, capsys):
    run = report_run.make(tmp_path, audio=False)
    scores = {name: {Split.VALID: SCORE} for name in ("resnet50", "mean", "blend")}
    scores["auto"] = {Split.VALID: changed(gain=-0.1)}
    candidate = Candidate(predictor="blend", gain=0.025, gain_interval=(-0.05, 0.1), p_value=1.0)
    for selected in ("mean", "blend"):
        selection = Selection(predictor=selected, num_tracks=10, candidates=(candidate,), nested={"mean": 10})
        settings = run.scores(1).settings
        made = RoundScores(settings=settings, final_predictor="auto", selection=selection, scores=scores)
        run.paths.scores(1).write_text(made.model_dump_json())
        tables.show_scores(run, 1)
        assert ("the plain mean of the networks is more accurate" in capsys.readouterr().out) == (selected == "blend")


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
