import re

import lightgbm
import numpy as np
import pytest

from melgpu.stacking import boosting
from tests.helpers.stacking import SPEC, labelled_matrix

COLUMNS, CLASSES = 6, 3
MATRIX = np.random.default_rng(0).random((60, COLUMNS))


@pytest.fixture(scope="module", params=[2, 1000])
def text(request) -> str:
    """A model as LightGBM writes it; with at least 1000 rows a leaf it has no split."""
    parameters = {"objective": "multiclass", "num_class": CLASSES, "min_data_in_leaf": request.param, "verbosity": -1}
    data = lightgbm.Dataset(MATRIX, np.arange(60) % CLASSES)
    return lightgbm.train({**parameters, "num_threads": 1}, data, num_boost_round=3).model_to_string()


@pytest.mark.parametrize("count", [1, 2, 40])
def test_any_number_of_rows_fits_and_all_of_them_are_used(count):
    """The original asked for bagging without its frequency, so that each tree learns from every row."""
    matrix, labels = labelled_matrix(count, 1)
    trees = boosting.fit(matrix, labels, SPEC)
    assert boosting.predict(trees, matrix).shape == (count, 4)
    text = trees.model_to_string()
    used = [sum(map(int, counts.split())) for counts in re.findall(r"^leaf_count=(.*)", text, re.MULTILINE)]
    assert set(used) <= {count}
    assert used or count < 2 * SPEC.min_child_samples


def test_a_sanitized_model_gives_the_same_predictions(text):
    sanitized = boosting.sanitize(text, COLUMNS, CLASSES)
    matrix = np.random.default_rng(1).random((500, COLUMNS))
    expected, actual = (lightgbm.Booster(model_str=model).predict(matrix, num_threads=1) for model in (text, sanitized))
    np.testing.assert_array_equal(expected, actual)
    assert boosting.sanitize(sanitized, COLUMNS, CLASSES) == sanitized


SMALL = """tree

Tree=0
num_leaves=3
split_feature=0 1
threshold=0.5 0.25
decision_type=2 2
left_child=1 -1
right_child=-2 -3
leaf_value=0.1 0.2 0.3

end of trees
"""


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (".*", "garbage", "0 trees for 1 classes"),
        (".*", "", "0 trees for 1 classes"),
        ("left_child=1 -1", "left_child=0 -1", "a cycle, or with a child out of range"),
        ("left_child=1 -1", "left_child=1 0", "a cycle, or with a child out of range"),
        ("left_child=1 -1", "left_child=1 2", "a cycle, or with a child out of range"),
        ("left_child=1 -1", "left_child=1 -4", "a cycle, or with a child out of range"),
        ("left_child=1 -1", "left_child=1", "numbers of nodes and leaves do not match"),
        ("left_child=1 -1", "left_child=1 x", "invalid literal"),
        ("left_child=1 -1", "left_child=1 " + "9" * 31, "without left_child"),
        ("left_child=1 -1\n", "", "without left_child"),
        ("split_feature=0 1", "split_feature=0 2", "a split_feature out of range"),
        ("split_feature=0 1", "split_feature=0 -1", "a split_feature out of range"),
        ("decision_type=2 2", "decision_type=2 1", "a split that is not numerical"),
        ("threshold=0.5 0.25", "threshold=0.5 nan", "threshold has a value that is not finite"),
        ("leaf_value=.*?\n", "leaf_value=inf 0 0\n", "leaf_value has a value that is not finite"),
        ("leaf_value=.*?\n", "leaf_value=0 0\n", "numbers of nodes and leaves do not match"),
        ("leaf_value=.*?\n", "\n", "without leaf_value"),
    ],
)
def test_trees_that_would_crash_or_hang_lightgbm_are_rejected(old, new, reason):
    assert boosting.sanitize(SMALL, 2, 1)
    with pytest.raises(ValueError, match=reason):
        boosting.sanitize(re.sub(old, new, SMALL, count=1, flags=re.DOTALL), 2, 1)
    with pytest.raises(ValueError, match="1 trees for 2 classes"):
        boosting.sanitize(SMALL, 2, 2)
