"""One HTML file to look at and listen to: what was run, its figures, tables and samples, for one run or several."""
from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd

from .. import __version__
from ..data.corruption import RECORDS, read_records
from ..files import atomic_text
from ..training.weights import DISTRUSTED, WEIGHTS, read_weights
from . import figures
from .embedding import SoundShelf, data_uri, inline_svg
from .metrics import damage_ratio, resilience
from .results import (
    SAMPLES,
    baseline,
    ceilings,
    conditions,
    last_checkpoint,
    read_evaluation,
    read_results,
    read_settings,
    run_folders,
    squares,
    summarise,
)

REPORT = "report.html"
STYLE = "report.css"
SOUND_BYTES = 5_000_000
MEL_ROWS = 3
SENTENCES_HEARD = 10
THRESHOLDS = (0.6, 0.65, 0.7, 0.75, 0.8, 0.85)


@dataclass
class Source:
    """What a report is made from: the table, and each condition's run folder, settings and facts of its evaluation."""

    folder: Path
    table: pd.DataFrame
    runs: dict[str, Path]
    settings: dict[str, dict] = field(default_factory=dict)
    facts: dict[str, dict] = field(default_factory=dict)

    @property
    def first(self) -> dict:
        """The facts that all conditions share, as the first run has them."""
        return next(iter(self.facts.values()), {})

    @property
    def thresholds(self) -> list[float]:
        return list(self.first.get("thresholds") or THRESHOLDS)


def write_report(folder: Path) -> Path:
    """Writes `folder/report.html` from `folder/results.csv` and what lies beside it; nothing in it refers to another file.

    Args:
        folder: of one run, or of several whose results are merged there.

    Raises:
        ValueError: no results there.
    """
    folder = Path(folder)
    table = read_results(folder)
    runs = run_folders(folder, table)
    source = Source(folder, table, runs, {name: read_settings(path) for name, path in runs.items()},
                    {name: read_evaluation(path) for name, path in runs.items()})
    path = folder / REPORT
    atomic_text(path, render(REPORT, _context(source)))
    return path


def render(template: str, context: dict) -> str:
    """A page from a template of this package, with the style that all pages share; NaN becomes a dash by the filter `digits`."""
    import jinja2

    source, style = ((resources.files("gradtts_robust.study") / name).read_text(encoding="utf-8") for name in (template, STYLE))
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters["digits"] = lambda value, count=3: "–" if value is None or not math.isfinite(value) else f"{value:.{count}f}"
    return environment.from_string(source).render(style=style, **context)


def _context(source: Source) -> dict:
    table, names = source.table, conditions(source.table)
    last = last_checkpoint(table)
    shelf = SoundShelf(SOUND_BYTES)
    players, course = _players(source, last, shelf), _course(source, shelf)
    return {
        "title": ", ".join(pd.unique(table["speaker"])), "version": __version__, "names": names, "last": int(last["iteration"].max()),
        "encoder": table["encoder"].iloc[0], "sentences": int(table["sentence"].nunique()), "thresholds": source.thresholds,
        "speakers": int(table["speaker"].nunique()), "ceiling": ceilings(list(source.facts.values())),
        "vocoder": source.first.get("vocoder", "the vocoder"), "data": [_data(name, path) for name, path in source.runs.items()],
        "settings": _settings(source.settings), "rows": _rows(source, last), "course_table": _course_table(table),
        "findings": findings(last), "figures": _figures(source), "mels": _mels(source, last), "players": players, "course": course,
        "left_out": shelf.left_out, "references": _references(source, shelf), "environment": _environment(source.runs),
    }


