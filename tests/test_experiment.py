import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
from study_base import check_page, tiny_adaptation, tiny_base

from gradtts_robust.config import CorruptionConfig, EvaluationConfig
from gradtts_robust.data.generated import generate
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.study.evaluation import Evaluation, read_sentences
from gradtts_robust.study.experiment import judge_adaptation, run_adaptation
from gradtts_robust.study.metrics import file_similarity
from gradtts_robust.study.results import read_results
from gradtts_robust.training.voice import load


class Stop(Exception):
    """Stands for a kill at a moment of the test's choosing."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    return tiny_base(folder / "base.safetensors"), generate(folder, voices=["Andrea", "Reed"], sentences_per_voice=6)


@pytest.fixture(scope="module")
def run(corpus):
    """A whole dirty adaptation: its settings, summary, and what it told of its progress."""
    base, manifest = corpus
    told = []
    config = tiny_adaptation(base, manifest, manifest.parent / "run")
    return config, run_adaptation(config, progress=lambda *words: told.append(words)), told


def test_every_checkpoint_has_a_row_and_a_sample_per_sentence(run):
    _config, summary, _ = run
    table = read_results(summary.report.parent)
    pd.testing.assert_frame_equal(table, summary.table)
    assert list(zip(table["iteration"], table["sentence"])) == [(0, 1), (0, 2), (2, 1), (2, 2), (4, 1), (4, 2)]
    assert set(table["condition"]) == {"dirty-l2"} and set(table["speaker"]) == {"Andrea"} and set(table["corruption_fraction"]) == {0.5}
    assert table["similarity"].between(-1, 1).all() and table["pollution_similarity"].between(-1, 1).all()
    for row in table.itertuples():
        path = summary.report.parent / row.sample
        sound = soundfile.info(path)
        mel = np.load(path.with_suffix(".npy"))
        assert sound.subtype == "PCM_16" and sound.frames / sound.samplerate == pytest.approx(row.seconds, abs=1e-3)
        assert mel.shape[0] == 80 and mel.shape[1] * 256 == sound.frames


def test_rows_agree_with_the_similarity_of_the_files_and_samples_can_be_made_again(run):
    config, summary, _ = run
    out = summary.report.parent
    references = [u.path for u in read_manifest(out / "reference.csv")]
    foreign = [u.path for u in read_manifest(out / "train.csv") if u.extra.get("true_speaker")]
    assert len(references) == 2 and len(foreign) == 2
    files = [out / name for name in summary.table["sample"]]
    for column, judge in (("similarity", references), ("pollution_similarity", foreign)):
        again = [value for _, value in file_similarity(files, judge, device="cpu")]
        assert again == pytest.approx(summary.table[column].to_list(), abs=2e-3)
    last = summary.table.iloc[-1]
    spoken = load(out, device="cpu").speak(read_sentences("2")[1], steps=2, temperature=1.5, length_scale=1.0, seed=config.seed + 2)
    assert np.abs(spoken.wave.clip(-1, 1) - soundfile.read(out / last["sample"])[0]).max() < 1e-3


def test_ceilings_and_text(run):
    _config, summary, told = run
    facts = json.loads((summary.report.parent / "evaluation.json").read_text())
    assert len(facts["ceiling"]["natural"]) == len(facts["ceiling"]["resynthesis"]) == len(facts["clips"]) == 2
    # the target's own clips are much nearer to each other than to the foreign speaker
    assert min(facts["ceiling"]["natural"]) > 0.8 > max(facts["reference_to_pollution"])
    lines = summary.text.splitlines()
    assert [line.split()[0] for line in lines] == ["iteration", "0", "2", "4", "ceiling:", "corruption:"]
    assert lines[-1] == "corruption: foreign, 2 of 4 utterances at fraction 0.5"
    assert float(lines[3].split()[1]) == pytest.approx(summary.table.query("iteration == 4")["similarity"].mean(), abs=5e-4)
    training, judging = ([words for words in told if words[0] == stage] for stage in ("adapt", "evaluation"))
    assert [words[1] for words in training] == [1, 2, 3, 4] and "diffusion" in training[0][3]
    assert [words[1:3] for words in judging] == [(n, 6) for n in range(1, 7)]
    assert "Reed 2" in check_page(summary.report).text


def test_a_finished_run_is_only_reported(run, monkeypatch):
    config, summary, _ = run
    monkeypatch.setattr(Evaluation, "_speak", lambda *_: pytest.fail("it spoke again"))
    before = (summary.report.parent / "results.csv").read_bytes()
    again = run_adaptation(config)
    assert again.text == summary.text and (summary.report.parent / "results.csv").read_bytes() == before


def test_a_run_killed_while_it_judges_goes_on_to_the_same_table(run, tmp_path, monkeypatch):
    config, summary, _ = run
    config, spoken, speak = replace(config, out=str(tmp_path / "killed")), [], Evaluation._speak

    def dying(self, *words):
        spoken.append(words)
        if len(spoken) == 4:
            raise Stop
        return speak(self, *words)

    monkeypatch.setattr(Evaluation, "_speak", dying)
    with pytest.raises(Stop):
        judge_adaptation(config)
    assert list(read_results(tmp_path / "killed")["iteration"]) == [0, 0]
    table = judge_adaptation(config)
    pd.testing.assert_frame_equal(table, summary.table, atol=1e-6)
    assert len(spoken) == 8


def test_rows_after_the_newest_checkpoint_are_made_anew(run):
    config, summary, _ = run
    out = summary.report.parents[1] / "earlier"
    shutil.copytree(config.out, out)
    shutil.rmtree(out / "checkpoints" / "000004")
    table = judge_adaptation(replace(config, out=str(out)))
    pd.testing.assert_frame_equal(table, summary.table, atol=1e-6)


def test_another_evaluation_judges_the_saved_checkpoints_again(run, tmp_path):
    config, summary, _ = run
    out = summary.report.parents[1] / "other"
    shutil.copytree(config.out, out)
    sentences = tmp_path / "mine.txt"
    sentences.write_text("A new sentence.\n\n", encoding="utf-8")
    other = replace(config.evaluation, sentences=str(sentences))
    table = judge_adaptation(replace(config, out=str(out), evaluation=other))
    assert list(table["iteration"]) == [0, 2, 4] and set(table["sentence"]) == {1}
    assert not (out / "samples" / "000000" / "02.wav").exists()


def test_another_encoder_judges_the_saved_checkpoints_again_and_is_named(run):
    config, summary, _ = run
    out = summary.report.parents[1] / "second-judge"
    shutil.copytree(config.out, out)
    table = judge_adaptation(replace(config, out=str(out), evaluation=replace(config.evaluation, encoder="ecapa")))
    assert set(table["encoder"]) == {"ecapa-small"} and set(summary.table["encoder"]) == {"resemblyzer"}
    assert list(table["iteration"]) == list(summary.table["iteration"]) and table["similarity"].between(-1, 1).all()
    assert not np.allclose(table["similarity"], summary.table["similarity"], atol=0.01)


def test_clean_data_has_no_pollution_unless_files_are_named(corpus, tmp_path):
    base, manifest = corpus
    config = tiny_adaptation(base, manifest, tmp_path / "clean", iterations=2, corruption=CorruptionConfig())
    summary = run_adaptation(config, condition="mine")
    assert summary.table["pollution_similarity"].isna().all() and set(summary.table["condition"]) == {"mine"}
    assert "foreign" not in summary.text
    foreign = [u.path for u in read_manifest(manifest) if u.speaker == "Reed"]
    control = judge_adaptation(config, condition="mine", foreign=foreign)
    assert control["pollution_similarity"].notna().all()


def test_mistakes_in_the_settings_leave_nothing_behind(corpus, tmp_path):
    base, manifest = corpus
    bad = tmp_path / "bad.txt"
    bad.write_text("Good.\n---\n", encoding="utf-8")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n", encoding="utf-8")
    for changes, kind, words in (
        ({"sentences": "0"}, ValueError, "sentences is 0; there are 1 to"), ({"sentences": "nofile.txt"}, FileNotFoundError, "nofile.txt"),
        ({"sentences": str(bad)}, ValueError, "bad.txt, line 2"), ({"sentences": str(empty)}, ValueError, "no sentence"),
        ({"encoder": "ears"}, ValueError, "ears"), ({"vocoder": "none.pt"}, FileNotFoundError, "none.pt"),
        ({"steps": 0}, ValueError, "steps is 0"), ({"temperature": 0.0}, ValueError, "temperature is 0"),
    ):
        config = tiny_adaptation(base, manifest, tmp_path / "out", evaluation=replace(EvaluationConfig(sentences="1"), **changes))
        with pytest.raises(kind, match=words):
            run_adaptation(config)
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on_in_the_same_folder(run):
    config, _, _ = run
    with pytest.raises(ValueError, match="seed=0, and now it is 1"):
        run_adaptation(replace(config, seed=1))
