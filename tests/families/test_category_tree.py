"""category_tree: one vector for every level of a category tree, merged into one that is searched."""

import io
from typing import Any

import faiss
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from galleria.errors import BrokenMediaError, ConfigurationError, DataError
from galleria.families.category_tree.config import CategoryTreeConfig, completed
from galleria.families.category_tree.data import context, example, present
from galleria.families.category_tree.evaluation import evaluate
from galleria.families.category_tree.recipes import debug
from galleria.families.category_tree.task import CategoryTree, pair_contrast
from galleria.learn.encoders.config import ImageEncoderConfig
from galleria.learn.examples import stack
from galleria.learn.family import Context, load_family
from galleria.learn.gallery_rows import ROLES
from galleria.learn.losses.mining import Mining
from galleria.learn.metrics.trees import full_names, padded
from galleria.learn.recipes import load_recipe
from tests.families.training import Run, chunks, longer
from tests.learn.losses.test_softmax import matrices

HUES = {"warm": (230, 90, 40), "cold": (40, 110, 230)}
SHAPES = ("bars", "box")


def drawing(product: int, source: int = 0) -> bytes:
    """A PNG whose colour shows the first level of its category, its shape the second, and a patch the product."""
    generator = np.random.default_rng(product)
    hue, shape = path_of(product)
    canvas = np.full((40, 40, 3), 255, np.int64)
    if shape == "bars":
        canvas[:, ::5] = HUES[hue]
        canvas[:, 1::5] = HUES[hue]
    else:
        canvas[8:32, 8:32] = HUES[hue]
    left, top = generator.integers(0, 30, 2)
    canvas[top : top + 10, left : left + 10] = generator.integers(0, 255, 3)
    encoded = io.BytesIO()
    Image.fromarray(np.clip(canvas + source * 20 - 10, 0, 255).astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def path_of(product: int) -> list[str]:
    return [list(HUES)[product % 2], SHAPES[product // 2 % 2]]


def rows(products: int, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    return [
        {
            "id": f"{product}-{name}",
            "image": drawing(product, source),
            "product_id": f"product {product}",
            "category": path_of(product),
            "source": name,
            "role": ("gallery", "query")[source],
            "split": split,
        }
        for product in range(first, first + products)
        for source, name in enumerate(("studio", "customer"))
    ]


def contract_rows(split: str) -> list[dict[str, Any]]:
    return rows(24, "train") if split == "train" else rows(12, "validation", first=24)


CHAIN = ((0, 0), (0, 0, 1), (0, 1, 1, 2), (0, 1, 2, 3, 3), (0, 1, 2, 3, 4, 4))
"""Trees of up to five levels: 2, 3, 4, 5 and 6 classes."""


def config(depth: int = 2, products: int = 0, **changes: Any) -> CategoryTreeConfig:
    options = {"channels": 16, "dimensions": (8,) * (depth + bool(products)), "product_level": products > 0}
    return completed(debug().model.model_copy(update=options | changes), CHAIN[:depth], products)


def network(depth: int = 2, products: int = 0, **changes: Any) -> CategoryTree:
    torch.manual_seed(0)
    return CategoryTree(config(depth, products, **changes))


def batch(size: int = 32, levels: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "pixels": torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8, generator=generator),
        "label": torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 2, 3, 4, 5]])[:, :levels],
        "product": torch.tensor([70, 71, 71, 72]),
    }


