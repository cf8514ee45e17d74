"""Tables of the documents, rendered from benchmarks/results, so that a table and its measurements cannot drift apart.

    python benchmarks/tables.py           # writes every table between its markers
    python benchmarks/tables.py --check   # exit status 1 and the names of the tables that are out of date

The documents are README.md and all of docs/. A document holds `<!-- table: NAME -->`, the table, `<!-- end -->`. NAME
is one of TABLES (but for kernel-resources, which is kernel_resources.py's).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
WEIGHTS = ROOT / "inpaint" / "pretrained" / "SHA256SUMS"
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<content>.*?)(<!-- end -->)", re.DOTALL)
FORMS = {
    "ours": "`patchswap.swap`",
    "matrix_form": "unfold + matrix product",
    "convolution_form": "convolution form (style-swap)",
}
ABLATION_MEASURES = {"hole_l1": ("hole L1 %", ".2f"), "ssim": ("SSIM", ".4f"), "lpips": ("LPIPS", ".4f")}
STAGES = ("infer", "vgg", "match", "translate", "blend", "enlarge")  # of the pipeline


def table(header: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])


def match_times(results: list[dict[str, Any]], kind: str) -> str:
    """Rivals by sizes: median, and how many times that of ours it is."""
    rows = [row for row in results if row["features"] == kind]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    names = {row["rival"]: row["label"] for row in rows}
    found = {(row["rival"], row["size"]): row for row in rows if "median_ms" in row}

    def place(name: str) -> tuple[float, ...]:
        return tuple(
            found[name, size]["median_ms"] if (name, size) in found else 1e12 for size in sizes[1:] + sizes[:1]
        )

    measured = sorted({name for name, _ in found}, key=place)
    body = [[names[name], *(time_and_ratio(found.get((name, size))) for size in sizes)] for name in measured]
    return table(["median (times ours)", *sizes], body)


def match_details(results: list[dict[str, Any]], size: str) -> str:
    """One size: speed, share of the peak, memory and choices."""
    header = [
        "photographs, " + size,
        "TFLOP/s, direct",
        "executed",
        "of the GEMM peak",
        "GB/s",
        "memory",
        "same choice",
    ]
    rows = [row for row in results if row["size"] == size and row["features"] == "photo" and "median_ms" in row]
    body = []
    for row in sorted(rows, key=lambda row: row["median_ms"]):
        peak, same = row["percent_of_gemm_peak"], row.get("same_picks")
        body.append(
            [
                row["label"],
                number(row["direct_tflops"]),
                number(row["executed_tflops"]),
                "" if peak is None else f"{peak:.0f} %",
                number(row["gigabytes_per_second"]),
                f"{row['peak_memory_mib']:,.0f} MiB",
                "" if same is None else f"{100 * same:.4g} %",
            ]
        )
    return table(header, body)


def match_pairs(results: list[dict[str, Any]]) -> str:
    """Ours at every size: does the time follow the number of pairs, and of hole cells?"""
    rows = [row for row in results if row["rival"] == "ours" and "median_ms" in row]
    header = ["size, features", "hole cells", "queries", "keys", "time", "per pair", "per hole cell and key"]
    body = []
    for row in rows:
        counts = [f"{row[name]:,}" for name in ("hole_cells", "queries", "keys")]
        per_cell = 1e6 * row["median_ms"] / row["hole_cells"] / row["keys"]
        pace = [f"{number(row['picoseconds_per_pair'] / 1e3)} ns", f"{number(per_cell)} ns"]
        body.append([f"{row['size']}, {row['features']}", *counts, f"{number(row['median_ms'])} ms", *pace])
    return table(header, body)


def convolutions(results: list[dict[str, Any]]) -> str:
    """Layers: milliseconds of ours and of torch, and how far either is off."""
    body = [
        [
            row["layer"],
            f"{row['channels']} to {row['outputs']}, {row['side']}x{row['side']}",
            f"**{number(row['ours_ms'])} ms**",
            f"{number(row['torch_ms'])} ms ({row['times_ours']:.3g} x)",
            f"{row['ours_error']:.1e}",
            f"{row['torch_error']:.1e}",
        ]
        for row in results
    ]
    return table(["layer", "channels, size", "ours", "torch", "error of ours", "of torch"], body)


def holes(results: list[dict[str, Any]]) -> str:
    """Thin strokes beside a square of as many cells: the time of each, and how many times the square's pace it is."""
    found = {(row["share_percent"], row["shape"]): row for row in results}
    body = []
    for share in dict.fromkeys(row["share_percent"] for row in results):
        thin, square = found[share, "thin"], found[share, "square"]
        paces = [
            f"{thin['median_ms'] / thin[unit] / (square['median_ms'] / square[unit]):.2f}"
            for unit in ("hole_cells", "queries", "query_cells")
        ]
        counts = [f"{thin[unit]:,} / {square[unit]:,}" for unit in ("hole_cells", "queries", "query_cells")]
        times = [f"{number(row['median_ms'])} ms" for row in (thin, square)]
        body.append([f"{share:g} %", *counts, *times, *paces])
    header = ["share of the cells", "hole cells, thin / square", "queries", "cells under them", "thin", "square"]
    return table([*header, "thin / square, per hole cell", "per query", "per cell under a query"], body)


