from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.inpainter import Inpainter
from inpaint.mask import strokes
from inpaint.networks import VGG19, Feature2Image, Image2Feature, PatchDiscriminator, feature2image
from inpaint.networks.convolution import convolve
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.networks.layout import move, on_device
from inpaint.networks.vgg import load_vgg19
from inpaint.tensor_file import read_tensors
from patchswap.ops import fill_smoothly

OWN_VGG = weights.FOLDER / weights.VGG_FILE
SMALL_PAINTER = Image2FeatureConfig(widths=(8, 8, 8), dilations=(1, 2))
SMALL_DECODER = Feature2ImageConfig(widths=(8, 12, 16), upper=(8, 8))


def painter_with_an_output(config: Image2FeatureConfig = SMALL_PAINTER) -> Image2Feature:
    """Image2Feature whose last layer is not zero, as it is before training."""
    network = Image2Feature(config).eval()
    torch.nn.init.normal_(network.to_rgb.weight, std=0.1)
    return network


@pytest.mark.parametrize("size", [(64, 64), (40, 56), (33, 47), (1, 1), (2, 3), (5, 130)])
def test_vgg_has_one_cell_for_every_four_pixels_begun(size: tuple[int, int]) -> None:
    features = VGG19("conv3_1")(torch.rand(2, 3, *size), ("relu1_1", "relu2_1", "relu3_1"))
    assert features["relu1_1"].shape == (2, 64, *size)
    assert features["relu2_1"].shape == (2, 128, -(-size[0] // 2), -(-size[1] // 2))
    assert features["relu3_1"].shape == (2, 256, -(-size[0] // 4), -(-size[1] // 4))
    assert all(value.min() >= 0 for value in features.values())


def test_vgg_weights_are_the_normalised_ones() -> None:
    """Gatys' normalisation makes each channel's mean activation 1 over natural images; noise stays in its vicinity."""
    vgg = load_vgg19(OWN_VGG)
    smooth = F.interpolate(
        torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), size=128, mode="bicubic"
    )
    means = vgg(smooth.clamp(0, 1))["relu3_1"].mean(dim=(0, 2, 3))
    assert 0.3 < float(means.mean()) < 3


@pytest.mark.parametrize("height", [1, 31, 32, 33, 64, 99, 130])
def test_strips_give_the_features_of_the_whole(height: int) -> None:
    vgg, image = load_vgg19(OWN_VGG), torch.rand(2, 3, height, 45)
    whole = vgg(image)["relu3_1"]
    for strip_bytes in (1, 1 << 18, None):
        assert torch.allclose(vgg.relu3_1(image, strip_bytes), whole, atol=1e-4, rtol=1e-4)


def test_vgg_is_frozen_and_says_which_layers_it_lacks() -> None:
    vgg = VGG19("conv2_1").train()
    assert not vgg.training and not any(parameter.requires_grad for parameter in vgg.parameters())
    with pytest.raises(ValueError, match="up to conv2_1, got relu3_1"):
        vgg(torch.rand(1, 3, 8, 8), ("relu3_1",))
    with pytest.raises(ValueError, match="got 'conv5_4'"):
        VGG19("conv5_4")


def test_torchvision_weights_give_torchvision_features(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128)}
    state = {}
    for position, (after, before) in shapes.items():
        state[f"features.{position}.weight"] = torch.randn(after, before, 3, 3, generator=generator) / (3 * before**0.5)
        state[f"features.{position}.bias"] = torch.randn(after, generator=generator) / 10
    torch.save(state, tmp_path / "vgg19.pth")
    save_file(state, tmp_path / "vgg19.safetensors")

    image = torch.rand(1, 3, 32, 32, generator=generator)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (image - mean.view(1, 3, 1, 1)) / deviation.view(1, 3, 1, 1)
    for position in shapes:
        if position in (5, 10):
            x = F.max_pool2d(x, 2)
        x = F.pad(x, (1, 1, 1, 1), mode="replicate")
        x = F.relu(F.conv2d(x, state[f"features.{position}.weight"], state[f"features.{position}.bias"]))
    for name in ("vgg19.pth", "vgg19.safetensors"):
        assert torch.allclose(load_vgg19(tmp_path / name)(image)["relu3_1"], x, atol=1e-5)
    with pytest.raises(InpaintError, match="up to conv4_2, conv3_2.weight is missing"):
        load_vgg19(tmp_path / "vgg19.pth", "conv4_2")


def test_unreadable_vgg_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "vgg.pth").write_bytes(b"no network")
    (tmp_path / "vgg.safetensors").write_bytes(b"no network")
    for name in ("vgg.pth", "vgg.safetensors", "missing.pth", "missing.safetensors"):
        with pytest.raises(InpaintError, match=name):
            load_vgg19(tmp_path / name)
    tensors, _ = read_tensors(OWN_VGG)
    save_file({**tensors, "conv1_1.weight": torch.zeros(64, 3, 5, 5)}, tmp_path / "other.safetensors")
    with pytest.raises(InpaintError, match=r"conv1_1.weight of shape \(64, 3, 3, 3\), got \(64, 3, 5, 5\)"):
        load_vgg19(tmp_path / "other.safetensors")


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (1, 1), (8, 100)])
def test_image2feature_keeps_known_pixels_and_ignores_what_the_hole_held(size: tuple[int, int]) -> None:
    network = painter_with_an_output()
    image = torch.rand(2, 3, *size)
    hole = torch.zeros(2, *size, dtype=torch.bool)
    hole[0, : size[0] // 2] = True  # the second picture has no hole
    painted = network(image, hole)
    assert painted.shape == image.shape and painted.min() >= 0 and painted.max() <= 1
    known = ~hole.unsqueeze(1).expand_as(image)
    assert torch.equal(painted[known], image[known])
    other = torch.where(hole.unsqueeze(1), torch.rand_like(image), image)
    assert torch.equal(network(other, hole), painted)


def test_image2feature_carries_the_surroundings_into_the_middle_of_the_hole() -> None:
    """The default's dilations reach across a hole of 112 pixels in 256 (and every parameter is used)."""
    network = painter_with_an_output(Image2FeatureConfig())
    hole = torch.zeros(1, 256, 256, dtype=torch.bool)
    hole[:, 72:184, 72:184] = True
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    network(image, hole)[0, :, 128, 128].sum().backward()
    reach = image.grad.abs().sum(1)[0] > 0
    assert reach[60:72, 60:196].any() and reach[184:196].any() and reach[:, 60:72].any() and reach[:, 184:196].any()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_image2feature_starts_from_the_smooth_fill() -> None:
    image, hole = torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.bool)
    hole[:, 8:20, 8:20] = True
    assert torch.equal(Image2Feature(SMALL_PAINTER)(image, hole), fill_smoothly(image, hole))


