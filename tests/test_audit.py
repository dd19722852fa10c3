"""Audit: which utterances don't sound like their speaker, and the manifest without them."""
import csv
from dataclasses import replace

import numpy as np
import pytest
from study_base import tiny_adaptation, tiny_base

from gradtts_robust.cli import main
from gradtts_robust.config import FilteringConfig
from gradtts_robust.data.generated import generate
from gradtts_robust.data.manifest import read_manifest
from gradtts_robust.training.adapt import prepare_adaptation
from gradtts_robust.training.audit import audit_voices


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """Two voices of eight utterances, two of each said by the other; a third with two; columns of the user's own, one of them empty."""
    folder = tmp_path_factory.mktemp("audit")
    rows = [vars(u) for u in read_manifest(generate(folder, voices=["Andrea", "Reed", "Andy"], sentences_per_voice=8))]
    kept = []
    for row in rows:
        number = sum(other["path"].split("wavs/")[1].split("/")[0] == row["path"].split("wavs/")[1].split("/")[0] for other in kept)
        owner = row["path"].split("wavs/")[1].split("/")[0]
        if owner == "Andy" and number > 1:
            continue
        swapped = owner != "Andy" and number in (2, 5)
        kept.append({"id": row["id"], "path": row["path"].split(f"{folder}/")[1], "note": f'a "{number}", b', "text": row["text"],
                     "speaker": {"Andrea": "Reed", "Reed": "Andrea"}[owner] if swapped else owner, "nothing": ""})
    path = folder / "dirty.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(kept[0]))
        writer.writeheader()
        writer.writerows(kept)
    return path, {row["id"] for row in kept if row["speaker"] not in row["path"]}


def test_swapped_utterances_are_listed_and_left_out(dirty, tmp_path, capsys):
    manifest, wrong = dirty
    out = tmp_path / "kept" / "m.csv"
    assert main(["audit", str(manifest), "--out", str(out), "--cache", str(tmp_path / "cache")]) == 0
    said = capsys.readouterr().out.splitlines()
    listed = {line.split()[2] for line in said[1:5]}
    assert len(wrong) == 4 and listed == wrong and said[0].split() == ["score", "distance", "utterance"]
    assert "not judged, as fewer than 3 utterances have no majority: Andy" in said
    with out.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "path", "note", "text", "speaker", "nothing"] and rows[0]["note"] == 'a "0", b'
    assert said[-1] == f"{out}: {len(rows)} of 18 utterances kept" and not {row["id"] for row in rows} & wrong
    before = {u.id: u for u in read_manifest(manifest)}
    assert all(before[u.id].path == u.path and before[u.id].extra == u.extra for u in read_manifest(out))


def test_threshold_and_speakers(dirty, tmp_path, capsys):
    manifest = dirty[0]
    assert main(["audit", str(manifest), "--threshold", "0", "--cache", str(tmp_path)]) == 0
    assert "0 of 16 utterances don't sound" in capsys.readouterr().out
    assert main(["audit", str(manifest), "--speakers", "Reed", "--cache", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "utterances don't sound like their speaker" in listed
    assert {u.speaker for u in read_manifest(manifest) if u.id in listed.split()} == {"Reed"}


@pytest.mark.parametrize(("words", "message"), [
    (["--threshold", "1.5"], "threshold is 1.5"), (["--speakers", "Nobody"], "no speaker 'Nobody'"), (["--out", "/dev/null/m.csv"], "null"),
])
def test_mistakes(dirty, words, message, capsys):
    assert main(["audit", str(dirty[0]), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_filelist_is_audited_too(dirty, tmp_path, capsys):
    manifest, wrong = dirty
    utterances = [u for u in read_manifest(manifest) if u.speaker == "Reed"]
    filelist = tmp_path / "list.txt"
    filelist.write_text("".join(f"{u.path}|{u.text}|0\n" for u in utterances), encoding="utf-8")
    assert main(["audit", str(filelist), "--out", str(tmp_path / "kept.csv")]) == 0
    kept = {u.path for u in read_manifest(tmp_path / "kept.csv")}
    assert kept == {u.path for u in utterances if u.id not in wrong}


def test_adaptation_learns_from_what_an_audit_keeps(dirty, tmp_path):
    manifest, wrong = dirty
    config = tiny_adaptation(tiny_base(tmp_path / "base.safetensors"), manifest, tmp_path / "run", speaker="Reed", utterances=6)
    plain = replace(config, corruption=replace(config.corruption, kind="none", fraction=0.0))
    audited = prepare_adaptation(replace(plain, filtering=FilteringConfig(audit=True)))
    assert {u.id for u in audited.given} - {u.id for u in audited.utterances} == {u.id for u in audited.given if u.id in wrong}
    assert [f.id for f in audited.features] == [u.id for u in audited.utterances]
    held = prepare_adaptation(replace(plain, filtering=FilteringConfig(validation=2)))
    assert len(held.validation) == 2 and len(held.utterances) == 4 and not {u.id for u in held.validation} & {u.id for u in held.utterances}
    oracle = prepare_adaptation(replace(config, filtering=FilteringConfig(oracle=True)))
    assert [u.id for u in oracle.utterances] == [record["id"] for record in oracle.records if not record["corrupted"]]
    assert 0 < len(oracle.utterances) < len(oracle.given) == 6
    every = replace(config, corruption=replace(config.corruption, fraction=0.99), filtering=FilteringConfig(oracle=True))
    with pytest.raises(ValueError, match="every utterance is dirty"):
        prepare_adaptation(every)
    for filtering, words in ((FilteringConfig(validation=6), "keeps 6 of 6"), (FilteringConfig(validation=-1), "validation is -1"),
                             (FilteringConfig(trim=1.0), "trim is 1")):
        with pytest.raises(ValueError, match=words):
            prepare_adaptation(replace(plain, filtering=filtering))


def test_few_utterances_are_not_judged(dirty):
    utterances = [u for u in read_manifest(dirty[0]) if u.speaker == "Andy"]
    found = audit_voices(utterances, None)
    assert found.kept == utterances and found.unjudged == ["Andy"] and not np.any([voice.judged for voice in found.voices])