def touched(task: CategoryTree) -> set[str]:
    """Names, to the second part, of parameters that have a gradient other than zero."""
    return {
        ".".join(name.split(".")[: 3 if name.startswith("pyramid") else 2])
        for name, parameter in task.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


def heads(task: CategoryTree) -> set[str]:
    return {name for name in touched(task) if name.split(".")[0] in ("heads", "classes")}


class TestPyramid:
    def test_levels_read_coarse_to_fine_maps(self):
        task = network(4, image=ImageEncoderConfig(architecture="resnet50"), channels=8).eval()

        maps = task.maps(batch(224)["pixels"][:1])

        assert task.image.strides == [4, 8, 16, 32]
        assert [tuple(one.shape) for one in maps] == [(1, 8, side, side) for side in (7, 14, 28, 56)]

    @pytest.mark.parametrize("depth", [1, 2, 3, 4])
    def test_one_map_for_each_level(self, depth):
        task = network(depth).eval()

        assert len(task.pyramid.inner_blocks) == len(task.maps(batch()["pixels"])) == depth
        assert task.predict(batch())["embedding"].shape == (4, 8 * depth)

    def test_fifth_level_reads_pooled_map(self):
        task = network(5, image=ImageEncoderConfig(architecture="resnet50"), channels=8).eval()

        maps = task.maps(batch(128)["pixels"][:1])

        assert [one.shape[-1] for one in maps] == [2, 4, 8, 16, 32]
        assert torch.equal(maps[0], F.max_pool2d(maps[1], 2))

    def test_one_pixel_map_can_be_pooled(self):
        assert network(5).eval().predict(batch(32))["embedding"].isfinite().all()

    def test_root_level_skips_finer_laterals(self):
        task = network(3, level_weights=(1.0, 0.0, 0.0)).train()

        task(batch(64, 3))["loss"].backward()

        assert {name for name in touched(task) if name.startswith("pyramid")} == {
            "pyramid.inner_blocks.2",
            "pyramid.layer_blocks.2",
        }
        assert heads(task) == {"heads.1", "classes.1"}

    def test_finest_level_reaches_every_lateral(self):
        task = network(3, level_weights=(0.0, 0.0, 1.0)).train()

        task(batch(64, 3))["loss"].backward()

        assert {f"pyramid.inner_blocks.{index}" for index in range(3)} <= touched(task)
        assert {"pyramid.layer_blocks.1", "pyramid.layer_blocks.2"}.isdisjoint(touched(task))

    def test_controls_change_only_the_maps(self):
        pyramid, coarsest, back = (
            network(3, levels_from=levels).eval() for levels in ("pyramid", "coarsest", "reversed")
        )
        pixels = batch(64)["pixels"]

        sides = [[one.shape[-1] for one in task.maps(pixels)] for task in (pyramid, coarsest, back)]

        assert sides[0] == sorted(set(sides[0]))
        assert sides[1:] == [sides[0][:1] * 3, sides[0][::-1]]
        assert pyramid.state_dict().keys() == coarsest.state_dict().keys() == back.state_dict().keys()

    def test_too_few_stages_are_rejected(self):
        with pytest.raises(ConfigurationError, match="does not have 4 stages"):
            network(4, image=ImageEncoderConfig(architecture="levit_128"))


class TestVector:
    def test_vector_has_unit_length(self):
        for weights in ((), (3.0, 1.0), (0.0, 1.0), (1.0, 0.0)):
            vectors = network(level_weights=weights).eval().predict(batch())["embedding"]
            assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)

    def test_squared_distances_add_over_levels(self):
        task = network(3, level_weights=(1.0, 2.0, 5.0)).eval()
        vectors = task.vectors(batch(64)["pixels"])
        whole = task.predict(batch(64))["embedding"]

        parts = [
            (weight / 8) * torch.cdist(vectors[level], vectors[level]) ** 2 for level, weight in enumerate((1, 2, 5))
        ]
        cosines = [(weight / 8) * vectors[level] @ vectors[level].T for level, weight in enumerate((1, 2, 5))]

        assert torch.allclose(torch.cdist(whole, whole) ** 2, sum(parts), atol=1e-5)
        assert torch.allclose(whole @ whole.T, sum(cosines), atol=1e-5)

    def test_finest_level_alone_is_flat(self):
        task = network(3, level_weights=(0.0, 0.0, 1.0), dimensions=(8, 8, 24)).eval()

        outputs, terms = task.predict(batch(64)), task(batch(64, 3))
        flat = F.normalize(task.heads["3"](task.maps(batch(64)["pixels"])[2].mean((2, 3))), dim=1)

        assert torch.equal(outputs["embedding"], flat)
        assert outputs.keys() == {"embedding", "level_3"}
        labels = batch(64, 3)["label"][:, 2]
        expected = F.cross_entropy(16 * flat @ task.classes["3"].weight.T, labels) + pair_contrast(flat, labels, 1.0)
        assert torch.allclose(terms["loss"], expected)
        assert {name.split(".")[1] for name in task.state_dict() if name.startswith(("heads", "classes"))} == {"3"}

    def test_no_head_returns_backbone_features(self):
        task = network(head="none").eval()

        assert torch.equal(task.predict(batch())["embedding"], F.normalize(task.image(batch()["pixels"]), dim=1))
        assert not task.predict({"label": batch()["label"]})
        with pytest.raises(ConfigurationError, match="head='none' is a baseline"):
            task(batch())