def match_summary(results: list[dict[str, Any]]) -> str:
    """Ours and the fastest exact form of each other idea."""
    families = ("ours", "gemm-direct", "product", "faiss", "style-swap")
    sizes = ["512/224", "1024/512"]
    rows = [row for row in results if row["features"] == "photo" and "median_ms" in row]
    rows = [row for row in rows if not row["rival"].endswith(("bf16", "fast"))]
    body = []
    for family in families:
        members = [row for row in rows if row["rival"] == family or (family != "ours" and family in row["rival"])]
        best = [fastest(members, size) for size in sizes]
        if any(best):
            label = next(row["label"] for row in best if row)
            body.append([f"**`{label}`**" if family == "ours" else label, *map(time_and_ratio, best)])
    return table(["image / hole", *sizes], body)


def fastest(rows: list[dict[str, Any]], size: str) -> dict[str, Any] | None:
    return min((row for row in rows if row["size"] == size), key=lambda row: row["median_ms"], default=None)


def swap_times(results: list[dict[str, Any]]) -> str:
    sizes = list(dict.fromkeys(row["size"] for row in results))
    times = {(row["form"], row["size"]): row["median_ms"] for row in results}
    body = []
    for size in sizes:
        ours = times["ours", size]
        others = [
            f"{number(times[form, size])} ms ({times[form, size] / ours:.1f} x)" for form in FORMS if form != "ours"
        ]
        body.append([size, f"**{number(ours)} ms**", *others])
    return table(["image / hole", *FORMS.values()], body)


def swap_summary(results: list[dict[str, Any]]) -> str:
    times = {row["form"]: row["median_ms"] for row in results if row["size"] == "512/224"}
    other = min((form for form in times if form != "ours"), key=lambda form: times[form])
    rows = [[f"{FORMS[other]} (the fastest other form measured)", f"{number(times[other])} ms"]]
    rows.append([FORMS["ours"], f"**{number(times['ours'])} ms**"])
    return table(["patch-swap, 128x128x256 features, 56x56 hole", "time"], rows)


def pipeline_times(results: list[dict[str, Any]]) -> str:
    """Ways to fill a picture by sizes: seconds, and how many times those of ours it is."""
    sizes = list(dict.fromkeys(row["size"] for row in results))
    names = {row["form"]: row["label"] for row in results}
    found = {(row["form"], row["size"]): row for row in results if "median_ms" in row}

    def cell(form: str, size: str) -> str:
        if (form, size) not in found:
            return "-"
        row = found[form, size]
        time = f"{number(row['median_ms'] / 1e3)} s"
        return f"**{time}**" if form == "ours" else time + ratio(row)

    return table(
        ["median (times ours)", *sizes], [[names[form], *(cell(form, size) for size in sizes)] for form in names]
    )


