"""The metrics against scikit-image, against plain float64 formulas, and on cases known by hand."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from inpaint.errors import InpaintError
from inpaint.evaluation import metrics
from inpaint.evaluation.metrics import LPIPS, find_lpips_weights, l1, lpips_cache_path, psnr, ssim


def pair(*shape: int, seed: int = 0, noise: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(*shape, generator=generator)
    image = (truth + noise * torch.randn(*shape, generator=generator)).clamp(0, 1)
    return image, truth


def random_hole(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < 0.3


# L1 and PSNR


def test_l1_counts_only_the_hole() -> None:
    truth = torch.zeros(3, 4, 5)
    image = truth.clone()
    hole = torch.zeros(4, 5, dtype=torch.bool)
    hole[1, 2] = hole[3, 4] = True
    image[0, 1, 2] = 0.6  # one channel of one of two hole pixels
    image[:, 0, 0] = 1.0  # a known pixel
    assert l1(image, truth, hole).item() == pytest.approx(100 * 0.6 / 6)
    assert l1(image, truth).item() == pytest.approx(100 * (0.6 + 3) / 60)


def test_psnr_of_a_constant_difference() -> None:
    truth = torch.full((3, 6, 7), 0.5)
    assert psnr(truth + 0.1, truth).item() == pytest.approx(20, abs=1e-5)
    hole = torch.zeros(6, 7, dtype=torch.bool)
    hole[:3] = True
    half = torch.where(hole, truth + 0.1, truth)
    assert psnr(half, truth, hole).item() == pytest.approx(20, abs=1e-5)
    assert psnr(half, truth).item() == pytest.approx(20 + 10 * math.log10(2), abs=1e-5)


def test_equal_images() -> None:
    image, _ = pair(3, 20, 17)
    hole = random_hole(20, 17)
    assert l1(image, image).item() == l1(image, image, hole).item() == 0
    assert psnr(image, image).item() == psnr(image, image, hole).item() == math.inf
    assert ssim(image, image).item() == pytest.approx(1, abs=1e-12)
    assert ssim(image, image, hole).item() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("metric", [l1, psnr, ssim])
def test_empty_hole_is_not_a_number(metric) -> None:
    image, truth = pair(3, 12, 12)
    assert metric(image, truth, torch.zeros(12, 12, dtype=torch.bool)).isnan()


@given(st.integers(11, 24), st.integers(11, 24), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_hole_and_rest_make_the_whole(height: int, width: int, seed: int) -> None:
    image, truth = pair(3, height, width, seed=seed)
    hole = random_hole(height, width, seed=seed)
    hole[0, 0], hole[-1, -1] = True, False
    share = hole.double().mean()
    whole = share * l1(image, truth, hole) + (1 - share) * l1(image, truth, ~hole)
    torch.testing.assert_close(whole, l1(image, truth))


# SSIM


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (33, 27), (64, 65)])
def test_ssim_is_that_of_scikit_image(size: tuple[int, int]) -> None:
    measure = pytest.importorskip("skimage.metrics")
    image, truth = pair(3, *size)
    hole = random_hole(*size)
    hole[0, 0] = hole[-1, :] = True  # a hole that touches the border
    expected, similarity = measure.structural_similarity(
        image.permute(1, 2, 0).double().numpy(),
        truth.permute(1, 2, 0).double().numpy(),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=1,
        channel_axis=2,
        full=True,
    )
    assert ssim(image, truth).item() == pytest.approx(expected, abs=1e-9)
    assert ssim(image, truth, hole).item() == pytest.approx(similarity[hole.numpy()].mean(), abs=1e-9)


def test_ssim_of_flat_images_is_the_luminance_term() -> None:
    dark, bright = torch.full((3, 15, 15), 0.2), torch.full((3, 15, 15), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(dark, bright).item() == pytest.approx(expected, abs=1e-6)


# What all metrics share


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("metric", [l1, psnr, ssim])
def test_batches_views_and_dtypes(metric, dtype: torch.dtype) -> None:
    image, truth = (tensor.to(dtype) for tensor in pair(2, 3, 21, 18))
    holes = random_hole(2, 21, 18)
    strided = image.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not strided.is_contiguous()
    batched = metric(strided, truth, holes)
    assert batched.shape == (2,)
    for index in range(2):
        torch.testing.assert_close(batched[index], metric(image[index], truth[index], holes[index]))
        alone = metric(image[index], truth[index])
        assert alone.shape == ()
        torch.testing.assert_close(metric(image, truth)[index], alone)
    shared = metric(image, truth, holes[0])
    torch.testing.assert_close(shared[1], metric(image[1], truth[1], holes[0]))


@pytest.mark.parametrize(
    ("image", "truth", "hole", "message"),
    [
        (torch.zeros(1, 12, 12), torch.zeros(1, 12, 12), None, "image: expected a float tensor"),
        (torch.zeros(3, 12, 12, dtype=torch.uint8), torch.zeros(3, 12, 12), None, "got torch.uint8"),
        (torch.zeros(3, 12, 12), torch.zeros(3, 12, 13), None, "truth: expected a float tensor of the image's shape"),
        (torch.zeros(3, 12, 12), torch.zeros(3, 12, 12), torch.zeros(12, 12), "hole: expected a bool tensor"),
        (torch.zeros(3, 12, 12), torch.zeros(3, 12, 12), torch.zeros(12, 11, dtype=torch.bool), "hole: expected"),
    ],
)
@pytest.mark.parametrize("metric", [l1, psnr, ssim])
def test_bad_arguments(metric, image: Tensor, truth: Tensor, hole: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(image, truth, hole)


def test_ssim_needs_room_for_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 10x20"):
        ssim(torch.zeros(3, 10, 20), torch.zeros(3, 10, 20))


# LPIPS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the right shapes with random numbers, the heads non-negative as the trained ones are."""
    generator = torch.Generator().manual_seed(7)
    tensors = {}
    for layer, ((index, _, _), shape) in enumerate(zip(LPIPS.CONVOLUTIONS, LPIPS.SHAPES, strict=True)):
        fan_in = math.prod(shape[1:])
        tensors[f"features.{index}.weight"] = torch.randn(shape, generator=generator) * (2 / fan_in) ** 0.5
        tensors[f"features.{index}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
        tensors[f"lin{layer}.weight"] = torch.rand(1, shape[0], 1, 1, generator=generator)
    path = tmp_path_factory.mktemp("lpips") / "random.safetensors"
    save_file(tensors, path)
    return path


def lpips_by_formula(path: Path, image: Tensor, truth: Tensor) -> float:
    """Zhang et al. 2018, equation 1, in float64; convolutions as unfolded matrix products, activations as AlexNet's."""
    tensors = {name: tensor.double() for name, tensor in load_file(path).items()}
    shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64).view(3, 1, 1)

    def layers(picture: Tensor) -> list[Tensor]:
        x, outputs = ((2 * picture.double() - 1) - shift) / scale, []
        for index, stride, padding, pooled in [(0, 4, 2, 0), (3, 1, 2, 1), (6, 1, 1, 1), (8, 1, 1, 0), (10, 1, 1, 0)]:
            if pooled:
                x = x.unfold(1, 3, 2).unfold(2, 3, 2).amax(dim=(3, 4))
            weight, bias = tensors[f"features.{index}.weight"], tensors[f"features.{index}.bias"]
            size = weight.shape[-1]
            windows = F.pad(x, (padding,) * 4).unfold(1, size, stride).unfold(2, size, stride)
            x = torch.einsum("chwij,ocij->ohw", windows, weight) + bias.view(-1, 1, 1)
            x = x.clamp(min=0)
            outputs.append(x)
        return outputs

    total = 0.0
    for layer, (a, b) in enumerate(zip(layers(image), layers(truth), strict=True)):
        a, b = a / (a.norm(dim=0) + 1e-10), b / (b.norm(dim=0) + 1e-10)
        head = tensors[f"lin{layer}.weight"].view(-1, 1, 1)
        total += (head * (a - b) ** 2).sum(dim=0).mean().item()
    return total