class TestLoss:
    def test_loss_sums_levels_and_pairs(self):
        task = network(level_weights=(1.0, 3.0), contrastive=0.5).eval()
        vectors = task.vectors(batch()["pixels"])

        outputs = task(batch())

        softmax = [
            F.cross_entropy(16 * vectors[level] @ task.classes[str(level + 1)].weight.T, batch()["label"][:, level])
            for level in range(2)
        ]
        pairs = [
            weight * pair_contrast(vectors[level], batch()["label"][:, level], 1.0)
            for level, weight in enumerate((0.25, 0.75))
        ]
        assert outputs.keys() == {"loss", "softmax_1", "softmax_2", "contrastive"}
        assert torch.allclose(outputs["loss"], sum(softmax) + 0.5 * sum(pairs))

    def test_pairs_worked_by_hand(self):
        vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
        # squared distances: 2 (alike), .4 and .8 (unlike): (2 + ((1 − √.4)² + (1 − √.8)²) / 2) / 2
        expected = (2 + ((1 - 0.4**0.5) ** 2 + (1 - 0.8**0.5) ** 2) / 2) / 2

        assert pair_contrast(vectors, torch.tensor([5, 5, 6]), 1.0).item() == pytest.approx(expected, abs=1e-6)

    def test_pairs_beyond_margin_cost_nothing(self):
        vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])

        assert pair_contrast(vectors, torch.tensor([0, 1]), 1.0) == 0
        assert pair_contrast(vectors, torch.tensor([0, 1]), 3.0) == pytest.approx(1)

    def test_rare_positives_weigh_as_much_as_negatives(self):
        torch.manual_seed(0)
        vectors = F.normalize(torch.randn(64, 8), dim=1).requires_grad_()
        products = torch.arange(64) // 2  # 32 pairs of 2,016

        pair_contrast(vectors, products, 0.1).backward()  # hardly any negative is nearer than the margin
        squares = 2 - 2 * (vectors[::2] * vectors[1::2]).sum(1)
        [positives] = torch.autograd.grad(squares.mean() / 2, vectors)

        torch.testing.assert_close(vectors.grad, positives, atol=1e-3, rtol=0.05)

    def test_pairs_are_float32_under_autocast(self):
        vectors = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.003]]), dim=1)

        with torch.autocast("cpu", torch.bfloat16):
            near = pair_contrast(vectors, torch.tensor([4, 4]), 1.0)

        assert near.item() == pytest.approx(9e-6, rel=0.05)

    def test_equal_vectors_have_finite_gradient(self):
        vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0]], requires_grad=True)

        pair_contrast(vectors, torch.tensor([0, 1]), 1.0).backward()

        assert vectors.grad.isfinite().all()

    def test_finest_pairs_may_be_products(self):
        level, product = network().eval(), network(pairs="product").eval()
        vectors = level.vectors(batch()["pixels"])[1]

        difference = product(batch())["contrastive"] - level(batch())["contrastive"]

        by_product = pair_contrast(vectors, batch()["product"], 1.0)
        by_class = pair_contrast(vectors, batch()["label"][:, 1], 1.0)
        assert difference.item() == pytest.approx(0.5 * (by_product - by_class).item(), abs=1e-6)
        assert difference.abs() > 1e-3

    def test_no_contrastive_term_no_pairs(self):
        assert network(contrastive=0.0).eval()(batch()).keys() == {"loss", "softmax_1", "softmax_2"}

    def test_every_head_has_a_gradient(self):
        task = network(2, products=5).train()

        task(batch(64, 3))["loss"].backward()

        assert heads(task) == {f"{kind}.{level}" for kind in ("heads", "classes") for level in (1, 2, 3)}

    def test_sampled_softmax_scores_part_of_products(self):
        task = network(products=3000, sampled_classes=50)
        rows = batch(levels=2)
        rows["label"] = torch.cat([rows["label"], torch.tensor([[7], [8], [8], [2999]])], 1)

        assert matrices(task, rows, 3000) == 0
        assert int((task.classes["3"].weight.grad != 0).any(1).sum()) == 50

    @pytest.mark.parametrize("miner", ["none", "multi_similarity"])
    def test_memory_is_not_exported(self, miner):
        task = network(mining=Mining(memory_size=8, miner=miner))
        first, second = (float(task(batch())["contrastive"].detach()) for _ in range(2))

        if miner == "none":
            assert first == pytest.approx(float(network()(batch())["contrastive"].detach()), abs=1e-5)
        assert first != second  # the second time there are earlier rows
        assert any(name.startswith("mined.") for name in task.state_dict())
        assert not any(name.startswith("mined.") for name in task.exported().state_dict())


