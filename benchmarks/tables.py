"""Tables of the documents, rendered from benchmarks/results, so that a table and its measurements cannot drift apart.

    python benchmarks/tables.py           # writes every table between its markers
    python benchmarks/tables.py --check   # exit status 1 and the names of the tables that are out of date

The documents are README.md and all of docs/. A document holds `<!-- table: NAME -->`, the table, `<!-- end -->`. NAME
is one of TABLES. Below each table stands when, on what hardware and with which code it was measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
WEIGHTS = ROOT / "inpaint" / "pretrained" / "SHA256SUMS"
BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n)(?P<content>.*?)(<!-- end -->)", re.DOTALL)
# Forms of matching that a table shows: the fastest rival that fits the pattern, at each size.
MATCH_FORMS = (
    "ours",
    "ours-fast",
    "ours-swap",
    "gemm-direct-bf16",
    "product-*-bf16",
    "style-swap-bf16",
    "product-*-fp32",
    "style-swap-fp32",
    "faiss-flat",
)
ABLATION_MEASURES = {"hole_l1": ("hole L1 %", ".2f"), "ssim": ("SSIM", ".4f"), "lpips": ("LPIPS", ".4f")}
STAGES = ("infer", "vgg", "match", "translate", "blend", "enlarge")  # of the pipeline


def table(header: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in [header, ["---"] * len(header), *rows])


def match_forms(results: list[dict[str, Any]]) -> str:
    """Forms by sizes, on features of photographs: median, and how many times that of ours it is.

    Memory is beyond the inputs. A choice is the same where it is the exact arg-max.
    """
    sizes = ["512/224", "1024/512"]
    rows = [row for row in results if row["features"] == "photo" and "median_ms" in row]
    body = []
    for pattern in MATCH_FORMS:
        found = [fastest(rows, pattern, size) for size in sizes]
        label = next((row["label"].replace(" in blocks", "") for row in found if row), "")
        if label:
            body.append([label, *map(time_and_ratio, found), *memory_and_choices(found[0])])
    return table(["form", *sizes, f"memory, {sizes[0]}", "same choice"], body)


def fastest(rows: list[dict[str, Any]], pattern: str, size: str) -> dict[str, Any] | None:
    """The row of the fastest rival of this pattern at this size."""
    members = (row for row in rows if row["size"] == size and fnmatchcase(row["rival"], pattern))
    return min(members, key=lambda row: row["median_ms"], default=None)


def time_and_ratio(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    time = f"{number(row['median_ms'])} ms"
    return f"**{time}**" if row["rival"] == "ours" else time + ratio(row)


def memory_and_choices(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["", ""]
    same = row.get("same_picks")
    return [f"{row['peak_memory_mib']:,.0f} MiB", "" if same is None else f"{100 * same:.4g} %"]


def speed_summary(
    pipeline: list[dict[str, Any]], photograph: list[dict[str, Any]], matching: list[dict[str, Any]]
) -> str:
    """What a call takes, and the fastest run of the method that it is compared with."""
    size = "512/224"
    filled = {row["form"]: row for row in pipeline if row["size"] == size and "median_ms" in row}
    neural = min((row for form, row in filled.items() if form.startswith("neural")), key=lambda row: row["median_ms"])
    whole, hole = filled["ours"], next(row for row in photograph if row["hole"] == "200x200")
    rows = [row for row in matching if row["features"] == "photo" and "median_ms" in row]
    match, convolution = (fastest(rows, name, size) for name in ("ours", "style-swap-fp32"))
    assert match and convolution

    def seconds(row: dict[str, Any]) -> str:
        return f"{number(row['median_ms'] / 1e3)} s"

    body = [
        ["fill 224x224 in 512x512", f"**{seconds(whole)}**", f"neural inpainting: {seconds(neural)}{ratio(neural)}"],
        ["fill 200x200 in 10 megapixels", f"**{seconds(hole)}**", ""],
        [f"match, {size}", time_and_ratio(match), f"convolution: {time_and_ratio(convolution)}"],
    ]
    return table(["", "time", "compared with"], body)


def pipeline_times(results: list[dict[str, Any]]) -> str:
    """Ways to fill a picture by sizes: seconds, and how many times those of ours it is; of the same name the fastest.

    Neural inpainting matches patches in two ways, which paint alike.
    """
    sizes = list(dict.fromkeys(row["size"] for row in results))
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in results:
        if "median_ms" in row and row["form"] != "ours-float32":
            of_label = found.setdefault(row["label"].partition(", matching")[0], {})
            known = of_label.get(row["size"])
            of_label[row["size"]] = row if known is None or row["median_ms"] < known["median_ms"] else known

    def cell(row: dict[str, Any] | None) -> str:
        if row is None:
            return "-"
        time = f"{number(row['median_ms'] / 1e3)} s"
        return f"**{time}**" if row["form"] == "ours" else time + ratio(row)

    return table(["", *sizes], [[label, *(cell(rows.get(size)) for size in sizes)] for label, rows in found.items()])


def pipeline_stages(results: list[dict[str, Any]]) -> str:
    """The default at every size: stages over all scales, what no stage covers, and memory."""
    body = []
    for row in results:
        if row["form"] == "ours" and "median_ms" in row:
            stages = list(stage_sums(row).values())
            times = [f"{time:,.0f}" for time in (*stages, max(0.0, row["median_ms"] - sum(stages)))]
            memory = f"{row['peak_memory_mib'] / 1024:.2f} GiB"
            body.append([row["size"], str(len(row["scale_ms"])), *times, f"**{row['median_ms']:,.0f}**", memory])
    return table(["milliseconds", "scales", *STAGES, "other", "all", "peak memory"], body)


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


def quality(results: list[dict[str, Any]]) -> str:
    """Methods by kinds of holes: hole L1 %, SSIM, LPIPS."""
    kinds = list(dict.fromkeys(row["kind"] for row in results))
    found = {(row["method"], row["kind"]): row for row in results}

    def cell(row: dict[str, Any]) -> str:
        return f"{row['hole_l1']:.2f} / {row['ssim']:.3f} / {row['lpips']:.3f}".replace(" 0.", " .")

    body = []
    for method in dict.fromkeys(row["method"] for row in results):
        body.append([method, *(cell(found[method, kind]) for kind in kinds)])
    return table(["hole L1 % / SSIM / LPIPS", *kinds], body)


def ablation(results: list[dict[str, Any]]) -> str:
    """Variants and kinds of holes: the default's means, what others differ by from it, and seconds where timed."""
    timed = any("seconds" in row for row in results)
    rows = []
    for row in results:
        measured = [measure(row, key, form) for key, (_, form) in ABLATION_MEASURES.items()]
        seconds = [f"{row['seconds']:.2f}" if "seconds" in row else ""] if timed else []
        rows.append([row["change"], row["kind"], *measured, *seconds])
    headings = [heading for heading, _ in ABLATION_MEASURES.values()]
    return table(["change", "holes", *headings, *["seconds"][: int(timed)]], rows)


