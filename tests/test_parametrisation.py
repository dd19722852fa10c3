"""Residual from any prediction: all forms of the same noise estimate give the same residual."""
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.losses import EPSILON_FACTORS, Objective, discrete_snr, epsilon_factor, epsilon_residual, flow_snr

KINDS = tuple(EPSILON_FACTORS)


def forms(kind, *, a, s, clean, noise, estimate):
    """(prediction, target) of a kind that implies the noise estimate, by solving x = a x_0 + s eps for the rest."""
    noisy = a * clean + s * noise
    implied = (noisy - s * estimate) / a
    return {
        "epsilon": (estimate, noise),
        "v_prediction": (a * estimate - s * implied, a * noise - s * clean),
        "sample": (implied, clean),
        "flow_prediction": (estimate - implied, noise - clean),
        "score": (-estimate / s, -noise / s),
    }[kind]


def levels(kind, share):
    """(a, s) of a forward process that the kind is stated for, share in (0, 1) of the way to noise."""
    return (1 - share, share) if kind == "flow_prediction" else (math.cos(share * math.pi / 2), math.sin(share * math.pi / 2))


@pytest.mark.parametrize("kind", KINDS)
@given(share=st.floats(0.001, 0.999), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_equal_residual(kind, share, seed):
    clean, noise, estimate = torch.randn(3, 1, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    a, s = levels(kind, share)
    prediction, target = forms(kind, a=a, s=s, clean=clean, noise=noise, estimate=estimate)
    snr = torch.tensor([(a / s) ** 2], dtype=torch.float64)
    residual = epsilon_residual(prediction, target, kind=kind, snr=snr)
    torch.testing.assert_close(residual, estimate - noise, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_and_single_precision(kind):
    snr = torch.tensor([0.0, 1e-12, 1.0, 1e12, math.inf])
    factor = epsilon_factor(kind, snr)
    expected = {"epsilon": [1, 1, 1, 1, 1], "v_prediction": [0, 1e-6, 0.5 ** 0.5, 1, 1], "sample": [0, -1e-6, -1, -1e6, -math.inf],
                "flow_prediction": [0, 1e-6, 0.5, 1, 1], "score": [-1, -1, -(0.5 ** 0.5), -1e-6, 0]}[kind]
    torch.testing.assert_close(factor, torch.tensor(expected, dtype=torch.float32), rtol=3e-6, atol=0)


def test_own_weighting_is_the_trainers_loss():
    generator = torch.Generator().manual_seed(0)
    for kind in KINDS:
        prediction, target = torch.randn(2, 6, 3, 4, generator=generator)
        snr = torch.logspace(-4, 4, 6)
        residual = epsilon_residual(prediction, target, kind=kind, snr=snr)
        loss = Objective()(residual, t=torch.full((6,), 0.5), snr=snr, weights=epsilon_factor(kind, snr) ** -2)
        torch.testing.assert_close(loss, (prediction - target).square().mean((1, 2)), rtol=1e-5, atol=0)


def test_half_precision_and_gradient():
    prediction = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16, requires_grad=True)
    residual = epsilon_residual(prediction, torch.zeros(1, 2), kind="sample", snr=torch.tensor([4.0]))
    assert residual.dtype == torch.float32
    residual.sum().backward()
    assert prediction.grad.tolist() == [[-2.0, -2.0]]


def test_snr():
    alphas = torch.tensor([0.9, 0.5, 0.0])
    assert discrete_snr(alphas, torch.tensor([1, 0, 2, 0])).tolist() == pytest.approx([1, 9, 0, 9])
    assert flow_snr(torch.tensor([0.25, 0.5, 1.0])).tolist() == [9, 1, 0]


def test_errors():
    with pytest.raises(ValueError, match="unknown prediction 'velocity'; known: epsilon, v_prediction, sample, flow_prediction, score"):
        epsilon_factor("velocity", torch.ones(1))
    for prediction, target, snr in (((2, 3), (2, 1), 2), ((2, 3), (2, 3), 3)):
        with pytest.raises(ValueError, match="do not fit"):
            epsilon_residual(torch.ones(prediction), torch.ones(target), kind="epsilon", snr=torch.ones(snr))
