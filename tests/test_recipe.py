import tomllib

import pytest

from melgpu.errors import InputError
from melgpu.recipe import load_recipe, recipe_differences, shipped_recipes, validate_recipe
from tests.helpers.stacking import STACKING_OF_2019


def problems(names=(), overrides=()):
    with pytest.raises(InputError) as caught:
        load_recipe(list(names), list(overrides))
    return str(caught.value)


def test_zalo2019_is_the_default_and_has_the_published_settings():
    zalo = load_recipe([])
    assert zalo == load_recipe(["zalo2019"])
    assert (zalo.mel.n_fft, zalo.mel.hop_length, zalo.mel.n_mels, zalo.mel.image_size) == (2048, 512, 512, 512)
    assert [(len(r.backbones), r.folds) for r in zalo.rounds] == [(3, (0, 1)), (6, (2, 3, 4))]
    assert zalo.rounds[1].blend == {"cnn": 0.45, "skip_cnn": 0.45, "lightgbm": 0.1}
    assert zalo.optim_for("resnet50").lr == 1e-5
    assert zalo.optim_for("resnet50").max_epochs == 40
    assert zalo.optim_for("xception").max_epochs == 25
    assert zalo.optim_for("densenet169").warmup_lr == 1e-4
    assert zalo.optim_for("inception_v3") == zalo.optim


def test_the_stacking_cnns_can_be_trained_as_in_2019():
    stacking = load_recipe([str(STACKING_OF_2019)]).stacking
    pretrain, finetune = stacking.pretrain, stacking.finetune
    assert (pretrain.lr, pretrain.max_lr, pretrain.gamma) == (1e-9, {"cnn": 8e-5, "skip_cnn": 1e-4}, 0.99994)
    assert (finetune.lr, finetune.max_lr, finetune.gamma) == (1e-8, {"cnn": 8e-5, "skip_cnn": 8e-5}, 1)
    assert pretrain.half_cycle == finetune.half_cycle == 2000
    assert (pretrain.patience, finetune.patience) == ({"cnn": 15, "skip_cnn": 20}, {"cnn": 20, "skip_cnn": 20})


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_round_trip_through_toml(name):
    recipe = load_recipe([name])
    assert validate_recipe(tomllib.loads(recipe.to_toml()), "again") == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=1", "optim.lrr: there is no such setting; did you mean optim.lr?"),
        ("optim.lr='fast'", "optim.lr: Input should be a valid number"),
        ("optim.lr=nan", "optim.lr"),
        ("optim.batch_size=1.5", "optim.batch_size: Input should be a valid integer"),
        ("optim=3", "optim"),
        ("windows.window_s=300", "windows.window_s 300.0 exceeds audio.track_s 120.0"),
        ("mel.fmax=20000", "mel.fmax 20000.0 exceeds the Nyquist frequency"),
        ("mel.image_size=74", "mel.image_size"),
        ("mel.image_size=1000000000", "mel.image_size: Input should be less than"),
        ("mel.n_fft=1099511627776", "mel.n_fft: Input should be less than"),
        ("mel.n_mels=1099511627776", "mel.n_mels: Input should be less than"),
        ("audio.sample_rate=100000000000", "audio.sample_rate: Input should be less than"),
        ("audio.track_s=1e300", "audio.track_s: Input should be less than"),
        ("windows.hop_s=1e-300", "windows.hop_s: Input should be greater than"),
        ("loader.workers=100000000", "loader.workers: Input should be 'auto' or less than"),
        ("loader.timeout_s=1e300", "loader.timeout_s: Input should be less than"),
        ("seed=100000000000000000000", "seed: Input should be less than"),
        ("folds.seed=-1", "folds.seed: Input should be greater than"),
        ("folds.num_folds=4", "round 2 names fold 4 of 4"),
        ("optim_overrides.Res-Net.lr=1e-3", "Res-Net"),
        ("stacking.pretrain.max_lr.cnn=1e-5", "8e-05, exceeds its max_lr, {'cnn': 1e-05, 'skip_cnn': 0.00032}"),
        ("stacking.finetune.patience={}", "stacking.finetune.patience: Dictionary should have at least 2 items, not 0"),
        (
            "stacking.finetune.max_lr.lightgbm=1",
            "stacking.finetune.max_lr.lightgbm: Input should be 'cnn'",
        ),
        ("rounds=[]", "rounds"),
        ("augment.speeds=[]", "augment.speeds: List should have at least 1 item"),
        ("augment.speeds=[1.0, 2.5]", "augment.speeds.1: Input should be less than or equal to 2"),
        ("augment.speeds=[0.905]", "augment.speeds: 0.905 has more than two decimals"),
        ("no_equals_sign", "expected table.key=value"),
    ],
)
def test_invalid_settings_are_reported_with_their_key(override, message):
    assert message in problems(overrides=[override])


