"""Small drawn products: pictures whose product a network can learn in seconds, made from a seed."""

import io
from typing import Any

import numpy as np
from PIL import Image

SOURCES = ("studio", "customer")


def drawing(product: int, source: int = 0) -> bytes:
    """A PNG of a few coloured boxes; another source draws the same boxes in another light."""
    generator = np.random.default_rng(product)
    canvas = np.full((40, 40, 3), 255, np.int64)
    for _ in range(4):
        left, top, width, height = generator.integers(0, 25, 4)
        canvas[top : top + height + 5, left : left + width + 5] = generator.integers(0, 255, 3)
    canvas = np.clip(canvas + source * 20 - 10, 0, 255)
    encoded = io.BytesIO()
    Image.fromarray(canvas.astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


def product_rows(products: int = 40, split: str = "train", first: int = 0) -> list[dict[str, Any]]:
    """One row for each product and source, in the platform's ordinary columns."""
    return [
        {
            "id": f"{product}-{name}",
            "image": drawing(product, source),
            "product_id": f"product {product}",
            "title": f"Thing {product}",
            "text": f"thing number {product}",
            "category": ["things", "even" if product % 2 == 0 else "odd"],
            "source": name,
            "role": ("gallery", "query")[source],
            "split": split,
        }
        for product in range(first, first + products)
        for source, name in enumerate(SOURCES)
    ]
