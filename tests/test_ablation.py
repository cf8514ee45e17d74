"""The ablation: variants change what they say, rows are kept, tables hold the results."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import patchswap
from inpaint import weights
from inpaint.finish import KeepColours, Unfinished, level_at_rim, restore_detail
from inpaint.inpainter import Inpainter
from inpaint.mask import center, feature_hole
from inpaint.matching import Copies, mean_of_copies
from inpaint.networks import Feature2Image, Image2Feature
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.networks.vgg import load_vgg19
from inpaint.recipe import NARROW, WIDE, Recipe
from inpaint.scene import make_scenes
from inpaint.window import find_windows

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation  # noqa: E402
import match_quality  # noqa: E402
import tables  # noqa: E402


@pytest.fixture(scope="module")
def networks() -> weights.Networks:
    torch.manual_seed(0)
    image2feature = Image2Feature(Image2FeatureConfig(widths=(8, 8, 8), dilations=(1, 2))).eval().requires_grad_(False)
    torch.nn.init.normal_(image2feature.to_rgb.weight, std=0.1)  # zero at first, which no mirroring would change
    feature2image = Feature2Image(Feature2ImageConfig(widths=(8, 8), upper=(8, 8))).eval().requires_grad_(False)
    return weights.Networks(image2feature, feature2image, load_vgg19(weights.FOLDER / weights.VGG_FILE), "")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


PHOTOGRAPH, HOLE = noise(3, 96, 96), center(96, 96, 40)
# Variants that change nothing here: scales are for photographs of 512, this narrow hole is filled by NARROW's values at
# one scale anyway, and not every machine has another precision than float32.
SCALES = {"scales-512", "scales-256-512", "scales-64-512"}
REMATCHES = {"rematches-0", "rematches-1", "rematches-2"}
WITHOUT_EFFECT = {"match-coarser", "match-known", "views-1", "keep-colours-4", "coherence-0.1", "float32"}
WITHOUT_EFFECT |= SCALES | REMATCHES


def test_the_default_variant_is_the_pipeline(networks: weights.Networks) -> None:
    expected = Inpainter(networks)(PHOTOGRAPH, HOLE)
    assert torch.equal(ablation.VARIANTS["default"].method(networks)(PHOTOGRAPH, HOLE), expected)


@pytest.mark.parametrize("name", sorted(ablation.VARIANTS.keys() - WITHOUT_EFFECT - {"default"}))
def test_every_variant_changes_the_hole_and_nothing_else(networks: weights.Networks, name: str) -> None:
    changed = ablation.VARIANTS[name].method(networks)(PHOTOGRAPH, HOLE)
    assert torch.equal(changed[:, ~HOLE], PHOTOGRAPH[:, ~HOLE]) and torch.isfinite(changed).all()
    assert not torch.equal(changed, Inpainter(networks)(PHOTOGRAPH, HOLE))


@pytest.mark.parametrize("name", sorted(ablation.VARIANTS.keys() - SCALES))
def test_every_variant_fills_a_picture_without_a_key(networks: weights.Networks, name: str) -> None:
    photograph, hole = noise(3, 24, 30), center(24, 30, 18)
    filled = ablation.VARIANTS[name].method(networks)(photograph, hole)
    assert torch.equal(filled[:, ~hole], photograph[:, ~hole]) and torch.isfinite(filled).all()


@pytest.mark.parametrize("recipe", [NARROW, WIDE])
def test_recipes_differ_from_the_default_in_one_thing(recipe: Recipe) -> None:
    changed = {name: variant.recipe(recipe) for name, variant in ablation.VARIANTS.items()}
    assert changed["default"] == recipe and changed["views-4"].views == 4
    assert changed["keep-colours-2"].finish == (restore_detail, level_at_rim, KeepColours(2))
    assert changed["keep-colours-0"].finish == (restore_detail, level_at_rim)
    assert changed["detail-0"].finish == recipe.finish[1:]
    assert changed["rim-as-copied"].finish == (restore_detail, recipe.finish[2])
    assert changed["pixels"].finish == (ablation.copied_pixels, *recipe.finish[1:])
    assert changed["vote-trusting"] == replace(recipe, vote=ablation.trusting)
    assert changed["match-spread"] == replace(recipe, match=ablation.spread_over_keys)


def unfinished(part: torch.Tensor, index: torch.Tensor) -> Unfinished:
    """Of a part of 64x64 pixels whose hole are the cells 6 to 8, as its finishing steps see it."""
    hole = torch.zeros(64, 64, dtype=torch.bool)
    hole[24:36, 24:36] = True
    (window,) = find_windows(hole.numpy(), scales=[64])
    (scene,) = make_scenes([window], torch.device("cpu"))
    assert scene.size == (64, 64) and torch.equal(scene.queries, index >= 0)
    return Unfinished(part, Copies(scene, patchswap.Match(index, index.float()), mean_of_copies))


def one_shift() -> torch.Tensor:
    """The match of all queries with the patches four cells above and to the left of them."""
    index = torch.full((1, 14, 14), -1)
    index[:, 4:9, 4:9] = (torch.arange(14)[:, None] * 14 + torch.arange(14))[0:5, 0:5]
    return index


def test_copied_pixels_are_those_of_the_chosen_keys() -> None:
    photograph = noise(1, 3, 64, 64)
    copied = ablation.copied_pixels(torch.zeros_like(photograph), unfinished(photograph, one_shift()))
    assert torch.allclose(copied[..., 16:44, 16:44], photograph[..., :28, :28], atol=1e-6)
    assert torch.equal(copied[..., 44:, :], photograph[..., 44:, :])


def test_finer_cells_weigh_as_much_as_the_coarse_ones(networks: weights.Networks) -> None:
    image = PHOTOGRAPH[None, :, :82, :90]  # relu2_1 has an odd number of rows and of columns
    features = ablation.FinerToo(networks.vgg).relu3_1(image)
    assert features.shape == (1, 256 + 4 * 128, 21, 23)
    assert torch.equal(features[:, :256], networks.vgg.relu3_1(image))
    assert features[:, :256].norm().item() == pytest.approx(features[:, 256:].norm().item(), rel=1e-4)


def test_copies_that_agree_keep_their_detail() -> None:
    part, painted, index = noise(1, 3, 64, 64), torch.full((1, 3, 64, 64), 0.5), one_shift()
    work = unfinished(part, index)
    kept = restore_detail(painted, work)
    for variant in (ablation.agreed_detail, ablation.lively_detail, ablation.single_detail):
        assert torch.allclose(variant(painted, work)[..., 20:32, 20:32], kept[..., 20:32, 20:32], atol=1e-5)
    half = ablation.partial_detail(0.5, painted, work)
    assert torch.allclose(half - painted, (kept - painted) / 2, atol=1e-6)
    index[:, 4:9, 4:9] = torch.randint(14 * 4, (1, 5, 5), generator=torch.Generator().manual_seed(0))
    work = unfinished(part, index)
    strength = (restore_detail(painted, work) - painted).norm()
    assert (ablation.agreed_detail(painted, work) - painted).norm() < 0.7 * strength
    assert (ablation.lively_detail(painted, work) - painted).norm() > 1.5 * strength


def test_what_is_compared_has_no_mean_over_known_cells() -> None:
    features, unknown = noise(1, 4, 12, 12), center(12, 12, 4)[None, None]
    centred = ablation.centred(features, unknown)
    assert torch.allclose(ablation.known_mean(centred, unknown), torch.zeros(()), atol=1e-6)
    deviation = ablation.known_mean(ablation.centred(10 * features, unknown).square(), unknown).sqrt()
    known = ablation.unit_deviation(10 * features, unknown)[..., ~unknown[0, 0]]
    assert torch.allclose(known.std(dim=2, correction=0), (deviation / (deviation + 0.05))[..., 0, 0], atol=1e-5)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    for folder in ("photographs", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(2):
        pixels = (255 * noise(64, 64, 3, seed=number)).byte().numpy()
        Image.fromarray(pixels).save(tmp_path / "photographs" / f"{number}.png")
        Image.fromarray(255 * center(64, 64, 24).byte().numpy()).save(tmp_path / "masks" / f"center_{number}.png")
    return [str(tmp_path / "photographs"), str(tmp_path / "masks")]


def test_rows_are_kept_and_collected(
    folders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INPAINT_LPIPS_WEIGHTS", str(tmp_path / "nothing"))
    command = ["ablation.py", *folders, "--out", str(tmp_path / "rows"), "--kinds", "center"]
    command += ["--variants", "default,keep-colours-0", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", command)
    ablation.main()
    content = json.loads((tmp_path / "rows" / "ablation.json").read_text())
    assert [row["variant"] for row in content["results"]] == ["default", "keep-colours-0"]
    assert all(row["images"] == 2 and row["lpips"] is None and row["seconds"] > 0 for row in content["results"])
    default, other = content["results"]
    assert other["difference"]["hole_l1"]["mean"] == pytest.approx(other["hole_l1"] - default["hole_l1"])
    assert "difference" not in default and content["machine"]["command"].startswith("python benchmarks/ablation.py")
    assert tables.ablation(content["results"]) in capsys.readouterr().out

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(ablation, "evaluate", fail)
    ablation.main()
    monkeypatch.setattr(sys, "argv", [*command, "--limit", "1"])
    with pytest.raises(AssertionError, match="measured again"):
        ablation.main()
    monkeypatch.setattr(sys, "argv", [*command[:-4], "--variants", "defualt"])
    with pytest.raises(SystemExit):
        ablation.main()
    assert "defualt" in capsys.readouterr().err


def test_match_quality_of_the_truth_itself_is_perfect(networks: weights.Networks) -> None:
    (window,) = find_windows(HOLE.numpy())
    (level,) = window.levels
    features = networks.vgg.relu3_1(PHOTOGRAPH[None])
    best = match_quality.chosen_keys(features, level)
    assert np.array_equal(best.numpy() >= 0, level.queries)
    keys = best[best >= 0]
    other = torch.randint(0, 22 * 4, keys.shape, generator=torch.Generator().manual_seed(0))
    found = match_quality.compare(features, best, {"itself": keys, "random key": other})
    rows = {name: match_quality.summary(each, found["random key"]) for name, each in found.items()}
    assert rows["itself"]["same"] == rows["itself"]["within_4"] == 100 and rows["itself"]["reach"] == pytest.approx(1)
    assert rows["random key"]["reach"] == 0 and rows["random key"]["same"] < 20
    assert rows["itself"]["score"] > rows["random key"]["score"]
    _, match = patchswap.swap(features, hole=feature_hole(HOLE)[None], return_match=True)
    assert torch.equal(match.index[0], best)
    scores = match_quality.scores(features, (best >= 0).flatten().nonzero()[:, 0], keys)
    assert torch.allclose(scores, match.score[0][best >= 0], atol=1e-4)
    patches = F.unfold(features, 3)[0]
    first = patches[:, (best >= 0).flatten().nonzero()[0, 0]]
    assert scores[0].item() == pytest.approx(F.cosine_similarity(first, patches[:, keys[0]], dim=0).item(), abs=1e-4)


def test_match_quality_of_a_run(networks: weights.Networks) -> None:
    pytest.importorskip("cv2")
    rows = match_quality.measure(Inpainter(networks), noise(3, 192, 192), center(192, 192, 60))
    assert {name for _, name in rows} == set(match_quality.ORDER) and {size for size, _ in rows} == {96, 192}
    assert all(0 <= row["same"] <= row["within_4"] <= row["within_16"] <= 100 for row in rows.values())
    assert all(row["score"] <= row["best_score"] + 1e-5 for row in rows.values())


def test_match_quality_of_several_windows_is_over_the_queries_of_all(networks: weights.Networks) -> None:
    pytest.importorskip("cv2")
    truth, hole = noise(3, 64, 800), torch.zeros(64, 800, dtype=torch.bool)
    hole[20:30, 20:30] = hole[30:40, 760:780] = True
    assert len(find_windows(hole.numpy())) == 2
    rows = match_quality.measure(Inpainter(networks), truth, hole)
    assert set(rows) == {(64, name) for name in match_quality.ORDER}
