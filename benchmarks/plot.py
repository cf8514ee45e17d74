"""The plots of bench_match.py, the time of every rival, one panel for each size, and of bench_pipeline.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tables import STAGES, number

SIZES = ("512/224", "1024/512")
COLORS = {"ours": "#d1495b", "rival": "#4c7288", "inexact": "#a9c3d1", "limit": "#d0d0d0"}
NAMES = {
    "ours": "patchswap",
    "rival": "other forms, float32",
    "inexact": "other forms, bfloat16: some keys differ",
    "limit": "the GEMM alone, nothing else",
}


def color_of(row: dict[str, Any]) -> str:
    return COLORS["inexact" if row["group"] == "rival" and not row["exact"] else row["group"]]


def draw(content: dict[str, Any], path: Path) -> None:
    """Write a picture of the median times on features of photographs; rivals that were not measured are left out."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    measured = [row for row in content["results"] if "median_ms" in row and not row["rival"].startswith("ours-swap")]
    measured = [row for row in measured if row["features"] == "photo"] or measured
    sizes = [size for size in SIZES if any(row["size"] == size for row in measured)]
    sizes = sizes or sorted({row["size"] for row in measured})[:2]
    if not sizes:
        return
    panels = [[row for row in measured if row["size"] == size] for size in sizes]
    figure, axes = pyplot.subplots(
        len(panels),
        figsize=(8, 0.8 + sum(0.5 + 0.24 * len(rows) for rows in panels)),
        squeeze=False,
        height_ratios=[len(rows) + 1 for rows in panels],
        layout="constrained",
    )
    for axis, size, rows in zip(axes[:, 0], sizes, panels, strict=True):
        rows.sort(key=lambda row: -row["median_ms"])
        times = [row["median_ms"] for row in rows]
        axis.barh([row["label"] for row in rows], times, color=[color_of(row) for row in rows])
        for place, row in enumerate(rows):
            ratio = f"  {row['times_ours']:.3g} x" if row.get("times_ours") and row["rival"] != "ours" else ""
            axis.text(times[place] * 1.05, place, f"{number(times[place])} ms{ratio}", va="center", fontsize=7)
        axis.set_xscale("log")
        axis.set_xlim(right=max(times) * 6)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        title = f"{size}: {rows[0]['queries']:,} queries x {rows[0]['keys']:,} keys, 3x3x256"
        axis.set_title(title, fontsize=9, loc="left")
    axes[-1, 0].set_xlabel("milliseconds, median", fontsize=8)
    handles = [Patch(color=COLORS[group], label=NAMES[group]) for group in COLORS]
    legend = {"ncols": 4, "fontsize": 7, "frameon": False, "title": where(content["machine"]), "title_fontsize": 7}
    figure.legend(handles=handles, loc="outside lower center", **legend)
    save(figure, path)


def draw_pipeline(content: dict[str, Any], path: Path) -> None:
    """Write a picture: the time of every form over the sizes, and how ours is made up."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in content["results"] if "median_ms" in row]
    sizes = list(dict.fromkeys(row["size"] for row in measured))
    if not sizes:
        return
    figure, (times, stages) = pyplot.subplots(1, 2, figsize=(9, 4), width_ratios=(3, 2), layout="constrained")
    for form in dict.fromkeys(row["form"] for row in measured):
        rows = [row for row in measured if row["form"] == form]
        places = [sizes.index(row["size"]) for row in rows]
        style = {"ours": "o-", "neural": "s--", "weight-free": "^:"}[rows[0]["group"]]
        width = 2.5 if form == "ours" else 1
        color = {"color": COLORS["ours"]} if form == "ours" else {}
        seconds = [row["median_ms"] / 1e3 for row in rows]
        times.plot(places, seconds, style, label=rows[0]["label"], linewidth=width, markersize=4, **color)
    times.set_yscale("log")
    times.set_xticks(range(len(sizes)), sizes)
    times.set_ylabel("seconds, median", fontsize=8)
    bottoms = [0.0] * len(sizes)
    ours = {row["size"]: row for row in measured if row["form"] == "ours"}
    for stage in STAGES:
        of_size = [sum(scale.get(stage, 0.0) for scale in ours[size]["scale_ms"].values()) for size in ours]
        shares = [100 * time / ours[size]["median_ms"] for time, size in zip(of_size, ours, strict=True)]
        stages.bar(list(ours), shares, bottom=bottoms[: len(ours)], label=stage, width=0.6)
        bottoms = [bottom + share for bottom, share in zip(bottoms, shares, strict=False)]
    stages.set_ylabel("patchswap: stages, % of its time", fontsize=8)
    for axis, columns in ((times, 2), (stages, 3)):
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        legend = {"fontsize": 6.5, "frameon": False, "ncols": columns}
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), **legend)
        axis.set_xlabel("image / hole", fontsize=8)
    figure.suptitle(where(content["machine"]), fontsize=8)
    save(figure, path)


def where(machine: dict[str, Any]) -> str:
    """The GPU, or the CPU with its instruction set, which results of older runs do not name."""
    if "gpu" in machine:
        return machine["gpu"]["name"]
    return ", ".join([f"{machine['threads']} threads", machine["cpu"], *filter(None, [machine.get("instruction_set")])])


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    figure.savefig(temporary, dpi=150)
    os.replace(temporary, path)
