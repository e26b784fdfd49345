"""Recipes: defaults, names, files, and what is refused."""

import tomllib
from pathlib import Path

import pytest
from segtwin import recipe
from segtwin.architectures import list_architectures
from segtwin.errors import RunError, SegtwinError, SolverError
from segtwin.solver import PUBLISHED


@pytest.mark.parametrize("network", list_architectures())
def test_every_network_has_recipes_that_survive_their_file(network: str, tmp_path: Path) -> None:
    for name in (None, *recipe.named(network)):
        made = recipe.make(network, name)
        (tmp_path / "r.toml").write_text(made.toml())
        assert tomllib.loads(made.toml())["network"] == network
        assert recipe.make(network, tmp_path / "r.toml") == made


def test_what_is_given_changes_a_recipe_and_a_recipe_the_default(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text('loss = "dice"\nbase_lr = 1\ncrop = [64, 32]\n')
    made = recipe.make("unet-small", tmp_path / "r.toml", base_lr=0.5, steps=None)
    assert (made.loss, made.base_lr, made.crop, made.steps) == ("dice", 0.5, (64, 32), 1000)


def test_the_published_solvers_are_recipes(tmp_path: Path) -> None:
    heavy = recipe.make("fcn16s", "heavy")
    assert (heavy.base_lr, heavy.momentum, heavy.weight_decay) == (1e-12, 0.99, 5e-4)
    assert (heavy.loss, heavy.normalization, heavy.order, heavy.seed) == ("softmax", "BATCH_SIZE", "caffe", 1337)
    light = recipe.make("fcn32s", "light")
    assert (light.base_lr, light.momentum, light.normalization, light.iter_size) == (1e-4, 0.9, "VALID", 20)
    (tmp_path / "solver.prototxt").write_text(PUBLISHED["fcn8s"].prototxt())
    assert recipe.make("fcn8s", tmp_path / "solver.prototxt").solver.base_lr == 1e-14


def test_more_classes_than_one_change_the_default_loss() -> None:
    assert recipe.make("unet").loss == "bce-dice"
    assert recipe.make("unet", num_classes=4).loss == "cross-entropy"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stepz = 3", "there is no field 'stepz'; did you mean steps"),
        ("steps = ", "r.toml: "),
        ("steps = 1.5", "steps is 1.5; it is a whole number"),
        ('base_lr = "fast"', "base_lr is a number, not 'fast'"),
        ('network = "unet"', "is a recipe of unet, and the network is unet-small"),
        ('optimizer = "sgd"', "there is no optimizer 'sgd'; there are caffe-sgd, adam"),
        ('flip = "left"', "flip is none or horizontal"),
        ('order = "random"', "there is no order 'random'"),
        ("batch = 0", "batch is 0"),
    ],
)
def test_wrong_files_are_errors_of_one_line(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(SegtwinError) as caught:
        recipe.make("unet-small", tmp_path / "r.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_there_is_not() -> None:
    with pytest.raises(RunError, match="no recipe's name; unet-paper has paper"):
        recipe.make("unet-paper", "light")
    with pytest.raises(SolverError, match="'poly' needs power"):
        recipe.make("unet-small", lr_policy="poly")
    with pytest.raises(RunError, match="Adam has its own"):
        recipe.Recipe("unet-small", "bce", optimizer="adam", momentum=0.5)
