"""The scripts behind docs/quality.md: variants change what they say, rows are kept, tables are the results'."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import patchswap
from inpaint import pipeline, weights
from inpaint.evaluation.protocol import pair_samples
from inpaint.mask import center, feature_hole
from inpaint.networks import Feature2Image, Image2Feature
from inpaint.networks.feature2image import Feature2ImageConfig
from inpaint.networks.image2feature import Image2FeatureConfig
from inpaint.networks.vgg import load_vgg19
from inpaint.pipeline import Inpainter

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import ablation  # noqa: E402
import contact_sheet  # noqa: E402
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
# Variants that change nothing here: scales are for photographs of 512, averaging is for more than one scale, where
# there is one `carry` is 4 anyway, and not every machine has another precision than float32.
WITHOUT_EFFECT = {"scales-512", "scales-256-512", "scales-64-512", "asymmetric", "carry-4", "float32"}


def test_the_default_variant_is_the_pipeline(networks: weights.Networks) -> None:
    expected = Inpainter(networks).run(PHOTOGRAPH, HOLE).image
    assert torch.equal(ablation.VARIANTS["default"].method(networks)(PHOTOGRAPH, HOLE), expected)


@pytest.mark.parametrize("name", sorted(ablation.VARIANTS.keys() - WITHOUT_EFFECT - {"default"}))
def test_every_variant_changes_the_hole_and_nothing_else(networks: weights.Networks, name: str) -> None:
    functions = (pipeline._swap, pipeline._lost_detail, pipeline._off_at_rim)
    changed = ablation.VARIANTS[name].method(networks)(PHOTOGRAPH, HOLE)
    default = Inpainter(networks).run(PHOTOGRAPH, HOLE).image
    assert torch.equal(changed[:, ~HOLE], PHOTOGRAPH[:, ~HOLE]) and torch.isfinite(changed).all()
    assert not torch.equal(changed, default)
    assert (pipeline._swap, pipeline._lost_detail, pipeline._off_at_rim) == functions


def test_averaging_over_the_mirror_image(networks: weights.Networks) -> None:
    inpainter = Inpainter(networks)
    ablation.averaged_over_mirror_image(inpainter)
    infer = inpainter.image2feature
    image, hole = PHOTOGRAPH[None, :, :, 8:], HOLE[None, :, 8:]
    mirrored = infer(image.flip(-1), hole.flip(-1)).flip(-1)
    assert torch.allclose(infer(image, hole), mirrored, atol=1e-5)
    assert not torch.allclose(networks.image2feature(image, hole), mirrored, atol=1e-3)


def test_carried_pixels_are_those_of_the_chosen_keys() -> None:
    photograph = noise(1, 3, 64, 64)
    index = torch.full((1, 14, 14), -1)
    index[:, 4:9, 4:9] = (torch.arange(14)[:, None] * 14 + torch.arange(14))[0:5, 0:5]  # one shift for all
    carried = ablation.copied_pixels(photograph, index)
    assert torch.allclose(carried[..., 16:44, 16:44], photograph[..., :28, :28], atol=1e-6)
    assert torch.equal(carried[..., 44:, :], photograph[..., 44:, :])


def test_finer_cells_weigh_as_much_as_the_coarse_ones(networks: weights.Networks) -> None:
    image = PHOTOGRAPH[None, :, :82, :90]  # relu2_1 has an odd number of rows and of columns
    features = ablation.FinerToo(networks.vgg).relu3_1(image)
    assert features.shape == (1, 256 + 4 * 128, 21, 23)
    assert torch.equal(features[:, :256], networks.vgg.relu3_1(image))
    assert features[:, :256].norm().item() == pytest.approx(features[:, 256:].norm().item(), rel=1e-4)


def test_copies_that_agree_keep_their_detail() -> None:
    residual = noise(1, 3, 64, 64) - 0.5
    index = torch.full((1, 14, 14), -1)
    index[:, 4:9, 4:9] = (torch.arange(14)[:, None] * 14 + torch.arange(14))[0:5, 0:5]  # one shift for all
    kept = pipeline._lost_detail(residual, index)
    for variant in (ablation.agreed_detail, ablation.lively_detail, ablation.single_detail):
        assert torch.allclose(variant(residual, index)[..., 20:32, 20:32], kept[..., 20:32, 20:32], atol=1e-5)
    index[:, 4:9, 4:9] = torch.randint(14 * 4, (1, 5, 5), generator=torch.Generator().manual_seed(0))
    kept = pipeline._lost_detail(residual, index).norm()
    assert ablation.agreed_detail(residual, index).norm() < 0.7 * kept
    assert ablation.lively_detail(residual, index).norm() > 1.5 * kept


def test_matching_in_other_features_copies_the_features_themselves() -> None:
    features, hole = noise(1, 4, 12, 12), center(12, 12, 4)[None]
    _, match = ablation.swap_matched_in(ablation.centred, patchswap.swap, features, hole=hole, return_match=True)
    swapped, same = ablation.swap_matched_in(
        lambda part, _: part, patchswap.swap, features, hole=hole, return_match=True
    )
    assert torch.equal(swapped, patchswap.swap(features, hole=hole))
    assert not torch.equal(match.index, same.index)
    assert torch.allclose(ablation.known_mean(ablation.centred(features, hole), hole), torch.zeros(()), atol=1e-6)


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
    command += ["--variants", "default,carry-0", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", command)
    ablation.main()
    content = json.loads((tmp_path / "rows" / "ablation.json").read_text())
    assert [row["variant"] for row in content["results"]] == ["default", "carry-0"]
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
    cells = feature_hole(HOLE)[None]
    features = networks.vgg.relu3_1(PHOTOGRAPH[None])
    best = match_quality.chosen_keys(features, cells)
    keys = best[best >= 0]
    other = torch.randint(0, 22 * 4, keys.shape, generator=torch.Generator().manual_seed(0))
    rows = match_quality.compare(features, best, {"itself": keys, "random key": other})
    assert rows["itself"]["same"] == rows["itself"]["within_4"] == 100 and rows["itself"]["reach"] == pytest.approx(1)
    assert rows["random key"]["reach"] == 0 and rows["random key"]["same"] < 20
    assert rows["itself"]["score"] > rows["random key"]["score"]
    _, match = patchswap.swap(features, hole=cells, return_match=True)
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


def test_contact_sheet_shows_what_is_known_and_the_truth(networks: weights.Networks, folders: list[str]) -> None:
    samples, _ = pair_samples(*folders, ["center"])
    rows = [contact_sheet.fill(each, Inpainter(networks), lambda *_: torch.tensor(0.5)) for each in samples]  # type: ignore[arg-type]
    truth = Image.open(samples[0].image)
    shown, coarse, result, last = rows[0].pictures
    assert np.array_equal(last, truth) and rows[0].lpips == 0.5 and 0 < rows[0].hole_l1 < 100
    hole = center(64, 64, 24).numpy()
    for picture in (shown, coarse, result):
        assert np.array_equal(np.array(picture)[~hole], np.array(truth)[~hole])
    assert (np.array(shown)[hole] == 128).all() and not np.array_equal(coarse, result)
    sheet = contact_sheet.draw(rows)
    tile = np.array(sheet)[2 * contact_sheet.CAPTION :, contact_sheet.GAP :][:64, :64]
    assert np.array_equal(tile, shown)
