"""Rows for the contract tests, and a test of them."""

import io

import numpy as np
from PIL import Image


def contract_rows(split):
    return [row(number, split) for number in range(64 if split == "train" else 24)]


def row(number: int, split: str = "train"):
    width = 2 + number // 2 % 4
    lying = number % 2 == 0
    wave = (np.arange(32) // width % 2) * 200 + 20
    canvas = np.tile(wave[:, None] if lying else wave[None], (1, 32) if lying else (32, 1))
    encoded = io.BytesIO()
    Image.fromarray(canvas.astype(np.uint8)).convert("RGB").save(encoded, "PNG")
    pattern = "lying" if lying else "standing"
    return {"id": f"{split} {number}", "image": encoded.getvalue(), "pattern": pattern, "split": split}


def test_rows_alternate():
    assert [row(number)["pattern"] for number in range(3)] == ["lying", "standing", "lying"]
