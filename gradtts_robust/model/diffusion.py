"""The forward process and what the score network is trained to undo (Grad-TTS, arXiv 2105.06337, sections 2 and 3).

All of it in float32 or wider, also where the network runs in bfloat16: at small t the variance is a difference of near-equal numbers.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def _wide(value: Tensor) -> Tensor:
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _per_example(value: Tensor, like: Tensor) -> Tensor:
    return value.to(like.device).reshape(-1, *[1] * (like.dim() - 1))


@dataclass(frozen=True)
class NoiseSchedule:
    """Linear noise schedule beta(t) = beta_min + (beta_max - beta_min) t over t in [0, 1].

    Every method takes t of any shape and returns that shape, in float32 or wider.

    Args:
        beta_min: noise rate at t = 0, >= 0.
        beta_max: noise rate at t = 1, > 0 and >= beta_min.

    Raises:
        ValueError: rates that are not a schedule.
    """

    beta_min: float = 0.05
    beta_max: float = 20.0

    def __post_init__(self):
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max == 0:
            raise ValueError(f"noise schedule needs 0 <= beta_min <= beta_max and beta_max > 0, not {self.beta_min} and {self.beta_max}")

    def beta(self, t: Tensor) -> Tensor:
        """Noise rate beta(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * _wide(t)

    def integral(self, t: Tensor) -> Tensor:
        """B(t), the noise rate integrated from 0 to t."""
        t = _wide(t)
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()

    def rho(self, t: Tensor) -> Tensor:
        """Share exp(-B/2) of the clean mel in the mean of X_t, in (0, 1]; the rest of the mean is mu."""
        return torch.exp(-0.5 * self.integral(t))

    def variance(self, t: Tensor) -> Tensor:
        """lambda(t) = 1 - exp(-B), in [0, 1), exact to float precision also where B is tiny."""
        return -torch.expm1(-self.integral(t))

    def snr(self, t: Tensor) -> Tensor:
        """Signal-to-noise ratio rho^2 / lambda, falling from infinity at t = 0."""
        return torch.expm1(self.integral(t)).reciprocal()


def forward_process(clean: Tensor, mu: Tensor, t: Tensor, noise: Tensor, schedule: NoiseSchedule) -> Tensor:
    """X_t = rho X_0 + (1 - rho) mu + sqrt(lambda) xi (arXiv 2105.06337, equation 8 with identity covariance).

    Args:
        clean: X_0, log-mel [B, 80, F].
        mu: the encoder's aligned prediction [B, 80, F].
        t: [B] in [0, 1].
        noise: xi [B, 80, F], standard normal, zero where masked.

    Returns:
        X_t [B, 80, F], float32 or wider.
    """
    t = _per_example(t, clean)
    towards_mu = -torch.expm1(-0.5 * schedule.integral(t))
    return schedule.rho(t) * _wide(clean) + towards_mu * _wide(mu) + schedule.variance(t).sqrt() * _wide(noise)


def residual(score: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule) -> Tensor:
    """r = sqrt(lambda) s + xi, of which plain Grad-TTS minimises the mean square (arXiv 2105.06337, equation 12).

    Since the true score is -xi / sqrt(lambda), r is the error of a noise prediction: of order 1 at every t, and 0 for a perfect network.

    Args:
        score: the network's output [B, 80, F].
        noise: xi [B, 80, F], the noise that `forward_process` added.
        t: [B] in [0, 1].

    Returns:
        r [B, 80, F], float32 or wider.
    """
    return schedule.variance(_per_example(t, score)).sqrt() * _wide(score) + _wide(noise)


def sample_t(batch: int, generator: torch.Generator | None, *, offset: float = 1e-5, stratified: bool = False) -> Tensor:
    """Draws one time per example, uniform in [offset, 1 - offset].

    Args:
        batch: number of examples B.
        generator: where the draws come from; its device is the result's.
        offset: in [0, 0.5): distance kept from both ends, where the true score is unbounded or plain noise.
        stratified: one time in each B-th of the range, in random order: every single time is as uniform as before, but a batch covers
            the range evenly, which lowers the variance of the gradient (as in Variational Diffusion Models, arXiv 2107.00630, I.1).

    Returns:
        t [B], float32.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    t = torch.rand(batch, generator=generator, device=device)
    if stratified:
        t = (torch.randperm(batch, generator=generator, device=device) + t) / batch
    return t.clamp(offset, 1.0 - offset)
