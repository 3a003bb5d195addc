"""The hand-written losses give the numbers that their formulas give by hand."""

import math

import pytest
import torch
import torch.nn.functional as F

from galleria.learn.losses.alignment import difference, label_aware_sigmoid

LN2 = math.log(2)


def unit(count: int, seed: int) -> torch.Tensor:
    vectors = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))
    return F.normalize(vectors, dim=1).requires_grad_()


def test_difference_is_mean_squared_distance():
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])

    assert difference(images, texts) == 1  # (0 + 2) / 2
    assert difference(images, -images) == 4  # opposite unit vectors
    assert difference(images, images) == 0


def test_difference_equals_two_minus_two_cosine():
    images, texts = unit(7, 0), unit(7, 1)

    expected = (2 - 2 * (images * texts).sum(1)).mean()

    assert difference(images, texts).item() == pytest.approx(expected.item(), abs=1e-6)


def test_sigmoid_of_two_products():
    loss = label_aware_sigmoid(
        torch.eye(2), torch.eye(2), torch.tensor([4, 9]), torch.tensor(10.0), torch.tensor(-10.0)
    )

    # Each row: the positive's logit is 10·1 − 10 = 0, the negative's 10·0 − 10 = −10.
    assert loss.item() == pytest.approx(LN2 + math.log(1 + math.exp(-10)))


def test_sigmoid_positives_share_a_product():
    same = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    zero, ten = torch.tensor(0.0), torch.tensor(10.0)

    one_product = label_aware_sigmoid(same, same, torch.tensor([4, 4]), ten, zero)
    two_products = label_aware_sigmoid(same, same, torch.tensor([4, 9]), ten, zero)

    assert one_product.item() == pytest.approx(2 * math.log(1 + math.exp(-10)))  # four good positives
    assert two_products.item() == pytest.approx(math.log(1 + math.exp(-10)) + math.log(1 + math.exp(10)))


def test_sigmoid_of_three_pictures_of_two_products():
    nothing = torch.tensor(0.0)

    loss = label_aware_sigmoid(torch.eye(3), torch.eye(3), torch.tensor([1, 1, 2]), nothing, nothing)

    assert loss.item() == pytest.approx(3 * LN2)  # 9 pairs of logit 0, over 3 rows


def test_sigmoid_equals_diagonal_form():
    images, texts = unit(6, 2), unit(6, 3)
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)

    logits = scale * images @ texts.T + bias
    diagonal = -F.logsigmoid((2 * torch.eye(6) - 1) * logits).sum() / 6

    assert label_aware_sigmoid(images, texts, torch.arange(6), scale, bias).item() == pytest.approx(diagonal.item())


@pytest.mark.parametrize("loss", ["difference", "sigmoid"])
def test_gradients_reach_both_sides(loss):
    images, texts = unit(4, 4), unit(4, 5)
    if loss == "difference":
        difference(images, texts).backward()
    else:
        keys = torch.tensor([0, 0, 1, 2])
        label_aware_sigmoid(images, texts, keys, torch.tensor(10.0), torch.tensor(-10.0)).backward()

    assert (images.grad.abs().sum(1) > 0).all()
    assert (texts.grad.abs().sum(1) > 0).all()


def test_sigmoid_trains_scale_and_bias():
    scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-10.0, requires_grad=True)

    label_aware_sigmoid(unit(4, 6), unit(4, 7), torch.arange(4), scale, bias).backward()

    assert scale.grad != 0
    assert bias.grad != 0
