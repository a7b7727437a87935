"""Commands, settings and links in README.md and docs/ exist, and docs/recipes.md is what its generator writes."""

import argparse
import importlib
import re
import shlex
import sys
import tomllib

import pytest

from docs import recipes
from melgpu.recipe import Recipe, load_recipe, shipped_recipes
from tests.helpers import ROOT

MAX_README_LINES = 170
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
PROGRAMS = ("python", "make", "torchrun", "melgpu-train", "melgpu-predict", "melgpu-stack", "melgpu-export", "pip")
SCRIPTS = ("train", "predict", "stack")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
TABLES = {name for name, field in Recipe.model_fields.items() if hasattr(field.annotation, "model_fields")}


class ParsedError(Exception):
    """Raised in place of a command's work, once its parser has accepted the flags; holds the namespace."""


def code_blocks(text: str) -> str:
    """The lines of indented and fenced blocks, without their indentation."""
    lines = []
    in_fence = False
    for line in text.splitlines():
        if line.startswith("```"):
            in_fence = not in_fence
        elif in_fence or line.startswith("    "):
            lines.append(line.strip())
    return "\n".join(lines).replace("\\\n", " ")


def commands(text: str) -> list[list[str]]:
    """The commands in blocks, and those in inline code that start with one of PROGRAMS, as words."""
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))
    found = []
    for line in [*code_blocks(text).splitlines(), *inline]:
        if re.match(rf"(\.venv/bin/)?({'|'.join(PROGRAMS)})\b(?!-?\w*\.)", line):
            for command in re.split(r"\s+&&\s+", line.removeprefix(".venv/bin/")):
                words = shlex.split(command, comments=True)
                if len(words) > 1:  # a program's name alone is no command
                    found.append(words)
    return found


PAGE_COMMANDS = {(page.name, shlex.join(words)): words for page in PAGES for words in commands(page.read_text())}


def parse(monkeypatch, module: str, arguments: list[str]) -> argparse.Namespace:
    """The flags of a command, parsed by its own parser; nothing else of it runs."""
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *args, **kwargs):
        raise ParsedError(original(parser, *args, **kwargs))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(ParsedError) as stopped:
        importlib.import_module(module).main()
    return stopped.value.args[0]


def check_module(monkeypatch, module: str, arguments: list[str]) -> None:
    """Raise where a command's flags are wrong, or its recipes and overrides are."""
    args = parse(monkeypatch, module, arguments)
    names = [name for name in getattr(args, "recipe", []) if not name.endswith(".toml")]  # files of a user
    load_recipe(names, getattr(args, "overrides", []))


def check_python(monkeypatch, words: list[str]) -> None:
    program, *arguments = words
    if program == "-m" and arguments[0] == "pytest":
        assert all((ROOT / word).exists() for word in arguments[1:] if "/" in word)
    elif program == "-m":
        is_package = (ROOT / arguments[0].replace(".", "/")).is_dir()
        check_module(monkeypatch, f"{arguments[0]}.__main__" if is_package else arguments[0], arguments[1:])
    else:
        check_script(monkeypatch, program.removesuffix(".py"), arguments)


def check_script(monkeypatch, name: str, arguments: list[str]) -> None:
    assert name in (*SCRIPTS, "export")
    check_module(monkeypatch, f"melgpu.commands.{name}", arguments)


def check_torchrun(monkeypatch, arguments: list[str]) -> None:
    from torch.distributed.run import parse_args

    args = parse_args(arguments)
    name = args.training_script
    assert args.no_python == name.startswith("melgpu-")
    check_script(monkeypatch, name.removeprefix("melgpu-").removesuffix(".py"), args.training_script_args)


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in words:
        variable, is_assignment, _ = word.partition("=")
        assert re.search(rf"^{variable}\b ?\?=" if is_assignment else rf"^{word}:", makefile, re.MULTILINE), word


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    package = words[-1]
    assert re.fullmatch(r"(\.|melgpu)(\[[\w,]+\])?", package)
    assert set(re.findall(r"\w+", package.partition("[")[2])) <= EXTRAS


@pytest.mark.parametrize("words", PAGE_COMMANDS.values(), ids=[" ".join(key) for key in PAGE_COMMANDS])
def test_commands_are_accepted_by_their_parsers(words, monkeypatch):
    program, *arguments = words
    if program == "python":
        check_python(monkeypatch, arguments)
    elif program == "torchrun":
        check_torchrun(monkeypatch, arguments)
    elif program == "make":
        check_make(arguments)
    elif program == "pip":
        check_pip(arguments)
    else:
        check_script(monkeypatch, program.removeprefix("melgpu-"), arguments)


def test_the_pages_have_commands():
    scripts = {words[1] for words in PAGE_COMMANDS.values() if words[0] == "python"}
    assert {f"{name}.py" for name in SCRIPTS} <= scripts
    assert {words[0] for words in PAGE_COMMANDS.values()} >= {"make", "torchrun", "pip"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_exist(page):
    text = page.read_text()
    known = {f"{name}{key}" for name, properties in recipes.schema_tables() for key in properties}
    named = re.findall(rf"`((?:{'|'.join(sorted(TABLES))})\.\w+)(?: = [^`]*)?`", text)
    assert {name for name in named if not name.endswith((".py", ".toml", ".csv"))} <= known
    for override in re.findall(r"`--set ([^`]+)`", text):
        # With `quick`, which names fold 0 alone: some pages change the number of folds.
        load_recipe(["quick"], [override.strip("'").replace("\n", " ")])
    assert set(re.findall(r"`--recipe (\w+)`", text)) <= shipped_recipes().keys()


def heading_anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "benchmarks" / "results" / "README.md"], ids=str)
def test_links_resolve(page):
    for link in re.findall(r"\]\(([^):]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in heading_anchors(target.read_text()), link


def test_readme_is_short_and_links_all_pages():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= MAX_README_LINES
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= set(re.findall(r"docs/\w+\.md", text))


def test_each_shipped_recipe_is_described():
    text = (ROOT / "docs" / "recipes.md").read_text()
    assert set(re.findall(r"^\| \[`([\w-]+)`\]", text, re.MULTILINE)) == shipped_recipes().keys()


def test_architecture_lists_the_modules_of_each_package():
    rows = re.findall(
        r"^\| `melgpu/(\w*)/?` \|[^|]*\|(.*)\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    packages = {path.parent.name for path in (ROOT / "melgpu").glob("*/__init__.py")}
    assert {package for package, _ in rows} == {"", *packages} - {"demo"}  # the demo is in the row of melgpu itself
    for package, listed in rows:
        modules = {path.stem for path in (ROOT / "melgpu" / package).glob("[!_]*.py")}
        names = re.findall(r"\w+", re.sub(r"\([^)]*\)|`\w+/`", "", listed))
        assert set(names) == modules, package or "melgpu"


def test_the_tables_of_settings_are_up_to_date():
    text = recipes.PAGE.read_text()
    assert recipes.updated(text) == text, "python -m docs.recipes"


def test_each_meaning_is_of_a_setting():
    known = {f"{name}{key}" for name, properties in recipes.schema_tables() for key in properties}
    assert recipes.MEANINGS.keys() <= known


def test_a_page_without_the_comments_is_refused():
    with pytest.raises(ValueError, match="are missing"):
        recipes.updated("no comments")