def pipeline_stages(results: list[dict[str, Any]]) -> str:
    """Ours at every size: stages over all scales, what no stage covers, and memory."""
    body = []
    for row in results:
        if row["group"] == "ours" and "median_ms" in row:
            stages = list(stage_sums(row).values())
            times = [f"{time:,.0f}" for time in (*stages, max(0.0, row["median_ms"] - sum(stages)))]
            memory = f"{row['peak_memory_mib'] / 1024:.2f} GiB"
            whole = [f"**{row['median_ms']:,.0f}**", f"{row['p95_ms']:,.0f}"]
            how = f"{row['multiplies_in']}, by torch" if row["form"] == "ours-direct" else row["multiplies_in"]
            body.append([f"{row['size']}, {how}", str(len(row["scale_ms"])), *times, *whole, memory])
    return table(["milliseconds", "scales", *STAGES, "other", "all", "p95", "peak memory"], body)


def pipeline_summary(results: list[dict[str, Any]]) -> str:
    """Ours, and the fastest way to run each form of neural inpainting."""
    sizes = [size for size in ("256/112", "512/224") if any(row["size"] == size for row in results)]
    rows = [row for row in results if "median_ms" in row]
    body = []
    for title, prefix in (
        ("neural inpainting, paper's form", "neural-paper"),
        ("after its authors' later program", "neural-fast"),
    ):
        best = [fastest([row for row in rows if row["form"].startswith(prefix)], size) for size in sizes]
        if any(best):
            cells = [f"{number(row['median_ms'] / 1e3)} s{ratio(row)}" if row else "-" for row in best]
            body.append([title, *cells])
    ours = [fastest([row for row in rows if row["form"] == "ours"], size) for size in sizes]
    body.append(["**ours**", *(f"**{number(row['median_ms'] / 1e3)} s**" if row else "-" for row in ours)])
    return table(["image / hole", *sizes], body)


def photograph_costs(results: list[dict[str, Any]]) -> str:
    """Holes of a large photograph: the work, its stages, the same cut out beforehand, memory, and detail."""
    rows = [row for row in results if "median_ms" in row]
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stage_ms"]))
    body = []
    for row in rows:
        times = [row["stage_ms"].get(stage, 0.0) for stage in stages]
        times.append(max(0.0, row["median_ms"] - sum(times)))
        cut_out, detail = row["cut_out_ms"], row["detail"]
        body.append(
            [
                row["hole"],
                *(f"{row[name]:,}" for name in ("hole_pixels", "windows")),
                str(row["finest"]),
                *(f"{time:,.0f}" for time in times),
                f"**{row['median_ms']:,.0f}**",
                "" if cut_out is None else f"{cut_out:,.0f} ({row['times_cut_out']:.2f} x)",
                f"{row['peak_memory_mib']:,} MiB",
                "" if detail is None else f"{detail:.2f}",
            ]
        )
    header = ["milliseconds", "hole pixels", "windows", "finest scale", *stages, "other", "all"]
    return table([*header, "cut out (ratio to it)", "memory", "detail"], body)


def stage_sums(row: dict[str, Any]) -> dict[str, float]:
    """Milliseconds of each stage over all scales."""
    return {stage: sum(times.get(stage, 0.0) for times in row["scale_ms"].values()) for stage in STAGES}


def ratio(row: dict[str, Any]) -> str:
    return f" ({row['times_ours']:.3g} x)" if row["times_ours"] else ""


def table1(results: list[dict[str, Any]]) -> str:
    """The paper's Table 1 in form: methods by measures, the best of each column in bold."""
    columns: dict[str, tuple[str, str, Callable[..., float]]] = {
        "hole_l1": ("hole L1", "{:.2f} %", min),
        "l1": ("L1", "{:.2f} %", min),
        "ssim": ("SSIM", "{:.3f}", max),
        "lpips": ("LPIPS", "{:.3f}", min),
        "seconds": ("time", "{:.3g} s", min),
    }
    body = []
    for row in results:
        used = row["settings"].get("weights_sha256")
        cells = [row["label"] + (f", weights {used[:8]}" if used and used != default_weights() else "")]
        for name, (_, form, best_of) in columns.items():
            value = row[name]
            known = [other[name] for other in results if other[name] is not None]
            text = "" if value is None else form.format(value)
            cells.append(f"**{text}**" if value is not None and len(known) > 1 and value == best_of(known) else text)
        body.append(cells)
    return table(["method", *(heading for heading, _, _ in columns.values())], body)


def default_weights() -> str:
    """SHA-256 of the weights that come with the package."""
    sums = (line.split() for line in WEIGHTS.read_text().splitlines())
    return next(digest for digest, name in sums if name == "default.safetensors")


