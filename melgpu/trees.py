"""LightGBM's text made safe to read: its parser believes what it reads, and aborts, crashes or hangs where it is wrong.

Only the numbers of the trees are taken from a text, and only trees that end; the text around them is written anew.
"""

import itertools
import math
import re

NUMBERS = {"split_feature": int, "threshold": float, "decision_type": int, "left_child": int, "right_child": int}
MOST_DIGITS = 30


def vetted(text: str, num_features: int, num_classes: int) -> str:
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
        _refuse_endless(parts, num_features)
    return "\n".join(f"{name}={' '.join(map(repr, values))}" for name, values in parts.items()) + "\nshrinkage=1\n"


def _numbers(lines: dict[str, str], name: str, kind: type) -> list:
    words = lines.get(name, "").split()
    if not words or max(map(len, words)) > MOST_DIGITS:
        raise ValueError(f"a tree without {name}")
    values = [kind(word) for word in words]
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{name} holds what is no number")
    return values


def _refuse_endless(parts: dict[str, list], num_features: int) -> None:
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
