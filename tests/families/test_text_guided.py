"""text_guided: texts guide the training of a picture encoder that then serves alone."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from galleria.errors import BrokenMediaError, ConfigurationError, DataError
from galleria.families.text_guided.config import LossWeights, TextGuidedConfig
from galleria.families.text_guided.data import ROLES, context, example, present
from galleria.families.text_guided.evaluation import evaluate
from galleria.families.text_guided.recipes import debug
from galleria.families.text_guided.task import TextGuided
from galleria.learn.bundle import save_bundle
from galleria.learn.encoders.config import TOKENIZER, ImageEncoderConfig, TextEncoderConfig
from galleria.learn.encoders.tokens import tokenize
from galleria.learn.examples import stack
from galleria.learn.family import load_family
from galleria.learn.losses.mining import Mining
from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Optimization
from galleria.learn.recipes import load_recipe
from galleria.learn.training.loop import TrainingState, fit
from tests.drawings import drawing, product_rows
from tests.families.training import Run, chunks, longer
from tests.learn.losses.test_softmax import matrices
from tests.media.test_variants import COLOURED

GPT = TextEncoderConfig(
    architecture={
        "model_type": "gpt2",
        "vocab_size": 300,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": 16,
        "bos_token_id": 0,
        "eos_token_id": 0,
    },
    pooling="last",
    tokens=16,
)

IMAGE_SOFTMAX = LossWeights(difference=0, text_softmax=0)


def contract_rows(split: str) -> list[dict[str, Any]]:
    return product_rows(24, "train") if split == "train" else product_rows(12, "validation", first=24)


def config(**changes: Any) -> TextGuidedConfig:
    return debug().model.model_copy(update={"classes": 4, **changes})


def network(**changes: Any) -> TextGuided:
    torch.manual_seed(0)
    return TextGuided(config(**changes))


def batch(labels: tuple[int, ...] = (0, 1, 2, 3), size: int = 32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    count = len(labels)
    lengths = torch.arange(count) % 5 + 3
    mask = (torch.arange(16) < lengths[:, None]).long()
    return {
        "pixels": torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.tensor(labels),
        "tokens": torch.randint(1, 300, (count, 16), generator=generator) * mask,
        "token_mask": mask,
    }


def without_text(of: Mapping[str, torch.Tensor], *rows: int) -> dict[str, torch.Tensor]:
    changed = {name: value.clone() for name, value in of.items()}
    for row in rows:
        changed["tokens"][row] = 0
        changed["token_mask"][row] = 0
    return changed


def touched(task: TextGuided) -> set[str]:
    """The first part of the name of every parameter that has a gradient other than zero."""
    return {
        name.split(".")[0]
        for name, parameter in task.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


class TestVectors:
    def test_both_towers_give_unit_vectors(self):
        outputs = network().eval().predict(batch())

        assert outputs["embedding"].shape == outputs["text_embedding"].shape == (4, 32)
        for vectors in outputs.values():
            assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)

    def test_either_input_alone_is_enough(self):
        task = network().eval()
        both = task.predict(batch())

        pictures = task.predict({"pixels": batch()["pixels"]})
        texts = task.predict({name: batch()[name] for name in ("tokens", "token_mask")})

        assert pictures.keys() == {"embedding"}
        assert texts.keys() == {"text_embedding"}
        assert torch.equal(pictures["embedding"], both["embedding"])
        assert torch.equal(texts["text_embedding"], both["text_embedding"])

    def test_text_vector_is_independent_of_batch(self):
        task = network().eval()
        alone = {name: batch()[name][:1] for name in ("tokens", "token_mask")}

        vectors = task.predict(batch())["text_embedding"]

        assert torch.allclose(task.predict(alone)["text_embedding"], vectors[:1], atol=1e-5)

    def test_repeated_text_has_one_vector(self):
        repeated = batch()
        repeated["tokens"][2], repeated["token_mask"][2] = repeated["tokens"][0], repeated["token_mask"][0]

        vectors = network().eval().predict(repeated)["text_embedding"]

        assert torch.equal(vectors[0], vectors[2])
        assert not torch.equal(vectors[0], vectors[1])

    @pytest.mark.parametrize(
        ("architecture", "text"),
        [("resnet50", None), ("seresnet50", None), ("efficientnet_b3", None), ("test_resnet", GPT)],
        ids=["ResNet50", "SE-ResNet50", "EfficientNet-B3", "GPT-style text"],
    )
    def test_patent_encoders_build_and_train(self, architecture, text):
        task = network(
            image=ImageEncoderConfig(architecture=architecture), text=text or debug().model.text, size=64, dimension=24
        ).train()

        task(batch(size=64))["loss"].backward()

        assert task.embed_images(batch(size=64)["pixels"]).shape == (4, 24)
        assert {"image", "image_head", "text", "text_head"} <= touched(task)

    def test_no_head_returns_backbone_features(self):
        task = network(head="none", text=None, dimension=96).eval()

        features = F.normalize(task.image(batch()["pixels"]), dim=1)

        assert torch.equal(task.predict(batch())["embedding"], features)

    def test_no_head_requires_backbone_dimension(self):
        with pytest.raises(ConfigurationError, match=r"head='none'.*dimension=96"):
            network(head="none", dimension=100)


class TestLoss:
    def test_loss_is_weighted_sum_of_terms(self):
        losses = LossWeights(**{name: index + 2 for index, name in enumerate(LossWeights.model_fields)})

        outputs = network(losses=losses).eval()(batch((0, 0, 1, 1)))

        assert outputs.keys() == {"loss", *LossWeights.model_fields}
        expected = sum(getattr(losses, name) * outputs[name] for name in LossWeights.model_fields)
        assert torch.allclose(outputs["loss"], expected)

    @pytest.mark.parametrize("term", LossWeights.model_fields)
    def test_zero_weight_drops_term(self, term):
        everything = dict.fromkeys(LossWeights.model_fields, 1.0)

        outputs = network(losses=LossWeights(**(everything | {term: 0.0}))).eval()(batch())

        assert outputs.keys() == {"loss", *everything} - {term}

    @pytest.mark.parametrize("labels", [tuple(range(8)), (0, 0, 1, 1, 1, 2, 3, 3)], ids=["one picture each", "several"])
    def test_alignment_includes_own_text(self, labels):
        """Supervised contrastive loss (Khosla et al., 2020) between pictures and texts, in both directions."""
        task = network(losses=LossWeights(alignment=1.0), slices=(), classes=8).eval()
        several = batch(labels)
        vectors = task.predict(several)
        scaled = vectors["embedding"] @ vectors["text_embedding"].T / 0.05
        same = several["label"][:, None] == several["label"][None]
        expected = 0.0
        for logits in (scaled, scaled.T):
            expected += (-(logits.log_softmax(1) * same).sum(1) / same.sum(1)).mean() / 2

        outputs = task(several)
        outputs["alignment"].backward()

        assert outputs["alignment"].item() == pytest.approx(expected.item(), rel=1e-4)
        assert outputs["alignment"] > 0.1
        assert {"image_head", "text_head"} <= touched(task)

    def test_difference_is_of_served_vectors(self):
        task = network().eval()
        served = task.predict(batch())

        expected = (served["embedding"] - served["text_embedding"]).square().sum(1).mean()

        assert torch.allclose(task(batch())["difference"], expected, atol=1e-6)

    def test_softmax_averages_unit_slices(self):
        task = network(slices=(8, 16)).eval()
        vectors = task.predict(batch())["embedding"]

        parts = [
            F.cross_entropy(
                16 * F.normalize(vectors[:, :width], dim=1) @ task.image_classes.weight[:, :width].T, batch()["label"]
            )
            for width in (8, 16, 32)
        ]

        assert torch.allclose(task(batch())["image_softmax"], sum(parts) / 3, atol=1e-5)

    def test_long_slices_count_once(self):
        wide, plain = network(slices=(32, 64, 256)).eval(), network(slices=()).eval()

        assert torch.equal(wide(batch())["loss"], plain(batch())["loss"])

    def test_difference_trains_both_towers(self):
        task = network(losses=LossWeights(image_softmax=0, text_softmax=0)).train()

        task(batch())["loss"].backward()

        assert touched(task) == {"image", "image_head", "text", "text_head"}

    def test_text_rate_zero_freezes_text_tower(self):
        task = network(losses=LossWeights(image_softmax=0, text_softmax=0))
        recipe = debug().model_copy(update={"optimization": Optimization(rates={"text": 0})})
        TrainingState(task, recipe, total_steps=1)

        task.train()(batch())["loss"].backward()

        assert touched(task) == {"image", "image_head", "text_head"}
        assert not task.text.training
        assert task.image.training

    def test_picture_softmax_skips_text_tower(self):
        task = network(losses=LossWeights(difference=0, text_softmax=0)).train()

        task(batch())["loss"].backward()

        assert touched(task) == {"image", "image_head", "image_classes"}


class TestManyClasses:
    def test_memory_does_not_grow_with_slices(self):
        peaks = [
            matrices(network(classes=3000, slices=slices, losses=IMAGE_SOFTMAX, text=None), batch(), 3000)
            for slices in ((4,), (4, 8, 16))
        ]

        assert 0 < peaks[1] <= peaks[0]

    def test_sampled_softmax_scores_part_of_classes(self):
        task = network(classes=3000, sampled_classes=50, losses=IMAGE_SOFTMAX, text=None)

        assert matrices(task, batch(), 3000) == 0
        assert int((task.image_classes.weight.grad != 0).any(1).sum()) == 50

    def test_sampling_all_classes_is_softmax(self):
        losses = [network(sampled_classes=count)(batch()) for count in (0, 4)]

        assert losses[0].keys() == losses[1].keys()
        for name, value in losses[0].items():
            assert torch.equal(value, losses[1][name]), name


class TestMining:
    def test_memory_is_not_exported(self):
        task = network(mining=Mining(memory_size=8), losses=LossWeights(contrastive=1.0))
        before = [float(task(batch((0, 0, 1, 1)))["contrastive"].detach()) for _ in range(2)]

        assert before[0] != before[1]  # the second time there are earlier rows
        assert any(name.startswith("mined.") for name in task.state_dict())
        assert not any(name.startswith("mined.") for name in task.exported().state_dict())

    @pytest.mark.parametrize("miner", ["multi_similarity", "batch_hard", "pair_margin"])
    def test_miner_changes_pairs_of_batch(self, miner):
        losses = LossWeights(contrastive=1.0)
        plain, mined = (
            network(mining=Mining(miner=name), losses=losses)(batch((0, 0, 1, 1, 2, 2))) for name in ("none", miner)
        )

        assert mined["contrastive"].isfinite()
        assert mined["contrastive"].item() != plain["contrastive"].item()


class TestMissingText:
    TEXT_TERMS = ("difference", "text_softmax", "sigmoid")

    def test_missing_text_is_not_in_text_terms(self):
        task = network(losses=LossWeights(sigmoid=1)).eval()
        with_text = {name: value[[0, 2, 3]] for name, value in batch().items()}

        outputs, expected = task(without_text(batch(), 1)), task(with_text)

        for term in self.TEXT_TERMS:
            assert torch.allclose(outputs[term], expected[term], atol=1e-6)

    @pytest.mark.parametrize("term", TEXT_TERMS)
    def test_missing_text_has_no_text_gradient(self, term):
        task = network(losses=LossWeights(sigmoid=1)).eval()
        some = without_text(batch(), 1)
        some["pixels"] = some["pixels"].float().requires_grad_()

        reached = torch.autograd.grad(task(some)[term], some["pixels"], allow_unused=True)[0]

        if term == "text_softmax":
            assert reached is None  # it is about texts alone
        else:
            assert (reached.flatten(1).abs().sum(1) > 0).tolist() == [True, False, True, True]

    def test_missing_text_trains_picture_tower(self):
        task = network().eval()
        some = without_text(batch(), 1)
        some["pixels"] = some["pixels"].float().requires_grad_()

        task(some)["image_softmax"].backward()

        assert (some["pixels"].grad.flatten(1).abs().sum(1) > 0).all()

    def test_batch_without_text_trains_pictures(self):
        task = network(losses=LossWeights(sigmoid=1)).train()

        outputs = task(without_text(batch(), 0, 1, 2, 3))
        outputs["loss"].backward()

        assert outputs.keys() == {"loss", "image_softmax"}
        assert touched(task) == {"image", "image_head", "image_classes"}

    def test_gradients_are_always_finite(self):
        for missing in ([], [0], [1, 3], [0, 1, 2, 3]):
            task = network(losses=LossWeights(sigmoid=1, contrastive=1)).train()
            task(without_text(batch((0, 0, 1, 1)), *missing))["loss"].backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in task.parameters())

    def test_missing_and_empty_text_mask_nothing(self):
        rows = product_rows(2)
        made = context(debug().model, rows)

        for text in (None, ""):
            assert example({**rows[0], "text": text}, made, None)["token_mask"].sum() == 0
        assert example(rows[0], made, None)["token_mask"].sum() > 0

    def test_empty_text_with_special_tokens_is_missing(self):
        rows = product_rows(2)
        made = context(debug().model, rows)
        marking = tokenizers.Tokenizer.from_buffer(made.files[TOKENIZER])
        marking.post_processor = tokenizers.processors.TemplateProcessing(
            "<pad> $A <pad>", special_tokens=[("<pad>", 0)]
        )
        marked = dataclasses.replace(made, files={TOKENIZER: marking.to_str().encode()})

        assert tokenize([""], marked.files[TOKENIZER], 16)[1].sum() == 2
        assert example({"text": ""}, marked, None)["token_mask"].sum() == 0
        assert example({"text": "thing"}, marked, None)["token_mask"].sum() > 2


class TestWarmStart:
    def started(self, **changes: Any) -> tuple[Run, list[dict[str, torch.Tensor]]]:
        model = debug().model.model_copy(update={"warm_start": True, **changes})
        recipe = longer(debug(), epochs=1).model_copy(update={"model": model})
        run = Run(load_family("text_guided"), recipe, contract_rows("train"), contract_rows("train"))
        batches = list(run.examples.stream(chunks(run.train, 32)))
        return run, batches

    def test_warm_heads_separate_products(self):
        run, batches = self.started()
        before = run.evaluate(run.task.eval())

        run.task.warm_start(batches)

        after = run.evaluate(run.task.eval())
        assert before["text/R@1"].value < 0.3
        assert after["text/R@1"].value > 0.9
        assert after["mAP@R"].value >= before["mAP@R"].value

    def test_class_weights_match_class_vectors(self):
        run, batches = self.started()
        run.task.warm_start(batches)

        vectors = torch.cat([run.task.eval().predict(batch)["embedding"] for batch in batches])
        nearest = (vectors @ run.task.image_classes.weight.T).argmax(1)

        assert (nearest == torch.cat([batch["label"] for batch in batches])).float().mean() > 0.95

    def test_encoders_are_unchanged(self):
        run, batches = self.started()
        before = {name: value.clone() for name, value in run.task.state_dict().items()}

        run.task.warm_start(batches)

        changed = {name.split(".")[0] for name, value in run.task.state_dict().items() if (value != before[name]).any()}
        assert changed == {"image_head", "image_classes", "text_head", "text_classes"}

    @pytest.mark.parametrize("changes", [{"warm_start": False}, {"head": "none", "dimension": 96}])
    def test_no_option_or_head_changes_nothing(self, changes):
        run, batches = self.started(**changes)
        before = {name: value.clone() for name, value in run.task.state_dict().items()}

        run.task.warm_start(batches)

        assert all(torch.equal(value, before[name]) for name, value in run.task.state_dict().items())

    def test_warm_start_works_without_text(self):
        run, batches = self.started(text=None)

        run.task.warm_start(batches)

        assert run.evaluate(run.task.eval())["R@1"].value > 0.9


class TestRecipes:
    @pytest.mark.parametrize("image", ["resnet50", "seresnet50", "efficientnet_b3"])
    @pytest.mark.parametrize("text", ["bert", "gpt2"])
    def test_paper_recipe_has_patent_encoders(self, image, text):
        model = load_recipe("text_guided", "paper", {"image": image, "text": text}).model

        assert (model.image.architecture, model.text.architecture["model_type"]) == (image, text)
        assert model.text.pooling == {"bert": "mean", "gpt2": "last"}[text]
        assert (model.size, model.dimension) == (224, 256)

    def test_unknown_encoder_is_rejected(self):
        with pytest.raises(ConfigurationError, match="option 'image'"):
            load_recipe("text_guided", "paper", {"image": "vgg16"})

    def test_baseline_is_backbone_alone(self):
        model = load_recipe("text_guided", "frozen", {"image_weights": "none"}).model

        vectors = TextGuided(model).eval().predict({"pixels": batch()["pixels"]})["embedding"]

        assert vectors.shape == (4, 1280)


def spread(run: Run) -> float:
    """1 − ‖mean vector‖²: 0 where every picture has the same vector, near 1 where they point everywhere."""
    pixels = next(run.examples.stream([run.validation]))["pixels"]
    vectors = run.task.eval().predict({"pixels": pixels})["embedding"]
    return 1 - float(vectors.mean(0).square().sum())


class TestCollapse:
    def spread_after(self, losses: LossWeights) -> float:
        recipe = longer(debug(), epochs=30).model_copy(
            update={
                "model": debug().model.model_copy(update={"losses": losses}),
                "optimization": Optimization(learning_rate=1e-2),
            }
        )
        run = Run(load_family("text_guided"), recipe, contract_rows("train"), contract_rows("validation"))
        same = list(run.batches(0))
        list(fit(run.task, recipe, lambda _: same, lambda _: {"R@1": Score(0, 0, 0, 1)}, run.state))
        return spread(run)

    def test_difference_alone_collapses(self):
        assert self.spread_after(LossWeights(difference=1, image_softmax=0, text_softmax=0)) < 0.02

    def test_full_loss_does_not_collapse(self):
        assert self.spread_after(LossWeights()) > 0.5


class TestExport:
    def test_picture_tower_has_no_other_weights(self):
        exported = network(keep_text=False).exported()

        assert {name.split(".")[0] for name in exported.state_dict()} == {"image", "image_head"}
        assert exported.config.text is None
        assert exported.config.classes == 0

    def test_picture_tower_predicts_the_same(self):
        task = network(keep_text=False).eval()

        outputs = task.exported().predict(batch())

        assert outputs.keys() == {"embedding"}
        assert torch.equal(outputs["embedding"], task.predict(batch())["embedding"])

    def test_both_towers_predict_the_same(self):
        task = network().eval()
        outputs = task.exported().predict(batch())

        for name, value in task.predict(batch()).items():
            assert torch.equal(outputs[name], value)

    def test_picture_tower_needs_no_transformers(self, tmp_path):
        family = load_family("text_guided")
        rows = product_rows(4)
        recipe = debug().model.model_copy(update={"keep_text": False})
        made = family.context(recipe, rows)
        task = family.build(made.config).eval()
        save_bundle(tmp_path / "bundle", family, made, task, {}, "# Card\n")
        assert not [name for name in load_file(tmp_path / "bundle" / "model.safetensors") if "text" in name]
        for package in ("transformers", "peft"):
            (tmp_path / "broken" / package).mkdir(parents=True)
            (tmp_path / "broken" / package / "__init__.py").write_text("raise ImportError('not installed')")
        script = f"""
