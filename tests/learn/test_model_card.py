"""The model card says what was trained, on what, and how well."""

from galleria.learn.metrics.score import Score
from galleria.learn.model_card import model_card
from tests.learn.tiny import recipe


def test_card_has_rows_scores_and_recipe():
    card = model_card(recipe(), {"R@1": Score(0.5, 0.4321, 0.6, 1200)}, {"train": 12345, "validation": 678})

    assert card.startswith("# line\n")
    assert "Trained on 12,345 rows, validated on 678, seed 0." in card
    assert "| R@1 | 0.500 | 0.432 – 0.600 | 1,200 |" in card
    assert recipe().model_dump_json(indent=1) in card


def test_card_works_without_scores():
    assert "Trained on 0 rows" in model_card(recipe(), {}, {})
