"""The part that runs on the device: it never waits for it, and windows of a batch do not meet."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inpaint import weights
from inpaint.inpainter import Inpainter
from inpaint.matching import Copies, mean_of_copies
from inpaint.networks import image2feature
from inpaint.pipeline import Filling, Pipeline, _swap
from inpaint.recipe import NARROW, WIDE, Recipe
from inpaint.scene import Scene, make_scenes
from inpaint.stages import Stages
from inpaint.window import Window, find_windows, halved
from patchswap import Match

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def two_windows(scales: list[int] | None = None) -> list[Window]:
    """Of one shape, from two pictures, with several scales by default."""
    hole = np.zeros((601, 402), bool)
    hole[150:230, 160:240] = True
    other = hole.copy()
    other[150:160, 160:170] = False
    windows = [find_windows(each, scales=scales)[0] for each in (hole, other)]
    assert windows[0].shape == windows[1].shape
    return windows


def stacked(seed: int) -> list[list[Window]]:
    """Windows of equal shape in different places of a picture with specks at its border and elsewhere."""
    random = np.random.default_rng(seed)
    height, width = random.integers(300, 700, 2)
    hole = np.zeros((height, width), bool)
    for row, column in random.integers(0, (height, width), (14, 2)):
        hole[row : row + 4, column : column + 4] = True
    scales = [halved(min(height, width), times) for times in ((2, 1), (2, 0), (1, 0), (2,))[seed % 4]]
    groups: dict[object, list[Window]] = {}
    for window in find_windows(hole, scales=scales):
        groups.setdefault(window.shape, []).append(window)
    return [windows for windows in groups.values() if len(windows) > 1]


def inputs(windows: list[Window], seed: int = 0) -> tuple[Tensor, Tensor, list[Scene]]:
    unknown = torch.from_numpy(np.stack([window.unknown for window in windows])).unsqueeze(1)
    crops = noise(len(windows), 3, *windows[0].crop.size, seed=seed).masked_fill(unknown, 0.5)
    return crops, unknown, make_scenes(windows, CPU)


def fill(pipeline: Pipeline, windows: list[Window], recipe: Recipe, *, keep: bool = False) -> Filling:
    return pipeline.fill(*inputs(windows), recipe, Stages(CPU), keep=keep)


class Waits(TorchDispatchMode):
    """The operations for whose result a GPU would have to be waited for."""

    NAMES = ("nonzero", "_local_scalar_dense", "is_nonzero", "item", "masked_select", "unique", "equal", "allclose")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        indices = args[1] if name in ("index", "index_put", "index_put_", "_index_put_impl_") else ()
        if any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in indices):
            self.found.append(f"{name} with a mask")
        if name.lstrip("_").startswith("unique") or name in self.NAMES:
            self.found.append(name)
        if name == "repeat_interleave" and not isinstance(args[-1], int):
            self.found.append(name)
        if name == "_to_copy" and (kwargs or {}).get("device") is not None and not args[0].is_cpu:
            self.found.append("copy to another device")
        return func(*args, **(kwargs or {}))


def test_waits_are_seen() -> None:
    values = torch.tensor([0.5, 2.0])
    for wait in (
        lambda: values.nonzero(),
        lambda: values[values > 1],
        lambda: bool((values > 1).any()),
        lambda: float(values.max()),
        lambda: values.repeat_interleave(torch.tensor([1, 2])),
        lambda: values.masked_select(values > 1),
        lambda: values.unique(),
        lambda: values.index_put_((values > 1,), values.new_zeros(())),
    ):
        with Waits() as waits:
            wait()
        assert waits.found


@pytest.mark.parametrize("recipe", [NARROW, WIDE, Recipe(finish=())])
@pytest.mark.parametrize("scales", [None, [101, 201], [51, 402]])
def test_filling_never_waits_for_the_device(
    networks: weights.Networks, monkeypatch, recipe: Recipe, scales: list[int] | None
) -> None:
    """With scales that end before the photograph's own, the grain's way too."""
    monkeypatch.setattr(image2feature, "_around", lambda *_: None)  # what a GPU does: see the next test
    windows = two_windows(scales)
    pipeline, given = Pipeline(networks, CPU, torch.float32), inputs(windows)
    with Waits() as waits:
        filling = pipeline.fill(*given, recipe, Stages(CPU))
    assert waits.found == [] and torch.isfinite(filling.colours).all()


@pytest.mark.parametrize("recipe", [NARROW, WIDE])
@pytest.mark.parametrize("scales", [None, [101, 201], [51, 402]])
def test_nothing_is_read_on_another_device(
    networks: weights.Networks, monkeypatch, recipe: Recipe, scales: list[int] | None
) -> None:
    """Tensors without data: whatever looks at a value, or mixes in a tensor from the CPU, fails."""
    meta = torch.device("meta")
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which does not know that device
    windows = two_windows(scales)
    elsewhere = networks._replace(
        **{name: copy.deepcopy(getattr(networks, name)).to(meta) for name in ("image2feature", "feature2image", "vgg")}
    )
    crops, unknown, _ = inputs(windows)
    scenes = make_scenes(windows, meta)
    assert all(scene.unknown.is_meta and scene.queries.is_meta for scene in scenes)
    filling = Pipeline(elsewhere, meta, torch.float32).fill(
        crops.to(meta), unknown.to(meta), scenes, recipe, Stages(CPU), keep=True
    )
    expected = fill(Pipeline(networks, CPU, torch.float32), windows, recipe, keep=True)
    assert filling.colours.is_meta and filling.colours.shape == expected.colours.shape
    for scale, on_cpu in zip(filling.scales, expected.scales, strict=True):
        assert (
            scale.result.shape == on_cpu.result.shape
            and scale.copies.match.index.shape == on_cpu.copies.match.index.shape
        )


@pytest.mark.parametrize("recipe", [NARROW, WIDE])
@pytest.mark.parametrize("scales", [None, [101, 201], [51, 402]])
def test_windows_of_a_batch_do_not_meet(networks: weights.Networks, recipe: Recipe, scales: list[int] | None) -> None:
    check_batch(Pipeline(networks, CPU, torch.float32), two_windows(scales), recipe)


@pytest.mark.parametrize("seed", range(12))
def test_nor_do_windows_in_different_places(networks: weights.Networks, seed: int) -> None:
    for windows in stacked(seed):
        check_batch(Pipeline(networks, CPU, torch.float32), windows, NARROW)


def test_some_of_these_lie_in_different_places_of_their_crops() -> None:
    corners = [
        {scene.corners for scene in make_scenes(windows, CPU)} for seed in range(12) for windows in stacked(seed)
    ]
    assert any(len(set(of_level)) > 1 for of_scene in corners for of_level in of_scene)


def check_batch(pipeline: Pipeline, windows: list[Window], recipe: Recipe) -> None:
    crops, unknown, scenes = inputs(windows)
    together = pipeline.fill(crops, unknown, scenes, recipe, Stages(CPU))
    for number, window in enumerate(windows):
        only = slice(number, number + 1)
        alone_scenes = make_scenes([window], CPU)
        alone = pipeline.fill(crops[only], unknown[only], alone_scenes, recipe, Stages(CPU)).colours
        factor = 1 << scenes[-1].halvings
        (top, left, *_), (top_of_all, left_of_all, *_) = alone_scenes[-1].near_pixels, scenes[-1].near_pixels
        same = together.colours[only, :, factor * (top - top_of_all) :, factor * (left - left_of_all) :]
        own = alone_scenes[-1].own.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        own = own[..., factor * top :, factor * left :][..., : alone.shape[2], : alone.shape[3]].expand_as(alone)
        difference = (alone - same[..., : alone.shape[2], : alone.shape[3]])[own].abs()
        assert difference.max() < 1e-4


def test_scales_are_kept_and_hold_what_they_say(networks: weights.Networks) -> None:
    windows = two_windows()
    crops, unknown, scenes = inputs(windows)
    filling = Pipeline(networks, CPU, torch.float32).fill(crops, unknown, scenes, WIDE, Stages(CPU), keep=True)
    assert [scale.scene for scale in filling.scales] == scenes and len(scenes) > 1
    assert filling.coarse.shape == (2, 3, *scenes[0].size)
    for scale in filling.scales:
        scene = scale.scene
        assert scale.part.shape == scale.decoded.shape == scale.result.shape == (2, 3, *scene.size)
        assert scale.copies.match.index.shape == scene.queries.shape
        own = scene.own.expand_as(scale.result)
        assert torch.equal(scale.result[~own], scale.part[~own])
        matched = scale.copies.match.index >= 0
        assert torch.equal(matched, scene.queries)
        for sample in range(2):
            assert scene.keys[sample].flatten()[scale.copies.match.index[sample][matched[sample]]].all()
    last = filling.scales[-1]
    place = last.scene.near_pixels
    assert torch.equal(filling.colours, last.result[..., place.rows, place.columns])
    corner = scenes[-1].corners[0]
    size = last.scene.size
    photograph = crops[:, :, corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
    known = ~last.scene.unknown.expand_as(last.part)
    assert torch.equal(last.part[known], photograph[known])


def flat(painted: Tensor, work: object) -> Tensor:
    return torch.full_like(painted, 0.7)


@pytest.mark.parametrize("scales", [[101, 201], [51, 402], [201]])
@pytest.mark.parametrize("place", [(0, 0), (0, 200), (150, 160), (1121, 322)])
def test_a_flat_picture_is_continued_without_any_grain(
    networks: weights.Networks, scales: list[int], place: tuple[int, int]
) -> None:
    """Whatever scales hold where nothing is known must not be taken for the photograph's."""
    hole = np.zeros((1201, 402), bool)
    hole[place[0] : place[0] + 80, place[1] : place[1] + 80] = True
    hole[place[0] + 88 : place[0] + 92, place[1] : place[1] + 80] = True
    window = find_windows(hole, scales=scales)[0]
    unknown = torch.from_numpy(window.unknown)[None, None]
    crops = torch.full((1, 3, *window.crop.size), 0.7).masked_fill(unknown, 0.1)
    scenes = make_scenes([window], CPU)
    recipe = Recipe(finish=(flat,))
    filling = Pipeline(networks, CPU, torch.float32).fill(crops, unknown, scenes, recipe, Stages(CPU))
    assert torch.allclose(filling.colours, torch.tensor(0.7), atol=1e-5)


