"""gradio's ImageEditor with a bound on what visitors can leave in memory."""

from __future__ import annotations

from typing import Any

import gradio
from fastapi import HTTPException
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs

LAYERS = 8  # of one drawing
DRAWINGS = 16  # that were sent and not used yet, of all visitors


class BoundedEditor(gradio.ImageEditor):
    """An ImageEditor for use on a public server.

    Before a drawing is used, its layers come one by one and are kept in memory. gradio keeps any number of drawings,
    and makes room for as many layers as a visitor says there are.
    """

    is_template = True  # its browser side is ImageEditor's

    @server
    def accept_blobs(self, data: AcceptBlobs) -> Any:
        """Keeps a layer. The oldest drawing makes room for a new one beyond DRAWINGS."""
        index = str(data.data["index"] or "null")
        if index != "null" and not (index.isdecimal() and int(index) < LAYERS):
            raise HTTPException(422, f"expected a layer from 0 to {LAYERS - 1}, got {index[:20]!r}; use fewer layers")
        if data.data["id"] not in self.blob_storage:
            while len(self.blob_storage) >= DRAWINGS:
                self.blob_storage.pop(next(iter(self.blob_storage)), None)
        return super().accept_blobs(data)
