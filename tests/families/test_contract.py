"""The contract of every family. The rows come from `contract_rows(split)` in its own test file."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from galleria.errors import ConfigurationError, DataError
from galleria.learn.bundle import save_bundle
from galleria.learn.examples import stack
from galleria.learn.family import Family, family_names, load_family
from galleria.learn.metrics.calibration import temperatures
from galleria.learn.recipe import Recipe
from galleria.learn.recipes import load_recipe
from galleria.learn.task import Row, Task
from galleria.learn.training.augmentation import Augmentation
from galleria.learn.training.loop import Report
from tests.families.training import Run, longer

FAMILIES = family_names()


def contract_rows(family: str, split: str) -> list[Row]:
    return importlib.import_module(f"tests.families.test_{family}").contract_rows(split)


def begin(name: str, epochs: int = 2) -> Run:
    recipe = longer(load_recipe(name, "debug"), epochs)
    return Run(load_family(name), recipe, contract_rows(name, "train"), contract_rows(name, "validation"))


def test_unknown_family_lists_choices():
    for name in ("nope", "", "__init__", "text_guided.task", "../text_guided"):
        with pytest.raises(ConfigurationError, match=f"no family '{name}': choose one of .*text_guided"):
            load_family(name)


@pytest.mark.parametrize("name", FAMILIES)
def test_unknown_recipe_lists_choices(name):
    with pytest.raises(ConfigurationError, match=r"no recipe 'nope': choose one of .*debug"):
        load_recipe(name, "nope")


@pytest.mark.parametrize("name", FAMILIES)
def test_private_name_is_no_recipe(name):
    with pytest.raises(ConfigurationError, match="no recipe 'Recipe'"):
        load_recipe(name, "Recipe")


@pytest.mark.parametrize("name", FAMILIES)
def test_unknown_recipe_option_is_rejected(name):
    with pytest.raises(ConfigurationError, match=r"recipe 'debug' of .*: option 'sped'"):
        load_recipe(name, "debug", {"sped": 3})


@pytest.mark.parametrize("name", FAMILIES)
def test_package_has_family_of_its_name(name):
    family = load_family(name)

    assert isinstance(family, Family)
    assert family.name == name
    assert [field.name for field in family.schema][:1] == ["id"]


@pytest.mark.parametrize("name", FAMILIES)
def test_recipe_is_frozen_and_roundtrips_json(name):
    recipe = load_recipe(name, "debug")
    family = load_family(name)

    again = Recipe[family.config].model_validate_json(recipe.model_dump_json())

    assert again.model == recipe.model
    assert again.model_dump() == recipe.model_dump()
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1


@pytest.mark.parametrize("name", FAMILIES)
def test_misspelt_option_is_an_error(name):
    family = load_family(name)
    options = load_recipe(name, "debug").model.model_dump()

    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        family.config.model_validate(options | {"dimensoin": 3})


@pytest.mark.parametrize("name", FAMILIES)
def test_examples_have_one_shape_and_repeat(name):
    run = begin(name)
    row, other = run.train[0], run.validation[-1]

    made = run.family.example(row, run.context, None)
    twice = [run.family.example(row, run.context, np.random.default_rng(5)) for _ in range(2)]

    for example in (run.family.example(other, run.context, None), *twice):
        assert {key: np.asarray(value).shape for key, value in example.items()} == {
            key: np.asarray(value).shape for key, value in made.items()
        }
    assert all(np.array_equal(twice[0][key], twice[1][key]) for key in made)


@pytest.mark.parametrize("name", FAMILIES)
def test_training_examples_are_augmented(name):
    run = begin(name)
    augments = "augmentation" in type(run.context.config).model_fields
    strong = {"augmentation": Augmentation(rotation=90, shift=0.3, smallest=0.5, brightness=0.5)} if augments else {}
    context = dataclasses.replace(run.context, config=run.context.config.model_copy(update=strong))
    row = run.train[0]

    plain, again = (run.family.example(row, context, None) for _ in range(2))
    first, second = (run.family.example(row, context, np.random.default_rng(seed)) for seed in (0, 1))

    pictures = [key for key, value in plain.items() if np.asarray(value).dtype == np.uint8]
    assert pictures
    for key in pictures:
        assert np.array_equal(plain[key], again[key])
        assert np.array_equal(plain[key], first[key]) is not augments
        assert np.array_equal(first[key], second[key]) is not augments


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_in_one_group_each(name):
    task = begin(name).task

    grouped = [id(parameter) for group in task.parameter_groups().values() for parameter in group]

    assert sorted(grouped) == sorted(id(parameter) for parameter in task.parameters() if parameter.requires_grad)


class Trained(NamedTuple):
    """A finished run, what it reported, and the file with its state before the last epoch."""

    run: Run
    reports: list[Report]
    state: Path


@pytest.fixture(scope="module", params=FAMILIES)
def trained(request, tmp_path_factory):
    run, state = begin(request.param, epochs=4), tmp_path_factory.mktemp("trained") / "state.pt"
    reports = []
    for report in run.reports():
        reports.append(report)
        if len(reports) == 3:
            torch.save(run.state.state_dict(), state)
    return Trained(run, reports, state)


def test_training_lowers_loss(trained):
    run, reports, _ = trained

    assert reports[-1].losses["loss"] < 0.8 * reports[0].losses["loss"]
    assert reports[-1].stop == "epochs"
    assert run.recipe.stopping.metric in reports[-1].scores
    scores = dict(reports[-1].scores)
    assert all(temperature > 0 for temperature in temperatures(scores).values())
    shares = [score for name, score in scores.items() if name not in temperatures(scores)]
    assert all(0 <= score.low <= score.value <= score.high <= 1 for score in shares)


def test_resumed_run_is_bit_exact(trained):
    resumed = begin(trained.run.family.name, epochs=4)
    resumed.state.load_state_dict(torch.load(trained.state, weights_only=True))

    assert [untimed(report) for report in resumed.reports()] == [untimed(trained.reports[-1])]
    assert same_weights(trained.run.task, resumed.task)


def untimed(report: Report) -> Report:
    return dataclasses.replace(report, seconds=0)


def same_weights(one: Task, other: Task) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def saved(run: Run, folder: Path) -> Any:
    return save_bundle(folder, run.family, run.context, run.task, {}, "# Card\n")


def test_bundle_predicts_as_trained_network(trained, tmp_path):
    run = trained.run
    bundle = saved(run, tmp_path / "bundle")
    batch = next(run.examples.stream([run.validation]))

    expected = run.task.eval().predict(batch)
    found = bundle.task().predict(batch)

    assert found
    for key, value in found.items():
        assert torch.allclose(value, expected[key], atol=1e-6)
        assert not value.requires_grad


@pytest.mark.parametrize("name", FAMILIES)
def test_signature_is_what_the_network_reads(name):
    run = begin(name)
    task = run.task.exported().eval()
    signature = task.signature()
    assert signature.inputs
    assert set(signature.inputs) <= set(run.family.schema.names) & {"image", "text", "video"}
    for column in ("image", "text", "video"):
        row = {key: value for key, value in run.validation[0].items() if key == column}
        example = run.family.example(row, run.context, None) if row and column in run.family.schema.names else {}
        outputs = task.predict(stack([example])) if example else {}
        assert bool(outputs) == (column in signature.inputs)
        if outputs and run.family.ranks:
            answer = run.family.present({key: value[0].numpy() for key, value in outputs.items()}, run.context.labels)
            assert len(answer["embedding"]) == signature.dimension
    assert (signature.dimension is not None) == run.family.ranks
    assert all(0 < width < signature.dimension for width in signature.slices)


@pytest.mark.parametrize("name", FAMILIES)
def test_signature_counts_level_weights(name):
    run = begin(name)
    levels = run.task.exported().signature().levels
    for count in range(1, 9):
        row = {"level_weights": [1.0] * count, **{key: run.validation[0].get(key) for key in ("image", "video")}}
        row = {key: value for key, value in row.items() if value is not None}
        try:
            read = "level_weights" in run.family.example(row, run.context, None)
        except DataError:
            read = False
        assert read == (count == levels)


@pytest.mark.parametrize("name", FAMILIES)
def test_export_leaves_network_unchanged(name, tmp_path):
    run = begin(name)
    before = {key: value.clone() for key, value in run.task.state_dict().items()}

    saved(run, tmp_path / "bundle")

    assert run.task.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in run.task.state_dict().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_export_is_rebuilt_from_config(name):
    run = begin(name)
    exported = run.task.exported()

    config = run.family.config.model_validate_json(exported.config.model_dump_json())

    assert config == exported.config
    assert run.family.build(config).state_dict().keys() == exported.state_dict().keys()
    assert same_weights(exported, exported.exported())


@pytest.mark.parametrize("name", FAMILIES)
def test_example_is_same_from_bundle(name, tmp_path):
    run = begin(name)
    bundle = saved(run, tmp_path / "bundle")
    row = run.validation[0]

    trained = run.family.example(row, run.context, None)
    served = bundle.family.example(row, bundle.context, None)

    assert trained.keys() == served.keys()
    assert all(np.array_equal(trained[key], served[key]) for key in trained)


@pytest.mark.parametrize("name", FAMILIES)
def test_present_returns_plain_json(name, tmp_path):
    run = begin(name)
    batch = next(run.examples.stream([run.validation[:1]]))
    outputs = {key: value[0].numpy() for key, value in run.task.eval().predict(batch).items()}

    answer = run.family.present(outputs, run.context.labels)

    assert json.loads(json.dumps(answer)) == answer
    assert answer
