"""contour: levels of one size, the balanced loss, a head that is not exported, and a readout that never peeks."""

import io
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from galleria.errors import BrokenMediaError, DataError
from galleria.families.contour.config import CONTOUR, NONE, UNCERTAIN, ContourConfig
from galleria.families.contour.data import context, example, present
from galleria.families.contour.evaluation import READOUT_PICTURES, evaluate
from galleria.families.contour.readout import Readout
from galleria.families.contour.recipes import debug, demo, frozen, paper
from galleria.families.contour.task import CHANNELS, Contour, balanced_cross_entropy
from galleria.learn.bundle import save_bundle
from galleria.learn.family import Context, load_family
from galleria.learn.training.augmentation import Augmentation
from tests.families.training import Run, chunks, longer

SIDE = 40
MOVES = Augmentation(rotation=30, shift=0.2, smallest=0.7, largest=1.3, shear=10, flip=0.5)


def png(image: Image.Image) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def shapes(seed: int) -> dict[str, Any]:
    """A row: coloured ellipses and boxes on white, and their outlines."""
    generator = np.random.default_rng(seed)
    picture, lines = Image.new("RGB", (SIDE, SIDE), "white"), Image.new("L", (SIDE, SIDE))
    for _ in range(2):
        left, top, width, height = generator.integers([2, 2, 10, 10], [18, 18, 20, 20]).tolist()
        box = (left, top, left + width, top + height)
        kind = "ellipse" if generator.random() < 0.5 else "rectangle"
        getattr(ImageDraw.Draw(picture), kind)(box, fill=tuple(generator.integers(0, 180, 3).tolist()))
        getattr(ImageDraw.Draw(lines), kind)(box, outline=255, width=2)
    return {"id": f"shapes {seed}", "image": png(picture), "contour": png(lines)}


def contract_rows(split: str) -> list[dict[str, Any]]:
    return [shapes(seed) for seed in (range(48) if split == "train" else range(100, 148))]


def network(**changes: Any) -> Contour:
    torch.manual_seed(0)
    return Contour(debug().model.model_copy(update=changes))


def pixels(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestNetwork:
    @pytest.mark.parametrize("squeeze", [False, True])
    @pytest.mark.parametrize("unification", ["bilinear", "nearest", "deconvolution"])
    def test_unification_makes_sizes_equal(self, unification, squeeze):
        task = network(unification=unification, squeeze=squeeze)

        before, bank = task.cascade(pixels()), task.bank(pixels())

        assert [tuple(maps.shape) for maps in before] == [
            (2, width, side, side) for width, side in zip(CHANNELS, (32, 16, 8, 4), strict=True)
        ]
        assert bank.shape == (2, 4, 16, 16, 16)

    def test_bilinear_averages_nearest_picks(self):
        square = torch.tensor([[0.0, 2.0], [4.0, 6.0]]).expand(1, 16, 2, 2)

        found = {kind: network(unification=kind).unify[0][1](square) for kind in ("bilinear", "nearest")}

        assert torch.equal(found["bilinear"], torch.full((1, 16, 1, 1), 3.0))
        assert torch.equal(found["nearest"], torch.full((1, 16, 1, 1), 0.0))

    def test_every_part_has_a_gradient(self):
        for unification, cascade in (("bilinear", "dense"), ("deconvolution", "plain")):
            task = network(unification=unification, cascade=cascade, squeeze=True)
            target = torch.randint(0, 2, (2, 16, 16), generator=torch.Generator().manual_seed(0))

            task({"pixels": pixels(), "contour": target})["loss"].backward()

            assert all(parameter.grad is not None and parameter.grad.any() for parameter in task.parameters())

    def test_squeeze_adds_layers(self):
        names = [name for name in network(squeeze=True).state_dict() if ".se." in name]

        assert len({name.split(".se.")[0] for name in names}) == 4
        assert not [name for name in network().state_dict() if ".se." in name]

    def test_groups_are_levels_and_heads(self):
        groups = network().parameter_groups()

        assert {name: len(parameters) > 0 for name, parameters in groups.items()} == {"levels": True, "heads": True}
        assert sum(p.numel() for p in groups["levels"]) == sum(p.numel() for p in network().levels.parameters())

    def test_dense_level_reads_all_before_it(self):
        task = network(cascade="dense", squeeze=True)
        found: list[torch.Tensor] = []
        for level in task.levels:
            level.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach()))

        before, bank = task.cascade(pixels()), task.bank(pixels())

        assert [tuple(maps.shape[1:]) for maps in before] == [(16, 32, 32), (32, 16, 16), (64, 8, 8), (128, 4, 4)]
        assert bank.shape == (2, 4, 16, 16, 16)
        assert [tuple(inputs.shape[1:]) for inputs in found[:4]] == [
            (3, 32, 32),
            (19, 32, 32),
            (51, 16, 16),
            (115, 8, 8),
        ]
        picture = F.adaptive_avg_pool2d(pixels().float() / 127.5 - 1, 8)
        assert torch.allclose(found[3][:, :3], picture, atol=1e-5)
        assert torch.equal(found[3][:, -64:], before[2])

    def test_fused_maps_are_what_the_head_reads(self):
        task = network(fused=True).eval()
        outputs = task.predict({"pixels": pixels()})
        exported = task.exported().predict({"pixels": pixels()})

        assert outputs["fused"].shape == (2, 64, 16, 16)
        contour = task.single(outputs["fused"]).squeeze(1).sigmoid()
        assert torch.allclose(outputs["contour"], contour, atol=1e-6)
        assert torch.allclose(exported["fused"], outputs["fused"], atol=1e-6)
        assert "fused" not in network().eval().predict({"pixels": pixels()})
        shown = present({name: value[0].numpy() for name, value in exported.items()}, {})
        assert np.array(shown["fused"]) == pytest.approx(exported["fused"][0].numpy())

    @pytest.mark.parametrize("size", [31, 36, 24])
    def test_size_must_be_multiple_of_eight(self, size):
        with pytest.raises(ValueError, match="size"):
            ContourConfig(size=size)


