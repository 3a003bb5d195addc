"""Recipes by name or from a file, with fields changed: what is unknown is named with what there is."""

import json
from pathlib import Path

import pytest

from galleria.errors import ConfigurationError
from galleria.families.text_guided.recipes import debug
from galleria.learn.family import family_names
from galleria.learn.recipes import load_recipe, recipe_fields, recipe_functions, with_fields

OWN = """
from galleria.families.text_guided.recipes import debug
from galleria.families.category_tree.recipes import debug as tree

def shoes(epochs: int = 7):
    run = debug()
    return run.model_copy(update={"stopping": run.stopping.model_copy(update={"epochs": epochs})})

def none():
    return None
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "shoes.py"
    path.write_text(OWN)
    return str(path)


def test_fields_change_by_name():
    fields = {
        "optimization.learning_rate": "3e-4",
        "optimization.rates.text": "0.5",
        "stopping.metric": "text/R@5",
        "sampling.batch_size": "8",
        "model.image.architecture": "resnet18",
        "model.slices": "[4, 8]",
        "model.losses.alignment": "1",
        "seed": "3",
    }

    run = load_recipe("text_guided", "debug", fields=fields)

    before = debug()
    assert run.optimization.learning_rate == 3e-4
    assert run.optimization.rates == {"text": 0.5}
    assert run.stopping.metric == "text/R@5"
    assert run.sampling == before.sampling.model_copy(update={"batch_size": 8})
    assert run.model.image == before.model.image.model_copy(update={"architecture": "resnet18"})
    assert run.model.slices == (4, 8)
    assert run.model.losses.alignment == 1
    assert run.seed == 3
    assert run.model.text == before.model.text


def test_null_removes_text_tower():
    assert load_recipe("text_guided", "debug", fields={"model.text": "null"}).model.text is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optimization.learning_rat", "1", "no field 'optimization.learning_rat': did you mean optimization.l"),
        ("optimisation.learning_rate", "1", "no field 'optimisation.learning_rate': did you mean optimization."),
        ("learning_rate", "1", "no field 'learning_rate': did you mean"),
        ("seed.more", "1", "no field 'seed.more'"),
        ("optimization.learning_rate", "-1", "optimization.learning_rate=-1 of the recipe: input should be greater"),
        ("optimization.precision", "half", "optimization.precision='half' of the recipe: input should be 'float32' or"),
        ("sampling.batch_size", "many", "sampling.batch_size='many' of the recipe: input should be a valid integer"),
    ],
)
def test_unknown_field_or_value_is_named(name, value, message):
    with pytest.raises(ConfigurationError) as raised:
        with_fields(debug(), {name: value})
    assert message in str(raised.value)


@pytest.mark.parametrize("family", family_names())
def test_every_listed_field_can_be_set(family):
    run = load_recipe(family, "debug")
    names = [field.name for field in recipe_fields(family)]

    assert {"seed", "stopping.epochs", "sampling.batch_size", "optimization.learning_rate"} <= set(names)
    assert len(set(names)) == len(names)
    for name in names:
        value = run.model_dump(mode="json")
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            assert with_fields(run, {name: json.dumps(value)}) == run, name


def test_recipe_from_file(own):
    assert load_recipe("text_guided", f"{own}:shoes").stopping.epochs == 7
    run = load_recipe("text_guided", f"{own}:shoes", {"epochs": "2"}, {"sampling.batch_size": "4"})
    assert (run.stopping.epochs, run.sampling.batch_size) == (2, 4)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("nowhere.py:shoes", "there is no Python file 'nowhere.py'"),
        ("{own}:boots", "has no function 'boots'"),
        ("{own}:tree", "must return a recipe of 'text_guided', not one of 'category_tree'"),
        ("{own}:none", "must return a recipe of 'text_guided', not None"),
        ("boots", "no recipe 'boots': choose one of debug, demo, frozen, paper, or file.py:function"),
    ],
)
def test_unusable_recipe_is_named(own, recipe, message):
    with pytest.raises(ConfigurationError) as raised:
        load_recipe("text_guided", recipe.format(own=own))
    assert message in str(raised.value)


def test_functions_are_those_of_the_family():
    assert list(recipe_functions("text_guided")) == ["debug", "demo", "frozen", "paper"]
