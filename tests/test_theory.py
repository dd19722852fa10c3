"""The theory recipes' closed forms against quadrature, brute-force minimisation and simulation."""
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf, expit

from gradtts_robust.losses import PENALTIES

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "theory"
sys.path.insert(0, str(FOLDER))

import condition_noise  # noqa: E402
import early_stopping  # noqa: E402
import mixture  # noqa: E402
import theory_output  # noqa: E402
from mixture import Loss, Mixture, minority_share  # noqa: E402


def test_influence_is_the_expected_pull():
    random = np.random.default_rng(0)
    offset = np.array([0.1, 1.0, 4.0])
    assert np.allclose(mixture.influence(offset, 1e-9), erf(offset / 2 ** 0.5), atol=1e-7)
    z = random.standard_normal((200000, 5))
    for size, delta in ((1, 0.3), (5, 0.0), (5, 2.0)):
        for u in offset:
            shifted = z[:, :size] + np.eye(1, size)[0] * u
            pull = shifted[:, 0] / np.sqrt((shifted ** 2).sum(1) + delta ** 2)
            assert mixture.influence(np.array([u]), delta, size)[0] == pytest.approx(pull.mean(), abs=6 * pull.std() / 200000 ** 0.5)


@pytest.mark.parametrize("name, delta", [("l2", 1.0), ("l1", 1.0), ("pseudo_huber", 0.05), ("pseudo_huber", 0.7), ("smooth_l1", 0.05)])
def test_minimiser_share_minimises_the_library_s_penalty(name, delta):
    gap, odds = 3.0, np.array([-2.0, -0.4, 0.0, 1.0])
    noise = torch.linspace(-9, 12, 6001, dtype=torch.float64)
    guesses = torch.linspace(0, 1, 401, dtype=torch.float64)
    loss = Loss("pseudo_huber" if name == "smooth_l1" else name)
    found = mixture.minimiser_share(loss, odds, gap, delta, 1)
    cost = PENALTIES[name](noise[None] - gap * guesses[:, None], torch.tensor(delta, dtype=torch.float64))
    for share, log_odds in zip(found, odds):
        weight = expit(log_odds)
        density = (1 - weight) * torch.exp(-noise ** 2 / 2) + weight * torch.exp(-(noise - gap) ** 2 / 2)
        assert share == pytest.approx(float(guesses[(cost @ density).argmin()]), abs=0.003)


def test_floor_share_minimises_its_cost_in_three_dimensions():
    noise = np.random.default_rng(1).standard_normal((100000, 3))
    gap, guesses = 5.0, np.linspace(0, 1, 101)
    across = (noise[:, 1:] ** 2).sum(1)
    offsets = np.linspace(0, gap, 101)
    cost = np.array([np.sqrt(np.maximum((u + noise[:, 0]) ** 2 + across - 3, 0)).mean() for u in offsets])
    for odds in (-1.5, 0.7):
        weight = expit(odds)
        best = guesses[np.argmin((1 - weight) * cost + weight * cost[::-1])]
        share = mixture.minimiser_share(Loss("floor"), np.array([odds]), gap / 3 ** 0.5, 0.0, 3)[0]
        assert share == pytest.approx(best, abs=0.04)


def test_squares_score_is_the_gradient_of_the_log_density():
    case, t, p = Mixture(3.0, 0.3, 4, 0.5), 0.4, np.array([-1.0, 0.2, 1.3])
    here = mixture.posterior(case, t)

    def log_density(x):
        means = here["rho"] * case.distance * np.array([-0.5, 0.5])
        return np.log((np.array([0.7, 0.3]) * np.exp(-(x[:, None] - means) ** 2 / 2 / here["total"])).sum(1))

    slope = (log_density(p + 1e-5) - log_density(p - 1e-5)) / 2e-5
    assert np.allclose(mixture.score(case, Loss(), p, t), slope, atol=1e-7)