@pytest.mark.parametrize("size", [(31, 31), (31, 50), (64, 47)])
def test_lpips_is_the_published_formula(weights: Path, size: tuple[int, int]) -> None:
    image, truth = pair(3, *size)
    expected = lpips_by_formula(weights, image, truth)
    assert expected > 0.01
    assert LPIPS(weights)(image, truth).item() == pytest.approx(expected, rel=1e-4)


def test_lpips_is_zero_for_equal_images_and_symmetric(weights: Path) -> None:
    perceptual = LPIPS(weights)
    image, truth = pair(2, 3, 40, 36)
    assert perceptual(image, image).tolist() == [0, 0]
    forth, back = perceptual(image, truth), perceptual(truth, image)
    assert forth.shape == (2,) and (forth > 0).all()
    torch.testing.assert_close(forth, back)
    torch.testing.assert_close(forth[1], perceptual(image[1], truth[1]))
    black = torch.zeros(3, 40, 36)
    assert perceptual(black, black).item() == 0
    assert perceptual(black, truth[0]).isfinite()


def test_lpips_grows_with_the_noise(weights: Path) -> None:
    perceptual = LPIPS(weights)
    little, much = pair(3, 48, 48, noise=0.05), pair(3, 48, 48, noise=0.4)
    assert 0 < perceptual(*little) < perceptual(*much)


