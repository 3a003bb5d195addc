"""A small network of every family with a batch to train it on, whose rows differ in what they have."""

from collections.abc import Callable

import torch
from torch import Tensor

from galleria.learn.task import Batch, Task

SIZE = 32


def text_guided(terms: tuple[str, ...] = ("contrastive", "alignment", "sigmoid")) -> tuple[Task, Batch]:
    """Two rows a product, of which every fourth has no text."""
    from galleria.families.text_guided.config import LossWeights
    from tests.families.test_text_guided import batch, network

    weights = LossWeights(**dict.fromkeys(terms, 1.0))
    task = network(losses=weights, classes=4)
    rows = dict(batch((0, 1, 2, 3) * 4))
    rows["token_mask"] = rows["token_mask"].clone()
    rows["token_mask"][:5] = 0
    return task, rows


def text_guided_with_memory() -> tuple[Task, Batch]:
    from galleria.families.text_guided.config import LossWeights
    from galleria.learn.losses.mining import Mining
    from tests.families.test_text_guided import batch, network

    mining = Mining(miner="multi_similarity", memory_size=20)
    return network(losses=LossWeights(contrastive=1.0), mining=mining, text=None), batch((0, 1, 2, 3) * 4)


def category_tree(pairs: str = "level") -> tuple[Task, Batch]:
    """A tree of two levels, with the products of a third."""
    from tests.families.test_category_tree import network

    task = network(products=4, pairs=pairs, contrastive=1.0)
    product = torch.arange(16) % 4
    label = torch.stack([product % 2, product % 3, product], 1)
    return task, {"pixels": _pixels(16), "label": label, "product": product}


def by_product() -> tuple[Task, Batch]:
    return category_tree("product")


def video_event() -> tuple[Task, Batch]:
    """Videos of different lengths, of which every third has no events."""
    from tests.families.test_video_event import batch, network

    clip = batch()
    rows = {name: torch.cat([value] * 3) for name, value in clip.items()}
    rows["events"][::3] = -1
    return network(penalty=0.5), rows


def aesthetic_emotion() -> tuple[Task, Batch]:
    """Labels of both heads, of which some are missing."""
    from tests.families.test_aesthetic_emotion import batch, network

    return network(), batch((-1, -1, -1, 0, 1, 0, 1, 1), (0, 1, 2, 0, -1, 1, -1, 2))


def garment_gender() -> tuple[Task, Batch]:
    """Targets, of which the first are missing."""
    from tests.families.test_garment_gender import batch, config, network

    rows = batch(8)
    rows["target"][:3] = -1
    return network(config()), rows


def contour() -> tuple[Task, Batch]:
    """Pictures with drawn contours."""
    from tests.families.test_contour import network

    target = (torch.arange(SIZE // 2) % 5 == 0).to(torch.int64).expand(6, SIZE // 2, SIZE // 2)
    return network(), {"pixels": _pixels(6), "contour": target.clone()}


def _pixels(rows: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(0, 256, (rows, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


TASKS: dict[str, Callable[[], tuple[Task, Batch]]] = {
    "text_guided": text_guided,
    "text_guided with memory": text_guided_with_memory,
    "category_tree": category_tree,
    "category_tree by product": by_product,
    "video_event": video_event,
    "aesthetic_emotion": aesthetic_emotion,
    "garment_gender": garment_gender,
    "contour": contour,
}