def measure(row: dict[str, Any], key: str, form: str) -> str:
    """Of the default its mean, of another variant the mean paired difference with its standard error."""
    if "difference" not in row:
        return "-" if row[key] is None else dotted(row[key], form)
    found = row["difference"][key]
    return f"{dotted(found['mean'], '+' + form)}±{dotted(found['error'], form)}" if found else ""


def match_quality(results: list[dict[str, Any]]) -> str:
    """Scales and sources of keys: how often the truth's best key is chosen, and the score of the chosen keys."""
    body = []
    for row in results:
        scores = (f"{row[name]:.3f}" for name in ("score", "reach", "best_score"))
        body.append([row["kind"], str(row["short_side"]), row["source"], f"{row['same']:.1f}", *scores])
    return table(["holes", "scale", "keys chosen from", "same key %", "NCC", "reach", "the best key's NCC"], body)


def clients(results: list[dict[str, Any]]) -> str:
    """Uses of other projects: time and peak memory of both forms, and of the plain one how many times ours."""
    body = [
        [
            row["use"].replace("-", " "),
            f"**{number(row['ours_ms'])} ms**",
            f"{number(row['plain_ms'])} ms ({row['times_ours']:.3g} x)",
            f"{row['ours_memory_mib']:,.0f} MiB",
            f"{row['plain_memory_mib']:,.0f} MiB ({row['memory_times_ours']:.2g} x)",
        ]
        for row in results
    ]
    return table(["use", "patchswap", "plain PyTorch", "memory", "plain PyTorch"], body)


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


def batch_rates(results: list[dict[str, Any]]) -> str:
    """Engines of ``inpaint batch`` on two kinds of photographs: rate, start, and memory of all processes."""
    body = [
        [
            row["photograph"],
            row["engine"],
            str(row["at_once"]),
            number(row["photographs_per_minute"]),
            f"{row['start_seconds']:.1f} s",
            f"{row['memory_mib']:,.0f} MiB",
        ]
        for row in results
        if "skipped" not in row
    ]
    text = table(["photograph", "engine", "at once", "photographs a minute", "first after", "memory"], body)
    others = max((row["others_percent"] for row in results if "skipped" not in row), default=0.0)
    if others > MOST_OTHERS:
        text += f"\nOther programs took up to {others:.0f} % of the machine meanwhile: these rates are too low.\n"
    return text


def visitors(results: list[dict[str, Any]]) -> str:
    """The service under load."""
    body = [
        [
            str(row["visitors"]),
            number(row["photographs_per_minute"]),
            f"{row['median_s']:.2f} s",
            f"{row['p95_s']:.2f} s",
            f"{row['memory_mib']:,} MiB",
        ]
        for row in results
    ]
    return table(["visitors at once", "photographs a minute", "median", "p95", "memory above idle"], body)


