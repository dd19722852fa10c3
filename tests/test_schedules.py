"""Delta schedules: closed forms, ends, direction."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.losses import DELTA_SCHEDULES, grad_tts_snr

CLOSED_FORMS = {
    "constant": lambda t, snr, d0: d0,
    "exponential": lambda t, snr, d0: math.exp(math.log(d0) * t),
    "exponential_backward": lambda t, snr, d0: math.exp(math.log(d0) * (1 - t)),
    "snr": lambda t, snr, d0: (1 - d0) / (1 + snr ** -0.5) ** 2 + d0,
    "linear": lambda t, snr, d0: 1 + (d0 - 1) * t,
    "cosine": lambda t, snr, d0: d0 + (1 - d0) * (1 + math.cos(math.pi * t)) / 2,
}
FALLING = ["exponential", "snr", "linear", "cosine"]


@pytest.mark.parametrize("name", DELTA_SCHEDULES)
@given(t=st.floats(1e-5, 1), delta_0=st.floats(1e-6, 1))
@settings(max_examples=60, deadline=None)
def test_closed_forms(name, t, delta_0):
    times = torch.tensor([t], dtype=torch.float64)
    snr = grad_tts_snr(times)
    delta = DELTA_SCHEDULES[name](times, snr, delta_0)
    assert delta.dtype == torch.float64
    assert delta.item() == pytest.approx(CLOSED_FORMS[name](t, snr.item(), delta_0), rel=1e-9)
    assert delta_0 * (1 - 1e-9) <= delta.item() <= 1 + 1e-9


def test_every_schedule_is_tested():
    assert set(CLOSED_FORMS) == set(DELTA_SCHEDULES)


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("delta_0", [1e-4, 0.1, 1.0])
def test_falls_from_one_on_clean_data_to_delta_0_at_full_noise(name, delta_0):
    t = torch.linspace(0, 1, 101)
    snr = grad_tts_snr(t)
    assert snr[0] == math.inf
    snr[-1] = 0
    delta = DELTA_SCHEDULES[name](t, snr, delta_0)
    assert delta[0].item() == 1
    assert delta[-1].item() == pytest.approx(delta_0, rel=1e-6)
    if delta_0 < 1:
        assert (delta.diff() < 0).all()
    else:
        torch.testing.assert_close(delta, torch.ones_like(delta))


def test_backward_is_exponential_run_backwards():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    snr = grad_tts_snr(t)
    backward = DELTA_SCHEDULES["exponential_backward"](t, snr, 0.1)
    torch.testing.assert_close(backward, DELTA_SCHEDULES["exponential"](t, snr, 0.1).flip(0))


@pytest.mark.parametrize("name", DELTA_SCHEDULES)
def test_float32_and_any_shape(name):
    t = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).clamp(1e-5, 1)
    wide = DELTA_SCHEDULES[name](t.double(), grad_tts_snr(t.double()), 0.1)
    delta = DELTA_SCHEDULES[name](t, grad_tts_snr(t), 0.1)
    assert delta.dtype == torch.float32
    assert delta.shape == t.shape
    torch.testing.assert_close(delta.double(), wide, rtol=1e-5, atol=0)
