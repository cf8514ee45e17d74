from __future__ import annotations

import dataclasses
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import patchswap
from inpaint import weights
from inpaint.errors import InpaintError
from inpaint.mask import center, feature_hole
from inpaint.networks.registry import ROLES
from inpaint.networks.vgg import load_vgg19
from inpaint.tensor_file import read_tensors
from inpaint.training import losses
from inpaint.training.checkpoint import CHECKPOINT
from inpaint.training.config import TrainingConfig, from_dict, load_config
from inpaint.training.data import Batch, Photographs, batches
from inpaint.training.export import export
from inpaint.training.objectives import build_objective
from inpaint.training.sources import find_photographs
from inpaint.training.trainer import DEFAULT_VGG, Trainer, train

SMALL_NETWORK = {
    "image2feature": {"widths": (8, 8, 8), "dilations": (1, 2)},
    "feature2image": {"widths": (8, 12), "upper": (8, 8)},
}


def small(stage, **changes) -> TrainingConfig:
    values = {
        "image_size": 32,
        "batch": 2,
        "steps": 6,
        "warmup": 2,
        "adversarial_start": 3,
        "perceptual_layers": ("relu2_1", "relu3_1"),
        "window": 16,
        "discriminator_width": 8,
        "network": SMALL_NETWORK[stage],
        "bfloat16": False,
        "workers": 0,
        "log_every": 1,
        "picture_every": 100,
        "checkpoint_every": 100,
    }
    return TrainingConfig(**{**values, **changes})


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for further threads, long so where other programs have the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(0)
    (folder / "inner").mkdir()
    for number in range(7):
        low = generator.integers(0, 255, (6, 5 + number, 3), dtype=np.uint8)
        picture = Image.fromarray(low).resize((60 + 5 * number, 48), Image.Resampling.BICUBIC)
        picture.save(folder / ("inner" if number % 2 else "") / f"{number}.{'jpg' if number % 3 else 'png'}")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    (folder / "notes.txt").write_text("left alone")
    return folder


def test_photographs_are_found_in_all_folders(photographs: Path, tmp_path: Path) -> None:
    assert len(find_photographs(photographs)) == 8
    with pytest.raises(InpaintError, match="expected photographs .*found none; check --data"):
        find_photographs(tmp_path)
    with pytest.raises(InpaintError, match="expected a folder of photographs or of .tar shards"):
        find_photographs(tmp_path / "missing")


def test_a_batch_depends_on_seed_and_step_alone(photographs: Path) -> None:
    config = small("image2feature")
    data = Photographs(photographs, config)
    fourth = data[4]
    for other in (Photographs(photographs, config)[4], list(batches(data, 2))[2]):
        assert torch.equal(fourth.image, other.image) and torch.equal(fourth.hole, other.hole)
    assert fourth.image.shape == (2, 3, 32, 32) and fourth.hole.shape == (2, 32, 32)
    assert fourth.image.min() >= 0 and fourth.image.max() <= 1
    assert not torch.equal(fourth.image, data[3].image)
    assert not torch.equal(fourth.image, Photographs(photographs, dataclasses.replace(config, seed=1))[4].image)


def test_worker_processes_give_the_same_batches(photographs: Path) -> None:
    config = small("image2feature", steps=3)
    alone = list(batches(Photographs(photographs, config)))
    shared = list(batches(Photographs(photographs, dataclasses.replace(config, workers=2))))
    assert all(torch.equal(a.image, b.image) and a.step == b.step for a, b in zip(alone, shared, strict=True))


def test_validation_photographs_are_held_out(photographs: Path) -> None:
    config = small("image2feature")
    training, validation = (set(Photographs(photographs, config, validation=v).files) for v in (False, True))
    assert validation and not training & validation and len(training | validation) == 8


def test_nothing_decodable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(InpaintError, match="none of the 1 files could be decoded"):
        Photographs(tmp_path, small("image2feature"))[0]


def test_hole_weights_stress_the_band_along_the_boundary() -> None:
    weights_of_cells = losses.hole_weights(center(7, 7, 5)[None], band=2.0)[0, 0]
    assert (weights_of_cells[0] == 0).all() and (weights_of_cells[1, 1:6] == 3).all()
    assert (weights_of_cells[2:5, 2:5] == 1).all()


