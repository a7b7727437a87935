"""The tables of results in README.md match the saved results."""

import csv
import json

import pytest

from benchmarks import __main__
from benchmarks.commands import readme
from benchmarks.demo import accuracy
from melgpu.errors import InputError
from melgpu.recipe import load_recipe
from melgpu.runs.formats import timings
from melgpu.runs.formats.timings import StageTiming
from melgpu.runs.run import Run
from melgpu.stacking import evaluation
from melgpu.training.stage_timer import STAGES
from tests.helpers import ROOT, report_run

SAVED_RESULTS = sorted(readme.RESULTS.glob("*.json"))
METADATA = {"device": "a GPU", "driver": "570.1", "packages": {"torch": "2.11.0"}, "date": "2026-01-02T03:04:05+00:00"}


def test_readme_matches_the_results():
    text, results = (ROOT / "README.md").read_text(), readme.load()
    assert readme.readme_text(text, results) == text, "python -m benchmarks readme"
    exported = (ROOT / readme.EXPORT_PAGE).read_text()
    assert readme.export_text(exported, results) == exported, "python -m benchmarks readme"
    recipes = (ROOT / readme.RECIPES_PAGE).read_text()
    assert readme.replace_block(recipes, readme.recipes_block(results)) == recipes, "python -m benchmarks readme"
    assert readme.catalogue(results) == (readme.RESULTS / "README.md").read_text(), "python -m benchmarks readme"


@pytest.mark.parametrize("path", SAVED_RESULTS, ids=lambda path: path.stem)
def test_every_saved_result_has_metadata(path):
    result = json.loads(path.read_text())
    assert {"benchmark", "schema", "device", "packages", "git_commit", "date"} <= result.keys()
    # A cost is computed from a suite, and the cells of an experiment are too large to keep.
    assert "samples" in json.dumps(result) or result["benchmark"] in ("cost", "experiment", "demo")


def test_the_tables_of_a_block(tmp_path):
    suite = {
        "benchmark": "suite",
        "git_commit": "0123456789",
        "rows": [
            {
                "stage": "decode",
                "way": "2 processes",
                "windows_per_s": 50.0,
                "limit": "x",
                "limit_windows_per_s": 100.0,
            },
            {"stage": "decode", "way": "1", "windows_per_s": 9.0, "curve": True},
        ],
    }
    tune = {"benchmark": "tune", "git_commit": None, "versus": {"backbone": "resnet50"}}
    tune["versus"] |= {task: {"tuned": [2.0, 6.0], "default": [1.0, 2.0]} for task in ("training", "prediction")}
    cost = {"benchmark": "cost", "git_commit": None, "whole_s": [3600.0, 7200.0]}
    cost |= {"libraries": [{"tracks": 1000, "total_s": 360000.0}], "networks": 18, "rates": {}}
    student = {**cost, "networks": 1, "rates": {"bounds": "as fast as another"}}
    compare = {"benchmark": "compare", "git_commit": None, "rows": []}
    compare["rows"] += [
        {
            "way": "melgpu",
            "windows_per_s": 50.0,
            "base_is_times_as_fast": [2.0, 1.0, 3.0],
            "disk_bytes": 1e9,
            "wait_s": 90.0,
        }
    ]
    for name, result in (("a", tune), ("b", suite), ("c", cost), ("d", compare), ("e", student)):
        (tmp_path / f"{name}.json").write_text(json.dumps({**METADATA, **result}))
    results = readme.load(tmp_path)
    catalogue = readme.catalogue(results)
    assert "[b.json](b.json): a GPU, driver 570.1; torch 2.11.0, 2026-01-02, commit 0123456" in catalogue
    assert "| decode: 2 processes | 50 | 50 % of x |" in catalogue
    assert "| decode: 1 |" not in catalogue
    assert "| training | 1.5 | 4 | 2.50 (2.00-3.00) |" in catalogue
    assert catalogue.index("b.json") < catalogue.index("a.json")
    assert "| predicting 1,000 tracks with 18 networks | 100 |" in catalogue
    assert "| predicting 1,000 tracks with 1 network | 100 |" in catalogue
    assert catalogue.count("| task | hours |") == catalogue.count("| task | hours, at most |") == 1
    block = readme.block(results)
    assert "[d.json](benchmarks/results/d.json): a GPU" in block
    assert "| melgpu | 50 | 2.00 (1.00-3.00) | 1.0 GB | 1.5 min |" in block
    assert "a.json" not in block
    assert readme.replace_block(f"above {readme.BEGIN} old {readme.END} below", block) == f"above {block} below"


def test_the_table_of_a_gpu_has_claims_and_rows(tmp_path):
    claims = [{"claim": "fused", "goal": "10 times", "measured": "12 times", "held": True}]
    claims += [{"claim": "compile", "goal": "the gain", "measured": "not measured", "held": None}]
    rows = {"fft, batch of 32": {"text": "9 windows/s"}, "fused": {"error": "no compiler"}}
    result = {
        "benchmark": "gpu",
        "git_commit": None,
        "small": False,
        "claims": claims,
        "steps": {"features": {"rows": rows}},
    }
    (tmp_path / "x.json").write_text(json.dumps({**METADATA, **result}))
    catalogue = readme.catalogue(readme.load(tmp_path))
    assert "| fused | 10 times | 12 times | yes |\n| compile | the gain | not measured |  |" in catalogue
    assert (
        "| features: fft, batch of 32 |  | 9 windows/s |  |\n| features: fused |  | failed: no compiler |  |"
        in catalogue
    )
    (tmp_path / "x.json").write_text(json.dumps({**METADATA, **result, "small": True}))
    with pytest.raises(InputError, match=r"x\.json: a preview"):
        readme.load(tmp_path)


