"""A network of one's own, registered in one line: trained, exported, loaded and filled with as the built-in ones."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from inpaint import weights
from inpaint.commands import main
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter
from inpaint.networks import Feature2Image, Image2Feature, registry
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.registry import ROLES, register
from inpaint.style_transfer import stylize
from inpaint.tensor_file import read_tensors, write_tensors
from inpaint.training.config import TrainingConfig
from inpaint.training.export import export
from inpaint.training.trainer import DEFAULT_VGG, Trainer, train


@dataclass(frozen=True)
class ToyConfig:
    widths: tuple[int, ...] = (4,)


class ToyPainter(nn.Module):
    """One colour for the hole, learned."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        self.colour = nn.Parameter(torch.full((3,), 0.25))

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        return torch.where(hole.unsqueeze(1), self.colour[:, None, None].to(image.dtype), image)


class ToyDecoder(nn.Module):
    """Each cell becomes 4x4 pixels, by itself."""

    stride = 1

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        for before, after in zip((256, *config.widths), config.widths, strict=False):
            layers += [nn.Conv2d(before, after, 1), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(config.widths[-1], 48, 1), nn.PixelShuffle(4), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features.log1p())


TOYS = {"image2feature": ToyPainter, "feature2image": ToyDecoder}


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both registered under the same name, for the time of a test."""
    monkeypatch.setattr(registry, "_ARCHITECTURES", deepcopy(registry._ARCHITECTURES))
    for role, network in TOYS.items():
        assert register(role, "toy", ToyConfig)(network) is network  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(3):
        Image.fromarray(generator.integers(0, 255, (40, 44, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return folder


def small(role: str, **changes) -> TrainingConfig:
    values = {"architecture": "toy", "image_size": 32, "batch": 2, "steps": 2, "window": 0, "adversarial_start": 1}
    values |= {"discriminator_width": 8, "bfloat16": False, "workers": 0, "log_every": 1}
    return TrainingConfig(**{**values, "network": {"widths": (5, 6)} if role == "feature2image" else {}, **changes})


def test_a_registered_network_is_trained_exported_loaded_and_filled_with(photographs: Path, tmp_path: Path) -> None:
    checkpoints = {role: train(role, photographs, tmp_path / role, small(role), quiet=True) for role in ROLES}
    file = tmp_path / "mine.safetensors"
    card = export(checkpoints, file, vgg=DEFAULT_VGG)
    assert 'network toy {"widths": [5, 6]}' in card
    networks = weights.load(str(file))
    for role in ROLES:
        network, averaged = getattr(networks, role), read_tensors(checkpoints[role])[0]
        assert type(network) is TOYS[role] and not network.training
        assert network.state_dict().keys() == {key[9:] for key in averaged if key.startswith("averaged.")}
        for key, value in network.state_dict().items():
            assert torch.equal(value, averaged[f"averaged.{key}"].half().float())
    assert networks.feature2image.config == ToyConfig((5, 6)) and networks.image2feature.config == ToyConfig()
    assert networks.feature2image(torch.rand(1, 256, 3, 5)).shape == (1, 3, 12, 20)

    image, hole = torch.rand(3, 64, 70), torch.zeros(64, 70, dtype=torch.bool)
    hole[20:40, 20:44] = True
    inpainter = Inpainter(networks)
    filled = inpainter(image, hole)
    assert torch.equal(filled[:, ~hole], image[:, ~hole]) and torch.isfinite(filled).all()
    assert not torch.equal(filled[:, hole], image[:, hole])
    assert stylize(image, torch.rand(3, 40, 40), inpainter=inpainter).shape == image.shape

    begun = Trainer("feature2image", small("feature2image", init=str(file)), DEFAULT_VGG, torch.device("cpu"))
    begun.begin_from(networks)
    for key, value in networks.feature2image.state_dict().items():
        assert torch.equal(begun.averaged[key], value)
    other = Trainer(
        "feature2image",
        small("feature2image", architecture="", network={"widths": (8, 8), "upper": (8, 8)}),
        DEFAULT_VGG,
        torch.device("cpu"),
    )
    assert type(other.networks["generator"]) is Feature2Image
    with pytest.raises(InpaintError, match=r"got ToyConfig\(widths=\(5, 6\)\); set its architecture and sizes"):
        other.begin_from(networks)


def test_the_command_trains_it(photographs: Path, tmp_path: Path) -> None:
    settings = {"image_size": 32, "batch": 1, "window": 0, "discriminator_width": 8, "bfloat16": False, "workers": 0}
    (tmp_path / "small.json").write_text(json.dumps(settings))
    command = ["train", "feature2image", "--data", photographs, "--out", tmp_path / "run", "--config"]
    command += [tmp_path / "small.json", "--steps", 1, "--quiet", "--device", "cpu", "--architecture"]
    done = CliRunner().invoke(main, [str(argument) for argument in [*command, "toy"]])
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["architecture"] == "toy"
    assert any("averaged.layers.0" in key for key in read_tensors(tmp_path / "run" / "checkpoint.safetensors")[0])
    wrong = CliRunner().invoke(main, [str(argument) for argument in [*command, "absent"]])
    assert wrong.exit_code == 1 and "expected an architecture out of u-net, toy, got 'absent'" in wrong.stderr


def test_a_file_that_names_no_architecture_has_the_default_ones(tmp_path: Path) -> None:
    tensors, metadata = read_tensors(weights.resolve("default"))
    assert not any("architecture" in key for key in metadata)
    networks = weights.load("default")
    assert type(networks.image2feature) is Image2Feature and type(networks.feature2image) is Feature2Image
    weights.export(
        tmp_path / "again.safetensors",
        {"image2feature": networks.image2feature, "feature2image": networks.feature2image},
        vgg_sha256=metadata["vgg_sha256"],
        card=networks.card,
    )
    again, written = read_tensors(tmp_path / "again.safetensors")
    assert [written.pop(f"{role}.architecture") for role in ROLES] == ["dilated", "u-net"]
    assert written.keys() == metadata.keys() and again.keys() == tensors.keys()
    assert all(torch.equal(again[key], value) for key, value in tensors.items())


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"feature2image.architecture": "lost"}, "out of u-net, toy, got 'lost'; .*import the module"),
        ({"feature2image": '{"depth": 3}'}, "expected sizes out of features, widths, upper, got 'depth'"),
        ({"feature2image": '{"widths": [8, 8]}'}, "Error.s. in loading state_dict"),
        ({"feature2image": '{"widths": 3}'}, "expected the networks that its own header names"),
        ({"feature2image": "{"}, "expected the networks that its own header names"),
        ({"feature2image": "[3]"}, "expected the networks that its own header names"),
        ({"feature2image": None}, "expected the networks that its own header names; 'feature2image'"),
    ],
)
def test_files_with_other_headers_are_refused(tmp_path: Path, header: dict[str, str | None], message: str) -> None:
    tensors, metadata = read_tensors(weights.resolve("default"))
    changed = {key: value for key, value in {**metadata, **header}.items() if value is not None}
    write_tensors(tmp_path / "other.safetensors", tensors, changed)
    with pytest.raises(InpaintError, match=f"other.safetensors: .*{message}"):
        weights.load(str(tmp_path / "other.safetensors"))


def test_names_belong_to_one_class() -> None:
    with pytest.raises(InpaintError, match=r"'u-net': expected a name of its own, .*\.Feature2Image has it"):
        register("feature2image", "u-net", ToyConfig)(ToyDecoder)
    assert type(registry.build("feature2image")) is Feature2Image
    register("feature2image", "toy", Feature2ImageConfig)(ToyDecoder)  # defined anew
    assert registry.architecture("feature2image", "toy").config is Feature2ImageConfig
    with pytest.raises(InpaintError, match="expected a role out of image2feature, feature2image, got 'decoder'"):
        register("decoder", "mine", ToyConfig)  # type: ignore[arg-type]


def test_an_unregistered_network_is_not_exported(tmp_path: Path) -> None:
    class Other(ToyDecoder):
        pass

    networks = {"image2feature": ToyPainter(ToyConfig()), "feature2image": Other(ToyConfig())}
    with pytest.raises(InpaintError, match="feature2image: expected a network of a registered class, got .*Other"):
        weights.export(tmp_path / "other.safetensors", networks, vgg_sha256="", card="")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_unknown_sizes_are_named() -> None:
    with pytest.raises(InpaintError, match="feature2image 'toy': expected sizes out of widths, got 'depth'"):
        registry.build("feature2image", "toy", {"depth": 3})
    with pytest.raises(InpaintError, match="feature2image 'u-net': expected sizes out of features, widths, upper, got"):
        registry.build("feature2image", sizes={"depth": 3})