@pytest.mark.parametrize("size", [(16, 16), (7, 9), (1, 1), (3, 20)])
def test_feature2image_is_four_times_as_large(size: tuple[int, int]) -> None:
    picture = Feature2Image(SMALL_DECODER)(torch.rand(2, 256, *size))
    assert picture.shape == (2, 3, 4 * size[0], 4 * size[1])
    assert picture.min() >= 0 and picture.max() <= 1


def test_feature2image_has_the_papers_blocks_in_the_papers_config() -> None:
    from inpaint.training.config import load_config

    config = Feature2ImageConfig(**load_config("paper-256", "feature2image").network)
    network = Feature2Image(Feature2ImageConfig(features=8, widths=tuple(w // 64 for w in config.widths), upper=(4, 4)))
    assert len(network.down) == 7 and len(network.up) == 6  # six skips, and two more up-convolutions to the picture
    assert network(torch.rand(1, 8, 64, 64)).shape == (1, 3, 256, 256)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_discriminators_judge_patches() -> None:
    assert PatchDiscriminator(7, width=8)(torch.rand(2, 7, 64, 48)).shape == (2, 1, 8, 6)
    conditioned = PatchDiscriminator(3, condition=16, width=8)
    image, features = torch.rand(1, 3, 64, 64), torch.rand(1, 16, 16, 16)
    assert conditioned(image, features).shape == (1, 1, 8, 8)
    assert not torch.equal(conditioned(image, features), conditioned(image, 1 - features))
    with pytest.raises(ValueError, match="feature map it is conditioned on"):
        conditioned(image)


@pytest.mark.parametrize("skipped", [0, 3])
@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
def test_convolving_a_doubled_map_without_doubling_it(size: tuple[int, int], skipped: int) -> None:
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(4 + skipped, 6, 3, padding=1)
    x, skip = torch.randn(2, 4, *size, requires_grad=True), torch.randn(2, skipped, 2 * size[0], 2 * size[1])
    expected = convolution(torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), skip), dim=1))
    found = convolve(x, convolution, doubled=True, skip=skip if skipped else None, slope=1)
    assert torch.allclose(found, expected, atol=1e-5)
    weights_of_sum = torch.randn_like(expected)
    for one, other in zip(
        *(torch.autograd.grad((y * weights_of_sum).sum(), (x, *convolution.parameters())) for y in (found, expected)),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("doubled", [False, True])
def test_a_convolution_is_the_same_where_it_is_filtered(doubled: bool) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Conv2d(12, 20, 3, padding=1), torch.randn(1, 12, 48, 50)
    trained = convolve(x, layer, doubled=doubled, slope=0.1)
    with torch.inference_mode():
        filtered = convolve(x, layer, doubled=doubled, slope=0.1)
    assert trained.requires_grad and not filtered.requires_grad
    assert not torch.equal(trained, filtered), "both went the same way"
    assert torch.allclose(trained, filtered, atol=1e-4)


def test_feature2image_in_strips_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, features = Feature2Image().eval(), torch.rand(1, 256, 13, 10)
    whole = network(features)
    monkeypatch.setitem(feature2image._STRIP_BYTES, "cpu", 1)
    assert torch.allclose(network(features), whole, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (61, 83), (9, 5)])