def test_files_that_are_not_results_are_rejected(tmp_path):
    (tmp_path / "x.json").write_text('{"benchmark": "no such"}')
    with pytest.raises(InputError, match=r"x\.json"):
        readme.load(tmp_path)
    (tmp_path / "x.json").write_text('{"benchmark": "tune", "quick": true}')
    with pytest.raises(InputError, match=r"x\.json: a preview"):
        readme.load(tmp_path)
    with pytest.raises(InputError, match="are missing"):
        readme.replace_block("no comments", readme.block({}))


def test_readme_is_updated_in_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"{readme.BEGIN}{readme.END}\n")
    page = tmp_path / readme.RECIPES_PAGE
    page.write_text(f"above {readme.BEGIN_RECIPES}{readme.END} below")
    (tmp_path / readme.EXPORT_PAGE).write_text("by hand")
    assert __main__.main(["readme"]) == 0
    assert (tmp_path / "README.md").read_text() == readme.block({}) + "\n"
    assert page.read_text() == f"above {readme.recipes_block({})} below"
    assert (tmp_path / readme.EXPORT_PAGE).read_text() == "by hand"  # as long as no result is saved
    assert (tmp_path / "results" / "README.md").read_text() == readme.catalogue({})


@pytest.fixture(scope="module")
def finished_demo(tmp_path_factory) -> Run:
    """A run after both rounds, in place of one of make demo."""
    return report_run.make(tmp_path_factory.mktemp("demo"), audio=False)


@pytest.fixture
def on_its_machine(finished_demo, monkeypatch) -> None:
    monkeypatch.setattr(accuracy, "load_recipe", lambda *arguments: finished_demo.recipe)
    monkeypatch.setattr(accuracy.environment, "device_name", lambda device: "a 'device' & more")


def test_a_finished_demo_becomes_a_result_and_a_table(finished_demo, on_its_machine, tmp_path, monkeypatch, capsys):
    timings.record(finished_demo.paths.timings, 2, "stack", 60, 5, "sub-folds")
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()
    (tmp_path / "docs").mkdir()
    page = f"above {readme.BEGIN_DEMO} by hand {readme.END} between {readme.BEGIN}{readme.END} below"
    (tmp_path / "README.md").write_text(page)
    (tmp_path / readme.RECIPES_PAGE).write_text(f"{readme.BEGIN_RECIPES}{readme.END}")
    (tmp_path / readme.EXPORT_PAGE).touch()
    assert __main__.main(["readme"]) == 0
    assert readme.BEGIN_DEMO + " by hand " in (tmp_path / "README.md").read_text()  # as long as none is saved
    assert __main__.main(["readme", "--demo", str(finished_demo.folder)]) == 0
    (path,) = (tmp_path / "results").glob("demo-a-device-more-*-cores.json")
    result = json.loads(path.read_text())
    evaluated = evaluation.load(finished_demo.paths.evaluation(2))
    scores = evaluated.scores()
    assert [row["name"] for row in result["rows"] if row["is_final"]] == ["blend of the stackers"]
    assert result["git_commit"] == finished_demo.environment.git_commit
    text = (tmp_path / "README.md").read_text()
    assert text.startswith(f"above {readme.BEGIN_DEMO}\n\n**Accuracy** of `make demo` on tracks of its synthetic music")
    assert f"(benchmarks/results/{path.name}): a 'device' & more; torch" in text
    assert text.endswith(" below")
    assert "by hand" not in text
    score = scores["blend"]["private"]
    low, high = score.interval
    table = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [line[0] for line in table[-3:-1]] == ["| mean of the networks", "| blend of the stackers (final)"]
    assert table[-2][-1] == f"{score.accuracy:.3f} ({low:.2f}-{high:.2f}) |"
    networks = {name: scores[name]["valid"].accuracy for name in evaluated.predictors[:2]}
    best = max(networks, key=networks.get)
    assert table[-4][0] == f"| best of 2 networks on validation: {best}"
    catalogue = (tmp_path / "results" / "README.md").read_text()
    assert all(f"| {name} " in catalogue for name in networks)


def test_only_a_finished_demo_of_this_machine_is_saved(finished_demo, on_its_machine, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(accuracy.environment, "device_name", lambda device: "another")
        with pytest.raises(InputError, match="made on a 'device' & more, this is another"):
            accuracy.save(finished_demo.folder, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "load_recipe", load_recipe)
        with pytest.raises(InputError, match="not of the recipe demo as it is here"):
            accuracy.save(finished_demo.folder, tmp_path)
    finished_demo.paths.scores(2).unlink()
    with pytest.raises(InputError, match="round 2 is not stacked yet: make demo goes on with it"):
        accuracy.save(finished_demo.folder, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_minutes_of_an_interrupted_demo_are_those_of_its_stages(finished_demo, monkeypatch):
    stages = [
        StageTiming("2026-11-26T10:01:00+00:00", 1, "decode", 60.0, 1, "tracks"),
        StageTiming("2026-11-27T10:12:00+00:00", 2, "stack", 30.0, 1, "sub-folds"),
    ]
    monkeypatch.setattr(timings, "load", lambda path: stages)
    training_s = 0.0
    for log in finished_demo.folder.glob("round?/*/fold?/log.csv"):
        for record in csv.DictReader(log.read_text().splitlines()):
            training_s += sum(float(record[f"{stage}_s"]) for stage in STAGES)
    assert training_s > 0
    assert accuracy._minutes(finished_demo) == pytest.approx((90 + training_s) / 60)