def test_first_look_in_one_dimension_and_in_64():
    far = Mixture(2 / 0.3, 0.3, 1, 0.3)
    first_look = {Loss(): 0.298, Loss("pseudo_huber", "exponential", 0.1): 0.248, Loss("pseudo_huber", "exponential", 0.001): 0.171,
                  Loss("pseudo_huber", "constant", 0.01): 0.163}
    for loss, share in first_look.items():
        assert minority_share(far, loss, points=501, steps=120) == pytest.approx(share, abs=0.01)
    near = Mixture(0.5, 0.3, 64)
    shares = [minority_share(near, loss, points=501, steps=100) for loss in (Loss(), Loss("l1"), Loss("l1", level="norm"))]
    assert max(shares) - min(shares) < 0.01 and shares[0] == pytest.approx(near.own_share, abs=0.01)
    assert minority_share(near, Loss("floor_limit"), points=501, steps=100) < 0.12


def test_condition_noise_adds_rank_one():
    truth = condition_noise.example_class()
    exact, gamma = condition_noise.generated(truth, 1.0), 1.0
    seen = condition_noise.simulate([truth], gamma, bias=False, draws=6000, steps=60, generator=torch.Generator().manual_seed(0))[0]
    assert np.abs(seen.covariance - exact.covariance).max() < 0.25 and np.abs(seen.mean - exact.mean).max() < 0.1
    assert np.abs(seen.covariance - condition_noise.printed(truth, gamma).covariance).max() > 1
    excess = np.linalg.eigvalsh(exact.covariance - truth.covariance)
    assert excess[-1] == pytest.approx(2.0) and np.allclose(excess[:-1], 0, atol=1e-12)
    gain = 0.5 * np.log1p(0.5 * truth.mean @ np.linalg.solve(truth.covariance, truth.mean))
    assert exact.entropy - truth.entropy == pytest.approx(gain)


def test_shared_network_without_bias_reduces_to_the_per_class_formula_for_one_class():
    truth = condition_noise.example_class()
    one, other = condition_noise.generated_shared([truth], 0.7, bias=False)[0], condition_noise.generated(truth, 0.7)
    assert np.allclose(one.mean, other.mean) and np.allclose(one.covariance, other.covariance)
    unmoved = condition_noise.generated_shared([truth], 0.7, bias=True)[0]
    assert np.allclose(unmoved.mean, truth.mean) and np.allclose(unmoved.covariance, truth.covariance)


def test_distance_grows_on_the_population_and_shrinks_first_on_few_examples():
    truth = condition_noise.example_class()
    distances = [condition_noise.wasserstein(condition_noise.generated(truth, gamma), truth) for gamma in (0.0, 0.1, 0.3, 1.0)]
    assert distances[0] == pytest.approx(0, abs=1e-6) and distances == sorted(distances)
    gamma, random = np.array([0.02]), np.random.default_rng(0)
    change = condition_noise.finite_sample_change(np.ones(1), 20, gamma, datasets=20000, isotropic=False, random=random)[:, 0]
    slope, error = change.mean() / gamma[0] ** 2, change.std() / 20000 ** 0.5 / gamma[0] ** 2
    assert slope == pytest.approx(condition_noise.slope_one_dimension(1.0, 20), abs=5 * error) and slope + 3 * error < 0


def test_early_stopping_is_repeatable_and_writes_table_and_figure(tmp_path):
    training = early_stopping.Training((5,), seeds=2, samples=50)
    runs = [early_stopping.early_shares(Mixture(2 / 0.3, 0.3, 1, 0.3), early_stopping.OBJECTIVES, training, 0) for _ in range(2)]
    assert runs[0] == runs[1] and [row["loss"] for row in runs[0]] == list(early_stopping.OBJECTIVES)
    assert runs[0][0]["less squares"] == 0 and len({row["share"] for row in runs[0]}) > 1
    rows = [{"setting": "tiny", **row, "at the optimum": 0.3} for row in runs[0]]
    theory_output.write_table(rows, tmp_path / "a.csv")
    theory_output.save_figure(early_stopping.draw(rows), tmp_path / "a")
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(rows) + 1
    assert "<svg" in (tmp_path / "a.svg").read_text()[:600] and (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
