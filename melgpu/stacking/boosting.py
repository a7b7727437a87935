"""Boosted trees that stack, by LightGBM, and its text made safe to read.

LightGBM's parser believes what it reads, and aborts, crashes or hangs where that is wrong. Only the numbers of the
trees are taken from a text, and only trees that end; the text around them is written anew.
"""

import itertools
import math
import re

import lightgbm
import numpy as np
from lightgbm import Booster

from melgpu.recipe import StackingSpec

PARAMETERS = {
    "objective": "multiclass",
    "boosting": "dart",
    "learning_rate": 0.05,
    "num_leaves": 128,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,  # without it LightGBM ignores bagging_fraction
    "lambda_l1": 0.0415,
    "lambda_l2": 0.0735,
    "min_gain_to_split": 0.0222,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
NUMBERS = {"split_feature": int, "threshold": float, "decision_type": int, "left_child": int, "right_child": int}
MAX_DIGITS = 30


def fit(matrix: np.ndarray, labels: np.ndarray, spec: StackingSpec) -> Booster:
    """Trees on the K x C values of each row of a matrix (N, K, C), all classes of equal weight; labels (N,)."""
    counts = np.bincount(labels, minlength=matrix.shape[2])
    balanced = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    data = lightgbm.Dataset(matrix.reshape(len(matrix), -1), labels, weight=balanced[labels])
    settings = {
        **PARAMETERS,
        "bagging_fraction": max(
            PARAMETERS["bagging_fraction"], 1 / len(labels)
        ),  # LightGBM fails where it draws no row
        "num_class": matrix.shape[2],
        "seed": spec.seed,
        "min_data_in_leaf": spec.min_child_samples,
        "min_sum_hessian_in_leaf": spec.min_child_weight,
    }
    fitted = lightgbm.train(settings, data, num_boost_round=spec.num_trees)
    return Booster(model_str=fitted.model_to_string())  # what is kept, without the data


def predict(trees: Booster, matrix: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of a matrix (N, K, C)."""
    return trees.predict(matrix.reshape(len(matrix), -1), num_threads=1)


def is_constant(trees: Booster) -> bool:
    """Whether no tree asks for anything."""
    return not re.search(r"^num_leaves=(?!1$)", trees.model_to_string(), re.MULTILINE)


def load(text: str, num_features: int, num_classes: int) -> Booster:
    """Trees of a stranger's text. Raises ValueError where it is none."""
    return Booster(model_str=sanitize(text, num_features, num_classes))


def sanitize(text: str, num_features: int, num_classes: int) -> str:
    """The same model, for `num_classes` classes of `num_features` values. Raises ValueError where it is none."""
    blocks = re.split(r"\nTree=\d+\n", text.partition("\nend of trees")[0])[1:]
    if not blocks or len(blocks) % num_classes:
        raise ValueError(f"{len(blocks)} trees for {num_classes} classes")
    trees = [f"Tree={number}\n{_tree(block, num_features)}\n\n" for number, block in enumerate(blocks)]
    names, infos = " ".join(f"Column_{column}" for column in range(num_features)), " ".join(["none"] * num_features)
    sizes = " ".join(str(len(tree)) for tree in trees)
    header = (
        f"tree\nversion=v4\nnum_class={num_classes}\nnum_tree_per_iteration={num_classes}\nlabel_index=0\n"
        f"max_feature_idx={num_features - 1}\nobjective=multiclass num_class:{num_classes}\nfeature_names={names}\n"
        f"feature_infos={infos}\ntree_sizes={sizes}\n\n"
    )
    return header + "".join(trees) + "end of trees\n"


def _tree(block: str, num_features: int) -> str:
    """One tree, its lines written anew."""
    lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    leaves = _numbers(lines, "leaf_value", float)
    parts = {"num_leaves": [len(leaves)], "num_cat": [0], "leaf_value": leaves}
    if len(leaves) > 1:
        parts |= {name: _numbers(lines, name, kind) for name, kind in NUMBERS.items()}
        _check_tree(parts, num_features)
    return "\n".join(f"{name}={' '.join(map(repr, values))}" for name, values in parts.items()) + "\nshrinkage=1\n"


def _numbers(lines: dict[str, str], name: str, kind: type) -> list:
    words = lines.get(name, "").split()
    if not words or max(map(len, words)) > MAX_DIGITS:
        raise ValueError(f"a tree without {name}")
    values = [kind(word) for word in words]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name} holds what is no number")
    return values


def _check_tree(parts: dict[str, list], num_features: int) -> None:
    """Raise ValueError unless every way down ends: nodes count from 0 and lead to later ones, or to leaf -1, -2, ..."""
    leaves, nodes = len(parts["leaf_value"]), len(parts["leaf_value"]) - 1
    if any(len(parts[name]) != nodes for name in NUMBERS):
        raise ValueError("a tree of other numbers of nodes and leaves")
    if not all(0 <= feature < num_features for feature in parts["split_feature"]):
        raise ValueError("a tree that asks for a value that there is not")
    if not all(kind in (0, 2, 4, 6, 8, 10) for kind in parts["decision_type"]):  # odd ones are of categories
        raise ValueError("a tree that decides otherwise than by thresholds")
    for node, child in itertools.chain(enumerate(parts["left_child"]), enumerate(parts["right_child"])):
        if not (node < child < nodes or -leaves <= child < 0):
            raise ValueError("a tree whose ways do not end")