class TestProbabilities:
    def test_each_level_sums_to_one(self):
        outputs = network(3).eval().predict(batch(64))

        for level, classes in enumerate((2, 3, 4), 1):
            assert outputs[f"level_{level}"].shape == (4, classes)
            assert torch.allclose(outputs[f"level_{level}"].sum(1), torch.ones(4), atol=1e-5)

    def test_other_parents_children_are_zero(self):
        task = network(3).eval()
        outputs = task.predict(batch(64))

        for level in (1, 2):
            parents = torch.tensor(CHAIN[level])
            chosen = outputs[f"level_{level}"].argmax(1)
            held = parents == chosen[:, None]
            assert (outputs[f"level_{level + 1}"][~held] == 0).all()
            assert (outputs[f"level_{level + 1}"][held] > 0).all()

    def test_mask_only_rescales_children(self):
        task = network(2).eval()
        logits = 16 * task.classes["2"](task.vectors(batch()["pixels"])[1])
        outputs = task.predict(batch())

        for row, chosen in enumerate(outputs["level_1"].argmax(1)):
            children = torch.tensor(CHAIN[1]) == chosen
            assert torch.allclose(outputs["level_2"][row, children], logits[row, children].softmax(0), atol=1e-5)

    def test_omitted_level_passes_parent_on(self):
        outputs = network(3, level_weights=(1.0, 0.0, 1.0)).eval().predict(batch(64))

        grandparents = torch.tensor([CHAIN[1][parent] for parent in CHAIN[2]])
        held = grandparents == outputs["level_1"].argmax(1)[:, None]
        assert outputs.keys() == {"embedding", "level_1", "level_3"}
        assert (outputs["level_3"][~held] == 0).all()

    @settings(deadline=None, max_examples=40, derandomize=True)
    @given(
        paths=st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(tuple), min_size=1, max_size=12),
        spread=st.sampled_from([0.0, 1e-9, 1.0, 1e4]),
        omitted=st.sets(st.integers(0, 3)),
        seed=st.integers(0, 99),
    )
    def test_predicted_path_is_in_tree(self, paths, spread, omitted, seed):
        training = [{"id": "x", "product_id": "p", "category": list(path), "source": ""} for path in sorted(paths)]
        depth = max(map(len, paths))
        weights = tuple(float(level not in omitted) for level in range(depth))
        weights = weights if any(weights) else ()
        options = {"channels": 8, "dimensions": (4,) * depth, "product_level": False, "level_weights": weights}
        made = context(debug().model.model_copy(update=options), training)
        torch.manual_seed(seed)
        task = CategoryTree(made.config).eval()
        for classes in task.classes.values():
            classes.weight.data *= spread
        outputs = task.predict({"pixels": torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)})

        known = {full_names(padded(path, depth)) for path in paths}
        for row in range(3):
            shown = present({name: value[row].numpy() for name, value in outputs.items()}, made.labels)
            likeliest = {level["level"] - 1: level["classes"][0]["name"] for level in shown["levels"]}
            assert likeliest
            assert any(all(path[level] == name for level, name in likeliest.items()) for path in known)

    def test_products_are_not_classified(self):
        task = network(2, products=5).eval()

        assert task.predict(batch(64)).keys() == {"embedding", "level_1", "level_2"}
        assert "classes.3.weight" not in task.exported().state_dict()
        assert torch.equal(task.exported().predict(batch(64))["embedding"], task.predict(batch(64))["embedding"])


class TestLevelWeights:
    def asked(self, task: CategoryTree, *weights: float) -> dict[str, torch.Tensor]:
        row = {"image": drawing(3), "level_weights": list(weights)}
        return dict(stack([example(row, Context(task.config, {}), None)]))

    def test_faiss_ranks_by_weighted_cosines(self):
        task = network(3, level_weights=(1.0, 2.0, 5.0)).eval()
        gallery = stack([example({"image": drawing(index)}, Context(task.config, {}), None) for index in range(50)])
        index = faiss.IndexFlatIP(24)
        index.add(task.predict(gallery)["embedding"].numpy())
        stored = task.vectors(gallery["pixels"])

        orders = []
        for weights in ((1, 0, 0), (0, 0, 2), (1, 1, 2), (1, 2, 5)):
            query = self.asked(task, *weights)
            mine = task.vectors(query["pixels"])
            scores = sum(
                weight / sum(weights) * (mine[level] @ stored[level].T)[0] for level, weight in enumerate(weights)
            )
            found, order = index.search(task.predict(query)["embedding"].numpy(), 50)
            assert np.allclose(found[0], scores.detach()[order[0]], atol=1e-5)
            assert np.allclose(found[0], scores.detach().sort(descending=True).values, atol=1e-5)
            orders.append(order[0].tolist())
        assert orders[0] != orders[1] != orders[2]

    def test_own_weights_change_nothing(self):
        task = network(2, level_weights=(1.0, 3.0)).eval()

        weighted, plain = self.asked(task, 1, 3), self.asked(task, 1, 3)
        del plain["level_weights"]

        assert torch.allclose(task.predict(weighted)["embedding"], task.predict(plain)["embedding"], atol=1e-6)

    def test_weights_are_scaled_to_sum_one(self):
        assert self.asked(network(), 1, 3)["level_weights"].tolist() == [[0.25, 0.75]]
        assert self.asked(network(), 1e300, 1e300)["level_weights"].tolist() == [[0.5, 0.5]]
        assert self.asked(network(), 1, 3)["level_weights"].dtype == torch.float32

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1], "must be 2 numbers, one a level"),
            ([1, 2, 3], "must be 2 numbers"),
            ([], "must be 2 numbers"),
            (0.5, "must be 2 numbers"),
            ([[1, 2]], "must be 2 numbers"),
            ([0, 0], "at least one of them more than 0"),
            ([2, -1], "must be 0 or more"),
            ([float("nan"), 1], "must be 0 or more"),
            ([float("inf"), 1], "must be 0 or more"),
            (["much", "little"], "are not numbers"),
            ([1, None], "must be 0 or more"),
        ],
    )
    def test_invalid_weights_are_rejected(self, weights, message):
        with pytest.raises(DataError, match=f"level_weights .*{message}"):
            example({"image": drawing(0), "level_weights": weights}, Context(config(), {}), None)

    def test_untrained_level_cannot_be_weighted(self):
        task = network(3, level_weights=(0.0, 1.0, 1.0)).eval()

        with pytest.raises(DataError, match=r"trained without \(level 1\): give it 0, and weigh level 2, 3"):
            self.asked(task, 1, 0, 1)
        assert task.predict(self.asked(task, 0, 1, 0))["embedding"].shape == (1, 16)

    def test_model_without_levels_rejects_weights(self):
        with pytest.raises(DataError, match="no levels: leave out level_weights"):
            example({"image": drawing(0), "level_weights": [1, 1]}, Context(config(head="none"), {}), None)


