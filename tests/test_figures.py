import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gradtts_robust.study import figures
from gradtts_robust.study.figures import Picture
from gradtts_robust.study.results import COLUMNS, baseline, last_checkpoint, summarise


def results(*, speakers=("Andrea",), pollution=True) -> pd.DataFrame:
    """Three conditions, three checkpoints, four sentences: similarities that rise by a known amount."""
    rows = []
    told = (("clean-l2", 0.0, "l2"), ("dirty-l2", 0.3, "l2"), ("dirty-pseudo_huber", 0.3, "pseudo_huber"))
    for shift, (name, fraction, penalty) in enumerate(told):
        for speaker in speakers:
            for iteration in (0, 50, 100):
                for sentence in (1, 2, 3, 4):
                    rows.append({
                        "speaker": speaker, "condition": name, "corruption_kind": "foreign", "corruption_fraction": fraction,
                        "penalty": penalty, "delta_schedule": "exponential", "delta_0": 0.1, "weighting": "constant",
                        "example_weights": "none", "seed": 0,
                        "iteration": iteration, "sentence": sentence, "encoder": "resemblyzer",
                        "similarity": 0.6 + iteration / 500 - shift / 50 + sentence / 100,
                        "pollution_similarity": 0.5 + shift / 50 if pollution and fraction else np.nan,
                        "sample": f"{name}/samples/{iteration:06d}/{sentence:02d}.wav", "seconds": 2.0})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_curves_have_a_line_style_and_marker_for_each_condition_and_the_means():
    table = results()
    axes = figures.similarity_curves(table, natural=0.93, resynthesis=0.91).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["dirty-l2"].get_ydata() == pytest.approx([0.605, 0.705, 0.805])
    looks = [(line.get_linestyle(), line.get_marker()) for name, line in lines.items() if name.startswith(("clean", "dirty"))]
    assert len(looks) == 3 == len({style for style, _ in looks}) == len({marker for _, marker in looks})
    assert lines["target's own clips, 0.930"].get_ydata()[0] == 0.93 and "through the vocoder, 0.910" in lines
    band = axes.collections[0].get_paths()[0].vertices
    interval = summarise(table).query("condition == 'clean-l2' and iteration == 100").iloc[0]
    assert band[:, 1].max() == pytest.approx(interval["high"]) and interval["high"] > 0.825


def test_bars_count_the_last_checkpoint():
    axes = figures.threshold_bars(results(), (0.785, 0.805, 0.835)).axes[0]
    heights = [[bar.get_height() for bar in bars] for bars in axes.containers]
    # similarities at the last checkpoint: 0.81 to 0.84, then 0.02 and 0.04 less
    assert heights == [[0, 0, 3], [0, 2, 4], [2, 4, 4]]
    assert len({bars[0].get_hatch() for bars in axes.containers}) == 3
    assert axes.get_ylabel() == "samples of 4"


def test_mels_share_colour_scale_and_time_axis():
    mels = [np.full((80, frames), value, dtype=np.float16) for frames, value in ((86, -10.0), (172, -2.0), (43, -5.0))]
    figure = figures.mel_grid([Picture(f"p{i}", mel, "row") for i, mel in enumerate(mels)], columns=2)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 3 and len({axes.images[0].get_clim() for axes in shown}) == 1
    assert all(axes.get_xlim() == pytest.approx((0, 172 * 256 / 22050)) for axes in shown)
    assert shown[0].get_ylabel() == "row\nmel band" and shown[1].get_xlabel() == shown[2].get_xlabel() == "seconds"


def test_scatter_only_where_pollution_is_known():
    assert figures.pollution_scatter(results(pollution=False)) is None
    axes = figures.pollution_scatter(results(), reference=[0.4, 0.5]).axes[0]
    assert [len(points.get_offsets()) for points in axes.collections] == [4, 4]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(0.45)


def test_histograms_hold_every_sample_of_the_last_checkpoint():
    figure = figures.similarity_histograms(results(), (0.8,))
    assert [sum(bar.get_height() for bar in axes.patches) for axes in figure.axes] == [4, 4, 4]


def test_saved_figures_keep_text_and_leave_matplotlib_as_it_was(tmp_path):
    before = dict(matplotlib.rcParams)
    figure = figures.similarity_curves(results())
    svg, png = figures.save(figure, tmp_path / "curves.svg")
    assert dict(matplotlib.rcParams) == before
    root = ElementTree.parse(svg).getroot()
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "similarity to the target" in words and "dirty-pseudo_huber" in words
    assert Image.open(png).size[0] > 400 and sorted(p.name for p in tmp_path.iterdir()) == ["curves.png", "curves.svg"]
    assert figures.to_svg(figure) == figures.to_svg(figures.similarity_curves(results()))
    assert not re.search(r"<dc:date>", figures.to_svg(figure))


def test_summaries_of_the_table():
    table = results(speakers=("Andrea", "ian"))
    assert baseline(table) == "clean-l2" and baseline(table[table["corruption_fraction"] > 0]) is None
    row = summarise(table, thresholds=(0.835,)).query("condition == 'clean-l2' and iteration == 100").iloc[0]
    assert (row["mean"], row["least"], row["count"], row["below 0.835"]) == (pytest.approx(0.825), pytest.approx(0.81), 8, 6)
    shorter = table[(table["condition"] != "dirty-l2") | (table["iteration"] < 100)]
    assert set(last_checkpoint(shorter)["iteration"]) == {50} and set(last_checkpoint(shorter)["condition"]) == set(table["condition"])
