"""Figures of runs keep their texts apart."""

from lab.run_figures import draw_sharing
from mozoo.figures import short


def test_labels_of_shares_stay_on_the_page_and_off_the_panel_beside():
    shares = {"segmentation": 0.5, "bottom_right": 0.5, "normals": 0.0}
    rows = {f"stage {stage}, {name}": shares for stage in range(5) for name in shares}
    figure = draw_sharing({"cross_stitch_timm": rows, "mmoe_timm": dict.fromkeys(shares, shares), "ple_timm": rows})
    figure.draw_without_rendering()
    edge = 0.0
    for axes in figure.axes:
        labels = axes.get_yticklabels()
        assert labels[0].get_text() in map(short, (*rows, *shares))
        assert min(label.get_window_extent().x0 for label in labels) >= edge
        edge = axes.get_window_extent().x1
    assert edge <= figure.bbox.width