def test_all_invalid_settings_are_listed_together():
    text = problems(overrides=["optim.lr=-1", "mel.n_fft=0", "nonsense.key=1"])
    assert all(name in text for name in ("optim.lr", "mel.n_fft", "nonsense"))


def test_an_invalid_round_is_reported_once():
    text = problems(overrides=["rounds=[{backbones=[],folds=['a'],blend={cnn=1.0}}]"])
    assert [line.partition("]: ")[2] for line in text.splitlines()] == [
        "rounds.0.backbones: List should have at least 1 item, not 0 (got [])",
        "rounds.0.folds.0: Input should be a valid integer (got 'a')",
    ]


def test_unknown_and_malformed_recipe_files_are_named(tmp_path):
    assert "shipped recipes: demo, modern, quick-cpu, quick, scratch, student, zalo2019" in problems(["nothing"])
    malformed = tmp_path / "malformed.toml"
    malformed.write_text("optim = [")
    assert str(malformed) in problems([str(malformed)])


def test_recipes_merge_and_an_empty_table_clears(tmp_path):
    changes = tmp_path / "changes.toml"
    changes.write_text("optim_overrides = {}\n[optim]\nlr = 0.5\n")
    recipe = load_recipe([str(changes)], ["optim.warmup_epochs=0"])
    assert recipe.optim.lr == 0.5
    assert recipe.optim.warmup_epochs == 0
    assert recipe.optim_for("resnet50").lr == 0.5
    assert recipe.optim.batch_size == load_recipe([]).optim.batch_size


def test_quick_has_smaller_sizes_on_a_cpu():
    on_gpu, on_cpu = load_recipe(["quick"]), load_recipe(["quick"], on_cpu=True)
    assert (on_gpu.mel.image_size, on_cpu.mel.image_size) == (512, 128)
    assert load_recipe(["quick"], ["mel.image_size=96"], on_cpu=True).mel.image_size == 96  # overrides come last
    for recipe in (on_gpu, on_cpu):
        assert recipe.is_one_step
        assert recipe.backbone.pretrained == "auto"
    assert not load_recipe([]).is_one_step


def test_folds_are_stacked_by_protocol():
    assert load_recipe([]).fold_groups(2) == [(2,), (3,), (4,)]
    assert load_recipe([], ["stacking.protocol=oof"]).fold_groups(2) == [(2, 3, 4)]


def test_the_digest_ignores_speed_settings_only():
    zalo = load_recipe([])
    assert load_recipe([], ["loader.workers=0"]).digest() == zalo.digest()
    assert load_recipe([], ["seed=1"]).digest() != zalo.digest()
    assert recipe_differences(zalo, load_recipe([], ["seed=1"])) == ["seed: 0, now 1"]


def test_recipes_are_frozen():
    with pytest.raises(ValueError):
        load_recipe([]).optim.lr = 1.0


def test_names_with_dots_are_quoted():
    recipe = load_recipe([], ["optim_overrides.'convnext_tiny.fb_in22k'.lr=1e-4", "backbone.weights_dir=/a/b c"])
    assert recipe.optim_for("convnext_tiny.fb_in22k").lr == 1e-4
    assert recipe.backbone.weights_dir == "/a/b c"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("windows.random_starts=true", "distil needs the same windows of every track"),
        ("windows.dense_classes=['1']", "distil needs the same windows of every track"),
        ("rounds=[{backbones=['resnet50'], folds=[0], blend={cnn=1.0}}]", "distil needs one round that stacks nothing"),
        ("distil.temperature=0.5", "distil.temperature: Input should be greater than or equal to 1"),
        ("distil.teacher=runs/mine", "distil.teacher: String should match pattern"),
    ],
)
def test_a_student_has_settings_that_fit_its_teachers_windows(override, message):
    assert message in problems(["student"], [override])


def test_a_run_without_a_teacher_has_no_settings_of_one():
    assert load_recipe([]).distil is None
    assert "distil" not in load_recipe([]).to_toml()
