"""Channel normalisation, scale, shift, SiLU and mask in one: the kernel against torch's own operations in float64."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.model.norm_silu import norm_silu


def inputs(batch=3, channels=32, rows=4, frames=6, *, mean=0.0, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, rows, frames, generator=generator) * spread + mean
    slope, offset = torch.randn(2, batch, channels, generator=generator)
    mask = torch.ones(batch, 1, 1, frames)
    mask[1:, ..., frames // 2:] = 0
    return features.contiguous(memory_format=torch.channels_last), slope, offset, mask


def gradients(given, dtype=None):
    features, slope, offset, mask = (value.to(dtype or value.dtype).detach() for value in given)
    leaves = [value.requires_grad_() for value in (features, slope, offset)]
    out = norm_silu(*leaves, mask)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * towards).sum(), leaves)]


def close(found, wanted, relative):
    for one, other in zip(found, wanted, strict=True):
        assert float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-9)) < relative


@pytest.mark.parametrize(("mean", "spread", "relative"), [(0.0, 1.0, 1e-6), (100.0, 1.0, 2e-5), (0.0, 1e3, 1e-6), (0.0, 1e-3, 1e-5)])
def test_the_kernel_computes_what_torch_does_in_float64(mean, spread, relative):
    values = inputs(mean=mean, spread=spread)
    close(gradients(values), gradients(values, torch.float64), relative)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(6, 40), st.integers(1, 4), st.integers(1, 9), st.integers(0, 10**6))
def test_any_shape(batch, channels, rows, frames, seed):
    values = inputs(batch, channels, rows, frames, seed=seed)
    close(gradients(values), gradients(values, torch.float64), 2e-5)


def test_silu_far_out():
    features, slope, offset, mask = inputs()
    values = features, slope * 200, offset, mask
    found = gradients(values)
    assert all(value.isfinite().all() for value in found)
    close(found, gradients(values, torch.float64), 1e-6)


def test_gradients_of_the_operations_elsewhere():
    *values, mask = (value.double() for value in inputs(2, 4, 2, 3))
    for value in values:
        value.requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: norm_silu(*given, mask), values)


def test_bfloat16_and_other_layouts():
    features, slope, offset, mask = inputs()
    wanted = gradients((features, slope, offset, mask), torch.float64)
    close(gradients((features.contiguous(), slope, offset, mask)), wanted, 1e-6)
    found = gradients((features.bfloat16(), slope, offset, mask))
    assert [value.dtype for value in found] == [torch.bfloat16] * 2 + [torch.float32] * 2
    close(found, gradients((features.bfloat16(), slope, offset, mask), torch.float64), 1e-2)