def test_lpips_refuses_tiny_images(weights: Path) -> None:
    with pytest.raises(ValueError, match="at least 31x31 pixels, got 30x64"):
        LPIPS(weights)(torch.zeros(3, 30, 64), torch.zeros(3, 30, 64))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(metrics.LPIPS_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "inpaint" / metrics.LPIPS_FILE


def test_missing_lpips_weights_say_what_to_do(empty_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(InpaintError) as caught:
        LPIPS()
    message = str(caught.value)
    assert "\n" not in message
    for part in (str(empty_cache), metrics.LPIPS_VARIABLE, metrics.LPIPS_SHA256, "PSNR and SSIM work without it"):
        assert part in message
    with pytest.raises(InpaintError, match="found no file .*nowhere.safetensors"):
        LPIPS(tmp_path / "nowhere.safetensors")


def test_where_lpips_weights_are_looked_for(
    empty_cache: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty_cache.parent.mkdir(parents=True)
    empty_cache.write_bytes(weights.read_bytes())
    assert find_lpips_weights() == empty_cache == lpips_cache_path()
    monkeypatch.setenv(metrics.LPIPS_VARIABLE, str(weights))
    assert find_lpips_weights() == weights
    other = tmp_path / "other.safetensors"
    other.write_bytes(weights.read_bytes())
    assert find_lpips_weights(other) == other
    assert LPIPS(other).sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_default_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lpips_cache_path() == tmp_path / ".cache" / "inpaint" / metrics.LPIPS_FILE


def test_cached_lpips_weights_need_the_known_checksum(empty_cache: Path, weights: Path) -> None:
    empty_cache.parent.mkdir(parents=True)
    empty_cache.write_bytes(weights.read_bytes())
    with pytest.raises(InpaintError, match="to have the sha256 21124b74.*replace the file"):
        LPIPS()


def test_wrong_lpips_files_are_refused(weights: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InpaintError, match="expected a safetensors file"):
        LPIPS(broken)
    tensors = load_file(weights)
    del tensors["lin3.weight"]
    save_file(tensors, tmp_path / "incomplete.safetensors")
    with pytest.raises(InpaintError, match="expected lin3.weight of shape .* got no such tensor"):
        LPIPS(tmp_path / "incomplete.safetensors")


def photograph_and_blur() -> tuple[Tensor, Tensor]:
    data = pytest.importorskip("skimage.data")
    truth = torch.from_numpy(np.ascontiguousarray(data.astronaut()[:128, 160:288])).permute(2, 0, 1) / 255
    return truth, F.avg_pool2d(truth[None], 9, stride=1, padding=4, count_include_pad=False)[0]


@pytest.fixture
def package_lpips():
    """LPIPS of the package ``lpips``, with its own heads; its AlexNet is random because it would be downloaded."""
    package = pytest.importorskip("lpips", exc_type=ImportError)
    return package.LPIPS(net="alex", pnet_rand=True, verbose=False)


def convolutions(package_lpips) -> dict[str, torch.nn.Conv2d]:
    """The package's convolutions by their names in torchvision's AlexNet."""
    found = {}
    for part in range(1, 6):
        for number, layer in getattr(package_lpips.net, f"slice{part}").named_children():
            if isinstance(layer, torch.nn.Conv2d):
                found[f"features.{number}"] = layer
    return found


def test_lpips_is_that_of_the_package(package_lpips, tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {}
    for name, layer in convolutions(package_lpips).items():
        layer.weight.data *= 3  # random AlexNets barely react to what they see
        tensors |= {f"{name}.{part}": tensor for part, tensor in layer.state_dict().items()}
    for number in range(5):
        tensors[f"lin{number}.weight"] = package_lpips.lins[number].model[1].weight.detach()
    save_file(tensors, tmp_path / "package.safetensors")
    truth, blurred = photograph_and_blur()
    with torch.no_grad():
        expected = package_lpips(blurred, truth, normalize=True).item()
    assert expected > 1e-3
    assert LPIPS(tmp_path / "package.safetensors")(blurred, truth).item() == pytest.approx(expected, rel=1e-4)


needs_real_weights = pytest.mark.skipif(
    not os.environ.get(metrics.LPIPS_VARIABLE), reason=f"needs the weights of LPIPS: set {metrics.LPIPS_VARIABLE}"
)


@needs_real_weights
def test_real_weights_have_the_heads_of_the_package(package_lpips) -> None:
    tensors = load_file(os.environ[metrics.LPIPS_VARIABLE])
    for number in range(5):
        assert torch.equal(tensors[f"lin{number}.weight"].float(), package_lpips.lins[number].model[1].weight)


@needs_real_weights
def test_real_weights_in_the_package_and_here(package_lpips) -> None:
    tensors = load_file(os.environ[metrics.LPIPS_VARIABLE])
    for name, layer in convolutions(package_lpips).items():
        layer.load_state_dict({part: tensors[f"{name}.{part}"].float() for part in ("weight", "bias")})
    truth, blurred = photograph_and_blur()
    with torch.no_grad():
        expected = package_lpips(blurred, truth, normalize=True).item()
    assert LPIPS()(blurred, truth).item() == pytest.approx(expected, rel=1e-4)


@needs_real_weights
def test_real_lpips_weights() -> None:
    truth, blurred = photograph_and_blur()
    path = Path(os.environ[metrics.LPIPS_VARIABLE])
    perceptual = LPIPS()
    assert perceptual.known
    value = perceptual(blurred, truth).item()
    assert value == pytest.approx(lpips_by_formula(path, blurred, truth), rel=1e-4)
    assert value == pytest.approx(0.541415, abs=1e-5)  # of the package lpips 0.1.4 with these weights
    # A blur is far in LPIPS although it is near in L1; a slight change of brightness is the reverse.
    brighter = (truth + 0.05).clamp(0, 1)
    assert perceptual(brighter, truth).item() < 0.1 < value