@pytest.mark.parametrize("moved", [0, 4, 8, 12])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_what_is_carried_over_stays_in_its_place(inpainter: Inpainter, steps: int, moved: int) -> None:
    """Also where scales in between are left out, so that a part begins inside a pixel of the coarser scale."""
    height, width = 640, 704
    hole = np.zeros((height, width), bool)
    hole[420 + moved : 432 + moved, 452 + moved : 460 + moved] = True
    scales = [halved(height, steps), height]
    ramp = torch.stack([torch.linspace(0, 1, width).expand(height, width)] * 3)
    ramp[1] = torch.linspace(0, 1, height)[:, None]
    (window,) = find_windows(hole, scales=scales)

    def keep_the_part(painted: Tensor, work) -> Tensor:
        """The coarse scale paints the ramp, the fine one leaves what was carried over."""
        return work.part if work.copies.scene.halvings == 0 else _ramp_at(work.copies.scene, window, ramp)

    unknown = torch.from_numpy(window.unknown)[None, None]
    crop = ramp[None, :, window.crop.rows, window.crop.columns].masked_fill(unknown, 0.5)
    scenes = make_scenes([window], CPU)
    recipe = Recipe(finish=(keep_the_part,))
    result = inpainter.pipeline.fill(crop, unknown, scenes, recipe, Stages(CPU), keep=True).scales[-1]
    top, left = scenes[-1].corners[0]
    rows, columns = (slice(start, start + length) for start, length in zip((top, left), scenes[-1].size, strict=True))
    truth = ramp[None, :, window.crop.rows, window.crop.columns][..., rows, columns]
    own = scenes[-1].own.expand_as(truth)
    assert (result.result - truth)[own].abs().max() < 2 / min(height, width)  # two pixels off