def batch_plan(results: list[dict[str, Any]], on_gpu: list[dict[str, Any]]) -> str:
    """What 100 million photographs take: by the rate of Ray on this CPU, and by the time of a fill alone on a GPU."""
    body = []
    for row in results:
        if row["engine"] != "ray" or "skipped" in row:
            continue
        core_hours = PLANNED / (60 * row["photographs_per_minute"] / row["cores"])
        terabytes = (PLANNED * row[part] * 2**10 / 1e12 for part in ("input_kib", "output_kib"))
        body.append(
            [f"{row['photograph']}, {row['hole']}", *_plan(core_hours, CORES_OF_A_MACHINE, CORE_HOUR, terabytes)]
        )
    for row in on_gpu:
        if row["size"] == "512/224" and row["group"] == "ours" and "median_ms" in row:
            hours = PLANNED * row["median_ms"] / 1e3 / 3600
            body.append(["512x512, 224x224: the fill alone, on a GPU", *_plan(hours, 1, GPU_HOUR, ())])
            break
    return table(
        ["photograph and hole", "hours of a core or GPU", "machines for 30 days", "$", "read", "written"], body
    )


MOST_OTHERS = 5.0  # percent of the machine that other programs may take during a measurement
PLANNED = 100_000_000  # photographs
CORES_OF_A_MACHINE = 64
CORE_HOUR, GPU_HOUR = 0.04, 3.0  # prices in dollars that docs/scale.md assumes


def _plan(hours: float, of_a_machine: int, price: float, terabytes: Iterable[float]) -> list[str]:
    """Hours, machines, dollars, and terabytes read and written, if they are known."""
    moved = [f"{each:,.1f} TB" for each in terabytes] or ["", ""]
    machines = math.ceil(hours / of_a_machine / (30 * 24))
    return [f"{hours:,.0f}", f"{machines:,}", f"{hours * price:,.0f}", *moved]


def wheels(results: list[dict[str, Any]]) -> str:
    """What each wheel was tried with, and how many tests passed."""
    body = []
    for row in (row for row in results if row.get("passed")):
        tests = str(row["passed"]) + (f", {row['failed']} failed" if row["failed"] else "")
        body.append([row["python"], row["torch"], f"{row['numpy']}, {row['pillow']}", row["kind"], tests])
    return table(["Python", "PyTorch", "numpy, Pillow", "wheel", "tests"], body)


# name: (files of results, what makes the table of what they hold under "results")
TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "speed-summary": (("pipeline-cpu.json", "photograph-cpu.json", "match-cpu.json"), speed_summary),
    "match-cpu": (("match-cpu.json",), match_forms),
    "match-cuda": (("match-cuda.json",), match_forms),
    "pipeline-cpu": (("pipeline-cpu.json",), pipeline_times),
    "pipeline-cuda-stages": (("pipeline-cuda.json",), pipeline_stages),
    "photograph-cpu": (("photograph-cpu.json",), photograph_costs),
    "batch-cpu": (("batch-cpu.json",), batch_rates),
    "batch-plan": (("batch-cpu.json", "pipeline-cuda.json"), batch_plan),
    "web-cpu": (("web-cpu.json",), visitors),
    "clients-cpu": (("clients-cpu.json",), clients),
    "training-cpu": (("training-cpu.json",), training),
    "training-cuda": (("training-cuda.json",), training),
    "table1-256-cpu": (("table1-256-cpu.json",), table1),
    "quality-512-cpu": (("quality-512-cpu.json",), quality),
    "ablation-512-cpu": (("ablation-512-cpu.json",), ablation),
    "wheels": (("wheels.json",), wheels),
}


def render(name: str, results: Path = RESULTS) -> str:
    """The table of this name with its caption, or a line that says that it has not been measured."""
    files, make = TABLES[name]
    if not all((results / file).exists() for file in files):
        return f"Not measured yet: `make {'gpu-check' if 'cuda' in files[0] else 'bench'}` does it.\n"
    contents = [json.loads((results / file).read_text()) for file in files]
    text = make(*(content["results"] for content in contents))
    if text.count("\n") <= 2:
        return "Not measured: it did not fit into the time budget.\n"
    return f"{text}\n*{caption(contents)}*\n"


def caption(contents: list[dict[str, Any]]) -> str:
    """When, on what, and with which code and weights the results were measured."""
    parts = [sorted({content.get("date") or content["machine"]["date"] for content in contents})[-1][:10]]
    parts += dict.fromkeys(hardware(content["machine"]) for content in contents)
    commits = dict.fromkeys(
        content["machine"]["commit"].split()[0] for content in contents if content["machine"].get("commit")
    )
    if commits:
        parts.append(f"commit {', '.join(commits)}")
    known = (each.get("weights_sha256") for content in contents for each in (content, *content["results"]))
    used = [
        digest for digest in dict.fromkeys([*known, *(content.get("method_sha256") for content in contents)]) if digest
    ]
    parts += [f"weights {digest[:8]}" + ("" if digest == default_weights() else ", not the default") for digest in used]
    return f"Measured {'; '.join(parts)}."


def hardware(machine: dict[str, Any]) -> str:
    """The GPU, or the CPU with its instructions and threads."""
    if machine.get("gpu"):
        return str(machine["gpu"]["name"])
    threads = machine.get("threads") or machine["torch_threads"]
    instructions = machine.get("instruction_set", "").split(" ")[0]
    return ", ".join(filter(None, [machine.get("cpu", "CPU"), instructions, f"{threads} thread{'s' * (threads > 1)}"]))


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
