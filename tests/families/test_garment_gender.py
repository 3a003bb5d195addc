"""garment_gender: a contour network that never changes, colours within bounds, and targets of one or both."""

import dataclasses
import io
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torchmetrics.functional.classification import binary_average_precision

from galleria.errors import BrokenMediaError, BundleError, ConfigurationError, DataError
from galleria.families.garment_gender.colour import change_colours
from galleria.families.garment_gender.config import ColourChange, GarmentGenderConfig
from galleria.families.garment_gender.contours import ContourSource, completed, contour_network
from galleria.families.garment_gender.data import context, example, present
from galleria.families.garment_gender.evaluation import evaluate, several_scores
from galleria.families.garment_gender.recipes import debug, demo, frozen, paper
from galleria.families.garment_gender.task import GarmentGender
from galleria.learn.bundle import Bundle, save_bundle
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.family import load_family
from galleria.learn.recipes import load_recipe
from galleria.learn.training.loop import TrainingState
from tests.families.training import Run, longer

SIDE = 40
UNSEEN = {"source": ("", "noto", "openmoji")}


def garment(seed: int) -> dict[str, Any]:
    """A row: a skirt, which is a triangle, or trousers, which are two boxes, in any colour and position."""
    generator = np.random.default_rng(seed)
    canvas = Image.new("RGB", (SIDE, SIDE), tuple(generator.integers(190, 256, 3).tolist()))
    colour = tuple(generator.integers(0, 150, 3).tolist())
    left, top = generator.integers(2, 12, 2).tolist()
    draw = ImageDraw.Draw(canvas)
    if seed % 2:
        draw.rectangle((left, top, left + 8, top + 25), fill=colour)
        draw.rectangle((left + 15, top, left + 23, top + 25), fill=colour)
    else:
        draw.polygon([(left + 12, top), (left, top + 25), (left + 24, top + 25)], fill=colour)
    encoded = io.BytesIO()
    canvas.save(encoded, "PNG")
    target = ["male" if seed % 2 else "female"]
    return {"id": f"garment {seed}", "image": encoded.getvalue(), "target": target, "source": "noto"}


def contract_rows(split: str) -> list[dict[str, Any]]:
    return [garment(seed) for seed in (range(96) if split == "train" else range(1000, 1064))]


def saved_contours(path: Path, seed: int = 0) -> Path:
    """A bundle of the contour family, with batch statistics that are not the usual ones."""
    family = load_family("contour")
    made = family.context(load_recipe("contour", "debug").model, [])
    torch.manual_seed(seed)
    task = family.build(made.config)
    for module in task.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return save_bundle(path, family, made, task, {}, "# Card\n").path


@pytest.fixture(scope="module")
def contours(tmp_path_factory) -> Path:
    return saved_contours(tmp_path_factory.mktemp("contours") / "bundle")


def config(**changes: Any) -> GarmentGenderConfig:
    return debug().model.model_copy(update=changes)


def network(of: GarmentGenderConfig) -> GarmentGender:
    torch.manual_seed(0)
    return GarmentGender(of)


def joined(contours: Path, **changes: Any) -> GarmentGenderConfig:
    """The config of a network with the contour bundle, as training completes it."""
    options = {"contour": "frozen", "source": ContourSource(weights=str(contours)), **changes}
    return context(config(**options), []).config


def batch(count: int = 4, size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator),
        "target": torch.arange(count) % 2,
        "source": torch.zeros(count, dtype=torch.long),
    }


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def steps(task: GarmentGender, count: int = 3) -> None:
    """Optimizer steps as the loop makes them."""
    recipe = debug()
    state = TrainingState(task, recipe, count)
    task.train()
    for _ in range(count):
        state.optimizer.zero_grad()
        task(batch())["loss"].backward()
        state.optimizer.step()


