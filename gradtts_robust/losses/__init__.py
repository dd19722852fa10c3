"""Robust training objectives for diffusion models; needs torch and nothing else.

    from gradtts_robust.losses import Objective
    objective = Objective(penalty="pseudo_huber", delta_schedule="exponential", delta_0=0.1)
    loss = objective(residual, t=t, snr=snr, mask=mask)   # [B]
"""
from .objective import LEVELS, Objective
from .parametrisation import EPSILON_FACTORS, discrete_snr, epsilon_factor, epsilon_residual, flow_snr
from .penalties import PENALTIES, SMALL_RESIDUAL, barron, huber, l1, l2, pseudo_huber, pseudo_huber_old, smooth_l1
from .schedules import DELTA_SCHEDULES
from .weighting import T_MARGIN, WEIGHTINGS, grad_tts_snr, mean_weight

__all__ = [
    "DELTA_SCHEDULES",
    "EPSILON_FACTORS",
    "LEVELS",
    "PENALTIES",
    "SMALL_RESIDUAL",
    "T_MARGIN",
    "WEIGHTINGS",
    "Objective",
    "barron",
    "discrete_snr",
    "epsilon_factor",
    "epsilon_residual",
    "flow_snr",
    "grad_tts_snr",
    "huber",
    "l1",
    "l2",
    "mean_weight",
    "pseudo_huber",
    "pseudo_huber_old",
    "smooth_l1",
]
