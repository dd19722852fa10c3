"""Manifests: what is read is what was written, and what is wrong is named by file and line."""
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtts_robust.data.manifest import Utterance, find_problems, read_manifest, read_manifests, validate, write_manifest

words = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool)


def written(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def test_csv_keeps_further_columns_and_resolves_paths(tmp_path):
    path = written(tmp_path / "sets" / "m.csv", 'path,text,speaker,room\n../a.wav,"Yes, ""indeed"".",Ann,hall\n/b/b.wav,No.,Bo,\n')
    first, second = read_manifest(path)
    assert first == Utterance(str(tmp_path / "a.wav"), 'Yes, "indeed".', "Ann", "Ann/a", extra={"room": "hall"})
    assert second == Utterance("/b/b.wav", "No.", "Bo", "Bo/b")


def test_byte_order_mark_windows_lines_and_column_order(tmp_path):
    path = written(tmp_path / "m.csv", "\ufeffspeaker,path,text\r\nAnn,a.wav,Grüße\r\n\r\n")
    assert read_manifest(path) == [Utterance(str(tmp_path / "a.wav"), "Grüße", "Ann", "Ann/a")]


@pytest.mark.parametrize(("text", "speaker"), [("w/a.wav|One, two.|17\n\n", "17"), ("w/a.wav|One, two.\n", "0")])
def test_original_filelists(tmp_path, text, speaker):
    [utterance] = read_manifest(written(tmp_path / "train.txt", text))
    assert utterance == Utterance(str(tmp_path / "w/a.wav"), "One, two.", speaker, f"{speaker}/a")


@pytest.mark.parametrize(("text", "line", "says"), [
    ("", "", "is empty"),
    ("\n  \n", "", "is empty"),
    ("path,text,speaker\n", "", "no utterance"),
    ("path,text\na.wav,hi\n", ":1:", "no column 'speaker'"),
    ("nonsense\n", ":1:", "no column 'path'"),
    ("path,text,speaker,text\na.wav,hi,x,y\n", ":1:", "'text' twice"),
    ("path,text,speaker\na.wav,hi,x\nb.wav,,x\n", ":3:", "'text' is empty"),
    ("path,text,speaker\na.wav,hi, \n", ":2:", "'speaker' is empty"),
    ("path,text,speaker\na.wav,yes, no,x\n", ":2:", "4 fields"),
    ('path,text,speaker\na.wav,"yes" no,x\n', ":2:", "malformed CSV"),
    ('path,text,speaker\na.wav,"two\nlines",x\nb.wav,"open,x\n', ":4:", "malformed CSV"),
    ("path,text,speaker,id\na.wav,hi,x,1\nb.wav,hi,x,1\n", ":3:", "already that of line 2"),
    ("path,text,speaker\na.wav,hi,x\na.wav,hi,x\n", ":3:", "already that of line 2"),
    ("a.wav|hi|1\nb.wav|hi\n", ":2:", "2 fields"),
    ("a.wav|hi|1|2\n", ":1:", "4 fields"),
    ("a.wav||1\n", ":1:", "'text' is empty"),
])
def test_malformed_manifests_are_named_in_one_line(tmp_path, text, line, says):
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(ValueError, match=says) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}{line}") and "\n" not in str(caught.value)


def test_not_utf8_names_the_line(tmp_path):
    path = written(tmp_path / "m.csv", "path,text,speaker\na.wav,hi,x\nb.wav,Grüße,x\n", "latin-1")
    with pytest.raises(ValueError, match=":3: not UTF-8"):
        read_manifest(path)


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such manifest"):
        read_manifest(tmp_path / "none.csv")