class TestFrozenContours:
    @pytest.mark.parametrize("use", ["frozen", "random"])
    def test_frozen_state_does_not_change(self, contours, use):
        task = network(joined(contours, contour=use))
        before, all_before = state_of(task.contour), state_of(task)

        steps(task)

        assert any("running_mean" in name for name in before)
        assert changed(task.contour, before) == set()
        assert {"classes.weight", "reduce.0.weight", "join.0.0.weight"} <= changed(task, all_before)

    def test_training_mode_does_not_reach_it(self, contours):
        task = network(joined(contours)).train()

        assert task.training
        assert task.image.training
        assert not any(module.training for module in task.contour.modules())

    @pytest.mark.parametrize("use", ["frozen", "random"])
    def test_frozen_has_no_group_or_gradient(self, contours, use):
        task = network(joined(contours, contour=use))
        groups = task.parameter_groups()
        optimized = {id(p) for group in TrainingState(task, debug(), 1).optimizer.param_groups for p in group["params"]}

        task.train()(batch())["loss"].backward()

        assert list(groups["contour"]) == []
        assert optimized.isdisjoint({id(parameter) for parameter in task.contour.parameters()})
        assert all(parameter.grad is None for parameter in task.contour.parameters())

    def test_end_to_end_is_its_own_group(self, contours):
        task = network(joined(contours, contour="end_to_end"))
        before = state_of(task.contour)

        steps(task)

        found = changed(task.contour, before)
        assert len(task.parameter_groups()["contour"]) == len(list(task.contour.parameters()))
        assert "levels.0.convolution.0.weight" in found
        assert any("running_mean" in name for name in found)

    def test_weights_are_those_of_bundle(self, contours):
        bundle = Bundle.open(contours)
        task = network(joined(contours))
        other = network(joined(contours, contour="random"))

        assert task.config.source.hash == bundle.hash
        assert task.config.source.network == bundle.context.config.model_dump(mode="json")
        assert changed(task.contour, bundle.task().state_dict()) == set()
        assert changed(other.contour, bundle.task().state_dict())
        assert other.config.source == ContourSource(network=task.config.source.network)

    def test_features_reach_the_output(self, contours):
        task = network(joined(contours)).eval()
        before = task.predict(batch())["probability"]
        with torch.no_grad():
            task.contour.unify[3][0].weight.zero_()

        assert not torch.allclose(task.predict(batch())["probability"], before, atol=1e-6)

    def test_none_has_no_contour_network(self, contours):
        task = network(joined(contours, contour="none"))

        assert task.contour is None
        assert task.config.source == ContourSource()
        assert not [name for name in task.state_dict() if "contour" in name or "reduce" in name]
        steps(task)


class TestContourBundle:
    def test_frozen_needs_a_bundle(self):
        with pytest.raises(ConfigurationError, match="contour='frozen' needs a contour bundle: name its folder"):
            context(config(contour="frozen"), [])

    def test_missing_bundle_is_reported(self, tmp_path):
        with pytest.raises(BundleError, match="is not a bundle"):
            completed(ContourSource(weights=str(tmp_path / "nothing")))

    def test_other_familys_bundle_is_rejected(self, tmp_path):
        family = load_family("garment_gender")
        made = family.context(debug().model, [])
        other = save_bundle(tmp_path / "bundle", family, made, family.build(made.config), {}, "# Card\n")

        with pytest.raises(ConfigurationError, match="bundle of 'garment_gender': name one that the family 'contour'"):
            completed(ContourSource(weights=str(other.path)))

    def test_replaced_bundle_is_rejected(self, tmp_path):
        path = saved_contours(tmp_path / "bundle")
        source = completed(ContourSource(weights=str(path)))
        saved_contours(path, seed=1)

        with pytest.raises(ConfigurationError, match=f"but {source.hash[:12]} was chosen"):
            contour_network(source)

    def test_relative_path_becomes_absolute(self, tmp_path, monkeypatch):
        saved_contours(tmp_path / "bundle")
        monkeypatch.chdir(tmp_path)

        assert completed(ContourSource(weights="bundle")).weights == str(tmp_path / "bundle")

    def test_export_is_independent_of_bundle(self, tmp_path):
        path = saved_contours(tmp_path / "contours")
        made = context(config(contour="frozen", source=ContourSource(weights=str(path))), [])
        task = network(made.config).eval()
        saved = save_bundle(tmp_path / "bundle", load_family("garment_gender"), made, task, {}, "# Card\n")
        shutil.rmtree(path)

        opened = Bundle.open(saved.path)

        assert opened.context.config.source.weights == "none"
        assert opened.context.config.source.hash == made.config.source.hash != ""
        assert torch.equal(opened.task().predict(batch())["probability"], task.predict(batch())["probability"])

    def test_bundle_with_external_path_is_rejected(self, tmp_path, contours):
        class Leaking(GarmentGender):
            def exported(self) -> GarmentGender:
                return self

        made = context(config(contour="frozen", source=ContourSource(weights=str(contours))), [])

        with pytest.raises(BundleError, match="outside the bundle"):
            save_bundle(tmp_path / "b", load_family("garment_gender"), made, Leaking(made.config), {}, "# Card\n")