class TestLoss:
    target = torch.tensor([[[CONTOUR, NONE], [NONE, UNCERTAIN]]])

    def test_loss_weights_balance_classes(self):
        # |Y| = 3: the contour pixel weighs 2/3, the others 1.1 · 1/3; every term is ln 2
        expected = (2 / 3 + 2 * 1.1 / 3) * math.log(2) / 3

        assert balanced_cross_entropy(torch.zeros(1, 2, 2), self.target).item() == pytest.approx(expected)

    def test_uncertain_pixels_are_ignored(self):
        logits = torch.zeros(1, 2, 2, requires_grad=True)
        balanced_cross_entropy(logits, self.target).backward()
        other = torch.zeros(1, 2, 2)
        other[0, 1, 1] = 9

        assert (logits.grad != 0).tolist() == [[[True, True], [True, False]]]
        assert balanced_cross_entropy(other, self.target) == balanced_cross_entropy(torch.zeros(1, 2, 2), self.target)

    def test_pictures_are_balanced_separately(self):
        rare = torch.zeros(1, 4, 4, dtype=torch.long)
        rare[0, 0, 0] = CONTOUR
        half = torch.zeros(1, 4, 4, dtype=torch.long)
        half[0, :2] = CONTOUR
        logits = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(0))

        both = balanced_cross_entropy(logits, torch.cat([rare, half]))
        apart = [balanced_cross_entropy(logits[:1], rare), balanced_cross_entropy(logits[1:], half)]

        assert both.item() == pytest.approx(sum(apart).item() / 2)

    def test_unannotated_picture_has_no_loss(self):
        logits = torch.zeros(1, 2, 2, requires_grad=True)

        loss = balanced_cross_entropy(logits, torch.full((1, 2, 2), UNCERTAIN))
        loss.backward()

        assert loss.item() == 0
        assert not logits.grad.any()


class TestExport:
    def test_single_channel_layer_is_dropped(self, tmp_path):
        task = network().eval()
        family = load_family("contour")
        bundle = save_bundle(tmp_path / "bundle", family, family.context(task.config, []), task, {}, "# Card\n")

        served, trained = bundle.task(), task.predict({"pixels": pixels()})

        assert task.state_dict().keys() - served.state_dict().keys() == {"single.weight", "single.bias"}
        assert not bundle.context.config.head
        assert trained.keys() == {"bank", "contour"}
        assert served.predict({"pixels": pixels()}).keys() == {"bank"}
        assert torch.equal(served.predict({"pixels": pixels()})["bank"], trained["bank"])

    def test_training_continues_after_export(self):
        task = network()
        task.exported()

        loss = task.train()({"pixels": pixels(), "contour": torch.zeros(2, 16, 16, dtype=torch.uint8)})["loss"]

        assert loss.requires_grad

    def test_export_cannot_be_trained(self):
        with pytest.raises(AssertionError, match="no single-channel layer"):
            network(head=False)({"pixels": pixels(), "contour": torch.zeros(2, 16, 16)})


