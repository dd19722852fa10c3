"""How objectives withstand off-class digits in a small DDPM: the image half of arXiv 2403.16728, in minutes on two cores.

    python recipes/diffusers/digits.py --out runs/digits            # the study of docs/elsewhere.md; killed, it goes on where it was
    python recipes/diffusers/digits.py --out runs/digits-quick --quick

scikit-learn's 8x8 digits are split in halves, by class and seed. A classifier learns one half. On the other half's images of one class,
the target, an unconditional DDPM of Hugging Face diffusers is trained; to them a share of off-class digits of that half is added, drawn
at random or by their distance to the mean target image: the nearest (most similar) or the farthest (least). S is the share of the samples
that the classifier takes for the target, R = S(dirty) - S(clean) of the same objective, seed and step. The learning rate of every
objective is the one of the same grid that brings samples nearest to unseen target images (energy distance) on clean data of other seeds.
"""
from __future__ import annotations

import argparse
import io
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC
from torch import Tensor

from gradtts_robust.files import atomic_text
from gradtts_robust.losses import Objective, discrete_snr

OBJECTIVES = {
    "l2": Objective(),
    "pseudo_huber 0.1": Objective("pseudo_huber", delta_schedule="exponential", delta_0=0.1),
    "matched l2 0.1": Objective("pseudo_huber", delta_schedule="exponential", delta_0=0.1, matched="unit"),
    "pseudo_huber 0.01": Objective("pseudo_huber", delta_schedule="exponential", delta_0=0.01),
    "matched l2 0.01": Objective("pseudo_huber", delta_schedule="exponential", delta_0=0.01, matched="unit"),
    "smooth_l1 0.1": Objective("smooth_l1", delta_schedule="snr", delta_0=0.1),
    "matched l2 smooth": Objective("smooth_l1", delta_schedule="snr", delta_0=0.1, matched="unit"),
    "huber 0.1": Objective("huber", delta_schedule="exponential", delta_0=0.1),
}
PICKS = ("random", "most", "least")
TARGETS = (2, 5, 8, 0, 3)  # the target class of every seed, in turn
RATE_SEEDS = (1000, 1001)  # splits that the study does not use
KEY = ["objective", "rate", "pick", "fraction", "seed"]


@dataclass(frozen=True)
class Plan:
    """The study's settings: training steps to judge after, numbers of things, fractions in [0, 1), learning rates of Adam."""

    checkpoints: tuple[int, ...] = (20, 40, 80, 160)
    batch: int = 32
    samples: int = 150
    sampler_steps: int = 20
    seeds: int = 3
    fractions: tuple[float, ...] = (0.15, 0.3, 0.45)
    picks: tuple[str, ...] = PICKS
    objectives: tuple[str, ...] = tuple(OBJECTIVES)
    rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)


QUICK = Plan(checkpoints=(30, 60), samples=60, sampler_steps=10, seeds=1, fractions=(0.45,), picks=("random",),
             objectives=("l2", "pseudo_huber 0.1"), rates=(4e-3,))


@dataclass(frozen=True)
class Run:
    """One training: an objective's name, its rate, and the dirt of its data."""

    objective: str
    rate: float
    pick: str
    fraction: float
    seed: int


@dataclass(frozen=True)
class Split:
    """Images [N, 1, 8, 8] in [-1, 1]: the half to train on, by class, unseen ones of the target, and the judge of the other half."""

    target: Tensor
    others: Tensor
    unseen: Tensor
    judge: SVC
    label: int


def split(seed: int) -> Split:
    """Halves of the digits, of equal class shares."""
    digits = load_digits()
    images = (digits.images / 8 - 1).astype(np.float32)
    train, rest, labels, rest_labels = train_test_split(images, digits.target, test_size=0.5, stratify=digits.target, random_state=seed)
    label = TARGETS[seed % len(TARGETS)]
    judge = SVC(C=10.0).fit(rest.reshape(len(rest), -1), rest_labels)
    target, others, unseen = (torch.from_numpy(part[:, None]) for part in (
        train[labels == label], train[labels != label], rest[rest_labels == label]))
    return Split(target, others, unseen, judge, label)


def mixed(data: Split, *, pick: str, fraction: float, generator: torch.Generator) -> Tensor:
    """The target's images and as many others as make up `fraction` of the result, [N, 1, 8, 8]."""
    count = round(len(data.target) * fraction / (1 - fraction))
    distance = (data.others - data.target.mean(0)).flatten(1).norm(dim=1)
    order = {"random": torch.randperm(len(data.others), generator=generator), "most": distance.argsort(),
             "least": distance.argsort(descending=True)}[pick]
    return torch.cat([data.target, data.others[order[:count]]])


def network(seed: int) -> UNet2DModel:
    """A U-Net of 160,000 weights at 4x4, on pixels folded 2x2 into channels: four times as fast as at 8x8."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet2DModel(sample_size=4, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32,), norm_num_groups=8,
                           down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False)


@torch.no_grad()
def draw(model: UNet2DModel, scheduler: DDPMScheduler, *, count: int, steps: int, seed: int) -> Tensor:
    """Samples [count, 1, 8, 8] of the ancestral sampler."""
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    noisy = torch.randn(count, 4, 4, 4, generator=generator)
    for timestep in scheduler.timesteps:
        noisy = scheduler.step(model(noisy, timestep).sample, timestep, noisy, generator=generator).prev_sample
    return F.pixel_shuffle(noisy, 2)


def energy_distance(samples: Tensor, reference: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| over pixels, 0 for equal distributions (up to the pairs of an image with itself)."""
    first, second = samples.flatten(1), reference.flatten(1)
    return (2 * torch.cdist(first, second).mean() - torch.cdist(first, first).mean() - torch.cdist(second, second).mean()).item()


