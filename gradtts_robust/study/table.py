"""The tidy table of a study: one row per run, checkpoint, sentence and speaker encoder, as Parquet and CSV."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import atomic_text, atomic_write
from ..speech.speaker import centroid, similarity
from .judging import JUDGED, POLLUTION, REFERENCE, SAID, VOICES, judged_files, read_arrays
from .results import SAMPLES, read_settings
from .task import DONE, ERROR

STUDY = "study.json"
TABLE = "results"
COLUMNS = ("speaker", "condition", "corruption_kind", "corruption_fraction", "corruption_pick", "objective", "method", "penalty",
           "delta_schedule", "delta_0", "weighting", "level", "matched", "example_weights", "learning_rate", "seed", "iteration",
           "selected", "sentence", "encoder", "similarity", "pollution_similarity", "control_pollution_similarity", "seconds", "sample",
           "run")


@dataclass(frozen=True)
class Note:
    """What a study's folder says of itself.

    Args:
        out: the folder.
        baseline, clean: what damage is compared with, "" where there is nothing.
        sentences: that are spoken.
        command: that the study was last run with, "" where it was run from Python.
        runs: key, speaker, condition, objective, seed and method of each.
    """

    out: Path
    baseline: str
    clean: str
    sentences: list[str]
    command: str
    runs: list[dict]

    def folder(self, run: dict) -> Path:
        """Where a run lies."""
        return self.out / "runs" / run["key"]

    def finished(self) -> list[dict]:
        """The runs that are done."""
        return [run for run in self.runs if (self.folder(run) / DONE).is_file()]

    def failures(self) -> list[tuple[str, str]]:
        """(name, error in one line) of the runs that failed."""
        found = []
        for run in self.runs:
            path = self.folder(run) / ERROR
            if path.is_file() and not (self.folder(run) / DONE).is_file():
                name = f"{run['speaker']} {run['condition']} {run['objective']} seed {run['seed']}"
                found.append((name, path.read_text(encoding="utf-8").partition("\n")[0]))
        return found


def read_note(out: Path) -> Note:
    """Reads `out/study.json`.

    Raises:
        ValueError: it is not there or broken.
    """
    path = Path(out) / STUDY
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Note(Path(out), values["baseline"], values["clean"], values["sentences"], values["command"], values["runs"])
    except FileNotFoundError:
        raise ValueError(f"{path}: no study there; `gradtts-robust study` makes one") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path}: not the note of a study; give the study's command again") from None


@dataclass(frozen=True)
class Loaded:
    """One finished run: by iteration what was judged, the voices that it is judged against, its settings, what it noted at its end."""

    run: dict
    judged: dict[int, dict[str, np.ndarray]]
    voices: dict[str, np.ndarray]
    settings: dict
    facts: dict

    @property
    def selected(self) -> int:
        """The iteration that it is judged by: of least loss on held-out training utterances for early stopping, else the last."""
        if self.run["method"] == "early_stopping":
            losses = {iteration: float(arrays["validation"]) for iteration, arrays in self.judged.items() if "validation" in arrays}
            return min(losses, key=losses.__getitem__)
        return max(self.judged)

    def said(self, encoder: str) -> np.ndarray:
        """Embeddings of the samples at the selected iteration, [sentences, D]."""
        return self.judged[self.selected][f"{SAID}/{encoder}"]

    def voice(self, kind: str, encoder: str) -> np.ndarray | None:
        """Embeddings of the `REFERENCE` or `POLLUTION` clips [N, D]; None where there are none."""
        return self.voices.get(f"{kind}/{encoder}")


def load_runs(note: Note) -> list[Loaded]:
    """The finished runs of a study, in its order.

    Raises:
        ValueError: a broken file.
    """
    loaded: dict[str, Loaded] = {}
    runs = []
    for run in note.finished():
        folder = note.folder(run)
        if run["key"] not in loaded:
            judged = {int(path.stem): read_arrays(path) for path in judged_files(folder / JUDGED)}
            facts = json.loads((folder / DONE).read_text(encoding="utf-8"))
            loaded[run["key"]] = Loaded(run, judged, read_arrays(folder / VOICES), read_settings(folder), facts)
        runs.append(replace(loaded[run["key"]], run=run))
    return runs


def gather(note: Note, runs: Sequence[Loaded]) -> pd.DataFrame:
    """The table of runs, in their order.

    `selected` marks the checkpoint that a run is judged by. `control_pollution_similarity` is how near the model that learnt from clean
    data by the same objective and seed comes to the same foreign clips with the same sentence: what a pollution similarity is
    measured against.
    """
    clean = {(one.run["speaker"], one.run["objective"], one.run["seed"]): one for one in runs if one.run["condition"] == note.clean}
    parts = [_rows(note, one, clean.get((one.run["speaker"], one.run["objective"], one.run["seed"]))) for one in runs]
    return pd.concat(parts, ignore_index=True).loc[:, list(COLUMNS)]


def _rows(note: Note, loaded: Loaded, clean: Loaded | None) -> pd.DataFrame:
    run, corruption, objective = loaded.run, loaded.settings["corruption"], loaded.settings["objective"]
    selected = loaded.selected
    prefix = note.folder(run).relative_to(note.out).as_posix()
    parts = []
    for iteration, arrays in loaded.judged.items():
        count = len(arrays["seconds"])
        names = [f"{prefix}/{SAMPLES}/{iteration:06d}/{number:02d}.wav" for number in range(1, count + 1)]
        samples = [name if (note.out / name).is_file() else "" for name in names]
        for name in (key.partition("/")[2] for key in arrays if key.startswith(SAID + "/")):
            said, away = arrays[f"{SAID}/{name}"], loaded.voice(POLLUTION, name)
            control = None if clean is None else clean.judged.get(iteration, {}).get(f"{SAID}/{name}")
            none = np.full(count, np.nan)
            polluted = away is not None
            parts.append(pd.DataFrame({
                "iteration": iteration, "selected": iteration == selected, "sentence": np.arange(1, count + 1), "encoder": name,
                "similarity": similarity(said, centroid(loaded.voice(REFERENCE, name))),
                "pollution_similarity": similarity(said, centroid(away)) if polluted else none,
                "control_pollution_similarity": similarity(control, centroid(away))
                if polluted and control is not None and len(control) == count else none,
                "seconds": arrays["seconds"], "sample": samples}))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        speaker=run["speaker"], condition=run["condition"], objective=run["objective"], seed=run["seed"], method=run["method"],
        run=run["key"], corruption_kind=corruption["kind"], corruption_fraction=corruption["fraction"], corruption_pick=corruption["pick"],
        learning_rate=loaded.settings["optim"]["learning_rate"],
        **{name: objective[name] for name in ("penalty", "delta_schedule", "delta_0", "weighting", "level", "example_weights")},
        matched=str(objective["matched"]))


def write_table(out: Path, table: pd.DataFrame) -> None:
    """Writes `results.csv` and `results.parquet`, each whole or not at all; numbers with six digits in both."""
    text = table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    atomic_text(Path(out) / f"{TABLE}.csv", text)
    with atomic_write(Path(out) / f"{TABLE}.parquet") as temporary:
        table.to_parquet(temporary, index=False)


def read_table(out: Path) -> pd.DataFrame:
    """Reads `out/results.parquet`.

    Raises:
        ValueError: it is not there or broken, or lacks a column.
    """
    path = Path(out) / f"{TABLE}.parquet"
    if not path.is_file():
        raise ValueError(f"{path}: no results there; `gradtts-robust study` makes them")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a results table ({str(error).splitlines()[0]}); give the study's command again") from None
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing or table.empty:
        raise ValueError(f"{path}: {f'no column {missing[0]!r}' if missing else 'no rows'}; give the study's command again")
    return table
