"""Three of gradio's components, whose values are ours: an uploaded file, a layer of paint, a file to download.

The uploaded file is the photograph, whatever the editor shows of it. Gradio decodes nothing that a visitor sends.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from inpaint.errors import InpaintError
from inpaint.web.messages import readable
from inpaint.web.upload import Upload

if TYPE_CHECKING:
    from gradio.components.image_editor import EditorData
    from gradio.data_classes import FileData

    from inpaint.web.download import Download


class PhotographField(gr.File):
    """Gives functions an ``Upload``, or None."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        if payload is None:
            return None
        with readable():
            if not Path(payload.path).exists():
                raise InpaintError("the server has deleted the photograph in the meantime; drop it again")
            return Upload.of(payload.orig_name, Path(payload.path).read_bytes(), "the photograph")


class PaintedLayer(gr.ImageEditor):
    """Gives functions the path of what was painted, or None. Takes the picture that is painted on."""

    is_template = True
    accept_blobs = None  # which would keep in memory whatever anybody sends

    def preprocess(self, payload: EditorData | None) -> Any:
        return payload.layers[0].path if payload is not None and payload.layers else None

    def postprocess(self, value: Any) -> Any:
        return super().postprocess(None if value is None else {"background": value, "layers": [], "composite": None})


class DownloadLink(gr.DownloadButton):
    """Takes a ``Download``."""

    is_template = True

    def postprocess(self, value: Any) -> FileData | None:
        return super().postprocess(_saved(value, self.GRADIO_CACHE) if value is not None else None)


def _saved(download: Download, folder: str) -> str:
    return save_bytes_to_cache(download.content, download.name, folder)