RAGGED = [["food", "fruit", "berries"], ["food", "bread"], ["things"], ["food", "fruit", "citrus"]]


def row(category: Any, product: str = "p", **more: Any) -> dict[str, Any]:
    return {"id": "x", "image": drawing(0), "product_id": product, "category": category, **more}


class TestRows:
    model = debug().model.model_copy(update={"product_level": False})

    def made(self, *categories: Any, **changes: Any) -> Context[CategoryTreeConfig]:
        found = [row(category, f"p{index}") for index, category in enumerate(categories)]
        return context(self.model.model_copy(update=changes), found)

    def test_example_has_columns_of_row(self):
        made = context(debug().model, rows(4))

        found = example(rows(4)[0], made, None)

        assert {name: (value.shape, str(value.dtype)) for name, value in found.items()} == {
            "pixels": ((3, 32, 32), "uint8"),
            "product": ((), "int64"),
            "source": ((), "int64"),
            "role": ((), "int64"),
            "path": ((2,), "int64"),
            "label": ((3,), "int64"),
        }
        assert example({"image": drawing(0)}, made, None).keys() == {"pixels"}
        assert example({"text": "ignored", "level_weights": [1, 1, 1]}, made, None) == {}

    def test_tree_is_labels_and_parents(self):
        made = context(debug().model, rows(4))

        assert made.labels == {
            "level_1": ("cold", "warm"),
            "level_2": ("cold/bars", "cold/box", "warm/bars", "warm/box"),
            "product": tuple(f"product {index}" for index in range(4)),
            "source": ("customer", "studio"),
        }
        assert (made.config.depth, made.config.levels, made.config.products) == (2, 3, 4)
        assert made.config.tree == ((0, 0), (0, 0, 1, 1))
        assert made.config.level_weights == pytest.approx((1 / 3,) * 3)
        assert made.config.dimensions == (85, 85, 85)

    def test_labels_index_every_level(self):
        made = context(debug().model, rows(4))

        labels = [example(one, made, None)["label"].tolist() for one in rows(4)[::2]]

        assert labels == [[1, 2, 0], [0, 0, 1], [1, 3, 2], [0, 1, 3]]

    def test_short_branch_repeats_parent(self):
        made = self.made(*RAGGED)

        assert made.labels["level_3"] == (
            "food/bread/bread",
            "food/fruit/berries",
            "food/fruit/citrus",
            "things/things/things",
        )
        assert [example(row(path), made, None)["label"].tolist() for path in RAGGED] == [
            [0, 1, 1],
            [0, 0, 0],
            [1, 2, 3],
            [0, 1, 2],
        ]

    @pytest.mark.parametrize("path", [["things", None], ["things", ""], ["things", "", None]])
    def test_trailing_empty_levels_are_short(self, path):
        made = self.made(*RAGGED)

        assert example(row(path), made, None)["label"].tolist() == [1, 2, 3]

    def test_path_keys_share_prefixes(self):
        made = self.made(*RAGGED)

        berries, citrus, new, none = (
            example(row(path), made, None)["path"] for path in (RAGGED[0], RAGGED[3], ["food", "new"], None)
        )

        assert (berries == citrus).tolist() == [True, True, False]
        assert (berries == new).tolist() == [True, False, False]
        assert none.tolist() == [-1, -1, -1]

    def test_new_category_is_known_partly(self):
        made = self.made(*RAGGED)

        assert example(row(["food", "new"]), made, None)["label"].tolist() == [0, -1, -1]
        assert example(row(["new", "fruit"]), made, None)["label"].tolist() == [-1, -1, -1]
        assert example(row(None), made, None)["label"].tolist() == [-1, -1, -1]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            (
                ["food", "froot", "citrus"],
                "'food/froot' is not in level 2 of the tree: use one of its classes .*'food/fruit'",
            ),
            (["toys"], "'toys' is not in level 1"),
            (None, "no category path: fill in the column 'category'"),
            ([], "no category path"),
            (["", None], "no category path"),
        ],
    )
    def test_training_row_outside_tree_is_rejected(self, path, message):
        with pytest.raises(DataError, match=message):
            example(row(path), self.made(*RAGGED), np.random.default_rng(0))

    def test_unknown_training_product_is_rejected(self):
        made = context(debug().model, rows(4))

        with pytest.raises(DataError, match="product is not among those"):
            example({**rows(4)[0], "product_id": "new"}, made, np.random.default_rng(0))

    @pytest.mark.parametrize("generator", [None, np.random.default_rng(0)])
    def test_deep_or_gapped_path_is_rejected(self, generator):
        made = self.made(*RAGGED)

        with pytest.raises(
            DataError, match="'food / fruit / berries / red' has 4 levels, but the tree has 3: shorten it"
        ):
            example(row([*RAGGED[0], "red"]), made, generator)
        with pytest.raises(DataError, match="'food /  / berries' has nothing on level 2: fill it in"):
            example(row(["food", "", "berries"]), made, generator)

    def test_bad_rows_do_not_shape_tree(self):
        made = self.made(["a", "b"], ["c", "d", "e"], ["", "f"], None, depth=2)

        assert made.labels["level_1"] == ("a",)
        assert made.labels["level_2"] == ("a/b",)

    def test_shallower_tree_is_rejected(self):
        with pytest.raises(ConfigurationError, match=r"depth=3, but .* has 2 levels: set depth=2, or 0"):
            self.made(["a", "b"], depth=3)

    def test_no_category_makes_no_tree(self):
        with pytest.raises(DataError, match="no training row has a category path"):
            self.made(None, [])

    @pytest.mark.parametrize("option", [{"level_weights": (1.0, 1.0, 1.0)}, {"dimensions": (8,)}])
    def test_options_of_wrong_length_are_rejected(self, option):
        with pytest.raises(ConfigurationError, match=r"has \d values, but there are 2 levels"):
            self.made(["a", "b"], **option)

    def test_all_zero_level_weights_are_rejected(self):
        with pytest.raises(ConfigurationError, match="leave out every level"):
            self.made(["a", "b"], level_weights=(0.0, 0.0))

    def test_network_needs_its_tree(self):
        with pytest.raises(ConfigurationError, match="build from the config that `context` makes"):
            CategoryTree(debug().model)

    def test_bad_role_and_picture_are_rejected(self):
        made = self.made(*RAGGED)

        with pytest.raises(DataError, match="role 'querry' is unknown"):
            example(row(["things"], role="querry"), made, None)
        for image in (None, b"", b"\x89PNG\r\n\x1a\n"):
            with pytest.raises(BrokenMediaError):
                example({"image": image}, made, None)

    def test_row_order_changes_nothing(self):
        assert self.made(*RAGGED).config == self.made(*reversed(RAGGED)).config
        assert self.made(*RAGGED).labels == self.made(*reversed(RAGGED)).labels


