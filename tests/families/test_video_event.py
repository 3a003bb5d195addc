"""video_event: rounds of attention over sampled frames, and the frames that an answer names."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchmetrics.functional.classification import multilabel_average_precision

from galleria.errors import BrokenMediaError, ConfigurationError, DataError, UnsupportedMediaError
from galleria.families.video_event import FAMILY
from galleria.families.video_event.config import VideoEventConfig
from galleria.families.video_event.data import context, example, present
from galleria.families.video_event.evaluation import evaluate
from galleria.families.video_event.recipes import debug
from galleria.families.video_event.task import VideoEvent, redundancy
from galleria.learn.examples import stack, without_pictures
from galleria.learn.family import Context
from galleria.learn.metrics.multi_label import average_precision, multi_label
from galleria.learn.recipes import load_recipe
from galleria.learn.training.augmentation import Augmentation
from galleria.learn.training.loop import TrainingState
from tests.families.training import Run, longer
from tests.media.films import film, numbered, numbers, solid, sound_only

COLOURS = {"amber": (230, 150, 30), "blue": (30, 60, 220), "grey": (120, 120, 120)}


@functools.cache
def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="films"))
    atexit.register(shutil.rmtree, made)
    return made


@functools.cache
def contract_rows(split: str) -> list[dict[str, Any]]:
    """Six grey seconds, of which one or two are in the colour of an event."""
    generator = np.random.default_rng(len(split))
    rows = []
    for index in range(24 if split == "train" else 12):
        events = [["amber"], ["blue"], ["amber", "blue"], []][index % 4]
        seconds = dict(zip(generator.permutation(6), events, strict=False))
        shown = [COLOURS[seconds.get(second, "grey")] for second in range(6)]
        file = folder() / f"{split}-{index}.mp4"
        file.write_bytes(film([solid(colour) for colour in shown for _ in range(2)], rate=2))
        rows.append({"id": file.stem, "video": str(file), "events": events, "split": split})
    return rows


def config(**changes: Any) -> VideoEventConfig:
    return debug().model.model_copy(update={"classes": 3, **changes})


def network(**changes: Any) -> VideoEvent:
    torch.manual_seed(0)
    return VideoEvent(config(**changes)).eval()


def batch(counts: tuple[int, ...] = (8, 5, 1), max_frames: int = 8) -> dict[str, torch.Tensor]:
    """Clips of so many frames, padded to `max_frames`."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(max_frames) < torch.tensor(counts)[:, None]
    frames = torch.randint(0, 256, (len(counts), max_frames, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {
        "frames": frames * mask[:, :, None, None, None],
        "frame_mask": mask,
        "seconds": torch.arange(max_frames).float() * mask,
        "events": torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])[: len(counts)],
        "label": torch.tensor([0, 2, 1])[: len(counts)],
    }


