"""Penalties against their formulas in many digits, their gradients, limits and float32 exactness."""
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.losses import PENALTIES, SMALL_RESIDUAL, barron, huber, l1, l2, pseudo_huber, pseudo_huber_old, smooth_l1

mpmath.mp.dps = 60
ALPHAS = [2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -2.0, -10.0, -math.inf]

sizes = st.floats(-9, 9).map(lambda e: 10.0 ** e)
residuals = st.tuples(sizes, st.sampled_from([-1.0, 1.0])).map(lambda pair: pair[0] * pair[1])
deltas = st.floats(-6, 3).map(lambda e: 10.0 ** e)


def exact_pseudo_huber(r, d):
    return 2 * d * (mpmath.sqrt(r * r + d * d) - d)


def exact_barron(r, d, alpha):
    z = (r / d) ** 2
    if alpha == 2:
        return r * r
    if alpha == 0:
        return 2 * d * d * mpmath.log(1 + z / 2)
    if alpha == -math.inf:
        return 2 * d * d * (1 - mpmath.exp(-z / 2))
    b = abs(mpmath.mpf(alpha) - 2)
    return 2 * d * d * b / alpha * ((z / b + 1) ** (mpmath.mpf(alpha) / 2) - 1)


EXACT = {
    "l2": lambda r, d: r * r,
    "l1": lambda r, d: abs(r),
    "pseudo_huber": exact_pseudo_huber,
    "pseudo_huber_old": lambda r, d: exact_pseudo_huber(r, d) / 2,
    "smooth_l1": lambda r, d: exact_pseudo_huber(r, d) / d,
    "huber": lambda r, d: r * r / 2 if abs(r) <= d else d * (abs(r) - d / 2),
    "barron": lambda r, d: exact_barron(r, d, -2),
}
GRADIENT = {
    "l2": lambda r, d: 2 * r,
    "l1": lambda r, d: mpmath.sign(r),
    "pseudo_huber": lambda r, d: 2 * d * r / mpmath.sqrt(r * r + d * d),
    "pseudo_huber_old": lambda r, d: d * r / mpmath.sqrt(r * r + d * d),
    "smooth_l1": lambda r, d: 2 * r / mpmath.sqrt(r * r + d * d),
    "huber": lambda r, d: r if abs(r) <= d else d * mpmath.sign(r),
    "barron": lambda r, d: 2 * r / (r * r / (4 * d * d) + 1) ** 2,
}


def value_and_gradient(penalty, residual, delta, dtype, **options):
    r = torch.tensor([residual], dtype=dtype, requires_grad=True)
    d = torch.tensor([delta], dtype=dtype)
    value = penalty(r, d, **options)
    value.sum().backward()
    return value.item(), r.grad.item(), mpmath.mpf(r.item()), mpmath.mpf(d.item())


def test_every_penalty_is_tested():
    assert set(PENALTIES) == set(EXACT) == set(GRADIENT)
    assert set(SMALL_RESIDUAL) == set(PENALTIES) - {"l1"}
    named = (l2, l1, pseudo_huber, pseudo_huber_old, smooth_l1, huber, barron)
    assert {function.__name__: function for function in named} == PENALTIES


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 4e-15)])
@given(residual=residuals, delta=deltas)
@settings(max_examples=60, deadline=None)
def test_value_and_gradient_agree_with_the_formula_over_wide_ranges(name, dtype, tolerance, residual, delta):
    value, gradient, r, d = value_and_gradient(PENALTIES[name], residual, delta, dtype)
    tiny = torch.finfo(dtype).tiny
    assert value == pytest.approx(float(EXACT[name](r, d)), rel=tolerance, abs=tiny)
    expected = float(GRADIENT[name](r, d))
    if name == "barron" and abs(expected) < 1e-25:
        # a redescending gradient may pass below float32's range on the way to its value
        tiny = 1e-25
    assert gradient == pytest.approx(expected, rel=tolerance, abs=tiny)


