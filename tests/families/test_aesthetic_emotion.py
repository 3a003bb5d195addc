"""aesthetic_emotion: two branches that exchange their features, and labels that may be missing."""

import io
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from galleria.errors import ConfigurationError, DataError
from galleria.families.aesthetic_emotion.config import HEADS
from galleria.families.aesthetic_emotion.data import context, example, present
from galleria.families.aesthetic_emotion.evaluation import evaluate
from galleria.families.aesthetic_emotion.recipes import debug, paper
from galleria.families.aesthetic_emotion.task import AestheticEmotion, CrossStitch, Nddr
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.examples import stack
from galleria.learn.family import load_family
from galleria.learn.recipes import load_recipe
from galleria.learn.training.loop import TrainingState
from tests.families.training import Run, longer

LABELS = {"aesthetics": ("high", "low"), "emotion": ("calm", "glad", "grim"), "source": ("phone", "studio")}
WEIGHTS = {"aesthetics": (1.0, 1.0), "emotion": (1.0, 1.0, 1.0)}
LITE = "tf_efficientnet_lite0"


def painting(seed: int, low: bool, colour: int) -> bytes:
    """A PNG in one of three colours; what is of low quality is noisy."""
    generator = np.random.default_rng(seed)
    canvas = np.full((32, 32, 3), 90.0)
    left, top = generator.integers(0, 16, 2)
    canvas[top : top + 16, left : left + 16, colour] += 140
    canvas += generator.normal(0, 50, canvas.shape) * low
    encoded = io.BytesIO()
    Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def contract_rows(split: str) -> list[dict[str, Any]]:
    numbers = range(96) if split == "train" else range(96, 120)
    return [
        {
            "id": str(number),
            "image": painting(number, number % 2 == 1, number % 3),
            "aesthetics": LABELS["aesthetics"][number % 2],
            "emotion": LABELS["emotion"][number % 3],
            "source": LABELS["source"][number // 2 % 2],
            "split": split,
        }
        for number in numbers
    ]


def network(**changes: Any) -> AestheticEmotion:
    torch.manual_seed(0)
    return AestheticEmotion(debug().model.model_copy(update={"class_weights": WEIGHTS, **changes}))


def separate(**changes: Any) -> AestheticEmotion:
    return network(mode="none", **changes)


def batch(aesthetics: tuple[int, ...] = (0, 1, 0, 1), emotion: tuple[int, ...] = (0, 1, 2, 0), size: int = 32) -> Any:
    """A label of -1 is missing."""
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(0, 256, (len(emotion), 3, size, size), dtype=torch.uint8, generator=generator),
        "aesthetics": torch.tensor(aesthetics),
        "emotion": torch.tensor(emotion),
    }


