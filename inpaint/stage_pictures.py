"""Pictures of the steps of a filling: what each made of each window."""

from __future__ import annotations

import re
from collections.abc import Iterator

from PIL import Image

from inpaint.match_field import draw_match_field
from inpaint.photo import to_pil
from inpaint.work import Filled

_FILE = re.compile(r"(mask|(window\d+_)?(coarse|scale\d+_.*))\.png", re.IGNORECASE)


def is_file_of_stage(name: str) -> bool:
    """Whether ``inpaint fill --save-stages`` may give a file this name: the mask's, or one of ``draw_stages``."""
    return _FILE.fullmatch(name) is not None


def draw_stages(filled: Filled) -> Iterator[tuple[str, Image.Image]]:
    """Names and 8-bit pictures: Image2Feature's completion, and of each scale what Feature2Image made of the swapped
    features, the result, and the match field.

    Args:
        filled: what ``Inpainter.fill`` made with ``keep``.
    """
    for number, kept in enumerate(filled.kept, start=1):
        of_window = f"window{number}_" if len(filled.kept) > 1 else ""
        yield f"{of_window}coarse", to_pil(kept.coarse)
        for scale_number, scale in enumerate(kept.scales, start=1):
            height, width = scale.level.part.size
            name = f"{of_window}scale{scale_number}_{width}x{height}"
            yield f"{name}_after_swap", to_pil(scale.decoded)
            yield f"{name}_result", to_pil(scale.result)
            yield f"{name}_match_field", to_pil(draw_match_field(scale.match_index, scale.result))