TABLE = {  # DESIGN's table: small r, large r, as functions of (r, d)
    "l2": (lambda r, d: r**2, lambda r, d: r**2),
    "l1": (lambda r, d: abs(r), lambda r, d: abs(r)),
    "pseudo_huber": (lambda r, d: r**2, lambda r, d: 2 * d * abs(r)),
    "pseudo_huber_old": (lambda r, d: r**2 / 2, lambda r, d: d * abs(r)),
    "smooth_l1": (lambda r, d: r**2 / d, lambda r, d: 2 * abs(r)),
    "huber": (lambda r, d: r**2 / 2, lambda r, d: d * (abs(r) - d / 2)),
}


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("delta", [1e-3, 0.1, 1.0, 7.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_small_and_large_residuals_cost_what_the_table_says(name, delta, sign):
    small, large = TABLE[name]
    d = torch.tensor(delta, dtype=torch.float64)
    r = torch.tensor(sign * 1e-4 * delta, dtype=torch.float64)
    assert PENALTIES[name](r, d).item() == pytest.approx(small(r.item(), delta), rel=1e-8)
    r = torch.tensor(sign * 1e6 * delta, dtype=torch.float64)
    assert PENALTIES[name](r, d).item() == pytest.approx(large(r.item(), delta), rel=1e-5)


@pytest.mark.parametrize("name", SMALL_RESIDUAL)
def test_float32_keeps_every_digit_of_tiny_residuals(name):
    d, r = torch.tensor(1.0), torch.tensor(1e-4)
    assert PENALTIES[name](r, d).item() == pytest.approx(float(EXACT[name](mpmath.mpf(r.item()), 1)), rel=3e-7)
    assert PENALTIES[name](r, d).item() > 0.49e-8


@pytest.mark.parametrize("name", SMALL_RESIDUAL)
@given(delta=deltas)
@settings(max_examples=30, deadline=None)
def test_small_residual_factor_is_the_limit(name, delta):
    d = torch.tensor([delta], dtype=torch.float64)
    r = 1e-6 * d
    assert SMALL_RESIDUAL[name](d).item() == pytest.approx((PENALTIES[name](r, d) / r.square()).item(), rel=1e-9)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_are_zero_at_zero_even_and_increasing(name):
    d = torch.tensor([[1e-3], [0.1], [1.0]])
    r = torch.linspace(0, 5, 1001).requires_grad_()
    cost = PENALTIES[name](r.expand(3, -1), d)
    assert cost.shape == (3, 1001)
    assert (cost[:, 0] == 0).all()
    assert torch.equal(cost, PENALTIES[name](-r.expand(3, -1), d))
    if name == "barron":  # flat at its bound, up to rounding
        assert (cost.diff(dim=1) >= -1e-6 * cost[:, 1:]).all()
    else:
        assert (cost.diff(dim=1) > 0).all()
    cost.sum().backward()
    assert r.grad[0] == 0
    assert torch.isfinite(r.grad).all()


@pytest.mark.parametrize("name", PENALTIES)
def test_gradcheck_in_residual_and_delta(name):
    generator = torch.Generator().manual_seed(0)
    r = 2 * torch.randn(3, 2, 4, generator=generator, dtype=torch.float64)
    d = torch.tensor([0.02, 0.4, 3.0], dtype=torch.float64)[:, None, None]
    # finite differences must not straddle a kink
    assert ((r.abs() - d).abs() > 1e-4).all()
    assert torch.autograd.gradcheck(PENALTIES[name], (r.requires_grad_(), d.requires_grad_()))
    assert torch.autograd.gradgradcheck(PENALTIES[name], (r, d))


@pytest.mark.parametrize("alpha", ALPHAS)
def test_gradcheck_of_barron_at_every_alpha(alpha):
    r = 2 * torch.randn(3, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    d = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)[:, None]
    assert torch.autograd.gradcheck(lambda r, d: barron(r, d, alpha=alpha), (r.requires_grad_(), d.requires_grad_()))


@pytest.mark.parametrize("alpha", ALPHAS)
@given(residual=residuals, delta=deltas)
@settings(max_examples=40, deadline=None)
def test_barron_agrees_with_the_general_formula(alpha, residual, delta):
    value, _, r, d = value_and_gradient(barron, residual, delta, torch.float64, alpha=alpha)
    assert value == pytest.approx(float(exact_barron(r, d, alpha)), rel=1e-13)


@pytest.mark.parametrize(("limit", "near"), [
    (0.0, 1e-7), (0.0, -1e-7), (0.0, 1e-13), (0.0, -1e-300), (2.0, 2 - 1e-8), (2.0, 2 - 1e-15),
    (-math.inf, -1e9), (-math.inf, -1e13), (-math.inf, -1e300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_barron_is_continuous_at_its_limits(limit, near, dtype):
    r = torch.logspace(-5, 3, 50, dtype=dtype)
    d = torch.tensor(0.5, dtype=dtype)
    torch.testing.assert_close(barron(r, d, alpha=near), barron(r, d, alpha=limit), rtol=3e-6, atol=0)


def test_barron_at_alpha_1_is_pseudo_huber():
    r = torch.logspace(-5, 5, 101, dtype=torch.float64)
    d = torch.tensor([[0.01], [1.0], [20.0]], dtype=torch.float64)
    torch.testing.assert_close(barron(r, d, alpha=1), pseudo_huber(r, d), rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [0.5, 0.0, -1.0, -2.0, -math.inf])
def test_barron_redescends_below_alpha_1(alpha):
    r = torch.tensor([0.5, 1e2, 1e4], dtype=torch.float64, requires_grad=True)
    barron(r, torch.tensor(1.0, dtype=torch.float64), alpha=alpha).sum().backward()
    assert r.grad[0] > r.grad[1] >= r.grad[2] >= 0
    assert r.grad[2] < 0.05 * r.grad[0]


@pytest.mark.parametrize("alpha", [-0.5, -1.0, -2.0, -20.0, -math.inf])
def test_barron_is_bounded_below_alpha_0(alpha):
    bound = 2 * 0.3**2 * (1 if alpha == -math.inf else (2 - alpha) / -alpha)
    cost = barron(torch.tensor([1e18], dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64), alpha=alpha)
    assert cost.item() == pytest.approx(bound, rel=1e-6)


@pytest.mark.parametrize("alpha", [2.1, math.inf, math.nan])
def test_barron_refuses_an_alpha_that_is_not_robust(alpha):
    with pytest.raises(ValueError, match=r"alpha is .* at most 2"):
        barron(torch.zeros(1), torch.ones(1), alpha=alpha)


@given(residual=residuals)
@settings(max_examples=60, deadline=None)
def test_limits_of_delta(residual):
    r = torch.tensor([residual], dtype=torch.float64)
    near_zero, huge = (torch.tensor([size * abs(residual)], dtype=torch.float64) for size in (1e-10, 1e10))
    assert (pseudo_huber(r, near_zero) / (2 * near_zero)).item() == pytest.approx(abs(residual), rel=1e-9)
    assert (huber(r, near_zero) / near_zero).item() == pytest.approx(abs(residual), rel=1e-9)
    assert smooth_l1(r, near_zero).item() == pytest.approx(2 * abs(residual), rel=1e-9)
    assert pseudo_huber(r, huge).item() == pytest.approx(residual**2, rel=1e-12)
    assert huber(r, huge).item() == pytest.approx(residual**2 / 2, rel=1e-12)
    assert (smooth_l1(r, huge) * huge).item() == pytest.approx(residual**2, rel=1e-12)
    assert barron(r, huge).item() == pytest.approx(residual**2, rel=1e-12)


@pytest.mark.parametrize("delta", [0.05, 0.5, 2.0])
def test_huber_is_torchs(delta):
    r = torch.linspace(-4, 4, 1001, dtype=torch.float64)
    ours = huber(r, torch.tensor(delta, dtype=torch.float64))
    torch.testing.assert_close(ours, torch.nn.functional.huber_loss(r, torch.zeros_like(r), delta=delta, reduction="none"))


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_shape_are_the_residuals(name, dtype):
    r = torch.randn(2, 80, 5, dtype=dtype)
    cost = PENALTIES[name](r, torch.full((2, 1, 1), 0.1, dtype=dtype))
    assert cost.dtype == dtype
    assert cost.shape == r.shape