import sys
from galleria.learn.bundle import Bundle
from galleria.learn.examples import stack
from tests.drawings import drawing
bundle = Bundle.open({str(tmp_path / "bundle")!r})
made = bundle.family.example({{"image": drawing(3), "text": "ignored"}}, bundle.context, None)
print(bundle.task().predict(stack([made]))["embedding"][0, :4].tolist(), "transformers" in sys.modules)
try:
    import transformers
except ImportError as error:
    print(error)
"""
        paths = [str(tmp_path / "broken"), *sys.path]
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            check=True,
        )
        pixels = torch.from_numpy(family.example({"image": drawing(3)}, made, None)["pixels"])[None]
        answer, proof = done.stdout.splitlines()
        vector, imported = answer.rsplit(" ", 1)

        assert (imported, proof) == ("False", "not installed")
        assert np.allclose(eval(vector), task.predict({"pixels": pixels})["embedding"][0, :4], atol=1e-5)

    def test_lora_is_merged_on_export(self):
        text = debug().model.text.model_copy(update={"lora_rank": 8})
        task = network(text=text)
        with torch.no_grad():
            for name, parameter in task.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.1)
        expected = task.eval().predict(batch())["text_embedding"]

        exported = task.exported()

        assert not [name for name in exported.state_dict() if "lora" in name or "base_model" in name]
        assert exported.config.text.lora_rank == 0
        assert torch.allclose(exported.predict(batch())["text_embedding"], expected, atol=1e-5)
        task.train()(batch())["loss"].backward()
        assert all(p.grad is not None for name, p in task.named_parameters() if "lora" in name)

    def test_lora_is_the_text_group(self):
        task = network(text=debug().model.text.model_copy(update={"lora_rank": 8}))
        group = {id(parameter) for parameter in task.parameter_groups()["text"]}

        assert group == {id(parameter) for name, parameter in task.named_parameters() if "lora_" in name}

    def test_leading_slice_is_a_vector(self):
        run = Run(load_family("text_guided"), longer(debug(), 5), contract_rows("train"), contract_rows("train"))
        list(run.reports())
        whole = next(run.examples.stream([run.validation]))
        outputs = run.task.eval().predict(whole)

        full = evaluate([(whole, outputs)], run.context.labels)["mAP@R"].value
        short = {name: F.normalize(value[:, :8], dim=1) for name, value in outputs.items()}
        quarter = evaluate([(whole, short)], run.context.labels)["mAP@R"].value

        assert full > 0.8
        assert quarter > 0.8 * full


SERVED = network(text=None).eval()


class TestExample:
    rows = product_rows(3)
    made = context(debug().model, product_rows(3))

    def test_query_equals_training_example(self):
        trained = example(self.rows[0], self.made, None)
        image_query = example({"image": self.rows[0]["image"]}, self.made, None)
        text_query = example({"text": self.rows[0]["text"]}, self.made, None)

        assert np.array_equal(image_query["pixels"], trained["pixels"])
        assert image_query.keys() == {"pixels"}
        assert np.array_equal(text_query["tokens"], trained["tokens"])
        assert text_query.keys() == {"tokens", "token_mask"}

    def test_shapes_and_types(self):
        found = example(self.rows[0], self.made, None)

        assert {name: (np.asarray(value).shape, np.asarray(value).dtype.name) for name, value in found.items()} == {
            "pixels": ((3, 32, 32), "uint8"),
            "tokens": ((16,), "int64"),
            "token_mask": ((16,), "int64"),
            "product": ((), "int64"),
            "label": ((), "int64"),
            "source": ((), "int64"),
            "role": ((), "int64"),
        }

    def test_unknown_columns_change_nothing(self):
        more = {**self.rows[0], "colour": "red", "embedding": [1.0], "category": None, "title": None, "split": "odd"}

        plain, found = example(self.rows[0], self.made, None), example(more, self.made, None)

        assert found.keys() == plain.keys()
        assert all(np.array_equal(found[name], plain[name]) for name in plain)

    def test_labels_index_training_products(self):
        assert self.made.labels == {
            "product": ("product 0", "product 1", "product 2"),
            "source": ("customer", "studio"),
        }
        assert self.made.config.classes == 3
        assert [int(example(row, self.made, None)["label"]) for row in self.rows] == [0, 0, 1, 1, 2, 2]

    def test_unseen_product_is_minus_one(self):
        new = [example({**self.rows[0], "product_id": "new", "source": name}, self.made, None) for name in ("x", "y")]

        assert [(int(one["label"]), int(one["source"])) for one in new] == [(-1, -1)] * 2
        assert new[0]["product"] == new[1]["product"] != example(self.rows[0], self.made, None)["product"]

    def test_keys_differ_and_are_positive(self):
        keys = [example({"product_id": f"p{index}"}, self.made, None)["product"] for index in range(2000)]

        assert len(set(keys)) == 2000
        assert min(keys) >= 0

    @pytest.mark.parametrize(("role", "index"), [(None, 0), ("", 0), ("both", 0), ("query", 1), ("gallery", 2)])
    def test_roles(self, role, index):
        assert example({**self.rows[0], "role": role}, self.made, None)["role"] == index

    def test_unknown_role_is_rejected(self):
        with pytest.raises(DataError, match="role 'querry' is unknown: use 'query', 'gallery'"):
            example({**self.rows[0], "role": "querry"}, self.made, None)

    @pytest.mark.parametrize("image", [None, b"", b"\x89PNG\r\n\x1a\n"])
    def test_bad_picture_is_rejected(self, image):
        with pytest.raises(BrokenMediaError):
            example({**self.rows[0], "image": image}, self.made, None)

    @pytest.mark.parametrize("guise", COLOURED)
    def test_picture_format_keeps_vector(self, guise):
        """I3: every format of a picture has its vector."""
        both = [example({"image": content}, self.made, None) for content in (COLOURED["png"], COLOURED[guise])]

        vectors = SERVED.predict(stack(both))["embedding"]

        assert vectors[0] @ vectors[1] >= 0.99

    def test_no_text_tower_reads_no_text(self):
        made = context(debug().model.model_copy(update={"text": None}), self.rows)

        assert made.files == {}
        assert "tokens" not in example(self.rows[0], made, None)

    def test_row_order_changes_nothing(self):
        turned = context(debug().model, list(reversed(self.rows)))

        assert (turned.labels, turned.files, turned.config) == (self.made.labels, self.made.files, self.made.config)


def evaluated(
    vectors: list[list[float]], products: list[int], roles: list[str] | None = None, **columns: torch.Tensor
) -> dict[str, float]:
    count = len(products)
    outputs = {"embedding": torch.tensor(vectors)}
    if "text_embedding" in columns:
        outputs["text_embedding"] = columns.pop("text_embedding")
    rows = {
        "product": torch.tensor(products),
        "source": torch.full((count,), -1),
        "role": torch.tensor([ROLES.index(role) for role in roles or ["both"] * count]),
        **columns,
    }
    halves = [slice(0, count // 2), slice(count // 2, count)]  # as two batches
    pairs = [
        ({name: value[half] for name, value in rows.items()}, {name: value[half] for name, value in outputs.items()})
        for half in halves
    ]
    return {name: score.value for name, score in evaluate(pairs, {"source": ("", "studio", "customer")}).items()}


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]
NORTH_EAST = [0.6, 0.8]


class TestEvaluate:
    def test_perfect_vectors_score_one(self):
        scores = evaluated([EAST, EAST, NORTH, NORTH], [1, 1, 2, 2])

        assert {name: scores.pop(name) for name in ("R@1", "R@5", "R@10", "mAP@R")} == dict.fromkeys(
            ("R@1", "R@5", "R@10", "mAP@R"), 1
        )
        assert scores == {"no_match/score": pytest.approx(0), "no_match/kept": 1}  # another product is at a cosine of 0

    def test_opposite_vectors_score_zero_at_one(self):
        scores = evaluated([EAST, NORTH, EAST, NORTH], [1, 1, 2, 2])

        assert (scores["R@1"], scores["R@5"], scores["mAP@R"]) == (0, 1, 0)

    def test_roles_set_queries_and_gallery(self):
        roles = ["query", "gallery", "query", "gallery"]

        # Two queries of one place would find each other first, were they in the gallery.
        assert evaluated([NORTH_EAST, NORTH, NORTH_EAST, EAST], [1, 1, 2, 2], roles)["R@1"] == 0.5

    def test_gallery_row_is_no_query(self):
        roles = ["query", "gallery", "gallery", "gallery"]

        assert evaluated([EAST, EAST, NORTH, WEST], [1, 1, 2, 2], roles)["R@1"] == 1

    def test_row_does_not_retrieve_itself(self):
        assert evaluated([EAST, WEST, NORTH_EAST, NORTH], [1, 1, 2, 2])["R@1"] == 0.5

    def test_product_of_one_picture_is_dropped(self):
        assert evaluated([EAST, EAST, NORTH], [1, 1, 3])["R@1"] == 1

    def test_sources_are_scored_separately(self):
        source = torch.tensor([1, 2, 1, 2])
        roles = ["gallery", "query", "query", "gallery"]

        scores = evaluated([EAST, EAST, EAST, NORTH], [1, 1, 2, 2], roles, source=source)

        assert (scores["R@1"], scores["customer/R@1"], scores["studio/R@1"]) == (0.5, 1, 0)
        assert not [name for name in scores if name.startswith("/")]

    def test_source_without_query_has_no_score(self):
        scores = evaluated([EAST, EAST], [1, 1], ["query", "gallery"], source=torch.tensor([1, 2]))

        assert "studio/R@1" in scores
        assert "customer/R@1" not in scores

    def test_texts_are_scored_once_a_product(self):
        has_text = torch.tensor([[1], [1], [1], [0]])
        texts = torch.tensor([EAST, WEST, NORTH, WEST])  # the second of product 1 and the empty one do not count

        scores = evaluated([EAST, EAST, NORTH, NORTH], [1, 1, 2, 2], text_embedding=texts, token_mask=has_text)

        assert scores["text/R@1"] == 1

    def test_gallery_text_is_no_query(self):
        roles = ["gallery", "query", "gallery", "query"]
        texts = torch.tensor([WEST, EAST, WEST, NORTH])

        scores = evaluated(
            [EAST, EAST, NORTH, NORTH],
            [1, 1, 2, 2],
            roles,
            text_embedding=texts,
            token_mask=torch.ones(4, 1),
        )

        assert scores["text/R@1"] == 1

    def test_unevaluated_rows_are_distractors(self):
        vectors, products = [EAST, NORTH_EAST, EAST, WEST], [1, 1, 2, 2]
        roles = ["query", "gallery", "gallery", "gallery"]

        without = evaluated(vectors[:2], products[:2], roles[:2])
        with_neighbours = evaluated(vectors, products, roles, evaluated=torch.tensor([True, True, False, False]))

        assert (without["R@1"], with_neighbours["R@1"]) == (1, 0)

    def test_no_rows_have_no_scores(self):
        assert evaluate([], {"source": ()}) == {}


def test_text_without_known_word_is_rejected():
    """All such texts would have the same vector. One with a picture has the picture's."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0, "red": 1}, "[UNK]"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made = context(debug().model, product_rows(3))
    made = dataclasses.replace(made, files={TOKENIZER: words.to_str().encode()})
    with pytest.raises(DataError, match="knows no word of '😀': use other words"):
        example({"text": "😀"}, made, None)
    for row in ({"text": "😀 red"}, {"text": ""}, {"text": None}, {"text": "😀", "image": drawing(1)}):
        assert example(row, made, None)["tokens"].shape == (16,)


def test_response_prefers_picture_vector():
    both = {"embedding": np.array([1.0, 0.0]), "text_embedding": np.array([0.0, 1.0])}

    assert present(both, {}) == {"embedding": [1.0, 0.0]}
    assert present({"text_embedding": both["text_embedding"]}, {}) == {"embedding": [0.0, 1.0]}
