"""The ONNX models: what they compute, what is in their files, and what is left where an export fails."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import inpaint
from inpaint import weights
from inpaint.commands import main
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter
from inpaint.networks import VGG19, Feature2Image, Image2Feature
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.recipe import Recipe
from inpaint.window import find_windows
from patchswap import reference

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from inpaint import onnx_export  # noqa: E402  # needs all three

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ["image2feature", "vgg19_relu3_1", "feature2image"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Those of the default weights, written by the command."""
    folder = tmp_path_factory.mktemp("onnx") / "new" / "models"
    result = CliRunner().invoke(main, ["export", "--format", "onnx", "-o", str(folder)])
    assert result.exit_code == 0, result.output
    assert [line.split(": ")[0] for line in result.stderr.splitlines()] == [str(folder / f"{n}.onnx") for n in NAMES]
    return folder


@pytest.fixture(scope="module")
def default() -> weights.Networks:
    return weights.load()


def run(folder: Path, name: str, **inputs: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {key: value.numpy() for key, value in inputs.items()})[0])


def test_the_files_are_valid_and_of_open_sizes(models: Path) -> None:
    assert sorted(path.name for path in models.iterdir()) == sorted(f"{name}.onnx" for name in NAMES)
    shapes = {}
    for name in NAMES:
        model = onnx.load(models / f"{name}.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {each.domain for each in model.opset_import} == {""}  # no operators of torch or of this project
        for value in [*model.graph.input, *model.graph.output]:
            kind = value.type.tensor_type
            shapes[name, value.name] = kind.elem_type, [each.dim_param or each.dim_value for each in kind.shape.dim]
    real, boolean = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    assert shapes == {
        ("image2feature", "image"): (real, ["batch", 3, "height", "width"]),
        ("image2feature", "hole"): (boolean, ["batch", "height", "width"]),
        ("image2feature", "completed"): (real, ["batch", 3, "height", "width"]),
        ("vgg19_relu3_1", "image"): (real, ["batch", 3, "height", "width"]),
        ("vgg19_relu3_1", "features"): (real, ["batch", 256, "ceil(height/4)", "ceil(width/4)"]),
        ("feature2image", "features"): (real, ["batch", 256, "height", "width"]),
        ("feature2image", "picture"): (real, ["batch", 3, "4*height", "4*width"]),
    }


def test_the_metadata_names_the_weights(models: Path, default: weights.Networks) -> None:
    listed = weights.checksums()
    for name in NAMES:
        facts = {each.key: each.value for each in onnx.load(models / f"{name}.onnx").metadata_props}
        assert (facts["network"], facts["inpaint"]) == (name, inpaint.__version__) and facts["card"] == default.card
        assert (facts["weights"], facts["vgg"]) == ("default.safetensors", weights.VGG_FILE)
        assert facts["weights_sha256"] == listed["default.safetensors"]
        assert facts["vgg_sha256"] == listed[weights.VGG_FILE]


@pytest.mark.parametrize("size", [(1, 61, 87), (3, 33, 50), (2, 128, 20), (1, 3, 5), (1, 1, 1)], ids=str)
def test_models_give_what_torch_gives(size: tuple[int, int, int], models: Path, default: weights.Networks) -> None:
    batch, height, width = size
    generator = torch.Generator().manual_seed(sum(size))
    image = torch.rand(batch, 3, height, width, generator=generator)
    hole = torch.rand(batch, height, width, generator=generator) < 0.3
    hole[:, height // 3 : height // 2, width // 4 : width // 2] = True
    image[hole.unsqueeze(1).expand_as(image)] = torch.nan  # what a hole holds has no influence
    with torch.inference_mode():
        completed = default.image2feature(image, hole)
        features = default.vgg.relu3_1(completed)
        picture = default.feature2image(features)
    torch.testing.assert_close(
        run(models, "image2feature", image=image, hole=hole), completed, rtol=0, atol=1e-4, equal_nan=True
    )
    if not completed.isnan().any():  # one pixel, and a hole of all
        found = run(models, "vgg19_relu3_1", image=completed)
        torch.testing.assert_close(found, features, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(run(models, "feature2image", features=features), picture, rtol=0, atol=1e-4)


def test_image2feature_keeps_known_pixels(models: Path) -> None:
    image, hole = torch.rand(1, 3, 29, 31), torch.zeros(1, 29, 31, dtype=torch.bool)
    hole[:, 5:9, 7:20] = True
    completed = run(models, "image2feature", image=image, hole=hole)
    assert torch.equal(completed[:, :, ~hole[0]], image[:, :, ~hole[0]])
    assert completed.min() >= 0 and completed.max() <= 1 and not torch.equal(completed, image)


@pytest.fixture(scope="module")
def smooth_filling() -> bytes:
    """A model of nothing but the start of Image2Feature."""

    class Filling(nn.Module):
        def forward(self, image: Tensor, hole: Tensor) -> Tensor:
            return torch.ops.patchswap.fill_smoothly(image, hole)

    inputs = {"image": {0: "batch", 2: "height", 3: "width"}, "hole": {0: "batch", 1: "height", 2: "width"}}
    part = onnx_export.Part("filling", Filling(), inputs, "filled", ("batch", 3, "height", "width"))
    return onnx_export.model_of(part).SerializeToString()


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 7, 12), (1, 64, 1), (1, 100, 243)], ids=str)
def test_smooth_filling_is_that_of_the_definition(size: tuple[int, int, int], smooth_filling: bytes) -> None:
    batch, height, width = size
    image = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
    hole = torch.rand(batch, height, width, generator=torch.Generator().manual_seed(2)) < 0.8
    hole[-1] = batch > 1  # a sample without a known pixel
    session = onnxruntime.InferenceSession(smooth_filling, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image.numpy(), "hole": hole.numpy()})
    expected = reference.smooth_fill(image.double(), hole)
    torch.testing.assert_close(torch.from_numpy(found).double(), expected, rtol=1e-5, atol=1e-5)