def test_equal_stems_in_two_folders_get_names_of_their_own(tmp_path):
    path = written(tmp_path / "m.csv", "path,text,speaker\none/a.wav,hi,x\ntwo/a.wav,hi,x\nb.wav,hi,x\n")
    assert [u.id for u in read_manifest(path)] == ["x/one/a.wav", "x/two/a.wav", "x/b"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(words, words, st.booleans(), words), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("m")
    utterances = [
        Utterance(str(folder / "wavs" / f"{i}.wav"), text, speaker, f"u{i}", "HH AY1 _" if aligned else "",
                  "0.1 0.25 0.5" if aligned else "", {"note": note})
        for i, (text, speaker, aligned, note) in enumerate(rows)]
    write_manifest(folder / "sub" / "m.csv", utterances)
    assert read_manifest(folder / "sub" / "m.csv") == utterances
    assert [p.name for p in (folder / "sub").iterdir()] == ["m.csv"]


def test_writing_refuses_what_could_not_be_read_and_leaves_nothing(tmp_path):
    good = Utterance("/a.wav", "hi", "x", "1")
    bad = [[], [replace(good, text=" ")], [good, good], [replace(good, extra={"path": "y"})]]
    for utterances in bad:
        with pytest.raises(ValueError):
            write_manifest(tmp_path / "m.csv", utterances)
    assert list(tmp_path.iterdir()) == []


def test_alignment_columns():
    utterance = Utterance("/a.wav", "hi", "x", "1", "HH AY1 _", "0.1 0.25 0.5")
    assert utterance.tokens() == ["HH", "AY1", " "]
    assert utterance.end_times() == [0.1, 0.25, 0.5]
    assert Utterance("/a.wav", "hi", "x").end_times() == []
    for ends, says in [("0.1 0.2", "3 phonemes but 2"), ("0.1 x 0.3", "not a number"), ("0.3 0.2 0.4", "in order"), ("0 1 nan", "in order"),
                       ("-1 0 1", "in order"), ("0 1 inf", "finite")]:
        with pytest.raises(ValueError, match=says):
            replace(utterance, ends=ends).end_times()


def test_merged_manifests_keep_people_apart(tmp_path):
    def manifest(name, rows, header="path,text,speaker,corpus"):
        return written(tmp_path / name / "manifest.csv", "\n".join([header, *rows]) + "\n")

    lj = manifest("lj", ["a.wav,hi,0,"])
    vctk = manifest("vctk", ["a.wav,hi,0,", "b.wav,hi,Ann,"])
    train = manifest("train", ["a.wav,hi,367,librispeech"])
    test = manifest("test", ["b.wav,hi,367,librispeech"])
    merged = read_manifests([lj, vctk, train, test])
    assert [u.speaker for u in merged] == ["lj/0", "vctk/0", "Ann", "367", "367"]
    assert len({u.id for u in merged}) == 5
    other = written(tmp_path / "again" / "lj" / "manifest.csv", "path,text,speaker\na.wav,hi,0\n")
    assert [u.speaker for u in read_manifests([lj, other])] == ["manifest-1/0", "manifest-2/0"]
    with pytest.raises(ValueError, match="given twice"):
        read_manifests([lj, lj])
    with pytest.raises(ValueError, match="no manifest"):
        read_manifests([])


def audio_files(folder):
    wave = (0.1 * np.sin(np.arange(16000) * 0.05)).astype(np.float32)
    soundfile.write(folder / "good.wav", wave, 16000)
    soundfile.write(folder / "good.flac", wave, 16000)
    for name, share in (("cut.wav", 0.6), ("cut.flac", 0.6)):
        whole = (folder / name.replace("cut", "good")).read_bytes()
        (folder / name).write_bytes(whole[: int(len(whole) * share)])
    (folder / "empty.wav").touch()
    soundfile.write(folder / "silent.wav", wave[:0], 16000)
    (folder / "text.wav").write_text("not audio")


def test_unusable_utterances_are_found(tmp_path):
    audio_files(tmp_path)
    names = ["good.wav", "cut.wav", "cut.flac", "empty.wav", "silent.wav", "text.wav", "gone.wav", "good.flac"]
    utterances = [Utterance(str(tmp_path / name), "hi", "x", name) for name in names]
    utterances += [replace(utterances[0], id="mute", text=" "), replace(utterances[0], id="uneven", phonemes="HH", ends="1 2")]
    found = {problem.id: problem.message for problem in find_problems(utterances)}
    assert set(found) == set(names) - {"good.wav", "good.flac"} | {"mute", "uneven"}
    for key in ("cut.wav", "cut.flac", "empty.wav", "silent.wav", "text.wav", "gone.wav"):
        assert str(tmp_path / key) in found[key] and "\n" not in found[key]
    assert "cut off" in found["cut.wav"] and "cut off" in found["cut.flac"] and "no such" in found["gone.wav"]
    assert {problem.id for problem in find_problems(utterances, check_audio=False)} == {"mute", "uneven"}


def test_validate_raises_for_the_first_and_counts_the_rest(tmp_path):
    audio_files(tmp_path)
    good, gone, cut = (Utterance(str(tmp_path / name), "hi", "x", name) for name in ("good.wav", "gone.wav", "cut.wav"))
    validate([good])
    with pytest.raises(FileNotFoundError, match=r"gone\.wav: no such audio file.*\(and 1 more"):
        validate([good, gone, cut])
    with pytest.raises(ValueError, match=r"cut\.wav"):
        validate([cut])


def test_real_recordings_are_sound(librispeech):
    paths = sorted(librispeech.glob("test-other/*/*/*.flac"))[:20]
    assert len(paths) == 20
    validate([Utterance(str(path), "text", "x", path.stem) for path in paths])
