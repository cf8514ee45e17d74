"""Settings of a training run, the named ones, and how they are read and written."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint.errors import InpaintError
from inpaint.networks.registry import ROLES, Role


@dataclass(frozen=True)
class TrainingConfig:
    """One training run. Lengths in pixels, weights relative to each other.

    The ratio perceptual : adversarial = 10 : 1 and Adam's beta1 = 0.5 are the paper's (Song et al. 2017, section 4).
    """

    init: str = ""  # weights that the generator begins from: "default" or an exported file; empty: untrained
    image_size: int = 256  # side of the square training crops
    zoom: tuple[float, float] = (1.0, 1.15)  # a photograph's short side, as a multiple of image_size
    batch: int = 4  # crops an update, of all processes together
    accumulate: int = 1  # parts in which a process works through its crops: less memory, the same update
    steps: int = 10_000
    learning_rate: float = 5e-4
    learning_rate_discriminator: float = 2e-4
    beta1: float = 0.5
    warmup: int = 200  # steps of linear warm-up; after it the rate falls to zero along a cosine
    perceptual: float = 10.0
    perceptual_layers: tuple[str, ...] = ("relu3_1",)
    adversarial: float = 1.0
    adversarial_start: int = 2_000  # steps before the discriminator is heard
    spectral_norm: bool = True  # of the discriminator's layers
    judge_detail: bool = False  # the discriminator sees a picture without its low frequencies
    pixel: float = 5.0  # L1 on pixels; ours, it steadies the colours
    shallow_in_hole: float = 0.25  # weight of the hole in the layers before relu3_1 (feature2image)
    coherence: float = 0.0  # of the swap that feature2image learns to decode (patchswap.cohere)
    band: float = 2.0  # extra weight of the hole's cells that touch its boundary (image2feature)
    window: int = 160  # side of the window around the hole on which image2feature's VGG loss is computed; 0 = all
    average: float = 0.999  # decay of the running average of the weights, which is what is exported
    discriminator_width: int = 48
    architecture: str = ""  # of the network, as inpaint.networks.registry names it; empty: the default one
    network: dict[str, Any] = dataclasses.field(default_factory=dict)  # overrides of the architecture's own config
    bfloat16: bool = True
    compile: bool = False  # torch.compile for the two networks that are trained
    workers: int = 1
    seed: int = 0
    log_every: int = 50
    picture_every: int = 1_000
    checkpoint_every: int = 500


_NAMED: dict[str, dict[Role, TrainingConfig]] = {
    "compact": {
        "image2feature": TrainingConfig(
            steps=4_600, warmup=100, pixel=10.0, adversarial_start=1_400, checkpoint_every=250, picture_every=500
        ),
        "feature2image": TrainingConfig(
            image_size=160,
            zoom=(1.0, 1.8),
            steps=4_400,
            warmup=200,
            learning_rate=3e-4,
            adversarial_start=1_400,
            perceptual_layers=("relu2_1", "relu3_1"),
            checkpoint_every=250,
            picture_every=500,
        ),
    },
    # The sizes and rates of the paper as far as they are known. Without normalisation layers a generator rate of 2e-3
    # diverges, so Image2Feature keeps a lower one.
    "paper-256": {
        "image2feature": TrainingConfig(
            batch=16,
            steps=200_000,
            learning_rate=6e-4,
            adversarial_start=5_000,
            pixel=0.5,
            window=0,
            discriminator_width=64,
            network={"widths": (64, 128, 256), "dilations": (1, 2, 4, 8, 16, 1, 2, 4, 8, 16, 1, 1)},
        ),
        "feature2image": TrainingConfig(
            batch=16,
            steps=200_000,
            learning_rate=2e-4,
            adversarial_start=0,
            pixel=0.0,
            shallow_in_hole=1.0,
            discriminator_width=64,
            network={"widths": (256, 512, 512, 512, 512, 512, 512), "upper": (128, 64)},
        ),
    },
}
_NAMED["paper-512"] = {
    "image2feature": _NAMED["paper-256"]["image2feature"],  # Image2Feature runs at 256 in every setting
    "feature2image": dataclasses.replace(_NAMED["paper-256"]["feature2image"], image_size=512, batch=8),
}
NAMES: tuple[str, ...] = tuple(_NAMED)


def load_config(name_or_path: str, stage: Role, **overrides: Any) -> TrainingConfig:
    """A named config, or one from a TOML or JSON file of TrainingConfig's fields over the compact one.

    The config.json of a run, which also names its stage, is such a file.

    Raises:
        InpaintError: unknown name, stage or field; unreadable file, or one of the other stage.
    """
    if stage not in ROLES:
        raise InpaintError(f"expected a stage out of {', '.join(ROLES)}, got {stage!r}; choose one of these")
    if name_or_path in _NAMED:
        values: dict[str, Any] = {}
        config = _NAMED[name_or_path][stage]
    else:
        values = _read_file(Path(name_or_path))
        if (written_for := values.pop("stage", stage)) != stage:
            raise InpaintError(f"{name_or_path}: expected a config for {stage}, got one for {written_for}")
        config = _NAMED["compact"][stage]
    return from_dict({**values, **{key: value for key, value in overrides.items() if value is not None}}, config)


def from_dict(values: dict[str, Any], base: TrainingConfig | None = None) -> TrainingConfig:
    """``base`` with ``values`` over it; lists become tuples, so that a config survives JSON unchanged."""
    names = {field.name for field in dataclasses.fields(TrainingConfig)}
    unknown = sorted(set(values) - names)
    if unknown:
        raise InpaintError(f"training config: expected fields out of {', '.join(sorted(names))}, got {unknown[0]!r}")
    return dataclasses.replace(base or TrainingConfig(), **{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_tuples(item) for item in value)
    return {key: _tuples(item) for key, item in value.items()} if isinstance(value, dict) else value


def _read_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InpaintError(
            f"expected a config out of {', '.join(NAMES)} or a .toml or .json file, got {str(path)!r}; check the name"
        )
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return _table(json.loads(text))
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        return tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise InpaintError(f"{path}: expected a TOML or JSON file of training settings; {error}") from error


def _table(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise ValueError(f"got a {type(content).__name__}")
    return content
