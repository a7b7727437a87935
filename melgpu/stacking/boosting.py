"""LightGBM as a stacker, and the sanitizing of its model texts.

LightGBM's parser does not validate its input, and aborts, crashes or hangs on a malformed model. So only the numbers of
the trees are taken from an untrusted text, only of trees without cycles; the text around them is generated.
"""

import itertools
import math
import re
from typing import Any

import lightgbm
import numpy as np
from lightgbm import Booster

from melgpu.recipe_schema import StackingSpec

# The original solution's; the last four make LightGBM repeatable and quiet. Its bagging fraction of 0.7 is left out: it
# had no frequency, without which there is no bagging.
PARAMETERS: dict[str, Any] = {
    "objective": "multiclass",
    "boosting": "dart",
    "learning_rate": 0.05,
    "num_leaves": 128,
    "feature_fraction": 0.7,
    "lambda_l1": 0.0415,
    "lambda_l2": 0.0735,
    "min_gain_to_split": 0.0222,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}
NODE_FIELDS = {"split_feature": int, "threshold": float, "decision_type": int, "left_child": int, "right_child": int}
MAX_DIGITS = 30  # characters of a number; a float of 17 digits with signs and exponent has 24


def fit(matrix: np.ndarray, labels: np.ndarray, spec: StackingSpec) -> Booster:
    """Trees on the K x C values of each row of a matrix (N, K, C), with balanced class weights; labels (N,)."""
    counts = np.bincount(labels, minlength=matrix.shape[2])
    class_weights = len(labels) / (np.count_nonzero(counts) * np.maximum(counts, 1))  # of absent classes unused
    data = lightgbm.Dataset(matrix.reshape(len(matrix), -1), labels, weight=class_weights[labels])
    parameters = {
        **PARAMETERS,
        "num_class": matrix.shape[2],
        "seed": spec.seed,
        "min_data_in_leaf": spec.min_child_samples,
        "min_sum_hessian_in_leaf": spec.min_child_weight,
    }
    booster = lightgbm.train(parameters, data, num_boost_round=spec.num_trees)
    return Booster(model_str=booster.model_to_string())  # as it is saved, without the data


def predict(trees: Booster, matrix: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) of a matrix (N, K, C)."""
    return np.asarray(trees.predict(matrix.reshape(len(matrix), -1), num_threads=1))


def is_constant(trees: Booster) -> bool:
    """Whether no tree has a split, so that all predictions are the same."""
    # A tree without a split has one leaf.
    return not re.search(r"^num_leaves=(?!1$)", trees.model_to_string(), re.MULTILINE)


def load(text: str, num_features: int, num_classes: int) -> Booster:
    """Trees of an untrusted text. Raises ValueError where it is malformed."""
    return Booster(model_str=sanitize(text, num_features, num_classes))


def sanitize(text: str, num_features: int, num_classes: int) -> str:
    """The same model of `num_features` features and `num_classes` classes. Raises ValueError where it is malformed."""
    blocks = re.split(r"\nTree=\d+\n", text.partition("\nend of trees")[0])[1:]
    if not blocks or len(blocks) % num_classes:  # each round of boosting adds a tree for every class
        raise ValueError(f"{len(blocks)} trees for {num_classes} classes")
    trees = [f"Tree={index}\n{_tree(block, num_features)}\n\n" for index, block in enumerate(blocks)]
    names = " ".join(f"Column_{column}" for column in range(num_features))
    infos = " ".join(["none"] * num_features)
    sizes = " ".join(str(len(tree)) for tree in trees)
    header = (
        f"tree\nversion=v4\nnum_class={num_classes}\nnum_tree_per_iteration={num_classes}\nlabel_index=0\n"
        f"max_feature_idx={num_features - 1}\nobjective=multiclass num_class:{num_classes}\nfeature_names={names}\n"
        f"feature_infos={infos}\ntree_sizes={sizes}\n\n"
    )
    return header + "".join(trees) + "end of trees\n"


def _tree(block: str, num_features: int) -> str:
    """The text of one tree, generated from its numbers."""
    lines = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
    leaves = _numbers(lines, "leaf_value", float)
    fields = {"num_leaves": [len(leaves)], "num_cat": [0], "leaf_value": leaves}
    if len(leaves) > 1:  # a tree of one leaf has no nodes
        fields |= {name: _numbers(lines, name, kind) for name, kind in NODE_FIELDS.items()}
        _check_tree(fields, num_features)
    # repr() of a float gives all its digits, so that the predictions stay the same.
    texts = (f"{name}={' '.join(map(repr, values))}" for name, values in fields.items())
    return "\n".join(texts) + "\nshrinkage=1\n"


def _numbers(lines: dict[str, str], name: str, kind: type) -> list:
    words = lines.get(name, "").split()
    if not words or max(map(len, words)) > MAX_DIGITS:
        raise ValueError(f"a tree without {name}")
    values = [kind(word) for word in words]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name} has a value that is not finite")
    return values


def _check_tree(fields: dict[str, list], num_features: int) -> None:
    """Raise ValueError unless every path ends in a leaf: a node's children are later nodes, or leaves -1, -2, ..."""
    num_leaves = len(fields["leaf_value"])
    num_nodes = num_leaves - 1  # of a binary tree
    if any(len(fields[name]) != num_nodes for name in NODE_FIELDS):
        raise ValueError("a tree whose numbers of nodes and leaves do not match")
    if not all(0 <= feature < num_features for feature in fields["split_feature"]):
        raise ValueError("a tree with a split_feature out of range")
    if not all(kind in (0, 2, 4, 6, 8, 10) for kind in fields["decision_type"]):  # odd numbers: categorical splits
        raise ValueError("a tree with a split that is not numerical")
    edges = itertools.chain(enumerate(fields["left_child"]), enumerate(fields["right_child"]))
    for node, child in edges:
        if not (node < child < num_nodes or -num_leaves <= child < 0):
            raise ValueError("a tree with a cycle, or with a child out of range")