class TestPenalty:
    """Golden values of the specification, before the division by r²."""

    @pytest.mark.parametrize(
        ("attention", "expected"),
        [
            (torch.eye(3), 0.0),
            (torch.full((2, 2), 0.5), 1.0),
            (torch.tensor([[0.0, 1, 0], [0, 1, 0]]), 2.0),
            (torch.full((4, 16), 1 / 16), 3.5625),
        ],
        ids=["one frame each", "even rows", "two rows on one frame", "four even rows of sixteen"],
    )
    def test_similar_or_thin_rows_cost(self, attention, expected):
        assert redundancy(attention[None]).tolist() == pytest.approx([expected], abs=1e-6)

    def test_loss_adds_weighted_penalties(self):
        task = network(penalty=0.5)
        outputs = task(batch())
        _, attentions = task._logits(batch())

        expected = sum(redundancy(attention).mean() / attention.shape[1] ** 2 for attention in attentions)

        assert [attention.shape[1] for attention in attentions] == [4, 2]
        assert outputs["penalty"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert outputs["loss"].item() == pytest.approx(
            outputs["classification"].item() + 0.5 * outputs["penalty"].item(), rel=1e-5
        )

    def test_mean_pooling_has_no_penalty(self):
        for changes in ({"penalty": 0.0}, {"pooling": "mean"}, {"pooling": "random"}):
            assert network(**changes)(batch()).keys() == {"loss", "classification"}


class TestAttention:
    @pytest.mark.parametrize("rounds", [(4, 2), (8, 8), (6, 3, 1)])
    def test_rows_sum_to_one_without_padding(self, rounds):
        outputs = network(rounds=rounds).predict(batch())
        explanation = outputs["explanation"]

        assert explanation.shape == (3, rounds[-1], 8)
        assert torch.allclose(explanation.sum(2), torch.ones(3, rounds[-1]), atol=1e-6)
        assert (explanation[1, :, 5:] == 0).all()
        assert (explanation[2, :, 0] == 1).all()
        assert (explanation[0] > 0).all()

    def test_explanation_is_product_of_rounds(self):
        task = network()
        _, (first, second) = task._logits(batch())

        assert torch.allclose(task.predict(batch())["explanation"], second @ first, atol=1e-6)

    def test_frame_order_permutes_explanation(self):
        task, given = network(), batch((8,))
        order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
        plain, moved = task.predict(given), task.predict(given | {"frames": given["frames"][:, order]})

        assert torch.allclose(moved["probabilities"], plain["probabilities"], atol=1e-5)
        assert torch.allclose(moved["explanation"], plain["explanation"][:, :, order], atol=1e-5)
        assert not torch.allclose(moved["explanation"], plain["explanation"], atol=1e-5)

    @pytest.mark.parametrize("pooling", ["attention", "mean"])
    def test_padding_changes_nothing(self, pooling):
        task, given = network(pooling=pooling), batch((5, 3))
        dirty = given["frames"].clone()
        dirty[~given["frame_mask"]] = 255
        short = {name: value[:, :5] if value.ndim > 1 and name != "events" else value for name, value in given.items()}

        plain = task.predict(given)["probabilities"]

        assert torch.equal(task.predict(given | {"frames": dirty})["probabilities"], plain)
        assert torch.allclose(task.predict(short)["probabilities"], plain, atol=1e-6)

    def test_padding_leaves_statistics_unchanged(self):
        task, given = network().train(), batch((5, 3))
        dirty = given["frames"].clone()
        dirty[~given["frame_mask"]] = 255

        assert torch.equal(task(given)["loss"], task(given | {"frames": dirty})["loss"])

    def test_mean_pooling_is_uniform(self):
        explanation = network(pooling="mean").predict(batch())["explanation"]

        assert explanation.shape == (3, 1, 8)
        assert explanation[1, 0].tolist() == pytest.approx([0.2] * 5 + [0] * 3)

    def test_random_attention_is_fixed_and_saved(self):
        task = network(pooling="random")
        other = batch((8, 8, 8)) | {"frames": 255 - batch((8, 8, 8))["frames"]}
        weights = task.predict(batch((8, 8, 8)))["explanation"]

        assert torch.equal(task.predict(other)["explanation"], weights)
        assert torch.equal(weights[0], weights[1])
        assert torch.equal(task.exported().predict(other)["explanation"], weights)
        assert task.parameter_groups()["attention"] == []

    def test_single_round_is_rejected(self):
        for rounds in ((), (4,)):
            with pytest.raises(ConfigurationError, match=r"round\(s\) of attention: use 2 or more"):
                network(rounds=rounds)

    @pytest.mark.parametrize("rounds", [(9, 2), (4, 5), (4, 0)])
    def test_more_rows_than_frames_are_rejected(self, rounds):
        with pytest.raises(ConfigurationError, match="cannot keep its rows apart: use 1 to"):
            network(rounds=rounds)

    def test_as_many_rows_as_frames_are_allowed(self):
        assert network(rounds=(8, 8)).predict(batch())["explanation"].shape == (3, 8, 8)


class TestLearning:
    @pytest.mark.parametrize("labels", ["multi", "single"])
    def test_every_part_has_a_gradient(self, labels):
        task = network(labels=labels).train()
        task(batch())["loss"].backward()

        touched = {
            name: [parameter.grad is not None and bool(parameter.grad.abs().sum() > 0) for parameter in parameters]
            for name, parameters in task.parameter_groups().items()
        }
        assert touched.keys() == {"backbone", "attention", "classifier"}
        assert any(touched["backbone"])
        assert all(touched["attention"]) and all(touched["classifier"])

    def test_classification_trains_every_round(self):
        task = network(penalty=0.0).train()
        task(batch())["loss"].backward()

        for number in range(2):
            assert task.rounds[number].weighting.weight.grad.abs().sum() > 0

    def test_unlabelled_videos_are_not_classified(self):
        task, given = network(), batch()
        labelled = {name: value[:2] for name, value in given.items()}
        unlabelled = given | {"events": torch.tensor([[1.0, 0, 0], [0, 1, 1], [-1, -1, -1]])}

        assert task(unlabelled)["classification"].item() == pytest.approx(
            task(labelled)["classification"].item(), rel=1e-5
        )
        nobody = task(given | {"events": torch.full((3, 3), -1.0)})
        assert nobody["classification"].item() == 0
        nobody["loss"].backward()

    def test_single_labels_sum_to_one(self):
        found = network(labels="single").predict(batch())["probabilities"]

        assert torch.allclose(found.sum(1), torch.ones(3), atol=1e-6)

    def test_attention_learns_short_event(self):
        """Six frames, of which one or two show the event: after training the key frame is one of these."""
        recipe = longer(debug(), 14)
        run = Run(FAMILY, recipe, contract_rows("train"), contract_rows("validation"))
        reports = list(run.reports())
        assert reports[-1].scores["mAP"].value > 0.9

        hits = []
        for one in contract_rows("validation"):
            if len(one["events"]) == 1:
                given = stack([example(one, run.context, None)])
                outputs = run.task.eval().predict(given)
                means = outputs["explanation"][0].mean(0)
                colours = given["frames"][0].float().mean((2, 3))
                hits.append(bool(colours[means.argmax()].std() > 20))  # grey has none
        assert np.mean(hits) > 0.8


def row(**changes: Any) -> dict[str, Any]:
    return {"video": film(numbered(60)), "events": ["walk"], **changes}


def shown(events: tuple[str, ...] = ("fall", "jump", "walk"), **changes: Any) -> Context[VideoEventConfig]:
    return Context(config(classes=len(events), **changes), {"event": events})


class TestExamples:
    def test_example_pads_frames_with_mask(self):
        made = example(row(), shown(), None)

        assert {name: (value.dtype.name, value.shape) for name, value in made.items()} == {
            "frames": ("uint8", (8, 3, 32, 32)),
            "frame_mask": ("bool", (8,)),
            "seconds": ("float32", (8,)),
            "events": ("float32", (3,)),
        }
        assert made["frame_mask"].tolist() == [True] * 6 + [False] * 2
        assert made["seconds"].tolist() == [0, 1, 2, 3, 4, 5, 0, 0]
        assert numbers(made["frames"][:6]) == [0, 10, 20, 30, 40, 50]
        assert (made["frames"][6:] == 0).all()

    @pytest.mark.parametrize(
        ("frames", "rate", "expected"), [(8, 1.0, 6), (4, 1.0, 4), (8, 0.5, 3), (16, 2.0, 12), (1, 1.0, 1)]
    )
    def test_rate_and_cap_set_frame_count(self, frames, rate, expected):
        made = example(row(), shown(frames=frames, rate=rate, rounds=(1, 1)), None)

        assert made["frame_mask"].sum() == expected
        assert made["frames"].shape[0] == frames

    def test_path_and_bytes_give_same_example(self, tmp_path):
        (tmp_path / "film.mp4").write_bytes(row()["video"])

        one, other = (
            example(row(video=video), shown(), None) for video in (str(tmp_path / "film.mp4"), row()["video"])
        )

        assert all(np.array_equal(one[name], other[name]) for name in one)

    def test_query_has_only_the_video(self):
        assert example({"video": row()["video"]}, shown(), None).keys() == {"frames", "frame_mask", "seconds"}

    @pytest.mark.parametrize(
        ("events", "expected"),
        [(["walk", "fall"], [1, 0, 1]), ([], [0, 0, 0]), (None, [-1, -1, -1])],
        ids=["two", "none", "unlabelled"],
    )
    def test_example_marks_events_by_name(self, events, expected):
        assert example(row(events=events), shown(), None)["events"].tolist() == expected

    def test_single_label_is_an_index(self):
        single = shown(labels="single")

        assert example(row(events=["jump"]), single, None)["label"] == 1
        assert example(row(events=None), single, None)["label"] == -1
        for events in ([], ["jump", "walk"]):
            with pytest.raises(
                DataError, match=f"exactly one event, not {len(events)}: name one, or set labels='multi'"
            ):
                example(row(events=events), single, None)

    def test_unknown_event_lists_choices(self):
        with pytest.raises(DataError, match="'swim' is not one of the training videos: use one of fall, jump, walk"):
            example(row(events=["swim"]), shown(), None)

    def test_training_clip_is_part_of_video(self):
        starts = set()
        for seed in range(6):
            made = example(row(), shown(smallest_part=0.5), np.random.default_rng(seed))
            times = made["seconds"][made["frame_mask"]]
            assert 3 <= len(times) <= 6 and times[-1] < 6
            assert np.diff(times) == pytest.approx(1, abs=0.11)
            starts.add(float(times[0]))
        assert len(starts) > 3

    def test_clip_frames_are_augmented_alike(self):
        still = film([solid((200, 90, 40))] * 60)
        strong = shown(augmentation=Augmentation(flip=0.5, brightness=0.5, saturation=0.5, rotation=30))

        made = example(row(video=still), strong, np.random.default_rng(3))
        plain = example(row(video=still), strong, None)

        seen = made["frames"][made["frame_mask"]].astype(int)
        assert np.abs(seen - seen[0]).max() <= 2
        assert np.abs(seen[0] - plain["frames"][0]).max() > 20

    def test_bad_video_is_rejected(self):
        for video, error in (
            (b"", BrokenMediaError),
            (None, BrokenMediaError),
            (sound_only(), UnsupportedMediaError),
            (film(numbered(5)), DataError),
            ("/nowhere.mp4", DataError),
        ):
            with pytest.raises(error):
                example({"video": video}, shown(), None)

    def test_labels_are_sorted_training_events(self):
        rows = [{"events": ["walk", "fall"]}, {"events": None}, {"events": []}, {"events": ["climb", "walk"]}]

        found = context(config(classes=0), rows)

        assert found.labels == {"event": ("climb", "fall", "walk")}
        assert found.config.classes == 3
        with pytest.raises(DataError, match="no training video has an event: fill the column 'events'"):
            context(config(), [{"events": None}, {"events": []}])


class TestScores:
    TRUTH = np.array([[1, 0], [0, 1], [1, 0], [0, 0]], np.float64)

    def test_average_precision_worked_by_hand(self):
        """Ranks 1 and 3 of 4 are positive: (1 + 2/3) / 2."""
        found = average_precision(np.array([0.9, 0.8, 0.7, 0.1]), self.TRUTH[:, 0], np.ones((1, 4)))

        assert found.tolist() == pytest.approx([5 / 6])

    def test_weights_count_as_repetitions(self):
        """The first video three times, the third not at all: every positive is ranked first."""
        found = average_precision(
            np.array([0.9, 0.8, 0.7, 0.1]), self.TRUTH[:, 0], np.array([[3.0, 1, 0, 0], [0, 1, 0, 3]])
        )

        assert found[0] == 1
        assert np.isnan(found[1])

    def test_ties_share_the_last_rank(self):
        found = average_precision(np.full(4, 0.5), self.TRUTH[:, 0], np.ones((1, 4)))

        assert found.tolist() == [0.5]

    @pytest.mark.parametrize("seed", range(5))
    def test_values_equal_torchmetrics(self, seed):
        generator = np.random.default_rng(seed)
        probabilities = generator.random((60, 4)).round(1 + seed % 2)
        truth = (generator.random((60, 4)) < [0.5, 0.3, 0.1, 0.7]).astype(np.float64)

        found = multi_label(probabilities, truth, ["a", "b", "c", "d"])

        theirs = multilabel_average_precision(
            torch.from_numpy(probabilities), torch.from_numpy(truth).long(), 4, average=None, thresholds=None
        )
        assert [found[f"AP/{name}"].value for name in "abcd"] == pytest.approx(theirs.tolist(), abs=1e-6)
        assert found["mAP"].value == pytest.approx(theirs.mean().item(), abs=1e-6)

    def test_prevalence_is_score_of_chance(self):
        generator = np.random.default_rng(0)
        truth = (generator.random((4000, 3)) < [0.2, 0.5, 0.8]).astype(np.float64)

        found = multi_label(generator.random((4000, 3)), truth, ["a", "b", "c"])

        assert found["prevalence/mAP"].value == pytest.approx(truth.mean())
        assert found["mAP"].value == pytest.approx(found["prevalence/mAP"].value, abs=0.03)

    def test_interval_resamples_videos(self):
        generator = np.random.default_rng(1)
        truth = (generator.random((80, 2)) < 0.4).astype(np.float64)
        probabilities = 0.5 * truth + generator.random((80, 2))
        values = []
        for _ in range(400):
            drawn = generator.integers(0, 80, 80)
            once = np.ones((1, 80))
            values.append(np.mean([average_precision(probabilities[drawn, k], truth[drawn, k], once) for k in (0, 1)]))

        found = multi_label(probabilities, truth, ["a", "b"])["mAP"]

        assert (found.low, found.high) == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=0.03)
        assert multi_label(probabilities, truth, ["a", "b"])["mAP"] == found

    def test_unlabelled_and_absent_are_dropped(self):
        truth = np.array([[1, 0], [0, 0], [-1, -1]], np.float64)

        found = multi_label(np.array([[0.9, 0.4], [0.1, 0.3], [0.5, 0.5]]), truth, ["a", "b"])

        assert found.keys() == {"mAP", "prevalence/mAP", "AP/a", "ECE", "ECE/scaled", "temperature"}
        assert found["ECE"].value == pytest.approx((0.1 + 0.4 + 0.1 + 0.3) / 4)  # each alone in its bin
        assert (found["mAP"].value, found["mAP"].count, found["mAP"].dropped) == (1, 2, 1)
        assert np.isnan(multi_label(np.zeros((1, 2)), -np.ones((1, 2)), ["a", "b"])["mAP"].value)

    def test_evaluate_needs_no_frames(self):
        task, given = network(), batch()
        given.pop("label")
        outputs = task.predict(given)
        names = {"event": ("a", "b", "c")}

        found = evaluate([(without_pictures(given), outputs)], names)

        assert {"mAP", "prevalence/mAP", "AP/a"} <= found.keys()
        assert evaluate([], names) == {}

    def test_single_labels_are_classification(self):
        given = {name: value for name, value in batch().items() if name != "events"}
        outputs = {"probabilities": torch.tensor([[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1]])}

        found = evaluate([(without_pictures(given), outputs)], {"event": ("a", "b", "c")})

        assert found["accuracy"].value == pytest.approx(2 / 3)
        assert "majority/accuracy" in found