def findings(last: pd.DataFrame) -> list[str]:
    """What the last checkpoint's means say, each condition against the clean one, whichever way it came out."""
    base, names = baseline(last), conditions(last)
    if base is None or len(names) < 2:
        return []
    values = {name: last.loc[last["condition"] == name].sort_values(["speaker", "sentence"])["similarity"].to_numpy() for name in names}
    said = [f"{name}: {resilience(values[name], values[base]):+.3f} against {base}" for name in names if name != base]
    dirty = last[last["corruption_fraction"] > 0]
    plain = conditions(dirty[squares(dirty)])
    for name in conditions(dirty[~squares(dirty)]):
        if plain:
            ratio = damage_ratio(values[name], values[plain[0]], values[base])
            said.append(f"{name} has {100 * ratio.value:.0f} % of the damage that {plain[0]} has (0 %: none, 100 %: as much)"
                        if math.isfinite(ratio.value) else f"no share of the damage for {name}: {ratio.reason}")
    return said


def _rows(source: Source, last: pd.DataFrame) -> list[dict]:
    summary, base = summarise(last, thresholds=source.thresholds), baseline(source.table)
    means = dict(zip(summary["condition"], summary["mean"]))
    return [{**row, "drop": means[row["condition"]] - means[base] if base in means and row["condition"] != base else math.nan,
             "below": [int(row[f"below {threshold:g}"]) for threshold in source.thresholds]} for row in summary.to_dict("records")]


def _course_table(table: pd.DataFrame) -> dict:
    means = table.pivot_table(index="iteration", columns="condition", values="similarity", aggfunc="mean")
    return {"names": conditions(table), "rows": [
        {"iteration": int(iteration), "values": [float(row.get(name, math.nan)) for name in conditions(table)]}
        for iteration, row in means.iterrows()]}


def _figures(source: Source) -> list[dict]:
    """The figures as inline SVG with the words that stand for them."""
    reached = ceilings(list(source.facts.values()))
    several = source.table["speaker"].nunique() > 1
    shown = [
        (figures.similarity_curves(source.table, **reached), "Similarity over iterations",
         "Mean speaker similarity of the samples to the target's clean clips. Bands: 95 % bootstrap intervals over "
         + ("speakers and sentences." if several else "sentences of this one speaker.")
         + " At iteration 0 the base speaks with a first guess of the voice, made from the same clips."),
        (figures.threshold_bars(source.table, source.thresholds), "Samples below thresholds",
         "How many samples of the last checkpoint fall below each similarity. Shorter bars are better."),
        (figures.similarity_histograms(source.table, source.thresholds), "Spread of the similarities",
         "Samples of the last checkpoint by their similarity; dotted lines mark the thresholds."),
    ]
    away = [value for facts in source.facts.values() for value in facts.get("reference_to_pollution", [])]
    scatter = figures.pollution_scatter(source.table, reference=away)
    if scatter:
        text = ("Each point is a sample of the last checkpoint: further right sounds more like the foreign speakers in the dirty data, "
                "higher up more like the target.")
        shown.append((scatter, "Target against foreign speakers", text))
    return [{"svg": inline_svg(figures.to_svg(figure), name=f"f{number}"), "title": title, "text": text}
            for number, (figure, title, text) in enumerate(shown)]


def _mels(source: Source, last: pd.DataFrame) -> str:
    """Mels of the first sentences, reference first, as one picture; empty where no mels are kept."""
    names, pictures = conditions(last), []
    part = _one_speaker(last)
    for sentence in sorted(part["sentence"].unique())[:MEL_ROWS]:
        reference, same = _reference(source, int(sentence))
        row = [_picture(reference, "target, same sentence" if same else "target, another sentence", f"sentence {sentence}")]
        for name in names:
            sample = part.loc[(part["condition"] == name) & (part["sentence"] == sentence), "sample"]
            row.append(_picture(source.folder / sample.iloc[0], name) if len(sample) else None)
        if any(picture is None for picture in row):
            return ""
        pictures += row
    return data_uri(figures.to_png(figures.mel_grid(pictures, columns=len(names) + 1), dpi=100, paper="white"), "image/png")


def _picture(sound: Path | None, title: str, row: str = "") -> figures.Picture | None:
    try:
        return figures.Picture(title, np.load(sound.with_suffix(".npy"), allow_pickle=False), row) if sound else None
    except (OSError, ValueError):
        return None


