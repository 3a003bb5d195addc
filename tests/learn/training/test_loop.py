"""The loop: rates, stop rules, frozen groups, averages, and the errors that end a run."""

import dataclasses
import itertools
import math

import pytest
import torch

from galleria.errors import ConfigurationError, GalleriaError
from galleria.learn.training.loop import Report, TrainingState, fit
from tests.learn.tiny import Line, LineConfig, points, recipe, run, score


def test_fit_learns_a_line():
    state, reports = run(recipe(epochs=40))

    assert state.task.slope.weight.item() == pytest.approx(2, abs=0.1)
    assert state.task.offset.item() == pytest.approx(1, abs=0.1)
    assert reports[-1].losses["loss"] < 0.01 * reports[0].losses["loss"]


def test_report_has_mean_of_each_scalar():
    frozen = recipe(epochs=1, learning_rate=1e-12)
    batch = {"x": torch.zeros(8), "y": torch.zeros(8)}

    _, (report,) = run(frozen, batches=lambda _: [batch, {**batch, "y": torch.full((8,), 4.0)}])

    assert report.losses == pytest.approx({"loss": (0 + 16) / 2, "bias": (0 - 4) / 2})


def test_epoch_cap_stops_improving_run():
    state, reports = run(recipe(epochs=3, patience=1), scores=[0.1, 0.2, 0.3, 0.4])

    assert [report.stop for report in reports] == [None, None, "epochs"]
    assert [report.epoch for report in reports] == [1, 2, 3]
    assert (state.stopped, state.best) == ("epochs", 0.3)


def test_run_converges_after_patience():
    _, reports = run(recipe(epochs=99, patience=2), scores=[0.5, 0.4, 0.6, 0.6, 0.6])

    assert [report.improved for report in reports] == [True, False, True, False, False]
    assert [report.stop for report in reports] == [None, None, None, None, "converged"]


def test_min_delta_ignores_small_gains():
    _, reports = run(recipe(epochs=99, patience=3, min_delta=0.1), scores=[0.50, 0.55, 0.61, 0.66, 0.70, 0.71, 9])

    # .61 is measured from .50, the best, not from .55; .71 does not beat .61 by more than .10.
    assert [report.improved for report in reports] == [True, False, True, False, False, False]


def test_nan_score_ends_the_run():
    with pytest.raises(GalleriaError, match=r"good is nan after epoch 2: lower learning_rate"):
        run(recipe(epochs=9), scores=[0.5, math.nan])


def test_score_without_value_fails_before_start():
    chosen = recipe()
    task = Line(chosen.model)
    state = TrainingState(task, chosen, total_steps=1)
    scores = {"good": score(math.nan), "R@1": score(1), "R@5": score(math.nan)}

    with pytest.raises(ConfigurationError, match=r"'good', which has no value on the validation split: .* one of R@1,"):
        list(fit(task, chosen, lambda _: pytest.fail("it trained"), lambda _: scores, state))


def test_stopped_state_trains_no_further():
    chosen = recipe(epochs=1)
    state, _ = run(chosen)
    before = state.task.slope.weight.item()

    assert list(fit(state.task, chosen, points, lambda _: {"good": score(1)}, state)) == []
    assert state.task.slope.weight.item() == before


def rates(warmup: float, steps: int) -> list[float]:
    """Rate of every step of a one-epoch run, as a share of the peak."""
    chosen = recipe(epochs=1, warmup=warmup, learning_rate=0.5)
    state = TrainingState(Line(LineConfig()), chosen, total_steps=steps)
    seen = []

    def batches(epoch):
        for batch in points(epoch, steps):
            yield batch
            seen.append(state.optimizer.param_groups[0]["lr"] / 0.5)

    list(fit(state.task, chosen, batches, lambda _: {"good": score(1)}, state))
    return seen


def test_rate_warms_up_and_decays_by_cosine():
    seen = rates(warmup=0.2, steps=20)

    assert seen[:4] == pytest.approx([1 / 5, 2 / 5, 3 / 5, 4 / 5])
    assert seen[4] == 1  # the peak, when a fifth is over
    assert seen[12] == pytest.approx(0.5)  # half of the rest
    assert seen[19] == pytest.approx(0.5 * (1 + math.cos(math.pi * 15 / 16)))
    assert seen[4:] == sorted(seen[4:], reverse=True)