def test_weighted_losses_are_means_over_what_weighs() -> None:
    truth = torch.zeros(1, 2, 4, 4)
    weighting = torch.zeros(1, 1, 4, 4)
    weighting[..., :2] = 0.5
    prediction = torch.full_like(truth, 3.0)
    prediction[..., 2:] = 100.0
    assert losses.weighted_l1(prediction, truth, weighting) == pytest.approx(3.0)
    assert losses.weighted_l1(prediction, truth, weighting * 0) == 0
    assert losses.relative_l2(prediction, truth + 2, weighting) == pytest.approx(1 / 4.1, rel=1e-5)
    assert losses.judge_loss(torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.0])) == pytest.approx(0.25 + 0.5)
    assert losses.painter_loss(torch.tensor([1.0, 3.0])) == -2


@pytest.mark.parametrize("corner", [(0, 0), (0, 60), (60, 60), (30, 12)])
def test_the_window_lies_around_the_hole_and_inside_the_picture(corner: tuple[int, int]) -> None:
    hole = torch.zeros(2, 64, 64, dtype=torch.bool)
    hole[0, corner[0] : corner[0] + 4, corner[1] : corner[1] + 4] = True  # the second picture has no hole
    square = losses.around_hole(hole, 24)
    seen = losses.cut(torch.stack((hole, ~hole), dim=1), square)
    assert seen.shape == (2, 2, 24, 24) and torch.equal(seen[:, 0], ~seen[:, 1])
    assert seen[0, 0].sum() == hole[0].sum()
    for places in square:
        assert (places[:, 0] % 8 == 0).all() and torch.equal(places, places[:, :1] + torch.arange(24))


@pytest.mark.parametrize("stage", ROLES)
def test_the_loss_falls_on_one_batch(stage, photographs: Path) -> None:
    config = small(stage, steps=60, learning_rate=3e-3, adversarial_start=1000)
    trainer = Trainer(stage, config, DEFAULT_VGG, torch.device("cpu"))
    batch = Photographs(photographs, config)[0]
    history = [sum(trainer.train_step(batch).values()) for _ in range(40)]
    assert sum(history[-5:]) < 0.8 * sum(history[:5])


def flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in network.parameters()])


def stop_after(last: int) -> Callable[[int, dict[str, float]], None]:
    def stop(step: int, losses_of_step: dict[str, float]) -> None:
        if step == last:  # to the whole group of processes, as schedulers and Ctrl-C in a terminal do
            processes = (*multiprocessing.active_children(), multiprocessing.current_process())
            subprocess.run(["kill", *[str(process.pid) for process in processes]], check=True)
            time.sleep(0.3)  # for what the end of a child would do to its parent

    return stop


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("image2feature", {"steps": 20}),
        ("feature2image", {"steps": 20}),
        ("feature2image", {"steps": 20, "batch": 4, "accumulate": 2, "workers": 2}),
    ],
)
def test_a_resumed_run_ends_where_an_unbroken_one_does(stage, changes, photographs: Path, tmp_path: Path) -> None:
    config = small(stage, **changes)
    whole = train(stage, photographs, tmp_path / "whole", config, quiet=True)
    train(stage, photographs, tmp_path / "parts", config, quiet=True, on_step=stop_after(10))
    assert read_tensors(tmp_path / "parts" / CHECKPOINT)[1]["step"] == "10"
    parts = train(stage, photographs, tmp_path / "parts", config, quiet=True)
    expected, metadata = read_tensors(whole)
    found, _ = read_tensors(parts)
    assert metadata["step"] == "20" and expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 21))
    with Image.open(tmp_path / "parts" / "pictures" / "0000020.jpg") as sheet:
        assert sheet.size == (config.batch * 32, 3 * 32)
    settings = json.loads((tmp_path / "parts" / "config.json").read_text())
    assert settings["stage"] == stage
    saved = str(tmp_path / "parts" / "config.json")
    assert load_config(saved, stage) == config
    other = ROLES[1 - ROLES.index(stage)]
    with pytest.raises(InpaintError, match=f"expected a config for {other}, got one for {stage}"):
        load_config(saved, other)