def _ramp_at(scene: Scene, window: Window, ramp: Tensor) -> Tensor:
    """What the ramp is in the middle of every pixel of the scene."""
    factor, (top, left) = 1 << scene.halvings, scene.corners[0]
    crop = ramp[None, :, window.crop.rows, window.crop.columns]
    height, width = (factor * length for length in scene.size)
    part = crop[..., factor * top : factor * top + height, factor * left : factor * left + width]
    return torch.nn.functional.avg_pool2d(part, factor, ceil_mode=True)


def test_image2feature_paints_the_same_on_the_whole_map(networks: weights.Networks, monkeypatch) -> None:
    """On the CPU only what is near holes passes through the last layers; elsewhere, where that would wait, all does."""
    painter = networks.image2feature
    image, hole = noise(2, 3, 61, 90), torch.zeros(2, 61, 90, dtype=torch.bool)
    hole[0, 10:22, 40:50] = hole[1, 50:, :7] = True
    in_parts = painter(image, hole)
    monkeypatch.setattr(image2feature, "_around", lambda *_: None)
    whole = painter(image, hole)
    assert torch.allclose(in_parts, whole, atol=1e-5) and whole.min() >= 0 and whole.max() <= 1


def test_features_of_known_cells_are_kept() -> None:
    window = two_windows()[0]
    scene = make_scenes([window], CPU)[-1]
    features = noise(1, 8, *scene.own_cells.shape[2:])
    index = torch.where(scene.queries, scene.keys[0].flatten().nonzero()[0, 0], -1)
    match = Match(index, torch.zeros(index.shape))
    swapped = _swap(features, Copies(scene, match, mean_of_copies))
    changed = (swapped != features).any(1, keepdim=True)
    assert torch.equal(changed, scene.own_cells)
