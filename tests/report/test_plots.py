import base64
import io
import re
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pytest

from melgpu.metrics import calibration_curve
from melgpu.report import plots

SVG = "{http://www.w3.org/2000/svg}"


def svg(uri: str) -> ElementTree.Element:
    head, data = uri.split(",")
    assert head == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))


def letters(picture: ElementTree.Element) -> list[str]:
    return ["".join(element.itertext()).strip() for element in picture.iter(f"{SVG}text")]


def lines(picture: ElementTree.Element, colour: str) -> list[str]:
    return [
        p.get("d")
        for p in picture.iter(f"{SVG}path")
        if f"stroke: {colour}" in (p.get("style") or "") and p.get("clip-path")
    ]


def log(*accuracies: float) -> list[dict[str, float]]:
    return [{"epoch": e, "loss": 1 / e, "window_accuracy": a} for e, a in enumerate(accuracies, start=1)]


def test_every_fold_has_a_line_in_both_panels_and_a_dot_at_its_best():
    picture = svg(plots.learning_curves({0: log(0.2, 0.5, 0.4), 3: log(0.3, 0.4)}))
    for fold, epochs in ((0, 3), (3, 2)):
        found = lines(picture, plots.colour(fold))
        assert [len(re.findall("[ML] ", d)) for d in found] == [epochs, epochs]
        (use,) = [u for u in picture.iter(f"{SVG}use") if f"fill: {plots.colour(fold)}" in u.get("style")]
        points = [tuple(map(float, pair)) for pair in re.findall(r"[ML] ([\d.]+) ([\d.]+)", found[1])]
        highest = min(points, key=lambda point: point[1])  # y counts down
        assert (float(use.get("x")), float(use.get("y"))) == pytest.approx(highest, abs=0.01)
    assert {"training loss", "validation windows right, %", "epoch"} <= set(letters(picture))


def test_one_epoch_is_drawn_too_and_letters_are_the_readers():
    picture = svg(plots.learning_curves({0: log(0.2)}))
    assert len(list(picture.iter(f"{SVG}use"))) > 1
    assert "1" in letters(picture)  # the epoch
    assert not {"0.96", "1.04", "1.00"} & set(letters(picture))
    styles = " ".join(element.get("style") for element in picture.iter(f"{SVG}text"))
    assert styles.count("system-ui") == len(letters(picture))


def test_calibration_is_drawn_with_its_counts():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 200)
    found = calibration_curve(probs, probs.argmax(1) * (np.arange(200) % 3 > 0))
    picture = svg(plots.reliability_diagram(found))
    assert letters(picture)[-len(found.counts) - 1 :] == [*map(str, found.counts), "answers"]


def test_the_same_figure_is_the_same_text():
    assert plots.learning_curves({0: log(0.1, 0.2)}) == plots.learning_curves({0: log(0.1, 0.2)})


def test_windows_keep_their_orientation_and_colours():
    shades = np.zeros((80, 80))
    shades[0, 79] = 1  # the highest frequency at the end
    head, data = plots.window_picture(shades).split(",")
    picture = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format="png")
    assert head == "data:image/png;base64"
    assert picture.shape[:2] == (80, 80)
    colours = matplotlib.colormaps["viridis"]
    np.testing.assert_allclose(picture[0, 79], colours(1.0), atol=0.01)
    np.testing.assert_allclose(picture[79, 0], colours(0.0), atol=0.01)
