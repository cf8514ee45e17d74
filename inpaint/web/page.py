"""The page: a photograph is dropped, painted over, filled and downloaded again.

It is made of gradio's components. The work is done by ``inpaint.web.filling``, in turns of the queue.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import gradio as gr

from inpaint.errors import InpaintError
from inpaint.web.components import DownloadLink, PaintedLayer, PhotographField
from inpaint.web.filling import Wish, fill, show
from inpaint.web.marks import OPACITY, TOOLS, Tool
from inpaint.web.messages import readable
from inpaint.web.upload import Upload
from inpaint.web.visitors import Visitors

if TYPE_CHECKING:
    from inpaint.web.filler import Filler
    from inpaint.web.limits import Limits

LOOK: dict[str, Any] = {  # further arguments of gradio.mount_gradio_app; the fonts are those that a system has
    "theme": gr.themes.Default(
        primary_hue="pink", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
}
MOST_VARIANTS = 99

_INTRODUCTION = """# Remove things from photographs
Drop a photograph, paint over what has to go, shadow included, and press **Fill**.
The place is filled with texture from the rest of the picture. All other pixels keep their values."""


def make_page(filler: Filler, limits: Limits) -> gr.Blocks:
    """The page, to be mounted on a server.

    Args:
        filler: the queue in which everything is computed.
        limits: on what visitors send.
    """
    visitors = Visitors(filler)
    with gr.Blocks(title="inpaint", fill_width=True, analytics_enabled=False) as page:
        gr.Markdown(_INTRODUCTION)
        with gr.Row(equal_height=False):
            with gr.Column(min_width=300):
                photograph = PhotographField(label="Photograph", height=120, elem_id="photograph")
                with gr.Column(visible=False) as work:
                    about = gr.Markdown()
                    tool = gr.Radio([each.name for each in TOOLS], value=TOOLS[0].name, label="Brush")
                    canvas = PaintedLayer(
                        label="Paint here",
                        sources=[],
                        transforms=[],
                        layers=False,
                        buttons=[],
                        brush=_brush(TOOLS[0]),
                        format="png",
                        height="min(60vh, 100vw)",
                        elem_id="canvas",
                    )
                    with gr.Row():
                        start = gr.Button("Fill", variant="primary", min_width=120)
                        cancel = gr.Button("Cancel", min_width=120)
                    with gr.Accordion("More, in pixels", open=False):
                        with gr.Row():
                            left, top = _number("Box: left", 0, least=None), _number("Box: top", 0, least=None)
                            width, height = _number("Box: width", 0), _number("Box: height", 0)
                        with gr.Row():
                            dilate = _number("Grow the hole", 0, most=1000)
                            feather = _number("Feather its rim", 0, most=1000)
                            variant = _number("Variant", 1, least=1, most=MOST_VARIANTS)
                        with_steps = gr.Checkbox(False, label="Show the steps, and what was copied")
            with gr.Column(min_width=300):
                slider = gr.ImageSlider(
                    label="Before and after", type="pil", format="png", buttons=["fullscreen"], elem_id="slider"
                )
                with gr.Row(visible=False) as outcome:
                    result = DownloadLink("Download", variant="primary", min_width=120)
                    another = gr.Button("Next variant", min_width=160)
                    mask = DownloadLink("Mask", min_width=120)
                notes = gr.Textbox(label="Notes", visible=False, interactive=False)
                steps = gr.Gallery(
                    label="Steps", visible=False, columns=3, object_fit="contain", format="png", elem_id="steps"
                )
        marks = [left, top, width, height]
        wishes = [photograph, canvas, *marks, dilate, feather, variant, with_steps]
        shown = [outcome, slider, result, mask, notes, steps]

        def emptied() -> dict[Any, Any]:
            return {
                work: gr.Column(visible=False),
                tool: TOOLS[0].name,
                canvas: PaintedLayer(value=None, brush=_brush(TOOLS[0])),
                outcome: gr.Row(visible=False),
                slider: None,
                notes: gr.Textbox(visible=False),
                steps: gr.Gallery(None, visible=False),
            }

        def dropped(upload: Upload | None, request: gr.Request) -> dict[Any, Any]:
            if upload is None:
                return {}
            with readable():
                preview, line = visitors.result(_visitor(request), lambda _: show(upload, limits.megapixels))
            return {work: gr.Column(visible=True), about: line, canvas: preview}

        def filled(
            upload: Upload | None,
            layer: str | None,
            left: int | None,
            top: int | None,
            width: int | None,
            height: int | None,
            dilate: int | None,
            feather: int | None,
            variant: int | None,
            with_steps: bool,
            request: gr.Request,
        ) -> list[Any]:
            """A field of numbers that was emptied gives None."""
            with readable():
                if upload is None:
                    raise InpaintError("expected a photograph, got none; drop one first")
                rectangle = (left or 0, top or 0, width, height) if width and height else None
                wish = Wish(upload, layer, rectangle, variant or 1, dilate or 0, feather or 0, with_steps)
                made = visitors.result(_visitor(request), lambda turn: fill(wish, turn, limits.megapixels))
            return [
                gr.Row(visible=True),
                (made.before, made.after),
                made.result,
                made.mask,
                gr.Textbox("\n".join(made.notes), visible=bool(made.notes)),
                gr.Gallery(made.steps, visible=bool(made.steps)),
            ]

        def cancelled(request: gr.Request) -> None:
            visitors.cancel(_visitor(request))

        internal: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": None}
        photograph.clear(emptied, None, [work, tool, canvas, *shown], **internal)
        new = photograph.upload(emptied, None, [work, tool, canvas, *shown], **internal)
        new.then(dropped, photograph, [work, about, canvas], **internal)
        tool.input(None, tool, canvas, js=_CHOOSE_BRUSH, show_progress="hidden")
        start.click(filled, wishes, shown, **internal)
        stepped = another.click(_next, variant, variant, **internal)
        stepped.then(filled, wishes, shown, **internal)
        cancel.click(cancelled, **internal)
        page.unload(cancelled)
    return page


def _visitor(request: gr.Request) -> str:
    return str(request.session_hash)


def _next(variant: int | None) -> int:
    return min((variant or 0) + 1, MOST_VARIANTS)


def _number(label: str, value: int, *, least: int | None = 0, most: int | None = None) -> gr.Number:
    return gr.Number(value, label=label, precision=0, minimum=least, maximum=most, min_width=120)


def _brush(tool: Tool) -> gr.Brush:
    colour = (tool.colour, OPACITY)
    return gr.Brush(colors=[colour], default_color=colour, color_mode="fixed")


# In the browser: what is painted stays, and no picture is sent.
_CHOOSE_BRUSH = f"""(name) => ({{
    __type__: "update", brush: {json.dumps({tool.name: dataclasses.asdict(_brush(tool)) for tool in TOOLS})}[name]
}})"""