def made(**changes: Any) -> Context[ContourConfig]:
    return context(debug().model.model_copy(update=changes), [])


class TestExample:
    row = shapes(0)

    def test_shapes_and_types(self):
        found = example(self.row, made(), None)

        assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
            "pixels": ((3, 32, 32), "uint8"),
            "contour": ((16, 16), "uint8"),
        }
        assert 0.05 < (found["contour"] == CONTOUR).mean() < 0.5

    def test_query_is_a_picture_alone(self):
        found = example({"image": self.row["image"]}, made(), None)

        assert found.keys() == {"pixels"}
        assert np.array_equal(found["pixels"], example(self.row, made(), None)["pixels"])

    def test_unannotated_picture_is_uncertain(self):
        found = example({**self.row, "contour": None}, made(), np.random.default_rng(0))

        assert (found["contour"] == UNCERTAIN).all()

    def test_thresholds_classify_grey(self):
        values = np.repeat(np.repeat([[0, 25, 26, 127, 128, 255]], 2, 0), 2, 1)
        grey = np.zeros((32, 32), np.uint8)
        grey[:2, :12] = values

        found = example({"image": png(Image.new("RGB", (32, 32))), "contour": png(Image.fromarray(grey))}, made(), None)

        assert found["contour"][0, :6].tolist() == [NONE, NONE, UNCERTAIN, UNCERTAIN, CONTOUR, CONTOUR]

    def test_target_pixel_is_mean_of_four(self):
        grey = np.zeros((32, 32), np.uint8)
        grey[0, 0], grey[2, 0:2] = 255, 255

        found = example({"image": png(Image.new("RGB", (32, 32))), "contour": png(Image.fromarray(grey))}, made(), None)

        assert found["contour"][:3, 0].tolist() == [UNCERTAIN, CONTOUR, NONE]  # ¼, ½ and 0

    def test_contours_of_other_size_are_rejected(self):
        with pytest.raises(DataError, match=r"contours are 20 × 30 pixels, their picture 40 × 40: draw them"):
            example({**self.row, "contour": png(Image.new("L", (20, 30)))}, made(), None)

    @pytest.mark.parametrize("column", ["image", "contour"])
    def test_damaged_bytes_are_rejected(self, column):
        with pytest.raises(BrokenMediaError):
            example({**self.row, column: self.row[column][:60]}, made(), None)

    def test_margin_of_long_picture_has_no_contours(self):
        tall = {"image": png(Image.new("RGB", (10, 40))), "contour": png(Image.new("L", (10, 40), 255))}

        found = example(tall, made(), None)["contour"]

        assert (found[:, 6:10] == CONTOUR).all()
        assert (found[:, :5] == NONE).all()
        assert (found[:, 11:] == NONE).all()

    @pytest.mark.parametrize("seed", range(8))
    def test_picture_and_contours_move_together(self, seed):
        lines = Image.open(io.BytesIO(self.row["contour"]))
        drawing = {"image": png(lines.point(lambda value: 255 - value)), "contour": self.row["contour"]}
        still = example(drawing, made(), None)["contour"]

        found = example(drawing, made(augmentation=MOVES), np.random.default_rng(seed))
        dark = 1 - found["pixels"][0].reshape(16, 2, 16, 2).mean((1, 3)) / 255

        assert (dark[found["contour"] == CONTOUR] > 0.49).all()
        assert (dark[found["contour"] == NONE] < 0.11).all()
        assert not np.array_equal(found["contour"], still)

    def test_colours_change_in_picture_only(self):
        limits = Augmentation(brightness=0.9, contrast=0.9, hue=0.5, grey=0.5, blur=1, sharpening=1, noise=0.3)

        plain = example(self.row, made(), None)
        found = example(self.row, made(augmentation=limits), np.random.default_rng(0))

        assert np.array_equal(found["contour"], plain["contour"])
        assert not np.array_equal(found["pixels"], plain["pixels"])

    def test_uncovered_area_has_no_contours(self):
        limits = Augmentation(shift=0.5, smallest=0.5)
        full = {"image": png(Image.new("RGB", (32, 32))), "contour": png(Image.new("L", (32, 32), 255))}

        found = example(full, made(augmentation=limits), np.random.default_rng(0))

        white = found["pixels"][0].reshape(16, 2, 16, 2).min((1, 3)) == 255
        assert white.any()
        assert (found["contour"][white] == NONE).all()


