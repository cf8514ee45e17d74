from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.networks import Feature2Image, Image2Feature
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.tensor_file import read_tensors, write_tensors

PAINTER = Image2FeatureConfig(widths=(8, 8, 8), dilations=(1, 2))
DECODER = Feature2ImageConfig(widths=(8, 12), upper=(8, 8))
VGG = weights.FOLDER / weights.VGG_FILE


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    path = tmp_path / "own.safetensors"
    weights.export(
        path,
        {"image2feature": Image2Feature(PAINTER), "feature2image": Feature2Image(DECODER)},
        vgg_sha256=weights.sha256(VGG),
        card="# a card",
    )
    return path


def test_what_is_exported_is_what_is_loaded(exported: Path) -> None:
    networks = weights.load(str(exported))
    assert networks.image2feature.config == PAINTER and networks.feature2image.config == DECODER
    assert networks.card == "# a card"
    tensors, _ = read_tensors(exported)
    for key, value in networks.feature2image.state_dict().items():
        assert torch.equal(value, tensors[f"feature2image.{key}"].float()) and value.dtype == torch.float32
    assert not any(p.requires_grad for network in networks[:3] for p in network.parameters())
    assert [path.name for path in exported.parent.iterdir()] == ["own.safetensors"]


def test_the_default_is_there_with_its_checksum_and_card() -> None:
    listed = weights.checksums()
    assert {"default.safetensors", "vgg19_relu3_1.safetensors"} <= listed.keys()
    assert all(weights.sha256(weights.FOLDER / name) == digest for name, digest in listed.items())
    total = sum((weights.FOLDER / name).stat().st_size for name in listed)
    assert total < 20e6
    networks = weights.load("default")
    assert "image2feature" in networks.card and "steps" in networks.card


def test_the_manifest_lists_all_weights_of_the_package() -> None:
    assert weights.checksums().keys() == {path.name for path in weights.FOLDER.glob("*.safetensors")}
    assert all(len(digest) == 64 for digest in weights.checksums().values())


@pytest.mark.parametrize("name", [weights.VGG_FILE, "default.safetensors"])
def test_each_file_is_checked_on_every_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in weights.FOLDER.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    weights.load("default")
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InpaintError, match=f"{name}: expected SHA-256 .*damaged"):
        weights.load("default")


def test_the_module_is_there_with_the_package() -> None:
    code = "import inpaint; assert inpaint.weights.resolve('default').parent == inpaint.weights.FOLDER"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_damaged_file_of_the_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*weights.checksums(), "SHA256SUMS"):
        (tmp_path / name).write_bytes((weights.FOLDER / name).read_bytes())
    content = bytearray((tmp_path / "default.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "default.safetensors").write_bytes(content)
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    with pytest.raises(InpaintError, match="damaged, install the package again"):
        weights.load("default")
    (tmp_path / "default.safetensors").unlink()
    with pytest.raises(InpaintError, match="install the package again"):
        weights.load("default")


def test_files_that_are_no_weights_are_refused(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(InpaintError, match="found no file .*nothing.safetensors; give one of the names"):
        weights.load(str(tmp_path / "nothing.safetensors"))
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(InpaintError, match="expected a safetensors file"):
        weights.load(str(tmp_path / "text.safetensors"))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InpaintError, match="format 'inpaint 1', got None"):
        weights.load(str(tmp_path / "other.safetensors"))

    tensors, metadata = read_tensors(exported)
    write_tensors(tmp_path / "vgg.safetensors", tensors, {**metadata, "vgg_sha256": "0" * 64})
    with pytest.raises(InpaintError, match="VGG-19 it was trained with .SHA-256 000000000000"):
        weights.load(str(tmp_path / "vgg.safetensors"))
    write_tensors(tmp_path / "short.safetensors", dict(list(tensors.items())[1:]), metadata)
    with pytest.raises(InpaintError, match="expected the networks that its own header names"):
        weights.load(str(tmp_path / "short.safetensors"))


def test_a_write_that_fails_leaves_the_old_file(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = exported.read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("inpaint.tensor_file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write_tensors(exported, {"a": torch.zeros(1)}, {})
    assert exported.read_bytes() == before


def test_configs_survive_the_file(exported: Path) -> None:
    networks = weights.load(str(exported))
    assert dataclasses.asdict(networks.feature2image.config) == dataclasses.asdict(DECODER)
    assert isinstance(networks.feature2image.config.widths, tuple)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_tensors(tmp_path / "w.safetensors", {"a": torch.zeros(3)}, {})
    assert not list(tmp_path.iterdir())
    with pytest.raises(InpaintError, match="cannot write .*; nothing was written"):
        write_tensors(tmp_path / "missing" / "w.safetensors", {"a": torch.zeros(3)}, {})