def quality(results: list[dict[str, Any]], timed: bool) -> str:
    """Methods by kinds of holes: hole L1 %, SSIM, LPIPS; then, if ``timed``, the seconds of a photograph."""
    kinds = list(dict.fromkeys(row["kind"] for row in results))
    found = {(row["method"], row["kind"]): row for row in results}

    def cell(row: dict[str, Any]) -> str:
        return f"{row['hole_l1']:.2f} / {row['ssim']:.3f} / {row['lpips']:.3f}".replace(" 0.", " .")

    body = []
    for method in dict.fromkeys(row["method"] for row in results):
        body.append([method, *(cell(found[method, kind]) for kind in kinds)])
    if timed:
        first = results[0]["method"]
        body.append([f"{first}, median seconds", *(f"{found[first, kind]['seconds_median']:.2f}" for kind in kinds)])
    return table(["hole L1 % / SSIM / LPIPS", *kinds], body)


def ablation(results: list[dict[str, Any]]) -> str:
    """Variants and kinds of holes: their means, what they differ by from the default's, and seconds where timed."""
    timed = any("seconds" in row for row in results)
    rows = []
    for row in results:
        means = " / ".join(
            "-" if row[key] is None else dotted(row[key], form) for key, (_, form) in ABLATION_MEASURES.items()
        )
        seconds = [f"{row['seconds']:.2f}" if "seconds" in row else ""] if timed else []
        rows.append([row["change"], row["kind"], means, *differences(row), *seconds])
    less = [f"{heading.removeprefix('hole ')} less the default's" for heading, _ in ABLATION_MEASURES.values()]
    return table(["change", "holes", "hole L1 % / SSIM / LPIPS", *less, *["seconds"][: int(timed)]], rows)


def differences(row: dict[str, Any]) -> list[str]:
    """Mean and standard error of the paired difference in each measure; empty for the default itself."""
    found = row.get("difference") or {}
    return [
        f"{dotted(found[key]['mean'], '+' + form)} ± {dotted(found[key]['error'], form)}" if found.get(key) else ""
        for key, (_, form) in ABLATION_MEASURES.items()
    ]


def match_quality(results: list[dict[str, Any]]) -> str:
    """Scales and sources of keys: how near the chosen keys are to the truth's best, and their score."""
    near = [name for name in results[0] if name.startswith("within_")]
    headings = {"same": "same key %", **{name: f"within {name.removeprefix('within_')} cells %" for name in near}}
    headings |= {"score": "NCC", "reach": "reach"}
    rows = []
    for row in results:
        numbers = [f"{row[name]:.3f}" if name in ("score", "reach") else f"{row[name]:.1f}" for name in headings]
        rows.append([row["kind"], str(row["short_side"]), row["source"], *numbers, f"{row['best_score']:.3f}"])
    return table(["holes", "scale", "keys chosen from", *headings.values(), "the best key's NCC"], rows)


def training(results: list[dict[str, Any]]) -> str:
    """Throughput of each stage of training, and the share of each part of a step."""
    parts = list(results[0]["share"])
    body = [
        [
            row["stage"],
            f"{row['batch']} x {row['image_size']} px",
            number(row["images_per_second"]),
            f"{row['peak_memory_mib']:,.0f} MiB",
            *(f"{100 * row['share'][part]:.1f} %" for part in parts),
        ]
        for row in results
    ]
    return table(["stage", "crops an update", "images/s", "memory", *parts], body)


def training_choices(results: list[dict[str, Any]]) -> str:
    """Choices of training: what was measured, and the paired differences in LPIPS with their standard errors."""
    names = {"averaged": "averaged", "generator": "last"}

    def difference(row: dict[str, Any], base: str) -> str:
        found = row.get(base)
        return f"{found['lpips']['mean']:+.4f} ± {found['lpips']['error']:.4f}" if found else ""

    body = []
    for row in results:
        means = [f"{row['hole_l1']:.2f}", f"{row['ssim']:.4f}", f"{row['lpips']:.4f}"]
        body.append(
            [row["change"], names[row["weights"]], *means, *(difference(row, base) for base in ("start", "hinge"))]
        )
    header = ["choice", "weights", "hole L1 %", "SSIM", "LPIPS", "LPIPS less the start's", "less hinge's"]
    return table(header, body)