def pictures(count: int) -> torch.Tensor:
    """Random pictures away from both ends of the range, so that no shift is clipped."""
    return torch.randint(40, 210, (count, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class TestColours:
    @pytest.mark.parametrize(("share", "count", "swapped"), [(0.15, 32, 4), (0.1, 10, 1), (0.19, 5, 0), (0, 50, 0)])
    def test_swap_count_is_rounded_down(self, share, count, swapped):
        torch.manual_seed(0)
        before = pictures(count)

        after = change_colours(before, ColourChange(swap_share=share))

        other = (after != before).flatten(1).any(1)
        assert int(other.sum()) == swapped
        for one, was in zip(after[other], before[other], strict=True):
            orders = [order for order in np.ndindex(3, 3, 3) if torch.equal(one, was[list(order)])]
            assert [sorted(order) for order in orders] == [[0, 1, 2]]

    def test_epoch_stays_below_swap_share(self):
        torch.manual_seed(0)
        sizes = [7, 32, 32, 13, 1, 16]

        swapped = 0
        for size in sizes:
            before = pictures(size)
            after = change_colours(before, ColourChange(swap_share=0.19))
            swapped += int((after != before).flatten(1).any(1).sum())

        assert 0 < swapped <= math.floor(0.19 * sum(sizes))

    def test_shift_stays_within_bound(self):
        torch.manual_seed(0)
        before = pictures(500)

        moved = change_colours(before, ColourChange(shift=0.1)).int() - before.int()

        assert ((moved != 0).flatten(2).any(2).sum(1) <= 1).all()
        assert (moved == moved[..., :1, :1]).all()  # a channel shifts as a whole
        assert moved.abs().max().item() == 25  # ⌊.1 · 255⌋, which is below .1 of the range
        assert set(moved.flatten().tolist()) == set(range(-25, 26))
        assert {index for index in range(3) if (moved[:, index] != 0).any()} == {0, 1, 2}

    def test_values_stay_in_range(self):
        torch.manual_seed(0)
        ends = torch.tensor([0, 255], dtype=torch.uint8).repeat(100, 3, 4, 2)

        moved = change_colours(ends, ColourChange(shift=0.1)).int() - ends.int()

        assert moved.abs().max() <= 25

    def test_defaults_and_input_are_unchanged(self):
        before = pictures(20)
        kept = before.clone()

        assert torch.equal(change_colours(before, ColourChange()), kept)
        change_colours(before, ColourChange(swap_share=0.19, shift=0.1))
        assert torch.equal(before, kept)

    def test_torch_seed_repeats_changes(self):
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            found.append(change_colours(pictures(20), ColourChange(swap_share=0.15, shift=0.1)))

        assert torch.equal(*found)

    @pytest.mark.parametrize("options", [{"swap_share": 0.2}, {"swap_share": -0.1}, {"shift": 0.11}])
    def test_bounds_of_patent_are_enforced(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            ColourChange(**options)

    def test_colours_change_in_training_only(self):
        task = network(config(contour="none", colour=ColourChange(swap_share=0.19, shift=0.1)))
        plain = network(config(contour="none", colour=ColourChange()))
        many = batch(12)

        losses = {}
        for mode in (True, False):
            task.train(mode)
            plain.train(mode)
            losses[mode] = (task(many)["loss"].item(), plain(many)["loss"].item())

        assert losses[True][0] != losses[True][1]
        # One step of batch statistics apart, the two evaluate the same pictures
        assert (
            network(config(contour="none")).eval()(many)["loss"]
            == network(config(contour="none", colour=ColourChange())).eval()(many)["loss"]
        )


class TestLoss:
    def test_rows_without_target_are_ignored(self):
        task = network(config()).eval()
        known, more = batch(2), batch(4)
        more["target"] = torch.tensor([0, 1, -1, -1])
        more["pixels"][:2] = known["pixels"]

        assert task(more)["loss"].item() == pytest.approx(task(known)["loss"].item(), rel=1e-5)

    @pytest.mark.parametrize("answer", ["one", "several"])
    def test_no_targets_give_zero_loss(self, answer):
        task = network(config(answer=answer)).eval()
        none = {**batch(), "target": torch.full((4,) if answer == "one" else (4, 2), -1)}

        loss = task(none)["loss"]
        loss.backward()

        assert loss.item() == 0
        assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())

    def test_softmax_and_sigmoid(self):
        tasks = {answer: network(config(contour="none", answer=answer)).eval() for answer in ("one", "several")}
        both = {**batch(), "target": torch.tensor([[1, 1], [1, 0], [0, 1], [-1, -1]])}
        for task in tasks.values():
            torch.nn.init.zeros_(task.classes.weight)
            task.classes.bias.data = torch.tensor([0.0, math.log(3)])

        # Softmax of (0, ln 3) is (¼, ¾); its sigmoids are (½, ¾)
        assert tasks["one"](batch())["loss"].item() == pytest.approx(-(math.log(0.25) + math.log(0.75)) / 2)
        expected = -(3 * math.log(0.5) + 2 * math.log(0.75) + math.log(0.25)) / 6
        assert tasks["several"](both)["loss"].item() == pytest.approx(expected)
        assert torch.allclose(tasks["one"].predict(batch())["probability"], torch.tensor([0.25, 0.75]))
        assert torch.allclose(tasks["several"].predict(batch())["presence"], torch.tensor([0.5, 0.75]))


class TestExample:
    made = context(config(), [garment(0), {**garment(1), "source": "openmoji"}])
    several = dataclasses.replace(made, config=config(answer="several"))
    row = garment(1)

    def test_shapes_and_types(self):
        found = example(self.row, self.made, None)

        assert {name: (np.asarray(value).shape, np.asarray(value).dtype.name) for name, value in found.items()} == {
            "pixels": ((3, 32, 32), "uint8"),
            "target": ((), "int64"),
            "source": ((), "int64"),
        }

    def test_query_is_a_picture_alone(self):
        assert example({"image": self.row["image"]}, self.made, None).keys() == {"pixels"}

    @pytest.mark.parametrize(
        ("target", "one", "several"),
        [(["female"], 0, [1, 0]), (["male"], 1, [0, 1]), (None, -1, [-1, -1]), ([], -1, [-1, -1])],
    )
    def test_targets(self, target, one, several):
        row = {**self.row, "target": target}

        assert example(row, self.made, None)["target"] == one
        assert example(row, self.several, None)["target"].tolist() == several

    def test_unisex_is_both(self):
        row = {**self.row, "target": ["male", "female"]}

        assert example(row, self.several, None)["target"].tolist() == [1, 1]
        with pytest.raises(DataError, match=r"the target is both.*answer='several'"):
            example(row, self.made, None)

    def test_unknown_target_is_rejected(self):
        with pytest.raises(DataError, match="target 'unisex' is unknown: use 'female', 'male', or both for unisex"):
            example({**self.row, "target": ["unisex"]}, self.made, None)

    def test_sources_are_those_of_training(self):
        found = [example({**self.row, "source": source}, self.made, None)["source"] for source in ("noto", "new", None)]

        assert self.made.labels == {"target": ("female", "male"), "source": ("noto", "openmoji")}
        assert [int(index) for index in found] == [0, -1, -1]

    def test_damaged_picture_is_rejected(self):
        with pytest.raises(BrokenMediaError):
            example({**self.row, "image": self.row["image"][:50]}, self.made, None)


class TestEvaluate:
    targets = torch.tensor([0, 0, 1, 1, -1])
    sources = torch.tensor([1, 1, 2, 2, 1])
    probability = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7], [0.5, 0.5]])

    def scores(self, **outputs: torch.Tensor) -> Any:
        whole = {"target": self.targets, "source": self.sources}
        parts = [slice(0, 2), slice(2, 5)]  # as two batches
        pairs = [
            (
                {name: value[part] for name, value in whole.items()},
                {name: value[part] for name, value in outputs.items()},
            )
            for part in parts
        ]
        return evaluate(pairs, UNSEEN)

    def test_one_of_two(self):
        scores = self.scores(probability=self.probability)

        assert (scores["accuracy"].value, scores["accuracy"].count, scores["accuracy"].dropped) == (0.75, 4, 1)
        assert scores["majority/accuracy"].value == 0.5
        assert (scores["noto/accuracy"].value, scores["openmoji/accuracy"].value) == (0.5, 1)
        assert not [name for name in scores if name.startswith("/")]

    def test_several(self):
        presence = np.array([[0.9, 0.6], [0.4, 0.2], [0.8, 0.9], [0.1, 0.1]])
        targets = np.array([[1, 1], [1, 0], [0, 1], [-1, -1]])

        scores = several_scores(presence, targets)

        assert scores["female/accuracy"].value == pytest.approx(1 / 3)
        assert scores["male/accuracy"].value == 1
        # Female ranks right, wrong, right: (1 + 2/3) / 2. Male ranks right, right, wrong: 1.
        assert scores["mAP"].value == pytest.approx((5 / 6 + 1) / 2)
        assert {(score.count, score.dropped) for score in scores.values()} == {(3, 1)}

    def test_several_by_source(self):
        self.targets = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 1], [-1, -1]])

        scores = self.scores(presence=self.probability)

        assert {"mAP", "noto/mAP", "openmoji/mAP", "noto/female/accuracy"} <= scores.keys()
        assert scores["noto/mAP"].value == 1
        assert scores["openmoji/mAP"].value == pytest.approx((0.5 + 1) / 2)

    def test_average_precision_equals_torchmetrics(self):
        generator = np.random.default_rng(0)
        presence, targets = generator.random((60, 2)), generator.integers(0, 2, (60, 2))

        score = several_scores(presence, targets)["mAP"]

        each = [
            binary_average_precision(torch.tensor(presence[:, index]), torch.tensor(targets[:, index])).item()
            for index in range(2)
        ]
        assert score.value == pytest.approx(np.mean(each), abs=1e-6)
        assert score.low < score.value < score.high

    def test_no_targets_give_nan(self):
        scores = several_scores(np.zeros((2, 2)), np.full((2, 2), -1))

        assert {(score.count, score.dropped) for score in scores.values()} == {(0, 2)}
        assert evaluate([], UNSEEN) == {}