def test_no_warmup_starts_at_full_rate():
    assert rates(warmup=0, steps=4) == pytest.approx([1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)])


def test_overlong_run_has_rate_zero():
    chosen = recipe(epochs=1)
    state = TrainingState(Line(LineConfig()), chosen, total_steps=2)

    list(fit(state.task, chosen, lambda epoch: points(epoch, 5), lambda _: {"good": score(1)}, state))

    assert state.optimizer.param_groups[0]["lr"] == 0


def test_group_rates_scale_and_zero_freezes():
    state, _ = run(recipe(rates={"slope": 0.5, "offset": 0}))

    assert [group["peak"] for group in state.optimizer.param_groups] == [0.05]
    assert state.task.offset.item() == 0
    assert not state.task.offset.requires_grad
    assert state.task.slope.weight.item() != 0


def test_gains_and_biases_are_not_decayed():
    state = TrainingState(Line(LineConfig()), recipe(weight_decay=0.3), total_steps=1)

    decays = {group["params"][0].ndim: group["weight_decay"] for group in state.optimizer.param_groups}

    assert decays == {2: 0.3, 1: 0.0}


def test_unknown_group_rate_lists_groups():
    with pytest.raises(ConfigurationError, match="rates for sloop, but the task's groups are slope, offset"):
        run(recipe(rates={"sloop": 1.0}))


def test_all_rates_zero_are_rejected():
    with pytest.raises(ConfigurationError, match="nothing would be trained"):
        run(recipe(rates={"slope": 0, "offset": 0}))


def test_no_scores_are_an_error():
    chosen = recipe()
    task = Line(chosen.model)
    state = TrainingState(task, chosen, total_steps=1)

    with pytest.raises(GalleriaError, match="no row of the validation split can be used"):
        list(fit(task, chosen, points, lambda _: {}, state))


def test_unknown_metric_lists_scores():
    chosen = recipe()
    state = TrainingState(Line(LineConfig()), chosen, total_steps=1)

    with pytest.raises(ConfigurationError, match="monitors 'good', but the validation scores are R@1, mAP@R"):
        list(fit(state.task, chosen, points, lambda _: {"R@1": score(1), "mAP@R": score(1)}, state))


def test_epoch_without_batch_is_an_error():
    with pytest.raises(GalleriaError, match="no batch: use a smaller batch_size"):
        run(recipe(), batches=lambda _: [])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_infinite_loss_is_an_error(value):
    spoilt = {"x": torch.ones(8), "y": torch.full((8,), value)}

    with pytest.raises(GalleriaError, match="lower learning_rate"):
        run(recipe(), batches=lambda _: [*points(), spoilt])


def test_gradients_are_clipped_to_norm():
    chosen = recipe(epochs=1, clip_norm=0.5)
    far = {"x": torch.ones(8), "y": torch.full((8,), 1e6)}

    state, _ = run(chosen, batches=lambda _: [far])

    norm = torch.stack([parameter.grad.norm() for parameter in state.task.parameters()]).norm()
    assert norm.item() == pytest.approx(0.5)


def test_moving_average_is_evaluated():
    chosen = recipe(epochs=1, average_decay=0.9)
    state, _ = run(chosen)
    plain, _ = run(recipe(epochs=1))

    assert state.evaluated is not state.task
    assert state.task.slope.weight.item() == plain.task.slope.weight.item()
    assert 0 < state.evaluated.slope.weight.item() < state.task.slope.weight.item()


def test_moving_average_decays():
    chosen = recipe(epochs=1, average_decay=0.75)
    state = TrainingState(Line(LineConfig()), chosen, total_steps=9)
    state.average.module.offset.data.fill_(0.0)
    state.task.offset.data.fill_(1.0)

    state.average.update(state.task, step=10_000)  # long after the average's own warm-up
    state.average.update(state.task, step=10_001)

    assert state.evaluated.offset.item() == pytest.approx(1 - 0.75**2)


