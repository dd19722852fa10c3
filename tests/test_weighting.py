"""Weightings: closed forms, options, and normalisation against adaptive quadrature."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from gradtts_robust.losses import WEIGHTINGS, Objective, grad_tts_snr, mean_weight

CLOSED_FORMS = {
    "constant": lambda snr: 1.0,
    "debias": lambda snr: 1 / math.sqrt(snr),
    "min_snr": lambda snr: min(5 / snr, 1),
    "p2": lambda snr: 1 / (1 + snr),
    "inverse_snr": lambda snr: 1 / snr,
}


def integral(weight, *, beta_min=0.05, beta_max=20.0, kinks=()):
    """Mean of weight(snr(t)) over t in [0, 1], by scipy."""
    def integrand(t):
        return weight(1 / math.expm1(beta_min * t + (beta_max - beta_min) * t * t / 2))
    return quad(integrand, 0, 1, points=list(kinks) or None, limit=500, epsabs=0, epsrel=1e-11)[0]


def time_of(snr, *, beta_min=0.05, beta_max=20.0):
    """t at which the schedule has this snr."""
    slope = beta_max - beta_min
    return (-beta_min + math.sqrt(beta_min**2 + 2 * slope * math.log1p(1 / snr))) / slope


@pytest.mark.parametrize("name", WEIGHTINGS)
@given(exponent=st.floats(-5, 7))
@settings(max_examples=60, deadline=None)
def test_closed_forms(name, exponent):
    snr = torch.tensor([10.0 ** exponent], dtype=torch.float64)
    weight = WEIGHTINGS[name](snr)
    assert weight.dtype == torch.float64
    assert weight.item() == pytest.approx(CLOSED_FORMS[name](snr.item()), rel=1e-14)
    narrow = WEIGHTINGS[name](snr.float())
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(weight.item(), rel=1e-6)


def test_every_weighting_is_tested():
    assert set(CLOSED_FORMS) == set(WEIGHTINGS)


def test_options():
    snr = torch.tensor([0.5, 4.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(WEIGHTINGS["min_snr"](snr, gamma=1.0), torch.tensor([1.0, 0.25, 0.01], dtype=torch.float64))
    torch.testing.assert_close(WEIGHTINGS["p2"](snr, k=0.5, gamma=0.5), (0.5 + snr) ** -0.5)
    torch.testing.assert_close(WEIGHTINGS["p2"](snr, gamma=0.0), torch.ones_like(snr))


@pytest.mark.parametrize(("name", "options"), [
    ("min_snr", {"gamma": 0.0}), ("min_snr", {"gamma": math.nan}), ("p2", {"k": -1.0}), ("p2", {"gamma": -0.5})])
def test_options_out_of_range(name, options):
    with pytest.raises(ValueError, match=r"positive|negative"):
        WEIGHTINGS[name](torch.ones(1), **options)


def test_snr_of_grad_tts():
    t = torch.tensor([1e-5, 0.3, 1.0], dtype=torch.float64)
    integral_of_beta = 0.05 * t + 19.95 * t**2 / 2
    torch.testing.assert_close(grad_tts_snr(t), torch.exp(-integral_of_beta) / (1 - torch.exp(-integral_of_beta)), rtol=1e-9, atol=0)
    assert grad_tts_snr(t[-1:]).item() == pytest.approx(4.43e-5, rel=1e-2)


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize(("beta_min", "beta_max"), [(0.05, 20.0), (0.1, 12.0), (1.0, 1.0)])
def test_mean_is_the_integral(name, beta_min, beta_max):
    betas = {"beta_min": beta_min, "beta_max": beta_max}
    # beta_min == beta_max would divide by zero in time_of; its kink lies beyond 1e-3 in any case
    kinks = [time_of(5.0, **betas)] if beta_max > beta_min else [math.log1p(1 / 5)]
    expected = integral(CLOSED_FORMS[name], kinks=kinks, **betas)
    assert mean_weight(WEIGHTINGS[name], **betas) == pytest.approx(expected, rel=1e-6)


def test_debias_is_a_seventeenfold_loss_scale():
    assert mean_weight(WEIGHTINGS["debias"]) == pytest.approx(17.1, abs=0.1)


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("clamp", [None, 2.0, 0.3])
def test_objective_normalises_after_clamping(name, clamp):
    closed = CLOSED_FORMS[name]
    kinks = {"debias": lambda c: c**-2, "inverse_snr": lambda c: 1 / c, "p2": lambda c: 1 / c - 1, "min_snr": lambda c: 5 / c}

    def clamped(snr):
        return closed(snr) if clamp is None else min(closed(snr), clamp)

    points = [time_of(5.0)]
    if clamp and name in kinks and kinks[name](clamp) > 0:
        points.append(time_of(kinks[name](clamp)))
    mean = integral(clamped, kinks=sorted(p for p in points if p < 1))
    snr = torch.tensor([1e-4, 0.2, 3.0, 90.0], dtype=torch.float64)
    plain = Objective(weighting=name, weighting_clamp=clamp, normalise_weighting=False)
    expected = torch.tensor([clamped(value) for value in snr.tolist()], dtype=torch.float64)
    torch.testing.assert_close(plain.weight(snr), expected)
    normalised = Objective(weighting=name, weighting_clamp=clamp)
    torch.testing.assert_close(normalised.weight(snr), expected / mean, rtol=1e-6, atol=0)


def test_normalised_loss_of_a_unit_residual_averages_one():
    # what normalisation is for: the diffusion term keeps its scale against the duration and prior terms
    t = ((torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    for name in WEIGHTINGS:
        loss = Objective(weighting=name)(torch.ones(20000, 1, dtype=torch.float64), t=t, snr=grad_tts_snr(t))
        assert loss.mean().item() == pytest.approx(1, rel=1e-4)


@given(beta_max=st.floats(0.5, 20))
@settings(max_examples=10, deadline=None)
def test_normalisation_follows_the_noise_schedule(beta_max):
    objective = Objective(weighting="debias", beta_max=beta_max)
    assert 1 / objective.weight_scale == pytest.approx(integral(CLOSED_FORMS["debias"], beta_max=beta_max), rel=1e-6)
