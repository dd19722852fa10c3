"""Analysis over the diffusion times: identities between its columns, known networks, the command."""
import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from training_data import BASE_VOICES, SPEAKERS, corpus, tiny_features, tiny_model

from gradtts_robust.cli import main
from gradtts_robust.config import TextConfig
from gradtts_robust.data.manifest import read_manifest, write_manifest
from gradtts_robust.losses import Objective
from gradtts_robust.study.analysis import SETTINGS, analyse
from gradtts_robust.training.checkpoint import Checkpoint, save_checkpoint

ROWS = {name: row for row, name in enumerate(SPEAKERS)}
TIMES = [0.1, 0.3, 0.5, 0.7, 0.9]
OBJECTIVES = {"l2": Objective(), "pseudo_huber": Objective("pseudo_huber"), "matched": Objective("pseudo_huber", matched="unit")}


@pytest.fixture(scope="module")
def found():
    model = tiny_model()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return analyse(model, tiny_features(), ROWS, OBJECTIVES, times=TIMES, foreign={"u1", "u4"}, seed=0), model


def test_errors_are_the_residual_through_the_noise_schedule(found):
    errors, schedule = found[0].errors, found[1].schedule
    assert len(errors) == 10 and set(errors["utterances"][errors["group"] == "foreign"]) == {2}
    t = torch.tensor(errors["t"].to_numpy())
    np.testing.assert_allclose(errors["amplification"], (schedule.variance(t).sqrt() / schedule.rho(t)).numpy(), rtol=1e-9)
    np.testing.assert_allclose(errors["score_error"] ** 2 * schedule.variance(t).numpy(), errors["residual"] ** 2, rtol=1e-9)
    np.testing.assert_allclose(errors["x0_error"], errors["residual"] * errors["amplification"], rtol=1e-9)


def test_loss_gradient_and_shares(found):
    errors, shares = found[0].errors, found[0].shares.set_index(["objective", "t"])
    for _, part in shares.groupby("objective"):
        assert part["loss_share"].sum() == pytest.approx(1) and part["gradient_share"].sum() == pytest.approx(1)
    for t in TIMES:
        groups = errors[errors["t"] == t]
        mean = (groups["residual"] ** 2 * groups["utterances"]).sum() / groups["utterances"].sum()
        assert shares.loc[("l2", t), "loss"] == pytest.approx(mean, rel=1e-5), "squared error is the mean square of the residual"
        assert shares.loc[("pseudo_huber", t), "delta"] == pytest.approx(0.1 ** t)
        factor = OBJECTIVES["pseudo_huber"]._penalty(torch.ones(1), torch.tensor([0.1 ** t])).item()
        for column in ("loss", "gradient_norm"):
            assert shares.loc[("matched", t), column] == pytest.approx(factor * shares.loc[("l2", t), column], rel=1e-4)
        assert shares.loc[("pseudo_huber", t), "loss"] < shares.loc[("l2", t), "loss"]


def test_what_foreign_utterances_contribute(found):
    errors, shares = found[0].errors.set_index(["t", "group"]), found[0].shares.set_index(["objective", "t"])
    for t in TIMES:
        sums = {group: errors.loc[(t, group), "residual"] ** 2 * errors.loc[(t, group), "utterances"] for group in ("clean", "foreign")}
        assert shares.loc[("l2", t), "foreign_loss"] == pytest.approx(sums["foreign"] / sum(sums.values()), rel=1e-5)
        # a weight over t is the same for all
        for column in ("foreign_loss", "foreign_gradient"):
            assert shares.loc[("matched", t), column] == pytest.approx(shares.loc[("l2", t), column], rel=1e-4)
    assert shares["foreign_gradient"].between(0, 1, inclusive="neither").all()
    alone = analyse(found[1], tiny_features(), ROWS, {"l2": Objective()}, times=TIMES[:1], foreign=set(), seed=0).shares
    names = {f"u{i}" for i in range(7)}
    every = analyse(found[1], tiny_features(), ROWS, {"l2": Objective()}, times=TIMES[:1], foreign=names, seed=0).shares
    assert alone["foreign_gradient"].isna().all() and every["foreign_loss"].isna().all()
    assert alone["gradient_norm"].item() == pytest.approx(every["gradient_norm"].item()) == \
        pytest.approx(shares.loc[("l2", TIMES[0]), "gradient_norm"], rel=1e-5)


def test_histograms_hold_all_bins_and_the_residuals_size(found):
    histograms, errors = found[0].histograms, found[0].errors.set_index(["t", "group"])
    for key, part in histograms.groupby(["t", "group"]):
        assert part["share"].sum() == pytest.approx(1)
        middle = np.sqrt(part["low"].clip(1e-3) * part["high"].clip(upper=20))
        assert (part["share"] * middle ** 2).sum() == pytest.approx(errors.loc[key, "residual"] ** 2, rel=0.15)


def test_a_model_as_lean_ones_start_errs_by_the_signal(found):
    """With a zero last layer the lean network's score is mu - X_t, so that the residual is known in closed form."""
    model = tiny_model()
    result = analyse(model, tiny_features(), ROWS, {"l2": Objective()}, times=[1.0], foreign=set(), seed=0)
    assert result.errors["group"].tolist() == ["clean"]
    assert result.errors["residual"].item() < 0.1, "at full noise mu - X_t is minus the noise"


def test_the_command(tmp_path, capsys):
    model = tiny_model()
    save_checkpoint(tmp_path / "model.safetensors", Checkpoint(
        model=model, text=TextConfig(), speakers=list(BASE_VOICES), step=1, embeddings=None, default_speaker=None, extra={}))
    utterances = [u for u in read_manifest(corpus()) if u.speaker in BASE_VOICES][:8]
    utterances[0] = dataclasses.replace(utterances[0], extra={"true_speaker": "Reed"})
    write_manifest(tmp_path / "manifest.csv", utterances)
    words = ["analyze", "--model", str(tmp_path / "model.safetensors"), "--manifest", str(tmp_path / "manifest.csv"), "--times", "3",
             "--cache", str(corpus().parent / "features"), "--device", "cpu", "--limit", "6"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    assert "analysis.html" in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"analysis.html", *(f"{n}.{s}" for n in ("errors", "shares", "histograms") for s in ("csv", "svg", "png")),
                    "foreign.svg", "foreign.png"}
    shares, errors = (pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("shares", "errors"))
    assert set(shares["objective"]) == set(SETTINGS) and len(shares) == 3 * len(SETTINGS)
    assert set(errors["group"]) == {"clean", "foreign"} and errors.groupby("t")["utterances"].sum().eq(6).all()
    assert (tmp_path / "out" / "analysis.html").read_text().count("<svg") == 4

    write_manifest(tmp_path / "manifest.csv", [u for u in read_manifest(corpus()) if u.speaker not in BASE_VOICES])
    for wrong, named in ((words, "knows no speaker"), ([*words, "--times", "0"], "times is 0"),
                         ([*words, "--delta_0", "2"], "delta_0 is 2"), ([*words, "--manifest", "nowhere.csv"], "nowhere.csv")):
        assert main([*wrong, "--out", str(tmp_path / "bad")]) == 2
        said = capsys.readouterr().err.strip()
        assert named in said and "\n" not in said and not (tmp_path / "bad").exists()