def touched(task: AestheticEmotion) -> set[str]:
    """ "branches.emotion", "heads.aesthetics", … that have a gradient other than zero."""
    return {
        ".".join(name.split(".")[:2])
        for name, parameter in task.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


class TestProbabilities:
    @pytest.mark.parametrize("mode", ["nddr", "cross_stitch", "none", "shared"])
    def test_each_head_sums_to_one(self, mode):
        outputs = network(mode=mode).eval().predict(batch())

        assert {head: value.shape for head, value in outputs.items()} == {"aesthetics": (4, 2), "emotion": (4, 3)}
        for value in outputs.values():
            assert torch.allclose(value.sum(1), torch.ones(4))
            assert (value >= 0).all()

    def test_classes_are_sorted_by_probability(self):
        answer = present({"aesthetics": np.array([0.4, 0.6]), "emotion": np.array([0.25, 0.25, 0.5])}, LABELS)

        assert answer == {
            "aesthetics": {
                "label": "low",
                "classes": [{"name": "low", "probability": 0.6}, {"name": "high", "probability": 0.4}],
            },
            "emotion": {
                "label": "grim",
                "classes": [
                    {"name": "grim", "probability": 0.5},
                    {"name": "calm", "probability": 0.25},
                    {"name": "glad", "probability": 0.25},
                ],
            },
        }


class TestCrossBranchLayers:
    @pytest.mark.parametrize("architecture", ["test_resnet", LITE])
    @pytest.mark.parametrize("mode", ["nddr", "cross_stitch"])
    def test_uncoupled_layers_equal_two_networks(self, mode, architecture):
        image = ImageEncoderConfig(architecture=architecture)
        joined = network(mode=mode, own=1.0, other=0.0, norm=False, image=image).eval()
        apart = separate(image=image).eval()

        assert all(torch.equal(value, joined.state_dict()[name]) for name, value in apart.state_dict().items())
        for one, other in zip(joined.features(batch()["pixels"]), apart.features(batch()["pixels"]), strict=True):
            assert torch.equal(one, other)
            assert one.abs().sum() > 0

    def test_identical_branches_stay_identical(self):
        joined, apart = network(norm=False).eval(), separate().eval()
        for task in (joined, apart):
            task.branches["emotion"].load_state_dict(task.branches["aesthetics"].state_dict())

        pixels = batch()["pixels"]

        assert torch.allclose(joined.features(pixels)[1], apart.features(pixels)[1], atol=1e-5)

    def test_layers_follow_last_stages(self):
        task = network(stages=2).eval()
        before = [value.clone() for value in task.features(batch()["pixels"])]

        with torch.no_grad():
            task.cross[0].emotion[0].weight.zero_()

        assert [layer.aesthetics[0].out_channels for layer in task.cross] == [192, 96]
        after = task.features(batch()["pixels"])
        assert not torch.allclose(after[1], before[1])  # through the last stage
        assert not torch.allclose(after[0], before[0])  # and from there into the other branch

    def test_fused_map_is_weighted_sum(self):
        one, other = torch.rand(2, 8, 4, 4), torch.rand(2, 8, 4, 4)
        options = debug().model.model_copy(update={"own": 0.75, "other": 0.25, "norm": False})

        for layer in (Nddr(8, options, True), CrossStitch(8, options)):
            aesthetics, emotion = layer(one, other)

            assert torch.allclose(aesthetics, 0.75 * one + 0.25 * other, atol=1e-6)
            assert torch.allclose(emotion, 0.75 * other + 0.25 * one, atol=1e-6)

    def test_nddr_has_relu_where_stages_do(self):
        kinds = [torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.ReLU]
        rectified, linear = network().cross[0], network(image=ImageEncoderConfig(architecture=LITE)).cross[0]

        assert [type(part) for part in rectified.aesthetics] == kinds
        assert [type(part) for part in linear.emotion] == kinds[:2]

    @pytest.mark.parametrize(("mode", "joined"), [("nddr", True), ("cross_stitch", True), ("none", False)])
    def test_loss_crosses_only_joined_branches(self, mode, joined):
        for head, other in (HEADS, HEADS[::-1]):
            task = network(mode=mode).train()

            task(batch())[head].backward()

            assert {f"branches.{head}", f"heads.{head}"} <= touched(task)
            assert (f"branches.{other}" in touched(task)) == joined
            assert f"heads.{other}" not in touched(task)

    def test_shared_heads_use_one_network(self):
        task = network(mode="shared").train()

        task(batch())["loss"].backward()

        assert touched(task) == {"branches.shared", "heads.aesthetics", "heads.emotion"}
        assert len(task.parameter_groups()["cross"]) == 0

    def test_frozen_trunk_equals_two_branches(self):
        image = ImageEncoderConfig(architecture="test_resnet", frozen=("conv1", "bn1", "layer1", "layer2", "layer3"))
        two, one = network(image=image, stages=2).eval(), network(image=image, stages=2, trunk=True).eval()
        two.branches["emotion"].load_state_dict(two.branches["aesthetics"].state_dict())
        one.load_state_dict({name: two.state_dict()[name] for name in one.state_dict()})

        pixels = batch()["pixels"]

        assert all(map(torch.equal, two.features(pixels), one.features(pixels)))
        assert not any(".layer3." in name for name in one.branches["emotion"].state_dict())
        assert any(".layer4." in name for name in one.branches["emotion"].state_dict())


class TestLoss:
    def test_loss_is_weighted_sum_of_heads(self):
        task = network(emotion_weight=3.0).eval()
        probabilities = task.predict(batch())

        outputs = task(batch())

        for head, indices in (("aesthetics", (0, 1, 0, 1)), ("emotion", (0, 1, 2, 0))):
            assert torch.allclose(outputs[head], F.nll_loss(probabilities[head].log(), torch.tensor(indices)))
        assert torch.equal(outputs["loss"], outputs["aesthetics"] + 3 * outputs["emotion"])

    def test_classes_are_weighted(self):
        plain = network().eval()(batch((0, 0, 1, 1)))["aesthetics"]
        first = network().eval()(batch((0, 0, -1, -1)))["aesthetics"]
        heavy = network(class_weights=WEIGHTS | {"aesthetics": (3.0, 1.0)}).eval()(batch((0, 0, 1, 1)))["aesthetics"]

        assert torch.allclose(heavy, plain + first)  # the first two count twice more, and are half of all

    @pytest.mark.parametrize("head", HEADS)
    @pytest.mark.parametrize("mode", ["nddr", "none"])
    def test_missing_label_has_no_gradient(self, head, mode):
        task = network(mode=mode).train()
        missing = batch() | {head: torch.full((4,), -1)}

        outputs = task(missing)
        outputs["loss"].backward()

        assert outputs[head] == 0
        assert all((parameter.grad == 0).all() for parameter in task.heads[head].parameters())
        assert touched(task) >= {f"heads.{other}" for other in HEADS if other != head}

    def test_rows_without_label_are_ignored(self):
        task = network().eval()
        some = task(batch(emotion=(0, -1, 2, -1)))["emotion"]
        rows = {name: value[[0, 2]] for name, value in batch().items()}

        assert torch.allclose(some, task(rows)["emotion"])

    def test_missing_emotion_has_no_gradient(self):
        task = separate().eval()
        some = batch(emotion=(0, -1, 2, -1))
        some["pixels"] = some["pixels"].float().requires_grad_()

        task(some)["emotion"].backward()

        assert (some["pixels"].grad.flatten(1).abs().sum(1) > 0).tolist() == [True, False, True, False]


class TestRows:
    def ready(self) -> Any:
        return context(debug().model, contract_rows("train"))

    def test_labels_are_sorted(self):
        assert self.ready().labels == LABELS

    def test_rare_classes_weigh_more(self):
        rows = [{"aesthetics": "ab"[number == 0], "emotion": "cd"[number % 2]} for number in range(5)]

        made = {
            balance: context(debug().model.model_copy(update={"balance": balance}), rows) for balance in (0, 0.5, 1)
        }

        weights = {balance: made[balance].config.class_weights["aesthetics"] for balance in made}
        assert weights[0] == (1, 1)
        assert weights[0.5] == pytest.approx((5 / 6, 5 / 3))  # 1 : √4, four times the first and once the second make 5
        assert weights[1] == pytest.approx((5 / 8, 5 / 2))

    @pytest.mark.parametrize("head", HEADS)
    def test_head_of_one_class_is_rejected(self, head):
        rows = [row | {head: "only" if number else None} for number, row in enumerate(contract_rows("train"))]

        with pytest.raises(DataError, match=rf"one class of {head} or less \(only\): label two or more"):
            context(debug().model, rows)

    def test_example_is_pixels_and_indices(self):
        row = contract_rows("train")[1]

        made = example(row, self.ready(), None)

        assert made["pixels"].shape == (3, 32, 32)
        assert (made["aesthetics"], made["emotion"], made["source"]) == (1, 1, 0)

    def test_missing_labels_are_minus_one(self):
        made = example({"aesthetics": None, "emotion": "", "source": None}, self.ready(), None)

        assert (made["aesthetics"], made["emotion"], made["source"]) == (-1, -1, -1)

    def test_query_is_a_picture_alone(self):
        assert example({"image": painting(0, True, 0)}, self.ready(), None).keys() == {"pixels"}

    def test_unknown_class_lists_choices(self):
        with pytest.raises(DataError, match=r"emotion 'gald' is not among .* \(calm, glad, grim\)"):
            example({"emotion": "gald"}, self.ready(), None)


class TestScores:
    def scored(self, aesthetics: list[int], emotion: list[int], **more: list[int]) -> Any:
        """Always answers "low" and "calm"."""
        rows = {"aesthetics": aesthetics, "emotion": emotion, **more}
        always = {
            "aesthetics": torch.tensor([[0.2, 0.8]]).repeat(len(emotion), 1),
            "emotion": torch.tensor([[0.5, 0.3, 0.2]]).repeat(len(emotion), 1),
        }
        return evaluate([({name: torch.tensor(value) for name, value in rows.items()}, always)], LABELS)

    def test_heads_are_scored_with_labels(self):
        scores = self.scored([1, 1, 0, -1], [0, -1, 1, -1])

        assert scores["aesthetics/accuracy"].value == pytest.approx(2 / 3)
        assert scores["emotion/accuracy"].value == 0.5
        assert (scores["emotion/accuracy"].count, scores["emotion/accuracy"].dropped) == (2, 2)
        assert scores["emotion/majority/accuracy"].value == 0.5

    def test_monitored_score_is_mean_of_heads(self):
        scores = self.scored([1, 1, 1, 0], [0, 1, 2, 2])
        heads = [scores[f"{head}/balanced_accuracy"] for head in HEADS]

        assert [score.value for score in heads] == pytest.approx([1 / 2, 1 / 3])
        assert scores["balanced_accuracy"].value == pytest.approx(5 / 12)
        assert scores["balanced_accuracy"].high == pytest.approx(sum(score.high for score in heads) / 2)

    def test_sources_are_scored_separately(self):
        scores = self.scored([1, 0], [0, -1], source=[0, 1])

        assert scores["phone/aesthetics/balanced_accuracy"].value == 1
        assert scores["studio/aesthetics/balanced_accuracy"].value == 0
        assert "studio/emotion/balanced_accuracy" not in scores

    def test_head_without_labels_is_left_out(self):
        scores = self.scored([1, 0], [-1, -1])

        assert not any(name.startswith("emotion") for name in scores)
        assert scores["balanced_accuracy"].value == scores["aesthetics/balanced_accuracy"].value
        assert evaluate([], LABELS) == {}


class TestAnnotatedScores:
    """Rows with a mean opinion score: 7 or 8 for "high", 2 or 3 for "low"."""

    def rows(self, split: str) -> list[dict[str, Any]]:
        return [
            row | {"score": (7.0 if row["aesthetics"] == "high" else 2.0) + number // 2 % 2}
            for number, row in enumerate(contract_rows(split))
        ]

    def test_classes_have_mean_scores(self):
        partly = [row if number > 3 else row | {"score": None} for number, row in enumerate(self.rows("train"))]

        assert context(debug().model, self.rows("train")).config.class_scores == (7.5, 2.5)
        assert context(debug().model, partly).config.class_scores == pytest.approx((7.5, 2.5), abs=0.05)
        assert context(debug().model, contract_rows("train")).config.class_scores == ()

    def test_class_without_score_has_no_scores(self):
        rows = [row if row["aesthetics"] == "high" else row | {"score": None} for row in self.rows("train")]

        assert context(debug().model, rows).config.class_scores == ()

    def test_prediction_is_expected_score(self):
        task = network(class_scores=(7.5, 2.5)).eval()
        outputs = task.predict({"pixels": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)})

        expected = outputs["aesthetics"] @ torch.tensor([7.5, 2.5])
        assert torch.allclose(outputs["score"], expected)
        shown = present({name: value[0].numpy() for name, value in outputs.items()}, LABELS)
        assert shown["aesthetics"]["score"] == pytest.approx(float(expected[0]))

    def test_validation_reports_rank_correlation(self):
        run = Run(load_family("aesthetic_emotion"), longer(debug(), 1), self.rows("train"), self.rows("validation"))
        always = {head: torch.full((24, len(LABELS[head])), 1 / len(LABELS[head])) for head in HEADS}
        batch = stack([example(row, run.context, None) for row in self.rows("validation")])

        scores = evaluate([(batch, {**always, "score": batch["score"] ** 2})], LABELS)

        assert scores["aesthetics/SRCC"].value == pytest.approx(1)
        assert scores["aesthetics/SRCC"].count == 24
        assert "aesthetics/SRCC" not in evaluate([({**batch, "score": batch["score"] * np.nan}, always)], LABELS)


class TestRecipes:
    def test_training_learns_both_heads(self):
        run = Run(
            load_family("aesthetic_emotion"), longer(debug(), 6), contract_rows("train"), contract_rows("validation")
        )

        *_, last = run.reports()

        assert last.scores["aesthetics/balanced_accuracy"].value > 0.8
        assert last.scores["emotion/balanced_accuracy"].value > 0.8

    @pytest.mark.parametrize("architecture", ["resnet50", "seresnet50", "efficientnet_b3"])
    def test_paper_recipe_takes_a_step(self, architecture):
        task = AestheticEmotion(paper(architecture, "none").model.model_copy(update={"class_weights": WEIGHTS})).train()

        task(batch((0, 1), (0, 2), size=224))["loss"].backward()

        assert touched(task) >= {f"branches.{head}" for head in HEADS} | {f"cross.{stage}" for stage in range(4)}

    def test_demo_trains_only_its_parts(self):
        recipe = load_recipe("aesthetic_emotion", "demo", {"image_weights": "none"})
        task = AestheticEmotion(recipe.model.model_copy(update={"class_weights": WEIGHTS}))

        names = {name.split(".network.")[-1] for name, value in task.named_parameters() if value.requires_grad}

        assert {".".join(name.split(".")[:2]) for name in names if name.startswith("blocks")} == {
            "blocks.5",
            "blocks.6",
        }
        assert all(len(group) > 0 for group in task.parameter_groups().values())

    def test_baseline_trains_heads_only(self):
        recipe = load_recipe("aesthetic_emotion", "frozen", {"image_weights": "none"})
        task = AestheticEmotion(recipe.model.model_copy(update={"class_weights": WEIGHTS}))
        TrainingState(task, recipe, total_steps=1)

        assert {name.split(".")[0] for name, value in task.named_parameters() if value.requires_grad} == {"heads"}

    def test_unsupported_backbone_lists_supported(self):
        with pytest.raises(
            ConfigurationError, match=r"vit_tiny_patch16_224 cannot be run stage by stage: use a ResNet"
        ):
            network(image=ImageEncoderConfig(architecture="vit_tiny_patch16_224"))


def test_rows_of_one_split_make_one_batch():
    made = context(debug().model, contract_rows("train"))

    whole = stack([example(row, made, None) for row in contract_rows("validation")])

    assert whole["pixels"].shape == (24, 3, 32, 32)
    assert whole["emotion"].tolist() == [0, 1, 2] * 8