class TestShuffled:
    def test_finest_classes_get_random_parents(self):
        found = [row([f"a{index % 4}", f"b{index}"], f"p{index}") for index in range(40)]
        model = debug().model.model_copy(update={"product_level": False})
        plain, mixed = (context(model.model_copy(update={"shuffled": shuffled}), found) for shuffled in (False, True))

        labels = [[example(one, made, None)["label"].tolist() for one in found] for made in (plain, mixed)]

        assert plain.labels == mixed.labels
        assert [leaf for _, leaf in labels[0]] == [leaf for _, leaf in labels[1]]
        assert sorted(plain.config.tree[1]) == sorted(mixed.config.tree[1])
        assert sum(one == other for (one, _), (other, _) in zip(*labels, strict=True)) < 20
        assert np.array_equal(example(found[3], plain, None)["path"], example(found[3], mixed, None)["path"])

    def test_products_get_random_categories(self):
        found = rows(40)
        made = context(debug().model.model_copy(update={"shuffled": True}), found)

        labels = np.array([example(one, made, np.random.default_rng(0))["label"] for one in found])

        assert (labels[::2] == labels[1::2]).all()  # the pictures of a product go together
        assert labels[::2, 2].tolist() == [made.labels["product"].index(f"product {index}") for index in range(40)]
        assert [made.config.tree[1][leaf] for leaf in labels[:, 1]] == labels[:, 0].tolist()
        true = [made.labels["level_2"].index("/".join(one["category"])) for one in found]
        assert np.mean(labels[:, 1] == true) < 0.6


EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def evaluated(vectors: list[list[float]], paths: list[list[int]], roles: list[str], **outputs: Any) -> dict[str, float]:
    """Scores of rows whose paths are (category keys …, product key)."""
    table = torch.tensor(paths)
    columns = {
        "product": table[:, -1],
        "path": table[:, :-1],
        "label": table,
        "source": torch.tensor([ROLES.index(role) for role in roles]),
        "role": torch.tensor([ROLES.index(role) for role in roles]),
        **outputs.pop("columns", {}),
    }
    made = {"embedding": torch.tensor(vectors)} | {name: torch.tensor(value) for name, value in outputs.items()}
    halves = [slice(0, 2), slice(2, None)]  # as two batches
    pairs = [
        ({name: value[half] for name, value in columns.items()}, {name: value[half] for name, value in made.items()})
        for half in halves
    ]
    return {name: score.value for name, score in evaluate(pairs, {"source": ("", "studio", "customer")}).items()}


class TestEvaluate:
    ROLES = ("query", "gallery", "gallery", "gallery")

    def test_perfect_vectors_score_one(self):
        paths = [[1, 10, 7], [1, 10, 7], [1, 10, 8], [2, 20, 9]]

        scores = evaluated([EAST, EAST, [0.8, 0.6], WEST], paths, self.ROLES)

        metrics = ("R@1", "R@5", "R@10", "mAP@R", "CC_1@10", "CC_2@10", "H-AP", "AHP@10", "NDCG")
        unknown = {"no_match/score", "no_match/kept"}
        assert scores.keys() == {*metrics, *(f"studio/{metric}" for metric in metrics), *unknown}
        assert scores["no_match/score"] == pytest.approx(0.8)
        scores = {name: value for name, value in scores.items() if name not in unknown}
        assert {name: value for name, value in scores.items() if "/" not in name and "CC" not in name} == {
            name: 1 for name in metrics if "CC" not in name
        }
        assert scores["CC_1@10"] == scores["CC_2@10"] == pytest.approx(2 / 3)

    def test_near_miss_scores_above_far_miss(self):
        vectors = [EAST, NORTH, EAST, WEST]
        near = evaluated(vectors, [[1, 10, 7], [1, 10, 7], [1, 10, 8], [2, 20, 9]], self.ROLES)
        far = evaluated(vectors, [[1, 10, 7], [1, 10, 7], [2, 20, 8], [2, 20, 9]], self.ROLES)

        assert near["R@1"] == far["R@1"] == 0
        for metric in ("H-AP", "AHP@10", "NDCG", "CC_1@10"):
            assert near[metric] > far[metric]

    def test_product_is_leaf_of_graded_metrics(self):
        # ranked: a product of the same subcategory, then the product itself: levels 2, 3 of 3
        paths = [[1, 10, 7], [1, 10, 7], [1, 10, 8], [2, 20, 9]]
        scores = evaluated([EAST, NORTH, EAST, WEST], paths, self.ROLES)

        assert scores["AHP@10"] == pytest.approx((2 / 3 + 1 + 1) / 3)
        assert scores["H-AP"] == pytest.approx((2 / 3 + (1 + 2 / 3) / 2) / (2 / 3 + 1))

    def test_unevaluated_rows_are_distractors(self):
        paths = [[1, 10, 7], [1, 10, 7], [1, 10, 8], [1, 10, 8]]
        roles = ("query", "gallery", "gallery", "query")
        columns = {"evaluated": torch.tensor([True, True, False, False])}
        probabilities = [[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.9, 0.1]]

        scores = evaluated([NORTH, EAST, NORTH, NORTH], paths, roles, columns=columns, level_1=probabilities)

        assert scores["R@1"] == 0
        assert scores["level_1/accuracy"] == 0  # of two rows of class 1, both said to be 0

    def test_accuracy_comes_with_majority(self):
        labels = torch.tensor([[1, 0], [1, 1], [1, 1], [0, -1]])
        first = [[0.1, 0.9], [0.1, 0.9], [0.7, 0.3], [0.8, 0.2]]
        second = [[1.0, 0.0], [0.6, 0.4], [0.4, 0.6], [0.0, 1.0]]

        scores = evaluated(
            [EAST] * 4, [[1, 10, 7]] * 4, ["both"] * 4, columns={"label": labels}, level_1=first, level_2=second
        )

        assert scores["level_1/accuracy"] == scores["level_1/majority/accuracy"] == 3 / 4
        assert scores["level_2/accuracy"] == scores["level_2/majority/accuracy"] == 2 / 3  # one label is unknown

    def test_no_rows_have_no_scores(self):
        assert evaluate([], {"source": ()}) == {}


NAMES = {"level_1": ("food", "things"), "level_2": tuple(f"food/{index}" for index in range(7)), "source": ()}


