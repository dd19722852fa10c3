"""Normalisation, Mish, sums and mask in one: the kernel against torch's own operations in float64, and what it keeps."""
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.model import norm_mish as module
from gradtts_robust.model.norm_mish import norm_mish

GROUPS = 4


def inputs(batch=3, channels=16, rows=6, frames=10, *, mean=0.0, spread=1.0, seed=0, layout=torch.channels_last):
    generator = torch.Generator().manual_seed(seed)
    features, residual = torch.randn(2, batch, channels, rows, frames, generator=generator)
    weight, bias = torch.randn(2, channels, generator=generator)
    mask = torch.ones(batch, 1, 1, frames)
    mask[1:, ..., frames // 2:] = 0
    features = (features * spread + mean).contiguous(memory_format=layout)
    return features, weight, bias, mask, torch.randn(batch, channels, generator=generator), residual.contiguous(memory_format=layout)


def gradients(given, *, shifted=True, summed=True, dtype=None):
    """The result and the gradients of all inputs, with an uneven loss."""
    features, weight, bias, mask, shift, residual = (value.to(dtype or value.dtype).detach() for value in given)
    leaves = [value.requires_grad_() for value in (features, weight, bias, *([shift] if shifted else []), *([residual] if summed else []))]
    out = norm_mish(features, weight, bias, mask, groups=GROUPS, shift=shift if shifted else None, residual=residual if summed else None)
    towards = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * towards).sum(), leaves)]


def close(found, wanted, relative):
    for one, other in zip(found, wanted, strict=True):
        assert float((one.double() - other.double()).norm() / other.double().norm().clamp_min(1e-9)) < relative


@pytest.mark.parametrize(("shifted", "summed"), [(True, False), (False, True), (False, False), (True, True)])
def test_the_kernel_computes_what_torch_does_in_float64(shifted, summed):
    values = inputs()
    close(gradients(values, shifted=shifted, summed=summed), gradients(values, shifted=shifted, summed=summed, dtype=torch.float64), 1e-6)


@pytest.mark.parametrize(("mean", "spread", "relative"), [(0.0, 1e3, 1e-6), (100.0, 1.0, 2e-5), (0.0, 1e-4, 1e-6)])
def test_far_from_zero_and_at_any_scale(mean, spread, relative):
    values = inputs(mean=mean, spread=spread)
    close(gradients(values), gradients(values, dtype=torch.float64), relative)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(2, 4), st.integers(4, 9), st.integers(0, 10**6))
def test_any_shape(batch, width, rows, frames, seed):
    values = inputs(batch, GROUPS * width, rows, frames, seed=seed)
    out, *grads = gradients(values)
    wanted, *others = gradients(values, dtype=torch.float64)
    torch.testing.assert_close(out.double(), wanted, atol=2e-5, rtol=2e-5)
    close(grads, others, 1e-4)


def test_mish_far_out():
    """A weight of 60 puts the activation's argument where exp overflows, and where nothing is left of it."""
    features, weight, bias, mask, shift, residual = inputs()
    values = features, weight.sign() * 60, bias, mask, shift, residual
    found = gradients(values)
    assert all(value.isfinite().all() for value in found)
    close(found, gradients(values, dtype=torch.float64), 1e-6)


def test_gradients_of_the_operations_elsewhere():
    values = [value.double() for value in inputs(2, 8, 2, 3)]
    mask = values.pop(3)
    for value in values:
        value.requires_grad_()

    def run(features, weight, bias, shift, residual):
        return norm_mish(features, weight, bias, mask, groups=GROUPS, shift=shift, residual=residual)

    assert torch.autograd.gradcheck(run, values)


def test_bfloat16():
    values = inputs()
    narrow = [value.bfloat16() if place in (0, 5) else value for place, value in enumerate(values)]
    found = gradients(narrow)
    assert [value.dtype for value in found] == [torch.bfloat16] * 2 + [torch.float32] * 3 + [torch.bfloat16]
    close(found, gradients(narrow, dtype=torch.float64), 1e-2)


def test_other_layouts_are_done_by_torch(monkeypatch):
    def refused(*given):
        raise AssertionError("the kernel is for channels-last memory")

    monkeypatch.setattr(module._NormMish, "apply", refused)
    values = inputs(layout=torch.contiguous_format)
    close(gradients(values), gradients(values, dtype=torch.float64), 1e-5)
    with pytest.raises(AssertionError, match="channels-last"):
        gradients(inputs())


def test_one_tensor_is_kept_for_the_backward_pass():
    features, weight, bias, mask, shift, residual = inputs()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        norm_mish(features.requires_grad_(), weight, bias, mask, groups=GROUPS, shift=shift, residual=residual)
    assert sum(size >= features.numel() for size in kept) == 1


def test_an_overflow_is_seen():
    features, *rest = inputs()
    out = norm_mish(features * 1e25, *rest[:3], groups=GROUPS)
    assert out[0].isnan().all()
