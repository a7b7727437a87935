"""`python -m docs.recipes` writes the tables of settings in docs/recipes.md.

Defaults and meaning come from the comments of zalo2019.toml, types and bounds from the schema.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from melgpu import files
from melgpu.recipe import Recipe, shipped_recipes

PAGE = Path(__file__).with_suffix(".md")
BEGIN, END = "<!-- settings: written by python -m docs.recipes -->", "<!-- end of settings -->"
ITEM = re.compile(r"(?P<key>\w+) = (?P<value>.*?)(?:\s+# (?P<comment>.*))?$")
HEADER = re.compile(r"\[+(?P<table>[\w.]+)\]+(?:\s+# (?P<comment>.*))?$")
MEANINGS = {  # of settings whose comment in zalo2019.toml is missing, or needs the lines around it
    "folds.seed": "of the draw of the folds",
    "folds.column": "of the CSV of `--labels`, that names the fold of each track; none is drawn",
    "mel.engine": "the same pictures, another speed; `auto`: `fft` on a CPU, else `fused`, `fft` or `nnaudio`",
    "mel.n_fft": "length of the window of a spectrum, samples",
    "mel.hop_length": "between two spectra, samples",
    "mel.n_mels": "bands; Slaney scale and norm",
    "mel.fmin": "Hz, lower end of the lowest band",
    "mel.fmax": "Hz, upper end of the highest band; 0 means the Nyquist frequency",
    "backbone.dropout": "in the head of each network",
    "optim.lr": "learning rate after the warm-up",
    "optim.warmup_lr": "learning rate of the head in the warm-up",
    "optim.max_epochs": "epochs at most, after the warm-up",
    "optim.label_smoothing": "probability that is spread over all classes",
    "optim.schedule": "`plateau`: lower where validation stops improving; `cosine`: from lr towards 0 over max_epochs",
    "optim.plateau_factor": "`plateau`: the learning rate is multiplied by this after plateau_patience epochs",
    "optim.plateau_patience": "`plateau`: epochs without a better window accuracy on validation tracks",
    "optim.stop_patience": "epochs without a better window accuracy, after which training stops",
    "pseudo.kind": "`hard`: the predicted class; `soft`: the final prediction, weighted in the loss by its confidence",
    "pseudo.agreement": "and only if at least this fraction of the round's networks predicts the same class",
    "pseudo.max_per_class": "and at most so many of a class, the most confident ones; 0: all",
    "stacking.seed": "of sub-folds, weights, dropout and trees",
    "stacking.max_epochs": "of each training of the CNNs, at most",
    "stacking.batch_size": "tracks, of the CNNs",
    "stacking.dropout": "of the CNNs",
    "stacking.min_child_samples": "LightGBM: tracks in a leaf",
    "stacking.min_child_weight": "LightGBM: sum of the Hessian in a leaf; see [differences](differences.md#stacking)",
    "stacking.pretrain.max_lr": "its upper bound, for each CNN",
    "stacking.pretrain.patience": "epochs without progress, after which training stops, for each CNN",
    "stacking.finetune.lr": "as above",
    "stacking.finetune.max_lr": "as above",
    "stacking.finetune.half_cycle": "as above",
    "stacking.finetune.gamma": "as above",
    "stacking.finetune.patience": "as above",
    "optim_overrides.NAME.lr": "for this network alone",
    "optim_overrides.NAME.warmup_lr": "likewise",
    "optim_overrides.NAME.max_epochs": "likewise",
    "optim_overrides.NAME.batch_size": "likewise",
    "distil.temperature": "of both distributions: above 1 the teacher's less probable classes count more",
    "distil.label_weight": "of true labels in the loss of a labelled window; the teacher's distribution has the rest",
    "distil.teacher": "the teacher's digest, written by `train.py --teacher`",
    "rounds.backbones": "those of 2019 by their short names, any other of timm's by its name; one will do",
    "rounds.folds": "each network is trained once for each of these folds",
    "rounds.blend": "weights of the stackers; `{}` stacks nothing",
}
TABLE_NOTES = {
    "distil": "Not in `zalo2019`: a run with this table is a [student](training.md#one-network-that-learns-from-many).",
    "optim_overrides.NAME": "Settings of `optim` for one network; `zalo2019` has some for three of its six.",
    "rounds": "One table for each round. Later rounds also train on the pseudo labels of the round before.",
}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    files.write_text(PAGE, updated(PAGE.read_text(encoding="utf-8")))


def updated(text: str) -> str:
    """The text of the page with new tables. Raises ValueError where the comments around them are missing."""
    before, _, remainder = text.partition(BEGIN)
    _, end, after = remainder.partition(END)
    if not end:
        raise ValueError(f"{PAGE}: the lines {BEGIN} and {END} are missing")
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def tables() -> str:
    """One Markdown table for each table of a recipe."""
    defaults, comments = read_toml(shipped_recipes()["zalo2019"].read_text(encoding="utf-8"))
    sections = []
    for name, properties in schema_tables():
        rows = [
            f"| `{key}` | {_code(defaults.get(f'{name}{key}', ''))} | {_allowed(schema)} "
            f"| {MEANINGS.get(f'{name}{key}') or comments[f'{name}{key}']} |"
            for key, schema in properties.items()
        ]
        sections.append("\n".join([*_heading(name, comments), *rows]))
    return "\n\n".join(sections)


def _heading(name: str, comments: Mapping[str, str]) -> Iterator[str]:
    table = name.rstrip(".")
    yield f"### {table or 'Above all tables'}\n"
    note = TABLE_NOTES.get(table) or comments.get(table)
    if note:
        yield f"{note[0].upper()}{note[1:].rstrip('.')}.\n"
    yield "| setting | default | allowed | meaning |"
    yield "|---|---|---|---|"


def read_toml(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The values of a recipe as written, and the comments of its settings and tables, by `table.key` or `table`."""
    values: dict[str, str] = {}
    comments: dict[str, str] = {}
    table = key = ""
    for line in text.splitlines():
        if line.startswith(" ") and line.strip().startswith("# "):  # a comment that goes on
            comments[key] += " " + line.strip().removeprefix("# ")
        elif header := HEADER.match(line):
            key = header["table"]
            table = f"{key}."
            comments[key] = header["comment"] or ""
        elif item := ITEM.match(line):
            key = table + item["key"]
            values[key] = item["value"].strip()
            comments[key] = item["comment"] or ""
    del values["rounds.backbones"], values["rounds.folds"], values["rounds.blend"]  # of the last round alone
    return values, {key: comment.replace("|", "\\|") for key, comment in comments.items() if comment}