@pytest.mark.parametrize("stage", ROLES)
def test_a_step_in_parts_is_the_step_of_the_whole_batch(stage, photographs: Path) -> None:
    """Losses are means over the holes of the whole batch, so parts with holes of different sizes must not weigh alike.

    The discriminator is left out: its spectral norms are estimated anew for each part.
    """
    steps = []
    for accumulate in (1, 2, 4):
        config = small(stage, batch=4, accumulate=accumulate, adversarial=0.0, warmup=0)
        trainer = Trainer(stage, config, DEFAULT_VGG, torch.device("cpu"))
        before = flat(trainer.networks["generator"])
        losses_of_steps = [trainer.train_step(Photographs(photographs, config)[step]) for step in range(3)]
        steps.append((flat(trainer.networks["generator"]) - before, losses_of_steps))
    for moved, losses_of_steps in steps[1:]:
        assert (moved - steps[0][0]).norm() < 1e-3 * steps[0][0].norm()
        for found, expected in zip(losses_of_steps, steps[0][1], strict=True):
            assert found == pytest.approx(expected, rel=1e-4)


def test_the_adversary_is_trained_in_parts_too(photographs: Path) -> None:
    found = []
    for accumulate in (1, 2):
        config = small("feature2image", batch=4, accumulate=accumulate, adversarial_start=0)
        trainer = Trainer("feature2image", config, DEFAULT_VGG, torch.device("cpu"))
        found.append(trainer.train_step(Photographs(photographs, config)[0]))
    assert found[0] == pytest.approx(found[1], rel=0.02)


@pytest.mark.parametrize("stage", ROLES)
def test_a_discriminator_without_spectral_norms_is_as_wide(stage, photographs: Path) -> None:
    sizes = []
    for spectral in (True, False):
        config = small(stage, spectral_norm=spectral, adversarial_start=0)
        trainer = Trainer(stage, config, DEFAULT_VGG, torch.device("cpu"))
        assert trainer.train_step(Photographs(photographs, config)[0])["judge"] > 0
        sizes.append(sum(parameter.numel() for parameter in trainer.networks["discriminator"].parameters()))
    assert sizes[0] == sizes[1] and not any(
        "parametrizations" in name for name in trainer.networks["discriminator"].state_dict()
    )


@pytest.mark.parametrize("stage", ROLES)
def test_a_discriminator_that_sees_detail_is_blind_to_colour(stage, photographs: Path) -> None:
    config = small(stage, judge_detail=True, adversarial_start=0)
    trainer = Trainer(stage, config, DEFAULT_VGG, torch.device("cpu"))
    batch = Photographs(photographs, config)[0]
    assert trainer.train_step(batch)["judge"] > 0
    trainer.networks["discriminator"].eval()  # the spectral norms stay as they are
    black, grey, photograph = (
        trainer.objective.judge(batch, picture) for picture in (0 * batch.image, 0 * batch.image + 0.4, batch.image)
    )
    assert torch.allclose(black, grey, atol=1e-4) and not torch.allclose(black, photograph, atol=1e-4)


def test_detail_is_what_shrinking_loses() -> None:
    stripes = 0.5 + 0.1 * torch.tensor([1.0, -1.0]).repeat(16).expand(1, 3, 32, 32)
    inner = (..., slice(4, -4), slice(4, -4))
    assert torch.allclose(losses.detail(stripes)[inner], 0.5 + 4 * (stripes - 0.5)[inner], atol=0.02)
    assert torch.allclose(losses.detail(torch.full((1, 3, 32, 32), 0.8)), torch.tensor(0.5), atol=1e-5)


