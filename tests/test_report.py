import json
import shutil

import numpy as np
import pytest
import torch
from study_base import check_page
from test_figures import results

from gradtts_robust.files import atomic_text
from gradtts_robust.study import report
from gradtts_robust.study.embedding import SoundShelf, encode_sound
from gradtts_robust.study.evaluation import write_sample
from gradtts_robust.study.report import findings, write_report
from gradtts_robust.study.results import last_checkpoint, merge_results, read_results, write_results

HEAD = "id,corrupted,kind,true_speaker,replaced,detail\n"


def tone(path, pitch: float) -> None:
    wave = 0.3 * np.sin(2 * np.pi * pitch * np.arange(11008) / 22050).astype(np.float32)
    write_sample(path, wave, torch.full((80, 43), pitch / 100 - 8))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A folder as the demo leaves it, with tones for samples and known similarities."""
    out = tmp_path_factory.mktemp("study")
    table = results()
    facts = {"ceiling": {"natural": [0.92, 0.94], "resynthesis": [0.9, 0.92]}, "thresholds": [0.7, 0.8], "vocoder": "griffin-lim",
             "sentences": ["The <b>first</b>.", "Second & last.", "Third.", "Fourth."], "reference_to_pollution": [0.5],
             "clips": [{"text": "A held-out clip.", "sample": "samples/reference/01.wav"}]}
    for name, part in table.groupby("condition", sort=False):
        run = out / name
        for sample in part["sample"]:
            tone(out / sample, 200)
        tone(run / "samples" / "reference" / "01.wav", 300)
        write_results(run, part.assign(sample=part["sample"].str.removeprefix(f"{name}/")))
        atomic_text(run / "evaluation.json", json.dumps(facts))
        atomic_text(run / "config.yaml", f"iterations: 100\nobjective:\n  penalty: {part['penalty'].iloc[0]}\n")
        dirty = ("u1,0,none,Andrea,,\nu2,1,foreign,Reed,u9,\nu3,1,noise,Andrea,,hum at 3.0 dB\n" if name != "clean-l2"
                 else "u1,0,none,Andrea,,\nu9,0,none,Andrea,,\n")
        atomic_text(run / "corruption.csv", HEAD + dirty)
        atomic_text(run / "environment.json", json.dumps({"python": "3.11", "versions": {"torch": "2.11.0"}}))
    merge_results(out, {name: out / name for name in ("clean-l2", "dirty-l2", "dirty-pseudo_huber")})
    return out


def test_merged_results_point_to_samples(study):
    table = read_results(study)
    assert len(table) == 36 and all((study / sample).is_file() for sample in table["sample"])


def test_report_of_several_runs_is_one_whole_file(study):
    page = check_page(write_report(study))
    assert page.tags["svg"] == 4 and page.tags["img"] == 1 and page.alts[0]
    # the held-out clip, 4 sentences and 2 earlier checkpoints of 3 conditions
    assert page.tags["audio"] == 1 + 3 * (4 + 2)
    text = " ".join(page.text.split())
    for words in ("Result at iteration 100", "0.930", "The <b>first</b>.", "Second & last.", "Reed 1, noise 1", "u9", "hum at 3.0 dB",
                  "-0.020", "objective.penalty", "versions.torch",
                  "dirty-l2: -0.020 against clean-l2", "dirty-pseudo_huber has 200 % of the damage", "A held-out clip."):
        assert words in text, words
    assert page.text.count("pseudo_huber") > 3 and (study / "report.html").stat().st_size < 3_000_000


def test_report_of_one_run(study):
    page = check_page(write_report(study / "dirty-l2"))
    assert page.tags["audio"] == 1 + 4 + 2 and "against clean" not in page.text


def test_report_without_neighbours_of_the_table(tmp_path):
    write_results(tmp_path, results(pollution=False))
    page = check_page(write_report(tmp_path))
    assert page.tags["audio"] == 0 and page.tags["img"] == 0 and page.tags["svg"] == 3 and "no sound" in page.text


def test_sounds_beyond_the_budget_are_left_out_and_counted(study, monkeypatch):
    one = len(encode_sound(study / "dirty-l2/samples/000000/01.wav"))
    monkeypatch.setattr(report, "SOUND_BYTES", one * 5)
    page = check_page(write_report(study))
    assert page.tags["audio"] in (4, 5) and "samples were left out" in page.text
    shelf = SoundShelf(10**6)
    assert shelf(study / "nothing.wav") == "" and shelf.left_out == 0


def test_findings_say_what_came_out_and_not_what_was_hoped():
    last = last_checkpoint(results())
    assert findings(last)[0] == "dirty-l2: -0.020 against clean-l2" and "200 %" in findings(last)[2]
    better = last.assign(similarity=last["similarity"] + 0.1 * (last["corruption_fraction"] > 0))
    assert findings(better)[0] == "dirty-l2: +0.080 against clean-l2" and "no share of the damage" in findings(better)[2]
    assert findings(last[last["corruption_fraction"] > 0]) == [] and findings(last[last["condition"] == "clean-l2"]) == []


def test_broken_settings_are_one_line(study, tmp_path):
    """Of a run folder that was edited by hand or half copied."""
    run = tmp_path / "run"
    shutil.copytree(study, run)
    broken = next(iter(sorted(run.rglob("config.yaml"))))
    for content in (b"a: [", b"only words", b"\xff\xfe"):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"config\.yaml: not a run's settings") as caught:
            write_report(run)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content, words", [
    (None, "no results there"), ("", "not a results table"), ("a,b\n1,2\n", "no column 'speaker'"),
    (",".join(results().columns) + "\n", "no rows")])
def test_missing_or_broken_results_are_one_line(tmp_path, content, words):
    if content is not None:
        (tmp_path / "results.csv").write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        write_report(tmp_path)
    assert "results.csv" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()