def test_image2feature_paints_the_same_where_only_the_holes_are_painted(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = painter_with_an_output()
    image = torch.rand(3, 3, *size)
    hole = torch.stack(
        [strokes(*size, torch.Generator().manual_seed(seed), kind="medium") for seed in (1, 2)]
        + [torch.zeros(size, dtype=torch.bool)]
    )
    everywhere = network.train()(image, hole).clamp(0, 1)
    assert torch.allclose(network.eval()(image, hole), everywhere, atol=1e-5)
    corner = torch.zeros_like(hole)
    corner[:, -3:, -2:] = True
    assert torch.allclose(network(image, corner), network.train()(image, corner).clamp(0, 1), atol=1e-5)


def state(network: torch.nn.Module) -> list[tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]]:
    """Each tensor, a copy of what it holds, and how it lies in memory."""
    return [(tensor, tensor.detach().clone(), tensor.stride()) for tensor in network.state_dict().values()]


def storages(network: torch.nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}


def test_a_network_that_lies_elsewhere_is_copied_and_stays() -> None:
    network = Feature2Image(SMALL_DECODER).eval().requires_grad_(False)
    network.register_buffer("counts", torch.arange(3))
    before = state(network)
    placed = on_device(network, "cpu")
    assert placed is not network and not storages(placed) & storages(network)
    assert not placed.training and not any(parameter.requires_grad for parameter in placed.parameters())
    assert placed.to_rgb.weight.is_contiguous(memory_format=torch.channels_last)
    features = torch.rand(1, 256, 5, 6)
    assert torch.allclose(placed(features), network(features), atol=1e-5)
    placed.to_rgb.weight.zero_()
    placed.counts += 1
    for (tensor, value, stride), (same, _, _) in zip(before, state(network), strict=True):
        assert tensor.data_ptr() == same.data_ptr() and torch.equal(same, value) and same.stride() == stride
    assert on_device(placed, torch.device("cpu")) is placed


def test_where_one_tensor_lies_otherwise_all_is_copied() -> None:
    network = move(Feature2Image(SMALL_DECODER), "cpu")
    assert on_device(network, "cpu") is network
    network.to_half.weight.data = network.to_half.weight.data.contiguous()
    placed = on_device(network, "cpu")
    assert placed is not network and not storages(placed) & storages(network)
    elsewhere = on_device(network, "meta")
    assert all(tensor.device.type == "meta" for tensor in elsewhere.state_dict().values())
    assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())


def test_moving_is_in_place() -> None:
    network = Feature2Image(SMALL_DECODER)
    parameters = list(network.parameters())
    assert move(network, "cpu") is network
    assert all(one is other for one, other in zip(network.parameters(), parameters, strict=True))
    assert network.to_rgb.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
def test_a_network_is_copied_to_the_gpu() -> None:
    network = Feature2Image(SMALL_DECODER)
    placed = on_device(network, "cuda")
    assert all(tensor.device.type == "cpu" for tensor in network.state_dict().values())
    assert all(tensor.device.type == "cuda" for tensor in placed.state_dict().values())
    assert on_device(placed, "cuda") is placed and on_device(placed, "cpu") is not placed


def test_inpainters_leave_the_networks_of_their_caller_alone() -> None:
    networks = weights.load()
    before = [state(network) for network in networks[:3]]
    first, second = Inpainter(networks), Inpainter(networks)
    for network, states in zip(networks[:3], before, strict=True):
        for (tensor, _, stride), (same, _, _) in zip(states, state(network), strict=True):
            assert tensor.data_ptr() == same.data_ptr() and same.stride() == stride
    placed = first.networks
    assert placed.feature2image is not networks.feature2image is not second.networks.feature2image
    assert Inpainter(placed).networks.feature2image is placed.feature2image