# The example


def example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("example_onnx_fill", EXAMPLES / "onnx_fill.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "size"), [("chelsea.png", (97, 131)), ("coffee.png", (110, 118))])
def test_the_example_paints_the_picture_of_one_scale(
    name: str, size: tuple[int, int], models: Path, default: weights.Networks, tmp_path: Path
) -> None:
    photo = Image.open(EXAMPLES / "photos" / name).convert("RGB").reduce(2).crop((10, 10, 10 + size[1], 10 + size[0]))
    hole = np.zeros(size, bool)
    hole[30:62, 41:80] = True
    (window,) = find_windows(hole, scales=[min(size)])
    assert window.crop.size == size  # so that both see the whole picture
    image = np.float32(photo) / 255
    plain = Inpainter(default, recipe=Recipe(), precision="float32", max_memory=2**33)
    expected = plain(image, hole, scales=[min(size)])
    filled = example().fill(image.transpose(2, 0, 1), hole, models).transpose(1, 2, 0)
    assert np.abs(filled - expected).max() < 1e-3  # docs/onnx.md
    assert np.array_equal(filled[~hole], image[~hole]) and np.abs(filled - image)[hole].mean() > 0.01

    photo.save(tmp_path / "photo.png")
    Image.fromarray(hole).save(tmp_path / "mask.png")
    files = [tmp_path / "photo.png", tmp_path / "mask.png", models, tmp_path / "filled.png"]
    subprocess.run([sys.executable, EXAMPLES / "onnx_fill.py", *files], check=True)
    assert np.abs(np.float32(Image.open(files[-1])) / 255 - expected).max() < 1e-3 + 0.5 / 255


def test_the_example_is_short_and_needs_neither_torch_nor_patchswap() -> None:
    lines = (EXAMPLES / "onnx_fill.py").read_text(encoding="utf-8").splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 45
    code = (
        "import importlib.util, sys\n"
        "for name in ('torch', 'patchswap', 'inpaint'): sys.modules[name] = None\n"
        f"path = {str(EXAMPLES / 'onnx_fill.py')!r}\n"
        "specification = importlib.util.spec_from_file_location('example', path)\n"
        "specification.loader.exec_module(importlib.util.module_from_spec(specification))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# What goes wrong


@pytest.fixture
def small() -> weights.Networks:
    torch.manual_seed(0)
    painter = Image2Feature(Image2FeatureConfig(widths=(8, 8, 8), dilations=(1,)))
    decoder = Feature2Image(Feature2ImageConfig(widths=(8,), upper=(8, 8)))
    return weights.Networks(painter.eval(), decoder.eval(), VGG19(), "")


class OfOneSize(nn.Module):
    """A network whose Python code depends on the size of its input."""

    def forward(self, features: Tensor) -> Tensor:
        steps = range(features.shape[2])
        return torch.cat([features[:, :3, step : step + 1].repeat(1, 1, 4, 4) for step in steps], 2)


def test_a_network_of_one_size_is_refused(small: weights.Networks) -> None:
    part = onnx_export.parts(small._replace(feature2image=OfOneSize()))[-1]
    with pytest.raises(InpaintError, match="feature2image: expected a network that torch.onnx.export takes"):
        onnx_export.model_of(part)


def test_a_model_that_gives_something_else_is_refused(
    small: weights.Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "_halved", onnx_export._not_zero)  # a pyramid of one size
    with pytest.raises(InpaintError, match="image2feature: expected ONNX Runtime to give what torch gives for 37x51"):
        onnx_export.export(small, tmp_path, {})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_full_disk_leaves_nothing_behind(failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "image2feature.onnx").write_bytes(b"an older one")
    write, calls = Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        calls.append(path)
        if len(calls) == failing:
            write(path, content[:2])
            raise OSError(28, "No space left on device", str(path))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        onnx_export.write({tmp_path / f"{name}.onnx": b"content" for name in NAMES})
    assert [path.name for path in tmp_path.iterdir()] == ["image2feature.onnx"]
    assert (tmp_path / "image2feature.onnx").read_bytes() == b"an older one"


def test_without_the_extra_the_command_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "inpaint.onnx_export", raising=False)
    monkeypatch.delattr("inpaint.onnx_export", raising=False)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    result = CliRunner().invoke(main, ["export", "--format", "onnx", "-o", str(tmp_path / "models")])
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert result.stderr.startswith("inpaint: this needs onnxscript, which is not installed")
    assert "pip install '.[onnx]'" in result.stderr and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "FILE"], "photo.png"),
        (["-o", "models", "--weights", "no-such-weights"], "no-such-weights: expected weights"),
        (["-o", "models", "--vgg", "FILE"], "expected the VGG-19 it was trained with"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    file.write_bytes(b"something")
    arguments = [
        str(file) if word == "FILE" else str(tmp_path / word) if word == "models" else word for word in arguments
    ]
    result = CliRunner().invoke(main, ["export", *arguments])
    assert result.exit_code == 1 and message in result.stderr and "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"] and file.read_bytes() == b"something"