class TestAnswer:
    def test_classes_are_sorted_by_probability(self):
        outputs = {
            "embedding": np.array([0.6, 0.8]),
            "level_1": np.array([0.25, 0.75]),
            "level_2": np.array([0.0, 0.1, 0.3, 0.2, 0.25, 0.1, 0.05]),
        }

        answer = present(outputs, NAMES)

        assert answer["embedding"] == [0.6, 0.8]
        assert answer["levels"][0] == {
            "level": 1,
            "classes": [{"name": "things", "probability": 0.75}, {"name": "food", "probability": 0.25}],
        }
        assert [one["name"] for one in answer["levels"][1]["classes"]] == [f"food/{index}" for index in (2, 4, 3, 1, 5)]

    def test_missing_level_is_left_out(self):
        answer = present({"embedding": np.ones(1), "level_2": np.eye(7)[0]}, NAMES)

        assert [one["level"] for one in answer["levels"]] == [2]
        assert present({"embedding": np.ones(1)}, NAMES)["levels"] == []


class TestWarmStart:
    def started(self, **changes: Any) -> tuple[Run, list[Any]]:
        model = debug().model.model_copy(update={"warm_start": True, **changes})
        recipe = longer(debug(), epochs=1).model_copy(update={"model": model})
        run = Run(load_family("category_tree"), recipe, contract_rows("train"), contract_rows("train"))
        return run, list(run.examples.stream(chunks(run.train, 32)))

    def test_warm_heads_separate_classes(self):
        run, batches = self.started()
        before = run.evaluate(run.task.eval())

        run.task.warm_start(batches)

        after = run.evaluate(run.task.eval())
        assert after["mAP@R"].value >= before["mAP@R"].value
        assert after["mAP@R"].value > 0.9
        assert before["level_2/accuracy"].value < 0.7
        assert after["level_2/accuracy"].value > 0.9

    @pytest.mark.parametrize("levels_from", ["pyramid", "coarsest", "reversed"])
    def test_warm_pyramid_adds_projections(self, levels_from):
        run, batches = self.started(levels_from=levels_from)
        run.task.warm_start(batches)

        vectors = [
            torch.cat(parts)
            for parts in zip(*(run.task.eval().vectors(one["pixels"]).values() for one in batches), strict=True)
        ]

        for level, vector in enumerate(vectors):
            head = run.task.heads[str(level + 1)]
            features = torch.cat([run.task.maps(one["pixels"])[level].mean((2, 3)) for one in batches])
            assert torch.allclose(head[1].running_mean, (features @ head[0].weight.T).mean(0), atol=1e-3)
            assert vector.std(0).max() > 0.05

    def test_backbone_is_unchanged(self):
        run, batches = self.started()
        before = {name: value.clone() for name, value in run.task.state_dict().items()}

        run.task.warm_start(batches)

        changed = {name.split(".")[0] for name, value in run.task.state_dict().items() if (value != before[name]).any()}
        assert changed == {"pyramid", "heads", "classes"}

    @pytest.mark.parametrize("changes", [{"warm_start": False}, {"head": "none"}])
    def test_no_option_or_head_changes_nothing(self, changes):
        run, batches = self.started(**changes)
        before = {name: value.clone() for name, value in run.task.state_dict().items()}

        run.task.warm_start(batches)

        assert all(torch.equal(value, before[name]) for name, value in run.task.state_dict().items())

    def test_rows_outside_tree_are_ignored(self):
        run, batches = self.started()
        odd = {**batches[0], "label": torch.full_like(batches[0]["label"], -1)}

        run.task.warm_start([*batches, odd])
        first = {name: value.clone() for name, value in run.task.state_dict().items()}
        run.task.warm_start(batches)

        assert all(torch.equal(value, first[name]) for name, value in run.task.state_dict().items())
        run.task.warm_start([odd])
        assert all(torch.equal(value, first[name]) for name, value in run.task.state_dict().items())


class TestRecipes:
    def test_paper_recipe_trains(self):
        recipe = load_recipe("category_tree", "paper", {"image_weights": "none"})
        model = completed(recipe.model, CHAIN[:3], 5)
        task = CategoryTree(model).train()
        two = {name: value[:2] for name, value in batch(224, 3).items()}
        two["label"] = torch.cat([two["label"], torch.tensor([[0], [1]])], 1)

        task(two)["loss"].backward()

        assert (model.size, model.channels, model.image.architecture) == (224, 256, "resnet50")
        assert [one.shape[-1] for one in task.maps(two["pixels"])] == [7, 14, 28, 56]
        assert task.eval().predict(two)["embedding"].shape == (2, 256)

    def test_baseline_shares_demo_inputs(self):
        models = [load_recipe("category_tree", name, {"image_weights": "none"}).model for name in ("demo", "frozen")]

        assert models[0].image.architecture == models[1].image.architecture
        assert models[0].image.weights == models[1].image.weights == "none"
        assert models[0].size == models[1].size
        assert CategoryTree(models[1]).eval().predict(batch())["embedding"].shape == (4, 1280)
