"""Objective: reductions, levels, matched controls, precision, bad input."""
import copy
import dataclasses
import math
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.config import ModelConfig, ObjectiveConfig
from gradtts_robust.losses import DELTA_SCHEDULES, LEVELS, PENALTIES, SMALL_RESIDUAL, WEIGHTINGS, Objective, grad_tts_snr, pseudo_huber
from gradtts_robust.training.loss import build_objective

DEGREE_TWO = ["l2", "pseudo_huber", "pseudo_huber_old", "huber", "barron"]


def batch(shape=(3, 80, 12), *, scale=1.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    residual = scale * torch.randn(shape, generator=generator, dtype=dtype)
    t = 0.05 + 0.9 * torch.rand(shape[0], generator=generator, dtype=dtype)
    return residual, t, grad_tts_snr(t)


def frame_mask(lengths, frames):
    return (torch.arange(frames) < torch.tensor(lengths)[:, None])[:, None, :]


def test_plain_grad_tts_is_the_mean_square():
    residual, t, snr = batch()
    torch.testing.assert_close(Objective()(residual, t=t, snr=snr), residual.square().mean((1, 2)))


@pytest.mark.parametrize("schedule", DELTA_SCHEDULES)
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_every_example_has_its_own_delta_and_weight(schedule, weighting):
    residual, t, snr = batch()
    objective = Objective("pseudo_huber", delta_schedule=schedule, delta_0=0.2, delta_scale=1.7, weighting=weighting)
    loss = objective(residual, t=t, snr=snr)
    for i in range(3):
        delta = 1.7 * DELTA_SCHEDULES[schedule](t[i], snr[i], 0.2)
        expected = WEIGHTINGS[weighting](snr[i]) * objective.weight_scale * pseudo_huber(residual[i], delta).mean()
        torch.testing.assert_close(loss[i], expected)
        alone = objective(residual[i:i + 1], t=t[i:i + 1], snr=snr[i:i + 1])
        torch.testing.assert_close(loss[i], alone[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("shape", [(4,), (4, 7), (4, 80, 9), (4, 3, 8, 8)])
@pytest.mark.parametrize("level", LEVELS)
def test_any_shape_of_residual(shape, level):
    residual, t, snr = batch(shape)
    loss = Objective("l2", level=level)(residual, t=t, snr=snr)
    torch.testing.assert_close(loss, residual.square().reshape(4, -1).mean(1))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_masked_frames_do_not_count_whatever_they_hold(level, penalty):
    residual, t, snr = batch()
    lengths = [12, 5, 1]
    mask = frame_mask(lengths, 12)
    residual = residual.masked_fill(~mask, math.nan).requires_grad_()
    objective = Objective(penalty, level=level)
    loss = objective(residual, t=t, snr=snr, mask=mask)
    for i, length in enumerate(lengths):
        cut = objective(residual[i:i + 1, :, :length], t=t[i:i + 1], snr=snr[i:i + 1])
        torch.testing.assert_close(loss[i], cut[0], rtol=1e-12, atol=0)
    gradient, = torch.autograd.grad(loss.sum(), residual)
    assert torch.isfinite(gradient).all()
    assert (gradient.masked_select(~mask) == 0).all()
    as_float = objective(residual, t=t, snr=snr, mask=mask.float())
    assert torch.equal(loss, as_float)


@pytest.mark.parametrize("level", LEVELS)
def test_mask_of_single_bins(level):
    residual, t, snr = batch()
    mask = torch.rand(residual.shape, generator=torch.Generator().manual_seed(5)) < 0.6
    loss = Objective("l2", level=level)(residual, t=t, snr=snr, mask=mask)
    torch.testing.assert_close(loss, (residual.square() * mask).sum((1, 2)) / mask.sum((1, 2)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_empty_mask_and_zero_residual_cost_nothing_and_have_finite_gradients(level, penalty):
    residual, t, snr = batch()
    residual[1] = 0
    residual.requires_grad_()
    loss = Objective(penalty, level=level)(residual, t=t, snr=snr, mask=frame_mask([0, 12, 12], 12))
    assert loss[0] == 0
    assert loss[1] == 0
    assert loss[2] > 0
    loss.sum().backward()
    assert (residual.grad[:2] == 0).all()
    assert torch.isfinite(residual.grad).all()


def test_example_weights_multiply():
    residual, t, snr = batch()
    weights = torch.tensor([0.0, 0.5, 2.0])
    objective = Objective("huber")
    plain = objective(residual, t=t, snr=snr)
    torch.testing.assert_close(objective(residual, t=t, snr=snr, weights=weights), plain * weights.double())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("penalty", ["pseudo_huber", "barron"])
def test_small_residuals_cost_what_l2_does_at_every_level(level, penalty):
    residual, t, snr = batch(scale=1e-4)
    mask = frame_mask([12, 7, 3], 12)
    squared = Objective("l2")(residual, t=t, snr=snr, mask=mask)
    torch.testing.assert_close(Objective(penalty, level=level)(residual, t=t, snr=snr, mask=mask), squared, rtol=1e-5, atol=0)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("penalty", SMALL_RESIDUAL)
def test_small_residuals_cost_the_same_at_every_level(level, penalty):
    residual, t, snr = batch(scale=1e-5)
    at_bin = Objective(penalty)(residual, t=t, snr=snr)
    torch.testing.assert_close(Objective(penalty, level=level)(residual, t=t, snr=snr), at_bin, rtol=1e-6, atol=0)


@pytest.mark.parametrize("penalty", DEGREE_TWO)
def test_levels_are_norms_with_delta_scaled_by_the_root_of_the_dimension(penalty):
    residual, t, snr = batch()
    delta = Objective(penalty).delta(t, snr)[:, None]
    function, frames = PENALTIES[penalty], residual.shape[2]

    def loss(level):
        return Objective(penalty, level=level)(residual, t=t, snr=snr)

    by_frame = function(residual.norm(dim=1), delta * 80**0.5).mean(1) / 80
    torch.testing.assert_close(loss("frame"), by_frame)
    whole = residual.flatten(1).norm(dim=1, keepdim=True)
    by_example = function(whole, delta * (80 * frames) ** 0.5)[:, 0] / (80 * frames)
    torch.testing.assert_close(loss("example"), by_example)
    average = residual.mean(2)
    small = SMALL_RESIDUAL[penalty](delta[:, 0])
    common = function(frames**0.5 * average, delta * frames**0.5).mean(1) / frames
    torch.testing.assert_close(loss("pooled"), common + small * (residual - average[:, :, None]).square().mean((1, 2)))


def test_pooled_is_robust_to_a_shift_of_the_utterance_and_squared_in_the_rest():
    t = torch.tensor([0.9], dtype=torch.float64)
    snr = grad_tts_snr(t)
    objective = Objective("pseudo_huber", level="pooled")
    shift = torch.randn(1, 80, 1, dtype=torch.float64).expand(1, 80, 10)
    torch.testing.assert_close(objective(shift, t=t, snr=snr), Objective("pseudo_huber")(shift, t=t, snr=snr))
    rest = torch.randn(1, 80, 10, dtype=torch.float64)
    rest -= rest.mean(2, keepdim=True)
    torch.testing.assert_close(objective(rest, t=t, snr=snr), rest.square().mean((1, 2)))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_gradcheck_through_levels_mask_and_weighting(level, penalty):
    residual, t, snr = batch((2, 3, 4), seed=3)
    mask = torch.tensor([[[1, 1, 1, 0]], [[1, 1, 0, 0]]])
    objective = Objective(penalty, level=level, weighting="debias", delta_0=0.5)
    assert torch.autograd.gradcheck(lambda r: objective(r, t=t, snr=snr, mask=mask), residual.requires_grad_())


UNIT_FACTORS = {  # penalty(1, delta), delta < 1
    "l2": lambda d: 1.0,
    "l1": lambda d: 1.0,
    "pseudo_huber": lambda d: 2 * d * (math.sqrt(1 + d * d) - d),
    "pseudo_huber_old": lambda d: d * (math.sqrt(1 + d * d) - d),
    "smooth_l1": lambda d: 2 * (math.sqrt(1 + d * d) - d),
    "huber": lambda d: d * (1 - d / 2),
    "barron": lambda d: 4 * d * d * (1 - 1 / (1 / (4 * d * d) + 1)),
}
SMALL_FACTORS = {
    "l2": lambda d: 1.0, "pseudo_huber": lambda d: 1.0, "barron": lambda d: 1.0,
    "pseudo_huber_old": lambda d: 0.5, "huber": lambda d: 0.5, "smooth_l1": lambda d: 1 / d,
}


@pytest.mark.parametrize(("matched", "factors"), [("unit", UNIT_FACTORS), (True, UNIT_FACTORS), ("small", SMALL_FACTORS)])
@pytest.mark.parametrize("level", LEVELS)
def test_matched_is_squared_error_times_the_penaltys_factor(matched, factors, level):
    residual, t, snr = batch()
    mask = frame_mask([12, 6, 2], 12)
    for name, factor in factors.items():
        objective = Objective(name, matched=matched, level=level)
        squared = Objective()(residual, t=t, snr=snr, mask=mask)
        expected = torch.tensor([factor(d) for d in (0.1 ** t).tolist()], dtype=torch.float64) * squared
        # barron's reference form itself cancels a little
        torch.testing.assert_close(objective(residual, t=t, snr=snr, mask=mask), expected, rtol=1e-9, atol=0, msg=name)


@given(st.floats(0, 1), st.floats(1e-3, 1))
@settings(max_examples=30, deadline=None)
def test_matched_unit_and_small_meet_their_penalty_where_they_say(t, delta_0):
    times = torch.tensor([t], dtype=torch.float64)
    snr = grad_tts_snr(times.clamp(min=1e-5))
    for name in SMALL_RESIDUAL:
        for matched, size, tolerance in (("unit", 1.0, 1e-12), ("small", 1e-6 * delta_0, 1e-5)):
            residual = torch.full((1, 80, 4), size, dtype=torch.float64)
            cost, control = (
                Objective(name, delta_0=delta_0, matched=m, normalise_weighting=False)(residual, t=times, snr=snr)
                for m in (False, matched))
            torch.testing.assert_close(cost, control, rtol=tolerance, atol=0)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("level", LEVELS)
def test_float32_agrees_with_float64(penalty, level):
    residual, t, snr = batch((4, 80, 64))
    objective = Objective(penalty, level=level, weighting="min_snr")
    wide = objective(residual, t=t, snr=snr)
    narrow = objective(residual.float(), t=t.float(), snr=snr.float())
    assert (narrow.dtype, wide.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(narrow.double(), wide, rtol=2e-6, atol=0)


def test_float32_is_exact_for_tiny_residuals():
    residual = torch.full((1, 80, 4), 1e-4)
    t = torch.zeros(1)
    loss = Objective("pseudo_huber")(residual, t=t, snr=torch.full((1,), 1e6))
    assert loss.item() == pytest.approx(1e-8, rel=1e-6)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(penalty, level, half):
    residual, t, snr = batch((2, 80, 64), scale=0.01, dtype=torch.float32)
    residual = residual.to(half)
    objective = Objective(penalty, level=level, delta_0=0.01)
    expected = objective(residual.float(), t=t, snr=snr)
    leaf = residual.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = objective(leaf, t=t, snr=snr)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)
    loss.sum().backward()
    assert leaf.grad.dtype == half
    assert torch.isfinite(leaf.grad).all()


def test_smallest_delta_0_gives_no_nan():
    residual = torch.zeros(1, 80, 3, requires_grad=True)
    loss = Objective("pseudo_huber", delta_0=1e-300)(residual, t=torch.ones(1), snr=torch.full((1,), 1e-4))
    loss.sum().backward()
    assert loss.item() == 0
    assert (residual.grad == 0).all()


def test_survives_pickle_copy_and_replace():
    objective = Objective("barron", penalty_options={"alpha": -1.0}, weighting="p2", weighting_options={"k": 2.0})
    residual, t, snr = batch()
    loss = objective(residual, t=t, snr=snr)
    for other in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective), dataclasses.replace(objective)):
        assert other == objective
        assert torch.equal(other(residual, t=t, snr=snr), loss)


def test_options_reach_the_penalty():
    residual, t, snr = batch()
    by_option = Objective("barron", penalty_options={"alpha": 1.0})(residual, t=t, snr=snr)
    torch.testing.assert_close(by_option, Objective("pseudo_huber")(residual, t=t, snr=snr))


def test_is_built_from_the_projects_settings():
    objective = build_objective(ObjectiveConfig(penalty="pseudo_huber", matched=True), ModelConfig())
    assert objective.penalty == "pseudo_huber"
    assert objective.matched


@pytest.mark.parametrize(("settings_", "message"), [
    ({"penalty": "cauchy"}, "unknown penalty 'cauchy'; known: l2, l1, pseudo_huber, pseudo_huber_old, smooth_l1, huber, barron"),
    ({"delta_schedule": "exp"}, "unknown delta_schedule 'exp'; known: constant, exponential, exponential_backward, snr, linear, cosine"),
    ({"weighting": "snr"}, "unknown weighting 'snr'; known: constant, debias, min_snr, p2, inverse_snr"),
    ({"level": "utterance"}, "unknown level 'utterance'; known: bin, frame, pooled, example"),
    ({"matched": "large"}, "matched is 'large'; known"),
    ({"penalty": "l1", "matched": "small"}, "which 'l1' is not; use 'unit'"),
    ({"delta_0": 0}, "delta_0 is 0; it must be in"),
    ({"delta_0": 1.5}, "delta_0 is 1.5; it must be in"),
    ({"delta_0": -0.1}, "delta_0 is -0.1"),
    ({"delta_0": math.nan}, "delta_0 is nan"),
    ({"delta_scale": -1.0}, "delta_scale is -1.0; it must be positive"),
    ({"delta_scale": 0.0}, "delta_scale is 0.0"),
    ({"delta_scale": math.nan}, "delta_scale is nan"),
    ({"delta_scale": math.inf}, "delta_scale is inf"),
    ({"weighting_clamp": 0.0}, "weighting_clamp is 0.0"),
    ({"weighting_clamp": math.nan}, "weighting_clamp is nan"),
    ({"beta_min": -0.1}, "beta_min and beta_max are -0.1"),
    ({"beta_max": 0.01}, "beta_min and beta_max are 0.05 and 0.01"),
    ({"penalty": "barron", "penalty_options": {"alpha": 3}}, "alpha is 3"),
    ({"penalty": "barron", "penalty_options": {"shape": 1}}, "unknown option 'shape' for penalty 'barron'; known: alpha"),
    ({"penalty_options": {"alpha": 1}}, "unknown option 'alpha' for penalty 'l2'; known: none"),
    ({"weighting": "min_snr", "weighting_options": {"gamma": -5}}, "gamma is -5"),
    ({"weighting": "min_snr", "weighting_options": {"gamma": -5}, "normalise_weighting": False}, "gamma is -5"),
    ({"weighting": "p2", "weighting_options": {"c": 5}}, "unknown option 'c' for weighting 'p2'; known: k, gamma"),
])
def test_bad_settings_are_named(settings_, message):
    with pytest.raises(ValueError) as caught:
        Objective(**settings_)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit_are_named():
    residual, t, snr = batch()
    objective = Objective()
    for arguments, message in (
        ({"t": t[0]}, r"t has shape \(\); needed: \(3,\)"),
        ({"t": t[:1]}, r"t has shape \(1,\)"),
        ({"snr": snr[:2]}, r"snr has shape \(2,\)"),
        ({"weights": torch.ones(2)}, r"weights has shape \(2,\)"),
        ({"mask": torch.ones(3, 1, 11)}, r"mask of shape \(3, 1, 11\) does not broadcast to the residual's \(3, 80, 12\)"),
        ({"t": torch.tensor([1, 500, 999])}, "divide integer timesteps"),
        ({"t": t * 1000}, "diffusion times must be in"),
    ):
        with pytest.raises(ValueError, match=message):
            objective(residual, **{"t": t, "snr": snr, **arguments})
    with pytest.raises(ValueError, match="scalar"):
        objective(residual[0, 0, 0], t=t, snr=snr)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_residuals_that_are_not_finite_are_named_on_cpu(level, value):
    residual, t, snr = batch()
    residual[2, 5, 5] = value
    with pytest.raises(ValueError, match="residual of example 2 has a NaN or infinite value"):
        Objective("l2", level=level)(residual, t=t, snr=snr)
    unchecked = Objective("l2", level=level, check=False)(residual, t=t, snr=snr)
    assert torch.isfinite(unchecked[:2]).all()
    assert not torch.isfinite(unchecked[2])


@pytest.mark.parametrize("arguments", [{"snr": math.nan}, {"snr": -1.0}, {"snr": 0.0}, {"weights": math.nan}])
def test_other_causes_of_a_loss_that_is_not_finite_are_named(arguments):
    residual, t, snr = batch()
    name, value = next(iter(arguments.items()))
    bad = torch.tensor([1.0, value, 1.0])
    with pytest.raises(ValueError, match=r"loss of example 1 is .*snr must be positive"):
        Objective(weighting="debias")(residual, **{"t": t, "snr": snr, name: bad})


def test_needs_nothing_of_the_project_but_itself():
    code = ("import sys, gradtts_robust.losses; "
            "print([m for m in sys.modules if m.startswith('gradtts_robust.') and not m.startswith('gradtts_robust.losses')])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_hot_path_does_not_wait_for_the_gpu():
    residual, t, snr = (value.float().cuda() for value in batch())
    residual[0, 0, 0] = math.nan
    mask = frame_mask([12, 6, 2], 12).cuda()
    for penalty in PENALTIES:
        for level in LEVELS:
            objective = Objective(penalty, level=level, weighting="debias")
            leaf = residual.clone().requires_grad_()
            torch.cuda.set_sync_debug_mode("error")
            try:
                with torch.autocast("cuda", dtype=torch.bfloat16):
                    loss = objective(leaf, t=t, snr=snr, mask=mask)
                loss.sum().backward()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert loss.dtype == torch.float32
    with pytest.raises(ValueError, match="example 0"):
        Objective(check=True)(residual, t=t, snr=snr)