def test_no_decay_evaluates_weights():
    state, _ = run(recipe())

    assert state.average is None
    assert state.evaluated is state.task


def test_modes_match_training_and_evaluation():
    chosen = recipe(epochs=2, noise=0.5)
    state = TrainingState(Line(chosen.model), chosen, total_steps=10)
    modes = []

    def evaluate(task):
        modes.append(task.training)
        return {"good": score(len(modes))}

    def batches(epoch):
        for batch in points(epoch):
            modes.append(state.task.training)
            yield batch

    list(fit(state.task, chosen, batches, evaluate, state))

    assert modes == [False, *[*[True] * 5, False] * 2]


def untimed(report: Report) -> Report:
    return dataclasses.replace(report, seconds=0)


@pytest.mark.parametrize("options", [{}, {"average_decay": 0.9}], ids=["plain", "averaged"])
def test_resumed_run_is_bit_exact(options, tmp_path):
    chosen = recipe(epochs=4, noise=0.3, **options)

    def begin() -> TrainingState:
        return TrainingState(Line(chosen.model), chosen, total_steps=20)

    def evaluate(task):
        return {"good": score(-abs(task.slope.weight.item() - 2))}

    whole = begin()
    expected = [untimed(report) for report in fit(whole.task, chosen, points, evaluate, whole)]
    stopped = begin()
    next(fit(stopped.task, chosen, points, evaluate, stopped))
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(999)
    resumed = begin()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    assert [untimed(report) for report in fit(resumed.task, chosen, points, evaluate, resumed)] == expected[1:]
    for name, value in whole.state_dict()["task"].items():
        assert torch.equal(value, resumed.state_dict()["task"][name])
    assert whole.evaluated.slope.weight.item() == resumed.evaluated.slope.weight.item()
    assert whole.state_dict()["counters"] == resumed.state_dict()["counters"]


@pytest.mark.parametrize("options", [{}, {"average_decay": 0.9}], ids=["plain", "averaged"])
def test_run_cut_inside_epoch_resumes_exactly(options, tmp_path):
    chosen = recipe(epochs=3, noise=0.3, **options)

    def begin() -> TrainingState:
        return TrainingState(Line(chosen.model), chosen, total_steps=15)

    def reports(state: TrainingState, after_step=lambda: None) -> list[Report]:
        batches = fit(
            state.task,
            chosen,
            lambda epoch: itertools.islice(points(epoch), state.batch, None),
            lambda task: {"good": score(-abs(task.slope.weight.item() - 2))},
            state,
            after_step,
        )
        return [untimed(report) for report in batches]

    whole = begin()
    expected = reports(whole)
    cut = begin()

    def kill() -> None:
        if cut.step == 8:  # 3 of the second epoch
            torch.save(cut.state_dict(), tmp_path / "state.pt")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reports(cut, kill)
    torch.manual_seed(999)
    resumed = begin()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    assert resumed.batch == 3
    assert reports(resumed) == expected[1:]
    for name, value in whole.state_dict()["task"].items():
        assert torch.equal(value, resumed.state_dict()["task"][name])
    assert whole.state_dict()["counters"] == resumed.state_dict()["counters"]


def test_schedule_follows_epochs_and_workers():
    chosen = recipe(epochs=2)
    state, _ = run(chosen)  # 5 steps an epoch
    saved = state.state_dict()
    longer = TrainingState(Line(chosen.model), recipe(epochs=4), total_steps=4 * 2)  # 2 steps: more workers

    longer.load_state_dict(saved)

    assert (longer.epoch, longer.step, longer.total_steps) == (2, 4, 8)
    reports = list(
        fit(longer.task, recipe(epochs=4), lambda epoch: points(epoch, 2), lambda _: {"good": score(1)}, longer)
    )
    assert [report.epoch for report in reports] == [3, 4]
    assert reports[-1].stop == "epochs"


def test_more_patience_continues_converged_run():
    state, _ = run(recipe(epochs=9, patience=1), scores=[0.5, 0.4])
    assert state.stopped == "converged"

    reports = list(fit(state.task, recipe(epochs=9, patience=3), points, lambda _: {"good": score(0.1)}, state))

    assert [report.stop for report in reports] == [None, "converged"]