def _reference(source: Source, sentence: int) -> tuple[Path | None, bool]:
    """A clip of the target to compare with, and whether it says the same sentence."""
    run, facts = next(iter(source.runs.values())), source.first
    natural = source.folder / SAMPLES / "natural" / f"{sentence:02d}.wav"
    if natural.is_file():
        return natural, True
    clips = facts.get("clips", [])
    return (run / clips[(sentence - 1) % len(clips)]["sample"], False) if clips else (None, False)


def _references(source: Source, shelf: SoundShelf) -> list[dict]:
    run = next(iter(source.runs.values()))
    return [{"text": clip["text"], "sound": shelf(run / clip["sample"])} for clip in source.first.get("clips", [])]


def _players(source: Source, last: pd.DataFrame, shelf: SoundShelf) -> list[dict]:
    """A row per sentence: its text, the target, and every condition's last sample with its similarity."""
    part, texts, rows = _one_speaker(last), source.first.get("sentences", []), []
    for sentence in sorted(part["sentence"].unique())[:SENTENCES_HEARD]:
        reference, same = _reference(source, int(sentence))
        cells = []
        for name in conditions(last):
            found = part[(part["condition"] == name) & (part["sentence"] == sentence)]
            cells += [{"name": name, "sound": shelf(source.folder / row.sample), "similarity": row.similarity}
                      for row in found.head(1).itertuples()]
        rows.append({"number": int(sentence), "text": texts[sentence - 1] if sentence <= len(texts) else "", "cells": cells,
                     "reference": shelf(reference) if reference and same else ""})
    return rows


def _course(source: Source, shelf: SoundShelf) -> list[dict]:
    """The first sentence at every iteration before the last."""
    part = _one_speaker(source.table)
    part, names = part[part["sentence"] == part["sentence"].min()], conditions(source.table)
    iterations = sorted(part["iteration"].unique())
    rows = []
    for iteration in iterations[:-1]:
        found = part[part["iteration"] == iteration].drop_duplicates("condition").set_index("condition")
        rows.append({"iteration": int(iteration), "cells": [
            {"name": name, "sound": shelf(source.folder / found.loc[name, "sample"]), "similarity": found.loc[name, "similarity"]}
            for name in names if name in found.index]})
    return rows


def _one_speaker(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["speaker"] == table["speaker"].iloc[0]]


def _data(name: str, run: Path) -> dict:
    """What a run learnt from: how many clips, what is wrong with how many, each dirty one, and those that its weights distrusted."""
    records = read_records(run / RECORDS)
    dirty = [record for record in records if record["corrupted"]]
    speakers = Counter(record["true_speaker"] if record["kind"] == "foreign" else record["kind"] for record in dirty)
    weighted = read_weights(run / WEIGHTS)
    return {"name": name, "count": len(records), "dirty": len(dirty), "records": dirty, "weighted": len(weighted),
            "distrusted": [row for row in weighted if row["weight"] < DISTRUSTED],
            "speakers": ", ".join(f"{speaker} {count}" for speaker, count in sorted(speakers.items()))}


def _settings(settings: dict[str, dict]) -> dict:
    """Settings that differ between the conditions, and those that all share."""
    flat = {name: _flat(values) for name, values in settings.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values if key != "out"))
    rows = [{"key": key, "values": [_shown(values.get(key)) for values in flat.values()]} for key in keys]
    return {"differ": [row for row in rows if len(set(row["values"])) > 1], "shared": [row for row in rows if len(set(row["values"])) == 1]}


def _flat(values: dict, prefix: str = "") -> dict:
    flat = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def _shown(value: object) -> str:
    return "–" if value is None or value == "" else ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _environment(runs: dict[str, Path]) -> list[tuple[str, str]]:
    for run in runs.values():
        path = run / "environment.json"
        if path.is_file():
            return [(name, _shown(value)) for name, value in _flat(json.loads(path.read_text(encoding="utf-8"))).items()]
    return []