# name: (file of results, what makes the table of its "results")
TABLES: dict[str, tuple[str, Callable[[list[dict[str, Any]]], str]]] = {
    "swap-cpu": ("swap-cpu.json", swap_times),
    "training-cpu": ("training-cpu.json", training),
    "training-cuda": ("training-cuda.json", training),
    "training-choices-cpu": ("training-choices-cpu.json", training_choices),
    "training-choices-2-cpu": ("training-choices-2-cpu.json", training_choices),
    "table1-256-cpu": ("table1-256-cpu.json", table1),
    "quality-512-cpu": ("quality-512-cpu.json", partial(quality, timed=True)),
    "quality-512-cpu-summary": ("quality-512-cpu.json", partial(quality, timed=False)),
    "ablation-512-cpu": ("ablation-512-cpu.json", ablation),
    "match-quality-512-cpu": ("match-quality-512-cpu.json", match_quality),
    "swap-cpu-summary": ("swap-cpu.json", swap_summary),
    "holes-cpu": ("holes-cpu.json", holes),
    "convolve-cpu": ("convolve-cpu.json", convolutions),
    "photograph-cpu": ("photograph-cpu.json", photograph_costs),
}
for _device in ("cpu", "cuda"):
    _file = f"match-{_device}.json"
    TABLES |= {
        f"pipeline-{_device}": (f"pipeline-{_device}.json", pipeline_times),
        f"pipeline-{_device}-stages": (f"pipeline-{_device}.json", pipeline_stages),
        f"pipeline-{_device}-summary": (f"pipeline-{_device}.json", pipeline_summary),
        f"match-{_device}-photo": (_file, partial(match_times, kind="photo")),
        f"match-{_device}-random": (_file, partial(match_times, kind="random")),
        f"match-{_device}-512": (_file, partial(match_details, size="512/224")),
        f"match-{_device}-1024": (_file, partial(match_details, size="1024/512")),
        f"match-{_device}-pairs": (_file, match_pairs),
        f"match-{_device}-summary": (_file, match_summary),
    }


def render(name: str, results: Path = RESULTS) -> str:
    """The table of this name, or a line that says that it has not been measured."""
    file, make = TABLES[name]
    if not (results / file).exists():
        return f"Not measured yet: `make {'gpu-check' if 'cuda' in file else 'bench'}` does it.\n"
    text = make(json.loads((results / file).read_text())["results"])
    return text if text.count("\n") > 2 else "Not measured: it did not fit into the time budget.\n"


def replace_blocks(text: str, content_of: Callable[[str], str | None]) -> tuple[str, list[str]]:
    """The text with every block whose content_of(name) is not None brought up to date, and the names that changed."""
    changed = []

    def replaced(match: re.Match[str]) -> str:
        content = content_of(match["name"])
        if content is None or content == match["content"]:
            return match[0]
        changed.append(match["name"])
        return match[1] + content + match[4]

    return BLOCK.sub(replaced, text), changed


def update(document: Path, content_of: Callable[[str], str | None], check: bool) -> list[str]:
    """Bring the document up to date, or with `check` only say which tables are not."""
    text, changed = replace_blocks(document.read_text(), content_of)
    if changed and not check:
        temporary = document.with_name(document.name + ".tmp")
        temporary.write_text(text)
        os.replace(temporary, document)
    return changed


def number(value: float | None) -> str:
    """Three significant digits, 1,234 from a thousand on."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}".rstrip(".")


def dotted(value: float, form: str) -> str:
    """0.123 as .123, -0.123 as -.123."""
    return f"{value:{form}}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:{form}}"


def time_and_ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{number(row['median_ms'])} ms{'' if row['rival'] == 'ours' else ratio(row)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 where a table is out of date"
    )
    check = parser.parse_args().check
    outdated = []
    for name in DOCUMENTS:
        changed = update(ROOT / name, lambda name: render(name) if name in TABLES else None, check)
        outdated += [f"{name}: {table}" for table in changed]
    for entry in outdated:
        print("out of date:" if check else "written:", entry)
    return 1 if check and outdated else 0


if __name__ == "__main__":
    sys.exit(main())
