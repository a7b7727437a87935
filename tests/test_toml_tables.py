import pytest
from hypothesis import given
from hypothesis import strategies as st

from melgpu import toml_tables
from melgpu.errors import InputError


def test_tables_merge_key_by_key_and_empty_ones_clear():
    base = {"a": {"x": 1, "y": {"z": 2}}, "b": {"x": 3}, "c": 4}
    toml_tables.merge(base, {"a": {"y": {"z": 5}}, "b": {}, "d": {"n": 6}})
    assert base == {"a": {"x": 1, "y": {"z": 5}}, "b": {}, "c": 4, "d": {"n": 6}}
    assert list(toml_tables.flatten(base)) == [("a.x", 1), ("a.y.z", 5), ("c", 4), ("d.n", 6)]


def test_tables_of_a_list_are_changed_by_number():
    base = {"rounds": [{"folds": [0], "blend": {"cnn": 1.0}}, {"folds": [1], "blend": {"cnn": 0.5, "lightgbm": 0.5}}]}
    toml_tables.merge(base, toml_tables.parse_override("rounds.2.blend={skip_cnn=1.0}"))
    assert base["rounds"] == [{"folds": [0], "blend": {"cnn": 1.0}}, {"folds": [1], "blend": {"skip_cnn": 1.0}}]
    assert dict(toml_tables.flatten(toml_tables.numbered(base)))["rounds.2.blend.skip_cnn"] == 1.0
    with pytest.raises(InputError, match=r"rounds\.3: rounds has the numbers 1 to 2"):
        toml_tables.merge(base, toml_tables.parse_override("rounds.3.blend={}"))
    for other in ("rounds.0.blend={}", "rounds.x.blend={}", "rounds.1=5"):  # as any value of the wrong type
        changed = dict(base)
        toml_tables.merge(changed, toml_tables.parse_override(other))
        assert not isinstance(changed["rounds"], list)
    lists = {"dense_classes": ["a"]}
    toml_tables.merge(lists, {"dense_classes": {"1": {"x": 2}}})
    assert lists == {"dense_classes": {"1": {"x": 2}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optim.lr=1e-3", {"optim": {"lr": 1e-3}}),
        (" a . b = [1, 2]", {"a": {"b": [1, 2]}}),
        ("a.'b.c'.d=disk", {"a": {"b.c": {"d": "disk"}}}),
        ("a=", {"a": ""}),
    ],
)
def test_overrides(text, expected):
    assert toml_tables.parse_override(text) == expected


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20))
def test_any_text_can_be_a_value(text):
    assert toml_tables.parse_override(f"a.b=/{text}") == {"a": {"b": f"/{text}".strip()}}


def test_malformed_overrides_are_rejected():
    for text in ("novalue", "=3", "a b=3", ".".join("a" * 1000) + "=1"):
        with pytest.raises(InputError, match=r"expected table\.key=value"):
            toml_tables.parse_override(text)


def test_a_file_with_very_long_keys_is_rejected(tmp_path):
    (tmp_path / "x.toml").write_text(".".join("a" * 1000) + " = 1")
    with pytest.raises(InputError, match="more than 500 dots"):
        toml_tables.read(tmp_path / "x.toml")
