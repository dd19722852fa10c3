"""Times of a batch: one per example, and what spreading them evenly is good for."""
import dataclasses

import pytest
import torch
from training_data import SPEAKERS, tiny_features, tiny_model, tiny_optim, train_settings

from gradtts_robust.losses import Objective
from gradtts_robust.model.diffusion import NoiseSchedule, sample_t
from gradtts_robust.training.loop import train

ROWS = {name: row for row, name in enumerate(SPEAKERS)}


@dataclasses.dataclass(frozen=True)
class Watched(Objective):
    """An objective that notes the times that it is asked for."""

    seen: list = dataclasses.field(default_factory=list)

    def __call__(self, residual, *, t, **rest):
        self.seen.append(t.detach().clone())
        return super().__call__(residual, t=t, **rest)


def times(out, timesteps: str, *, iterations: int = 6) -> torch.Tensor:
    objective = Watched()
    train(tiny_model(), tiny_features(), ROWS, objective=objective, out=out, optim=tiny_optim(batch_size=4, timesteps=timesteps),
          **train_settings(iterations=iterations))
    return torch.stack(objective.seen)


@pytest.mark.parametrize("timesteps", ["uniform", "stratified"])
def test_every_example_of_a_training_batch_has_its_own_time(tmp_path, timesteps):
    t = times(tmp_path, timesteps)
    assert t.shape == (6, 4) and len(t.unique()) == 24
    strata = (t * 4).long().sort(dim=1).values
    spread = (strata == torch.arange(4)).all(dim=1)
    assert spread.all() if timesteps == "stratified" else not spread.all()


def test_stratified_times_lower_the_variance_of_a_batchs_loss_and_keep_its_mean():
    schedule, batch, draws = NoiseSchedule(), 16, 2000
    generator = torch.Generator().manual_seed(0)
    means = {}
    for stratified in (False, True):
        t = torch.stack([sample_t(batch, generator, stratified=stratified) for _ in range(draws)])
        # the loss of a network that predicts no noise where there is much: it depends on t as real ones do
        means[stratified] = schedule.variance(t).sqrt().double().mean(dim=1)
    ratio = (means[True].var() / means[False].var()).item()
    error = (means[False].var() / draws).sqrt().item()
    assert means[True].mean().item() == pytest.approx(means[False].mean().item(), abs=5 * error)
    assert ratio < 0.02, "one time in each 16th: the variance of a smooth mean falls with the square of the batch"


def test_an_unknown_way_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"optim.timesteps is 'sobol'; choose uniform or stratified"):
        times(tmp_path, "sobol")
