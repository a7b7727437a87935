import base64
import io
import re
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from melgpu.metrics import calibration_curve
from melgpu.models.metadata import EpochRecord
from melgpu.report import plots
from tests.helpers.training import epoch_record

SVG = "{http://www.w3.org/2000/svg}"


def svg(uri: str) -> ElementTree.Element:
    header, data = uri.split(",")
    assert header == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))


def texts(plot: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()).strip() for element in plot.iter(f"{SVG}text")]


def lines(plot: ElementTree.Element, colour: str) -> list[str]:
    return [
        p.get("d")
        for p in plot.iter(f"{SVG}path")
        if f"stroke: {colour}" in (p.get("style") or "") and p.get("clip-path")
    ]


def log(*accuracies: float) -> list[EpochRecord]:
    records = enumerate(accuracies, start=1)
    return [epoch_record(epoch, loss=1 / epoch, window_accuracy=accuracy) for epoch, accuracy in records]


def test_every_fold_has_a_line_in_both_axes_and_a_dot_at_its_best_epoch():
    plot = svg(plots.learning_curves({0: log(0.2, 0.5, 0.4), 3: log(0.3, 0.4)}))
    for fold, epochs in ((0, 3), (3, 2)):
        paths = lines(plot, plots.colour(fold))
        assert [len(re.findall("[ML] ", d)) for d in paths] == [epochs, epochs]
        (use,) = [u for u in plot.iter(f"{SVG}use") if f"fill: {plots.colour(fold)}" in u.get("style")]
        points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", paths[1])]
        highest = min(points, key=lambda point: point[1])  # y counts down
        assert (float(use.get("x")), float(use.get("y"))) == pytest.approx(highest, abs=0.01)
    assert {"training loss", "accuracy on validation windows, %", "epoch"} <= set(texts(plot))


def test_a_single_epoch_is_visible_and_text_uses_system_fonts():
    plot = svg(plots.learning_curves({0: log(0.2)}))
    assert len(list(plot.iter(f"{SVG}use"))) > 1
    assert "1" in texts(plot)  # the epoch
    assert not {"0.96", "1.04", "1.00"} & set(texts(plot))
    styles = " ".join(element.get("style") for element in plot.iter(f"{SVG}text"))
    assert styles.count("system-ui") == len(texts(plot))


def test_the_reliability_diagram_has_the_counts():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    calibration = calibration_curve(probs, probs.argmax(1) * (np.arange(200) % 3 > 0))
    plot = svg(plots.reliability_diagram(calibration))
    assert texts(plot)[-len(calibration.counts) - 1 :] == [*map(str, calibration.counts), "predictions"]


def test_plots_are_deterministic():
    assert plots.learning_curves({0: log(0.1, 0.2)}) == plots.learning_curves({0: log(0.1, 0.2)})


def test_window_pictures_have_the_right_orientation_and_colours():
    picture = np.zeros((80, 80))
    picture[0, 79] = 1  # the highest frequency at the end
    header, data = plots.window_picture(picture).split(",")
    png = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")
    assert header == "data:image/png;base64"
    assert png.shape[:2] == (80, 80)
    colours = matplotlib.colormaps["viridis"]
    np.testing.assert_allclose(png[0, 79], colours(1.0), atol=0.01)
    np.testing.assert_allclose(png[79, 0], colours(0.0), atol=0.01)