def train(run: Run, plan: Plan) -> list[dict]:
    """Trains and judges; a row for every checkpoint. Start, batches, t and noise of a seed are the same for all objectives."""
    torch.set_num_threads(1)
    data, objective = split(run.seed), OBJECTIVES[run.objective]
    generator = torch.Generator().manual_seed(run.seed)
    clean = F.pixel_unshuffle(mixed(data, pick=run.pick, fraction=run.fraction, generator=generator), 2)
    generator.manual_seed(run.seed + 1)
    model = network(run.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.rate)
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing")
    total, rows = scheduler.config.num_train_timesteps, []
    for step in range(1, plan.checkpoints[-1] + 1):
        x_0 = clean[(torch.rand(plan.batch, generator=generator) * len(clean)).long()]
        noise = torch.randn(x_0.shape, generator=generator)
        timesteps = torch.randint(0, total, (plan.batch,), generator=generator)
        residual = model(scheduler.add_noise(x_0, noise, timesteps), timesteps).sample - noise
        loss = objective(residual, t=(timesteps + 1) / total, snr=discrete_snr(scheduler.alphas_cumprod, timesteps)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step in plan.checkpoints:
            samples = draw(model.eval(), scheduler, count=plan.samples, steps=plan.sampler_steps, seed=run.seed + 2)
            model.train()
            share = float((data.judge.predict(samples.flatten(1).numpy()) == data.label).mean())
            rows.append({**asdict(run), "target": data.label, "step": step, "share": share,
                         "energy": energy_distance(samples, data.unseen)})
    return rows


def execute(runs: list[Run], plan: Plan, table: Path, *, jobs: int) -> pd.DataFrame:
    """Trains what the table lacks, in parallel, writing it after every run."""
    done = pd.read_csv(table) if table.is_file() else pd.DataFrame(columns=KEY)
    known = {tuple(key) for key in done[KEY].itertuples(index=False)}
    missing = [run for run in dict.fromkeys(runs) if tuple(asdict(run).values()) not in known]
    results: Iterator = Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(train)(run, plan) for run in missing)
    begin = time.monotonic()
    for count, rows in enumerate(results, 1):
        done = pd.concat([done, pd.DataFrame(rows)], ignore_index=True) if len(done) else pd.DataFrame(rows)
        done = done.sort_values([*KEY, "step"], ignore_index=True)
        atomic_text(table, done.to_csv(index=False))
        print(f"\r{count} of {len(missing)} trainings, {time.monotonic() - begin:.0f} s", end="", file=sys.stderr, flush=True)
    if missing:
        print(file=sys.stderr)
    return done


def choose_rates(plan: Plan, table: Path, *, jobs: int) -> dict[str, float]:
    """The rate of every objective with the least energy distance at the last step, mean over `RATE_SEEDS`, on clean data."""
    if len(plan.rates) == 1:
        return dict.fromkeys(plan.objectives, plan.rates[0])
    runs = [Run(objective, rate, "random", 0.0, seed) for objective in plan.objectives for rate in plan.rates for seed in RATE_SEEDS]
    rows = execute(runs, plan, table, jobs=jobs)
    last = rows[rows["step"] == rows["step"].max()].groupby(["objective", "rate"])["energy"].mean().unstack()
    return {objective: float(last.loc[objective].idxmin()) for objective in plan.objectives}


def study(plan: Plan, out: Path, *, jobs: int) -> pd.DataFrame:
    """The whole study into `out`: plan.json, rates.csv, results.csv; gives the latter's rows."""
    settings, record = json.dumps(asdict(plan), indent=1), out / "plan.json"
    if record.is_file() and record.read_text(encoding="utf-8") != settings:
        raise ValueError(f"{record} is of a study with other settings; give another --out")
    atomic_text(record, settings)
    rates = choose_rates(plan, out / "rates.csv", jobs=jobs)
    # clean first, then the dirtiest: a study cut short is whole as far as it got
    dirt = [("random", 0.0), *((pick, fraction) for fraction in sorted(plan.fractions, reverse=True) for pick in plan.picks)]
    runs = [Run(name, rates[name], pick, fraction, seed)
            for pick, fraction in dirt for seed in range(plan.seeds) for name in plan.objectives]
    return execute(runs, plan, out / "results.csv", jobs=jobs)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder of the tables and the figure")
    parser.add_argument("--quick", action="store_true", help="two objectives, one seed, short training: that it runs, not what comes out")
    parser.add_argument("--checkpoints", type=int, nargs="+", default=Plan.checkpoints, help="training steps to judge after")
    parser.add_argument("--seeds", type=int, default=Plan.seeds, help="seeds, each with its own split and target class")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time, one core each")
    options = parser.parse_args(arguments)
    from digits_tables import report  # beside this file

    plan = QUICK if options.quick else Plan(checkpoints=tuple(sorted(options.checkpoints)), seeds=options.seeds)
    try:
        rows = study(plan, options.out, jobs=options.jobs)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    text = io.StringIO()
    report(rows, options.out, text)
    print(text.getvalue(), end="")


if __name__ == "__main__":
    main()