OUTPUTS = {
    "probabilities": np.array([0.2, 0.9, 0.5], np.float32),
    "threshold": np.float32(0.5),
    "explanation": np.array([[0.1, 0.2, 0.7, 0, 0], [0.1, 0.6, 0.3, 0, 0]], np.float32),
    "frame_mask": np.array([True, True, True, False, False]),
    "seconds": np.array([0, 1.5, 3.0004, 0, 0], np.float32),
}
LABELS = {"event": ("climb", "fall", "jump")}


class TestAnswers:
    def test_events_are_sorted_by_probability(self):
        events = present(OUTPUTS, LABELS)["events"]

        assert [(event["name"], event["over_threshold"]) for event in events] == [
            ("fall", True),
            ("jump", True),
            ("climb", False),
        ]
        assert [event["probability"] for event in events] == pytest.approx([0.9, 0.5, 0.2])

    def test_key_frames_are_timeline_peaks(self):
        answer = present(OUTPUTS, LABELS)

        assert [frame["seconds"] for frame in answer["timeline"]] == [0, 1.5, 3.0]
        assert [frame["attention"] for frame in answer["timeline"]] == pytest.approx([0.1, 0.4, 0.5])
        assert [frame["seconds"] for frame in answer["key_frames"]] == [3.0, 1.5, 0]

    def test_attention_of_response_sums_to_one(self):
        task = network()
        given = stack([example({"video": row()["video"]}, shown(), None)])
        outputs = {name: value[0].numpy() for name, value in task.predict(given).items()}

        answer = present(outputs, {"event": ("fall", "jump", "walk")})

        assert sum(frame["attention"] for frame in answer["timeline"]) == pytest.approx(1, abs=1e-5)
        assert len(answer["timeline"]) == 6
        assert len(answer["key_frames"]) == 3


