"""The model card: a bundle's README."""

from collections.abc import Mapping
from typing import Any

from galleria.learn.metrics.score import Score
from galleria.learn.recipe import Recipe


def model_card(recipe: Recipe[Any], scores: Mapping[str, Score], rows: Mapping[str, int]) -> str:
    """Return Markdown that describes the model, its training data, its validation scores and its recipe."""
    lines = [
        f"# {recipe.family}",
        "",
        "A galleria bundle: `config.json`, `labels.json`, `model.safetensors`, `preprocessor/`, `metrics.json`.",
        "",
        f"Trained on {rows.get('train', 0):,} rows, validated on {rows.get('validation', 0):,}, seed {recipe.seed}.",
        "",
        "| validation score | value | 95 % interval | samples |",
        "|---|---|---|---|",
        *(
            f"| {name} | {score.value:.3f} | {score.low:.3f} – {score.high:.3f} | {score.count:,} |"
            for name, score in scores.items()
        ),
        "",
        "```json",
        recipe.model_dump_json(indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"
