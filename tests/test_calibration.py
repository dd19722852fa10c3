"""Calibrated delta: the table as a schedule, what is measured, and the run that uses it."""
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_data import SPEAKERS, tiny_features, tiny_model

from gradtts_robust.cli import _parse
from gradtts_robust.config import AdaptConfig, ObjectiveConfig, PretrainConfig
from gradtts_robust.losses import Objective, pseudo_huber
from gradtts_robust.training.calibration import DELTA, TIMES, calibrate, residual_quantiles
from gradtts_robust.training.loss import build_objective, check_objective
from gradtts_robust.training.pretrain import pretrain

ROWS = {name: row for row, name in enumerate(SPEAKERS)}
CALIBRATED = ObjectiveConfig(penalty="pseudo_huber", delta_schedule="calibrated", kappa=2.0, quantile=0.8)


@given(values=st.lists(st.floats(1e-3, 10), min_size=1, max_size=12), t=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_table_is_piecewise_linear_and_constant_beyond_its_ends(values, t):
    times = np.linspace(0.1, 0.9, len(values)) if len(values) > 1 else np.array([0.5])
    objective = Objective("pseudo_huber", delta_schedule="calibrated", delta_table=tuple(zip(times.tolist(), values)), delta_scale=3.0)
    at = torch.tensor([t, t], dtype=torch.float64)
    torch.testing.assert_close(objective.delta(at, torch.ones(2)), torch.full_like(at, 3 * np.interp(t, times, values)), rtol=1e-9, atol=0)


def test_the_penalty_gets_each_examples_own_delta():
    objective = Objective("pseudo_huber", delta_schedule="calibrated", delta_table=((0.0, 1.0), (1.0, 0.2)))
    residual, t = torch.randn(3, 80, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 0.5, 1.0])
    expected = pseudo_huber(residual, torch.tensor([1.0, 0.6, 0.2])[:, None, None]).mean((1, 2))
    torch.testing.assert_close(objective(residual, t=t, snr=torch.ones(3)), expected)


@pytest.mark.parametrize("table", [None, (), ((0.5, 1.0), (0.5, 2.0)), ((0.1, 0.0),), ((0.1, float("nan")),)])
def test_tables_that_are_none(table):
    with pytest.raises(ValueError, match="needs a delta_table"):
        Objective("pseudo_huber", delta_schedule="calibrated", delta_table=table)


def test_other_schedules_take_no_table():
    with pytest.raises(ValueError, match="delta_schedule is not 'calibrated'"):
        Objective("pseudo_huber", delta_table=((0.5, 1.0),))


class Known(torch.nn.Module):
    """A score network whose residual is `size` x a half-normal draw for clean rows, and 50 times that where the mel is loud."""

    def __init__(self, schedule, size):
        super().__init__()
        self.schedule, self.size = schedule, size

    def forward(self, noisy, mask, mu, t, speaker=None):
        rho, sigma = self.schedule.rho(t)[:, None, None], self.schedule.variance(t).sqrt()[:, None, None]
        loud = self.mel[:, :, : noisy.shape[2]].amax((1, 2), keepdim=True) > 0
        noise = (noisy - rho * self.mel[:, :, : noisy.shape[2]] - (1 - rho) * mu) / sigma
        error = self.size * (1 + t[:, None, None]) * torch.where(loud, 50.0, 1.0)
        return (error * torch.randn(noise.shape, generator=torch.Generator().manual_seed(5)) - noise) / sigma


def test_what_is_measured_is_the_majoritys_quantile():
    """A network of known error: half-normal quantiles come out at every t, also with 3 utterances of 8 that are 50 times worse."""
    model, features = tiny_model(), tiny_features(8)
    for dirty in (0, 3):
        for row, feature in enumerate(features):
            feature.mel = torch.full((80, 24), 5.0 if row < dirty else -5.0)
            feature.durations = torch.full((len(feature.ids),), 24 // len(feature.ids))
            feature.durations[0] += 24 - feature.durations.sum()
        known = Known(model.schedule, 0.3)
        known.mel = torch.stack([feature.mel for feature in features])
        known.mel = torch.nn.functional.pad(known.mel, (0, 40))
        model.decoder.estimator = known
        found = residual_quantiles(model, features, ROWS, quantile=0.9, seed=0)
        expected = 0.3 * (1 + torch.tensor(TIMES, dtype=torch.float64)) * 1.6449
        torch.testing.assert_close(found, expected, rtol=0.08 if not dirty else 0.1, atol=0)


def test_saved_and_read_again(tmp_path):
    model = tiny_model()
    settings = {"path": tmp_path / DELTA, "seed": 0, "device": "cpu"}
    table = calibrate(CALIBRATED, model, tiny_features(), ROWS, **settings)
    assert model.training, "the model's mode is given back"
    saved = json.loads((tmp_path / DELTA).read_text())
    assert saved["delta"] == pytest.approx([2 * value for value in saved["residual"]], rel=1e-5) and saved["utterances"] == 7
    assert table == tuple(zip(saved["t"], saved["delta"])) and [t for t, _ in table] == list(TIMES)
    assert calibrate(CALIBRATED, model, tiny_features(), ROWS, path=tmp_path / "again.json", seed=0, device="cpu") == table
    assert calibrate(CALIBRATED, None, [], {}, **settings) == table, "a run that goes on does not measure its own progress"
    assert build_objective(CALIBRATED, model.config, delta_table=table).delta(torch.tensor([0.5]), torch.ones(1)).item() == pytest.approx(
        dict(table)[0.5])
    (tmp_path / DELTA).write_text("{}")
    with pytest.raises(ValueError, match=r"delta\.json: not a table"):
        calibrate(CALIBRATED, model, tiny_features(), ROWS, **settings)
    assert calibrate(ObjectiveConfig(), None, [], {}, **settings) is None


@pytest.mark.parametrize(("changes", "named"), [({"kappa": 0.0}, "kappa is 0"), ({"quantile": 1.0}, r"quantile is 1.0; it must lie in")])
def test_settings_out_of_range(changes, named):
    with pytest.raises(ValueError, match=named):
        check_objective(ObjectiveConfig(**{"delta_schedule": "calibrated", **changes}), tiny_model().config)


def test_from_the_command_line_and_not_for_random_weights():
    argv = ["--objective.delta_schedule", "calibrated", "--objective.kappa", "1.5", "--objective.quantile", "0.95"]
    config = AdaptConfig(**_parse("adapt", argv, AdaptConfig)).objective
    assert (config.delta_schedule, config.kappa, config.quantile) == ("calibrated", 1.5, 0.95)
    check_objective(config, tiny_model().config)
    with pytest.raises(ValueError, match="name a checkpoint with --init"):
        pretrain(PretrainConfig(manifests=["x.csv"], objective=config, device="cpu"))