class TestRecipes:
    def test_paper_recipe_takes_a_step(self):
        recipe = load_recipe("video_event", "paper", {"image_weights": "none"})
        model = recipe.model.model_copy(update={"classes": 5})
        task = VideoEvent(model).train()
        frames = torch.zeros(2, 16, 3, 224, 224, dtype=torch.uint8)
        mask = torch.arange(16) < torch.tensor([[2], [1]])
        given = {"frames": frames, "frame_mask": mask, "seconds": torch.zeros(2, 16), "events": torch.zeros(2, 5)}

        loss = task(given)["loss"]
        loss.backward()

        assert (model.rate, model.frames, model.rounds, model.penalty, model.size) == (1, 16, (4, 2), 0.03, 224)
        assert torch.isfinite(loss)
        assert task.image.width == 2048
        assert task.eval().predict(given)["explanation"].shape == (2, 2, 16)

    @pytest.mark.parametrize("image", ["seresnet50", "efficientnet_b3"])
    def test_paper_encoders_build(self, image):
        model = load_recipe("video_event", "paper", {"image": image, "image_weights": "none"}).model

        assert VideoEvent(model.model_copy(update={"classes": 2})).image.width > 1000

    def test_rates_match_specification(self):
        optimization = load_recipe("video_event", "paper").optimization

        assert optimization.learning_rate == 1e-3
        assert optimization.learning_rate * optimization.rates["backbone"] == pytest.approx(1e-4)

    def test_single_labels_monitor_accuracy(self):
        assert load_recipe("video_event", "paper", {"labels": "single"}).stopping.metric == "accuracy"

    def test_baseline_trains_linear_layer_only(self, tmp_path):
        weights = tmp_path / "lite0.safetensors"
        save_file(timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict(), weights)
        recipe = load_recipe("video_event", "frozen", {"image_weights": str(weights)})
        task = VideoEvent(recipe.model.model_copy(update={"classes": 4}))

        state = TrainingState(task, recipe, 10)

        trained = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for p in task.classifier.parameters()}
        assert [p.shape for p in task.classifier.parameters()] == [(4, 1280), (4,)]