def test_compiled_networks_take_the_same_steps(photographs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # traced; no compiler is waited for
    found = []
    for compiled in (False, True):
        config = small("feature2image", compile=compiled, adversarial_start=0)
        trainer = Trainer("feature2image", config, DEFAULT_VGG, torch.device("cpu"))
        found.append([trainer.train_step(Photographs(photographs, config)[step]) for step in range(2)])
        with trainer.averaged_weights() as generator:
            assert not generator.training
        assert not any("_orig_mod" in name for name in trainer.averaged)
    for plain, compiled_losses in zip(*found, strict=True):
        assert compiled_losses == pytest.approx(plain, rel=1e-4)


def test_tensorboard_gets_curves_and_pictures_where_it_is_installed(photographs: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small("image2feature", picture_every=3, adversarial=0.0)
    train("image2feature", photographs, tmp_path, config, quiet=True, on_step=stop_after(4))
    train("image2feature", photographs, tmp_path, config, quiet=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    for name in ("pixel", "relu3_1", "images_per_second"):
        curve = {event.step: event.value for event in events.Scalars(name)}
        assert curve == {line["step"]: pytest.approx(line[name], abs=1e-4, rel=1e-4) for line in lines}
    assert {event.step for event in events.Images("held out")} == {3, 4, 6}


def test_without_tensorboard_a_run_says_so_and_goes_on(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    train("image2feature", photographs, tmp_path, small("image2feature", steps=4))
    said = capsys.readouterr().err
    assert "pip install '.[train]'" in said and "images/s=" in said
    assert "could not be decoded and were left out: 1 (" in said and "broken.jpg)" in said
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["unreadable"] == 1 and not (tmp_path / "tensorboard").exists()


def test_bfloat16_trains_too(photographs: Path) -> None:
    for stage in ROLES:
        config = small(stage, bfloat16=True, adversarial_start=0)
        trainer = Trainer(stage, config, DEFAULT_VGG, torch.device("cpu"))
        found = trainer.train_step(Photographs(photographs, config)[0])
        assert {"adversarial", "judge"} <= found.keys() and all(np.isfinite(value) for value in found.values())
        assert all(value.dtype == torch.float32 for value in trainer.averaged.values())


def test_adversaries_are_both_trained_once_heard(photographs: Path) -> None:
    config = small("feature2image", adversarial_start=1, warmup=0)
    trainer = Trainer("feature2image", config, DEFAULT_VGG, torch.device("cpu"))
    data = Photographs(photographs, config)

    discriminator = trainer.networks["discriminator"]
    before = flat(discriminator)
    assert "adversarial" not in trainer.train_step(data[0]) and torch.equal(flat(discriminator), before)
    assert "adversarial" in trainer.train_step(data[1]) and not torch.equal(flat(discriminator), before)


def test_a_loss_that_stays_infinite_ends_the_run(photographs: Path) -> None:
    config = small("image2feature", perceptual=float("inf"))
    trainer = Trainer("image2feature", config, DEFAULT_VGG, torch.device("cpu"))
    before = {name: value.clone() for name, value in trainer.objective.generator.state_dict().items()}
    batch = Photographs(photographs, config)[0]
    with pytest.raises(InpaintError, match="expected a finite loss"):
        for _ in range(50):
            trainer.train_step(batch)
    assert all(torch.equal(value, before[name]) for name, value in trainer.objective.generator.state_dict().items())


def test_resuming_refuses_what_does_not_fit(photographs: Path, tmp_path: Path) -> None:
    config = small("image2feature", steps=1)
    checkpoint = train("image2feature", photographs, tmp_path / "run", config, quiet=True)
    with pytest.raises(InpaintError, match="a run is already there"):
        train("image2feature", photographs, tmp_path / "run", config, quiet=True, resume="none")
    with pytest.raises(InpaintError, match="expected a checkpoint of feature2image, got one of image2feature"):
        train("feature2image", photographs, tmp_path / "two", small("feature2image"), quiet=True, resume=checkpoint)
    wider = dataclasses.replace(config, network={"widths": (8, 8, 16), "dilations": (1, 2)})
    with pytest.raises(InpaintError, match="same network sizes"):
        train("image2feature", photographs, tmp_path / "three", wider, quiet=True, resume=checkpoint)
    missing = tmp_path / "missing.safetensors"
    with pytest.raises(InpaintError, match="expected a safetensors file"):
        train("image2feature", photographs, tmp_path / "four", config, quiet=True, resume=missing)


def test_both_checkpoints_become_one_file_of_weights(photographs: Path, tmp_path: Path) -> None:
    checkpoints = {
        stage: train(stage, photographs, tmp_path / stage, small(stage, steps=1), quiet=True) for stage in ROLES
    }
    output = tmp_path / "own.safetensors"
    card = export(checkpoints, output, vgg=DEFAULT_VGG, notes="- trained on noise")
    assert "image2feature: 1 steps of 2 crops of 32 px" in card and card.endswith("- trained on noise\n")
    networks = weights.load(str(output))
    assert networks.card == card
    averaged = read_tensors(checkpoints["feature2image"])[0]["averaged.to_rgb.weight"]
    assert torch.equal(networks.feature2image.state_dict()["to_rgb.weight"], averaged.half().float())
    with pytest.raises(InpaintError, match="expected a checkpoint of image2feature, got one of feature2image; swap"):
        export(dict(zip(ROLES, reversed(checkpoints.values()), strict=True)), output, vgg=DEFAULT_VGG)
    with pytest.raises(InpaintError, match="the VGG-19 it was trained with"):
        export(checkpoints, output, vgg=checkpoints["image2feature"])


def test_training_begins_from_exported_weights(photographs: Path, tmp_path: Path) -> None:
    checkpoints = {
        stage: train(stage, photographs, tmp_path / stage, small(stage, steps=1), quiet=True) for stage in ROLES
    }
    file = tmp_path / "own.safetensors"
    export(checkpoints, file, vgg=DEFAULT_VGG)
    for stage, network in zip(ROLES, weights.load(str(file))[:2], strict=True):
        config = small(stage, init=str(file), steps=1, learning_rate=0.0)
        begun = train(stage, photographs, tmp_path / f"{stage} again", config, quiet=True)
        tensors, _ = read_tensors(begun)
        for name, value in network.state_dict().items():
            assert torch.equal(tensors[f"generator.{name}"], value) and torch.equal(tensors[f"averaged.{name}"], value)
    card = export({**checkpoints, "feature2image": begun}, file, vgg=DEFAULT_VGG)
    assert "feature2image: begun from own.safetensors, 1 steps of 2 crops" in card
    file.unlink()  # a run that goes on does not ask for it again
    train("feature2image", photographs, tmp_path / "feature2image again", config, quiet=True)
    other = small("feature2image", init="default")
    with pytest.raises(InpaintError, match=r"the network in the config, got Feature2ImageConfig\(features=256"):
        train("feature2image", photographs, tmp_path / "other", other, quiet=True)


def test_configs_have_names_and_files(tmp_path: Path) -> None:
    config = load_config("compact", "feature2image", steps=7, seed=None)
    assert config.steps == 7 and config.seed == 0
    (tmp_path / "own.toml").write_text("steps = 9\nzoom = [1.0, 1.5]\n[network]\nwidths = [8, 8]\n")
    own = load_config(str(tmp_path / "own.toml"), "feature2image")
    assert own.steps == 9 and own.zoom == (1.0, 1.5) and own.network == {"widths": (8, 8)}
    (tmp_path / "own.json").write_text(json.dumps(dataclasses.asdict(own)))
    assert load_config(str(tmp_path / "own.json"), "feature2image") == own
    for text in ("steps = ", "typo = 3"):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(InpaintError, match="bad.toml|'typo'"):
            load_config(str(tmp_path / "bad.toml"), "image2feature")
    with pytest.raises(InpaintError, match="compact, paper-256, paper-512 or a .toml"):
        load_config("unknown", "image2feature")
    with pytest.raises(InpaintError, match="got 'both'"):
        load_config("compact", "both")  # type: ignore[arg-type]
    assert from_dict(dataclasses.asdict(config)) == config


@pytest.mark.parametrize("coherence", [0.0, 0.3])
def test_feature2image_learns_from_coherent_copies(coherence: float) -> None:
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    hole = center(64, 64, 28).expand(2, -1, -1)
    vgg = load_vgg19(DEFAULT_VGG)
    objective = build_objective("feature2image", small("feature2image", coherence=coherence), vgg)
    seen = []
    objective.generator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    objective.paint(Batch(image, hole, 0))
    features = vgg(image, ("relu3_1",))["relu3_1"]
    assert torch.equal(seen[0], patchswap.swap(features, hole=feature_hole(hole), coherence=coherence))
    assert torch.equal(seen[0], patchswap.swap(features, hole=feature_hole(hole))) == (coherence == 0)


def test_the_configs_of_the_tree_are_read() -> None:
    files = sorted((Path(__file__).parents[2] / "configs").glob("*.toml"))
    assert len(files) == 5
    for file in files:
        stage = file.stem.rpartition("-")[0]
        assert load_config(str(file), stage).steps > 500  # type: ignore[arg-type]


def test_a_config_that_is_no_table_is_refused(tmp_path) -> None:
    path = tmp_path / "settings.json"
    path.write_text("[1, 2]")
    with pytest.raises(InpaintError, match="expected a TOML or JSON file of training settings; got a list"):
        load_config(str(path), "image2feature")