def schema_tables() -> Iterator[tuple[str, Mapping[str, dict]]]:
    """The JSON schemas of the settings of each table, in the order of the recipe; names end with a dot."""
    root = Recipe.model_json_schema()
    definitions = root["$defs"]
    yield "", {"seed": root["properties"]["seed"]}
    for key, schema in root["properties"].items():
        (by_name,) = schema.get("patternProperties", {"": None}).values()  # of optim_overrides
        optional = next((option for option in schema.get("anyOf", []) if "$ref" in option), None)  # of distil
        inner = by_name or schema.get("items") or optional or schema
        if "$ref" in inner:
            name = f"{key}.NAME." if by_name else f"{key}."
            yield from _nested_tables(name, inner, definitions)


def _nested_tables(name: str, reference: dict, definitions: dict) -> Iterator[tuple[str, Mapping[str, dict]]]:
    """The settings of a table that a schema refers to, then those of the tables inside it."""
    properties = definitions[reference["$ref"].rpartition("/")[2]]["properties"]
    yield name, {key: schema for key, schema in properties.items() if "$ref" not in schema}
    for key, schema in properties.items():
        if "$ref" in schema:
            yield from _nested_tables(f"{name}{key}.", schema, definitions)


def _allowed(schema: dict) -> str:
    """The allowed values of a setting, in words."""
    if "anyOf" in schema:
        options = [option for option in schema["anyOf"] if option.get("type") != "null"]
        return " or ".join(_allowed(option) for option in options)
    if "const" in schema or "enum" in schema:
        return ", ".join(_code(f'"{value}"') for value in schema.get("enum") or [schema["const"]])
    kind = schema["type"]
    if kind == "boolean":
        return "`true`, `false`"
    if kind == "string":
        return "text"
    if kind == "array":
        items = schema["items"]
        kinds = {"integer": "whole numbers", "number": f"numbers{_bounds(items)}"}
        return f"list of {kinds.get(items['type'], 'names')}"
    if kind == "object":
        whole = "whole " if schema["additionalProperties"]["type"] == "integer" else ""
        return f"{whole}numbers above 0 for {_allowed(schema['propertyNames'])}".replace('"', "")
    return f"{'whole number' if kind == 'integer' else 'number'}{_bounds(schema)}"


def _bounds(schema: dict) -> str:
    bounds = []
    if "exclusiveMinimum" in schema:
        bounds.append(f"above {schema['exclusiveMinimum']:g}")
    if "minimum" in schema:
        bounds.append(f"at least {schema['minimum']:g}")
    if "exclusiveMaximum" in schema:
        bounds.append(f"below {_number(schema['exclusiveMaximum'])}")
    if "maximum" in schema:
        bounds.append(f"at most {_number(schema['maximum'])}")
    return " " + ", ".join(bounds)


def _number(value: float) -> str:
    return f"{value:,}" if value == int(value) else f"{value:g}"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    main()