class TestAnswer:
    def test_one_of_two_is_sorted(self):
        assert present({"probability": np.array([0.25, 0.75], np.float32)}, {}) == {
            "target": "male",
            "classes": [{"name": "male", "probability": 0.75}, {"name": "female", "probability": 0.25}],
        }

    @pytest.mark.parametrize(
        ("presence", "target"), [((0.5, 0.9), "unisex"), ((0.9, 0.4), "female"), ((0.1, 0.3), "male")]
    )
    def test_several_may_be_unisex(self, presence, target):
        answer = present({"presence": np.array(presence)}, {})

        assert answer["target"] == target
        assert json.loads(json.dumps(answer)) == answer


class TestRecipes:
    @pytest.mark.parametrize(("image", "use"), [("resnet50", "frozen"), ("seresnet50", "none")])
    def test_paper_recipe_has_patent_shapes(self, contours, image, use):
        recipe = paper(str(contours), image, "none", use)
        task = GarmentGender(context(recipe.model, []).config)
        many = {**batch(2, 224), "target": torch.tensor([[1, 1], [1, 0]])}

        assert task(many)["loss"].isfinite()
        assert task.eval().predict(many)["presence"].shape == (2, 2)

    def test_baseline_trains_linear_layer_only(self):
        model = frozen("none").model
        recipe = frozen("none").model_copy(
            update={"model": model.model_copy(update={"image": ImageEncoderConfig(architecture="test_resnet")})}
        )
        task = network(recipe.model)
        state = TrainingState(task, recipe, 1)

        trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}

        assert trained == {id(parameter) for parameter in task.classes.parameters()}
        assert model.contour == "none"
        assert model.image.statistics == "frozen"

    def test_demo_ablations_differ_in_contours(self):
        recipes = [demo("w", "b", use).model for use in ("none", "frozen", "random", "end_to_end")]

        assert len({recipe.contour for recipe in recipes}) == 4
        assert len({recipe.model_copy(update={"contour": "none"}).model_dump_json() for recipe in recipes}) == 1


def test_training_generalises_to_new_garments():
    run = Run(load_family("garment_gender"), longer(debug(), 4), contract_rows("train"), contract_rows("validation"))

    reports = list(run.reports())

    assert reports[-1].scores["accuracy"].low > 0.6
