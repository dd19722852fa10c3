"""The digits study: its data, its trainings, its tables, and a tiny run from the command line that goes on where it was."""
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install 'gradtts-robust[diffusers]'")
FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "diffusers"


@pytest.fixture(scope="module")
def recipe():
    sys.path.insert(0, str(FOLDER))
    try:
        import digits
        import digits_tables
        digits.tables = digits_tables
        yield digits
    finally:
        sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def tiny(recipe):
    return recipe.Plan(checkpoints=(1, 3), batch=4, samples=4, sampler_steps=2, seeds=2, fractions=(0.3,), picks=("random", "least"),
                       objectives=("l2", "pseudo_huber 0.1"), rates=(1e-3, 2e-3))


def test_halves_share_no_image_and_the_judge_knows_its_job(recipe):
    data = recipe.split(0)
    assert data.label == recipe.TARGETS[0] and recipe.split(1).label == recipe.TARGETS[1]
    assert len(data.target) + len(data.others) == 898
    assert data.target.min() == -1 and data.target.max() == 1 and data.target.shape[1:] == (1, 8, 8)
    assert torch.cdist(data.target.flatten(1), data.unseen.flatten(1)).min() > 0
    verdicts = [(data.judge.predict(part.flatten(1).numpy()) == data.label).mean() for part in (data.target, data.others)]
    assert verdicts[0] > 0.95 and verdicts[1] < 0.01


def test_mixing(recipe):
    data, generator = recipe.split(0), torch.Generator().manual_seed(0)
    assert torch.equal(recipe.mixed(data, pick="random", fraction=0.0, generator=generator), data.target)
    distances = {}
    for pick in recipe.PICKS:
        result = recipe.mixed(data, pick=pick, fraction=0.45, generator=generator)
        assert torch.equal(result[:len(data.target)], data.target)
        foreign = result[len(data.target):]
        assert len(foreign) / len(result) == pytest.approx(0.45, abs=0.005)
        assert torch.cdist(foreign.flatten(1), data.others.flatten(1)).min(dim=1).values.max() == 0
        distances[pick] = (foreign - data.target.mean(0)).flatten(1).norm(dim=1)
    everyone = (data.others - data.target.mean(0)).flatten(1).norm(dim=1).sort().values
    count = len(distances["most"])
    torch.testing.assert_close(distances["most"].sort().values, everyone[:count])
    torch.testing.assert_close(distances["least"].sort().values, everyone[-count:])


def test_energy_distance(recipe):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(5, 64)), rng.normal(size=(7, 64)) + 1
    def mean(a, b):
        return np.mean([[math.dist(x, y) for y in b] for x in a])
    expected = 2 * mean(first, second) - mean(first, first) - mean(second, second)
    shaped = [torch.from_numpy(part).float().reshape(-1, 1, 8, 8) for part in (first, second)]
    assert recipe.energy_distance(*shaped) == pytest.approx(expected, rel=1e-4)


def test_training_repeats_and_the_objective_matters(recipe, tiny):
    run = recipe.Run("l2", 2e-3, "random", 0.3, 0)
    first, again, other = (recipe.train(item, tiny) for item in (run, run, replace(run, objective="pseudo_huber 0.01")))
    assert first == again
    assert [row["step"] for row in first] == [1, 3] and all(0 <= row["share"] <= 1 for row in first)
    assert [row["energy"] for row in first] != [row["energy"] for row in other]


def test_study_goes_on_where_it_was(recipe, tiny, tmp_path, monkeypatch):
    rows = recipe.study(tiny, tmp_path, jobs=1)
    # clean and two kinds of dirt, two seeds, two objectives, two checkpoints
    assert len(rows) == 3 * 2 * 2 * 2 and not rows.isna().any().any()
    chosen = pd.read_csv(tmp_path / "rates.csv")
    assert set(chosen["seed"]) == set(recipe.RATE_SEEDS) and (chosen["fraction"] == 0).all()
    last = chosen[chosen["step"] == 3].groupby(["objective", "rate"])["energy"].mean()
    for name in tiny.objectives:
        assert set(rows[rows["objective"] == name]["rate"]) == {last[name].idxmin()}
    whole = (tmp_path / "results.csv").read_bytes()
    kept = rows[(rows["seed"] != 1) | (rows["pick"] != "least")]
    kept.to_csv(tmp_path / "results.csv", index=False)
    trained, original = [], recipe.train
    monkeypatch.setattr(recipe, "train", lambda run, plan: trained.append(run) or original(run, plan))
    recipe.study(tiny, tmp_path, jobs=1)
    assert [(run.objective, run.seed, run.pick) for run in trained] == [(name, 1, "least") for name in tiny.objectives]
    assert (tmp_path / "results.csv").read_bytes() == whole
    with pytest.raises(ValueError, match=r"plan\.json is of a study with other settings"):
        recipe.study(replace(tiny, seeds=3), tmp_path, jobs=1)


def table(shares):
    """Results of one step: objective -> (clean, dirty) share for each of two seeds, the second 0.1 lower throughout."""
    rows = []
    for objective, pair in shares.items():
        for seed in (0, 1):
            for fraction, share in zip((0.0, 0.45), pair):
                rows.append({"objective": objective, "rate": 0.002, "pick": "random", "fraction": fraction, "seed": seed, "target": 2,
                             "step": 10, "share": share - 0.1 * seed, "energy": 0.5})
    return pd.DataFrame(rows)


def test_tables(recipe):
    rows = table({"l2": (0.9, 0.5), "huber 0.1": (0.8, 0.7), "smooth_l1 0.1": (0.95, 0.3)})
    result = recipe.tables.resilience_table(rows).set_index("objective")
    assert result["resilience"].to_dict() == pytest.approx({"l2": -0.4, "huber 0.1": -0.1, "smooth_l1 0.1": -0.65})
    ratio = {name: recipe.tables.damage_ratio(rows, name).mean for name in ("l2", "huber 0.1", "smooth_l1 0.1")}
    assert ratio == pytest.approx({"l2": 1.0, "huber 0.1": 0.5, "smooth_l1 0.1": 1.5})
    assert math.isnan(recipe.tables.damage_ratio(table({"l2": (0.9, 0.895)}), "l2").mean)
    assert recipe.tables.by_dirt(rows).set_index("objective")["random 45%"].to_dict() == {
        "l2": "-0.400", "huber 0.1": "-0.100", "smooth_l1 0.1": "-0.650"}
    assert recipe.tables.by_fraction(rows).set_index("objective")["damage ratio, 45%"].to_dict() == {
        "l2": "1.00 [1.00, 1.00]", "huber 0.1": "0.50 [0.50, 0.50]", "smooth_l1 0.1": "1.50 [1.50, 1.50]"}


@pytest.mark.timeout(600)
def test_quick_from_the_command_line(recipe, tmp_path):
    # as a user starts it: in processes of its own, two at a time
    done = subprocess.run([sys.executable, str(FOLDER / "digits.py"), "--quick", "--out", str(tmp_path)], capture_output=True, text=True,
                          timeout=580, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert "| l2 | 0.004 |" in done.stdout and "| pseudo_huber 0.1 | 0.004 |" in done.stdout and "random 45%" in done.stdout
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == done.stdout
    for name in ("results.csv", "resilience.csv", "resilience.svg", "resilience.png"):
        assert (tmp_path / name).stat().st_size > 100
    assert json.loads((tmp_path / "plan.json").read_text())["checkpoints"] == list(recipe.QUICK.checkpoints)
