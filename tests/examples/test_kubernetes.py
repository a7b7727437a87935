"""The manifests of examples/kubernetes, as far as that shows without a cluster."""

import pytest
import yaml

from melgpu import cli
from melgpu.commands import predict_checks, predict_flags
from tests.helpers import ROOT

FOLDER = ROOT / "examples" / "kubernetes"
PARTS, MERGE = (yaml.safe_load((FOLDER / name).read_text()) for name in ("parts.yaml", "merge.yaml"))


def container(job: dict) -> dict:
    (only,) = job["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("job", [PARTS, MERGE], ids=["parts", "merge"])
def test_commands_are_accepted_by_their_parser(job):
    program, *arguments = container(job)["command"]
    assert program == "melgpu-predict"
    parser = cli.parser("", "", needs_run=False)
    predict_flags.add_flags(parser)
    predict_checks.check_flags(parser.parse_args(arguments))


def test_parts_are_indexed_and_started_again_where_they_are_killed():
    spec = PARTS["spec"]
    assert (PARTS["apiVersion"], PARTS["kind"], spec["completionMode"]) == ("batch/v1", "Job", "Indexed")
    assert f"--parts {spec['completions']} " in (FOLDER / "parts.yaml").read_text()
    assert spec["backoffLimitPerIndex"] > 0
    assert "maxFailedIndexes" not in spec  # so that a part that fails does not end the others
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which podFailurePolicy and backoffLimitPerIndex need
    rule = spec["podFailurePolicy"]["rules"][0]
    assert rule["action"] == "FailIndex"
    assert rule["onExitCodes"]["containerName"] == container(PARTS)["name"]
    assert rule["onExitCodes"]["values"] == [2]


def test_both_jobs_use_the_same_volume_image_and_folder():
    for key in ("image", "volumeMounts"):
        assert container(PARTS)[key] == container(MERGE)[key]
    assert PARTS["spec"]["template"]["spec"]["volumes"] == MERGE["spec"]["template"]["spec"]["volumes"]
    parts, merge = (container(job)["command"] for job in (PARTS, MERGE))
    assert parts[parts.index("--out") + 1] == merge[merge.index("--merge") + 1]