def grid(*columns: int) -> torch.Tensor:
    """One 16 × 16 target with vertical lines."""
    target = torch.zeros(1, 16, 16, dtype=torch.uint8)
    target[:, :, list(columns)] = CONTOUR
    return target


def bank_of(target: torch.Tensor, channel: int = 5) -> torch.Tensor:
    bank = torch.zeros(len(target), 4, 16, 16, 16)
    bank.view(len(target), 64, 16, 16)[:, channel] = (target == CONTOUR).float()
    return bank


class TestEvaluate:
    def test_network_with_head_scores_contours(self):
        found = {"contour": (grid(3) == CONTOUR).float(), "bank": bank_of(grid(9))}

        scores = evaluate([({"contour": grid(3)}, found)], {})

        assert {name: score.value for name, score in scores.items()} == {"ODS": 1, "OIS": 1}

    def test_half_wrong_prediction_scores(self):
        scores = evaluate([({"contour": grid(3)}, {"contour": (grid(3, 9) == CONTOUR).float()})], {})

        assert scores["ODS"].value == pytest.approx(2 * 16 / (32 + 16))

    def test_unannotated_picture_is_dropped(self):
        target = torch.cat([grid(3), torch.full((1, 16, 16), UNCERTAIN, dtype=torch.uint8)])

        score = evaluate([({"contour": target}, {"contour": torch.zeros(2, 16, 16)})], {})["ODS"]

        assert (score.count, score.dropped) == (1, 1)

    def test_export_is_scored_by_readout(self):
        batches = [torch.cat([grid(3), grid(7)]), grid(11), torch.cat([grid(5), grid(2, 13)])]

        scores = evaluate([({"contour": target}, {"bank": bank_of(target)}) for target in batches], {})

        assert scores.keys() == {"readout/ODS", "readout/OIS"}
        assert scores["readout/ODS"].value == 1
        assert (scores["readout/ODS"].count, scores["readout/ODS"].dropped) == (3, 2)

    def test_batch_size_changes_nothing(self):
        targets = torch.cat([grid(line % 14 + 1) for line in range(3 * READOUT_PICTURES)])
        noise = torch.randn(bank_of(targets).shape, generator=torch.Generator().manual_seed(0))
        bank = bank_of(targets) + noise

        small = [
            ({"contour": t}, {"bank": b})
            for t, b in zip(targets.split(READOUT_PICTURES), bank.split(READOUT_PICTURES), strict=True)
        ]
        scores = evaluate([({"contour": targets}, {"bank": bank})], {})

        assert scores == evaluate(small, {})
        assert (scores["readout/ODS"].count, scores["readout/ODS"].dropped) == (2 * READOUT_PICTURES, READOUT_PICTURES)

    def test_readout_scores_unseen_pictures(self):
        # The channel says the opposite in the second batch: one that had seen it would do better than none.
        pairs = [({"contour": grid(3)}, {"bank": bank_of(grid(3))}), ({"contour": grid(3)}, {"bank": bank_of(grid(9))})]

        assert evaluate(pairs, {})["readout/ODS"].value == 0

    def test_random_features_score_low(self):
        noise = torch.randn(2, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
        pairs = [({"contour": grid(3)}, {"bank": noise[:1]}), ({"contour": grid(3)}, {"bank": noise[1:]})]

        assert evaluate(pairs, {})["readout/ODS"].value < 0.5

    def test_no_rows_give_nan(self):
        assert all(score.count == 0 for score in evaluate([], {}).values())


class TestReadout:
    def test_sums_equal_full_regression(self):
        generator = torch.Generator().manual_seed(0)
        bank = torch.randn(4, 2, 3, 8, 8, generator=generator)
        target = torch.randint(0, 3, (4, 8, 8), generator=generator)
        readout = Readout(6)
        for index in range(4):
            readout.learn(bank[index : index + 1], target[index : index + 1])
        whole = Readout(6)
        whole.learn(bank, target)

        assert readout.ready
        assert np.allclose(readout.predict(bank), whole.predict(bank), atol=1e-6)

    def test_readout_is_balanced_least_squares(self):
        bank = torch.randn(2, 1, 2, 16, 16, generator=torch.Generator().manual_seed(1))
        target = (bank[:, 0, 0] + 0.3 * bank[:, 0, 1] > 1).long()
        readout = Readout(2)
        readout.learn(bank, target)
        rows = np.c_[bank.flatten(1, 2).movedim(1, -1).reshape(-1, 2).numpy(), np.ones(512)]
        labels = target.flatten().numpy()
        share = np.where(labels == 1, 1 / (labels == 1).sum(), 1 / (labels == 0).sum()) ** 0.5

        weights = np.linalg.lstsq(rows * share[:, None], labels * share, rcond=None)[0]

        assert np.allclose(readout.predict(bank).ravel(), np.clip(rows @ weights, 0, 1), atol=5e-3)

    def test_readout_needs_both_classes(self):
        readout = Readout(64)
        readout.learn(torch.zeros(1, 4, 16, 16, 16), torch.zeros(1, 16, 16, dtype=torch.uint8))

        assert not readout.ready


def test_training_generalises_to_new_drawings():
    rows = contract_rows("train")
    run = Run(load_family("contour"), longer(debug(), 4), rows, contract_rows("validation")[:16])

    reports = list(run.reports())

    assert reports[-1].scores["ODS"].value > 0.6


def test_exported_network_scores_readout():
    run = Run(load_family("contour"), debug(), contract_rows("train"), contract_rows("validation"))
    exported = run.task.exported()

    pairs = [(b, exported.predict(b)) for b in run.examples.stream(chunks(run.validation, 12))]

    scores = evaluate(pairs, {})
    assert 0 < scores["readout/ODS"].low <= scores["readout/OIS"].value <= 1
    assert scores["readout/ODS"].dropped == 12


class TestAnswer:
    def answer(self, size: int = 32) -> Any:
        outputs = network(size=size).eval().predict({"pixels": pixels(1, size)})
        return present({name: value[0].numpy() for name, value in outputs.items()}, {})

    def test_response_is_small_and_plain(self):
        answer = self.answer()

        assert json.loads(json.dumps(answer)) == answer
        assert np.linalg.norm(answer["embedding"]) == pytest.approx(1, abs=1e-5)
        assert len(answer["embedding"]) == 64
        assert [(level["channels"], level["height"], level["width"]) for level in answer["levels"]] == [
            (16, 16, 16)
        ] * 4

    @pytest.mark.parametrize(("size", "side"), [(32, 16), (96, 28)])
    def test_map_is_coarse_and_within_one(self, size, side):
        found = np.array(self.answer(size)["map"])

        assert found.shape == (side, side)
        assert found.min() >= 0
        assert found.max() == 1

    def test_activity_is_mean_absolute_value(self):
        bank = np.zeros((4, 16, 2, 2), np.float32)
        bank[1, :, 0, 0], bank[1, :, 1, 1] = -4, 2

        answer = present({"bank": bank}, {})

        assert [level["activity"] for level in answer["levels"]] == [0, 1.5, 0, 0]
        assert answer["map"] == [[1, 0], [0, 0.5]]


class TestRecipes:
    def test_baseline_is_network_of_demo(self):
        assert frozen() == demo()

    @pytest.mark.parametrize("unification", ["bilinear", "nearest", "deconvolution"])
    def test_paper_recipe_has_patent_shapes(self, unification):
        recipe = paper(unification)
        task = Contour(recipe.model)
        target = torch.zeros(2, 112, 112, dtype=torch.uint8)
        target[:, 50] = CONTOUR

        assert task({"pixels": pixels(2, 224), "contour": target})["loss"].isfinite()
        assert task.eval().predict({"pixels": pixels(2, 224)})["bank"].shape == (2, 4, 16, 112, 112)
