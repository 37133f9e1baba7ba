from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from tiny_diffusion import save_sd_inpaint

from diagline.config_generate import InAndOutConfig, TuneConfig
from diagline.errors import DatasetError, GenerationError
from generation import painters
from generation.diffusion import pipelines
from generation.in_and_out import InAndOutPainter, adapters
from generation.memseg import MemSegPainter, MemSegSettings
from generation.painting import Job, Painted, Painter

SMALL = TuneConfig(rank=3, alpha=2, conv_rank=2, conv_alpha=1)


def small(model: Path, /, **changes: Any) -> InAndOutConfig:
    base = InAndOutConfig(
        model=str(model), in_share=1.0, steps=2, guidance=5.0, size_px=16, batch_size=3, precision="fp32", device="cpu"
    )
    return replace(base, **changes)


def job(seed: int = 0, height_px: int = 63, width_px: int = 23, **changes: Any) -> Job:
    normal = np.random.default_rng(seed).integers(90, 160, (height_px, width_px, 3), np.uint8)
    return replace(Job(normal, None, (7, seed), "white crack", "smooth"), **changes)


def same(one: Painted, other: Painted) -> bool:
    masks = (one.mask is None) == (other.mask is None) and (one.mask is None or np.array_equal(one.mask, other.mask))
    return masks and np.array_equal(one.image_bgr, other.image_bgr)


@pytest.fixture(scope="module")
def painter(model: Path) -> InAndOutPainter:
    return InAndOutPainter(small(model))


@pytest.fixture(scope="module")
def mixed(model: Path) -> InAndOutPainter:
    return InAndOutPainter(small(model, in_share=0.5))


@pytest.fixture(scope="module")
def lora(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters with random values, as a tuning run leaves them."""
    unet = StableDiffusionPipeline.from_pretrained(model).unet
    adapters.add(unet, SMALL, 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapters.restore(unet, {name: torch.randn_like(value) for name, value in adapters.state(unet).items()})
    folder = tmp_path_factory.mktemp("tuned")
    adapters.save(unet, folder / "lora")
    return folder


def test_an_in_picture_is_the_pipelines_own_by_ddim_at_the_normals_size(model: Path, painter: InAndOutPainter) -> None:
    typed: Painter = painter
    assert typed.name == "in_and_out" and typed.batch_size == 3 and not typed.keeps_outside
    asked = job(1, 16, 16)
    (painted,) = painter.paint([asked])
    from diffusers import DDIMScheduler

    plain = StableDiffusionPipeline.from_pretrained(model)
    plain.scheduler = DDIMScheduler.from_config(plain.scheduler.config, clip_sample=False)
    wanted = plain(
        "white crack", negative_prompt="smooth", height=16, width=16, num_inference_steps=2, guidance_scale=5.0,
        generator=pipelines.generator(asked.stream),
    ).images[0]  # fmt: skip
    assert np.array_equal(painted.image_bgr, np.asarray(wanted)[:, :, ::-1])
    assert painted.mask is None and painted.facts["part"] == "in"
    for height_px, width_px in ((63, 23), (10, 90), (3, 2)):
        (painted,) = painter.paint([job(1, height_px, width_px)])
        assert painted.image_bgr.shape == (height_px, width_px, 3) and painted.image_bgr.dtype == np.uint8


def test_a_job_repeated_at_every_place_of_its_call_is_painted_again_bit_for_bit(mixed: InAndOutPainter) -> None:
    jobs = [job(seed, 30 + seed, 20, prompt="white crack" * (1 + seed % 2)) for seed in range(9)]
    sizes: list[int] = []
    unet = mixed._sampler._pipeline.unet
    watch = unet.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]) // 2))  # guided: each twice
    made = mixed.paint(jobs)
    watch.remove()
    calls = sizes[::2]  # 2 steps a call
    assert len(calls) > 1 and max(calls) == mixed.batch_size and min(calls) < max(calls), "whole calls and a rest"
    # On the processor a batch's size may change no bit, so the record is compared with the calls themselves.
    shared = [painted.facts["batch"] for painted in made if painted.facts["part"] == "in"]
    assert shared == [{"size": size, "place": place} for size in calls for place in range(size)]
    for asked, painted in zip(jobs, made, strict=True):
        size, place = painted.facts["batch"]["size"], painted.facts["batch"]["place"]
        assert size <= mixed.batch_size
        again = mixed.paint([asked] * size)[place]
        assert same(again, painted) and again.facts == painted.facts
        json.dumps(painted.facts)


def test_a_picture_says_how_many_shared_its_call_and_its_place_there(model: Path, mixed: InAndOutPainter) -> None:
    jobs = [job(seed, 16, 16) for seed in range(12)]
    painted = mixed.paint(jobs)
    within = [each.facts["batch"] for each in painted if each.facts["part"] == "in"]
    whole, rest = divmod(len(within), 3)
    sizes = [3] * whole * 3 + [rest] * rest
    assert within == [{"size": size, "place": place % 3} for place, size in enumerate(sizes)] and len(within) > 3
    assert all(each.facts["batch"] == {"size": 1, "place": 0} for each in painted if each.facts["part"] == "out")


def test_the_part_is_drawn_from_the_stream_alone(model: Path, mixed: InAndOutPainter) -> None:
    jobs = [job(seed, 16, 16) for seed in range(24)]
    parts = [painted.facts["part"] for painted in mixed.paint(jobs)]
    assert min(Counter(parts).values()) >= 6 and len(set(parts)) == 2
    assert parts == [mixed.paint([each])[0].facts["part"] for each in jobs]
    assert parts[::-1] == [painted.facts["part"] for painted in mixed.paint(jobs[::-1])]
    more = mixed.adjusted(small(model, in_share=0.8))
    for before, after in zip(parts, more.paint(jobs), strict=True):
        assert after.facts["part"] == "in" or before == "out", "a larger share keeps the in pictures"
    for share, part in ((0.0, "out"), (1.0, "in")):
        painter = mixed.adjusted(small(model, in_share=share))
        assert {painted.facts["part"] for painted in painter.paint(jobs)} == {part}


def test_out_pictures_are_memsegs_and_outside_the_mask_the_normals_bit_for_bit(
    model: Path, mixed: InAndOutPainter
) -> None:
    painter = mixed.adjusted(small(model, in_share=0.0))
    mask = np.zeros((63, 23), np.uint8)
    mask[20:30, 5:9] = 255
    jobs = [job(1), job(2), job(3, mask=mask)]
    for asked, painted, wanted in zip(
        jobs, painter.paint(jobs), MemSegPainter(MemSegSettings()).paint(jobs), strict=True
    ):
        assert same(painted, wanted) and painted.mask is not None
        assert np.array_equal(painted.image_bgr[painted.mask == 0], asked.normal_bgr[painted.mask == 0])
    assert np.array_equal(painter.paint(jobs)[2].mask, mask)
    with pytest.raises(DatasetError, match="mask"):
        painter.paint([job(1, mask=np.zeros((63, 23), np.uint8))])


def test_words_are_what_is_painted_and_each_is_encoded_once(model: Path) -> None:
    painter = InAndOutPainter(small(model))
    calls = []
    encoder = painter._sampler._pipeline.text_encoder
    encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    first, other = painter.paint([job(1), job(1, prompt="copper")])
    assert not same(first, other)
    once = len(calls)
    painter.paint([job(1), job(2), job(1, prompt="copper")])
    assert len(calls) == once > 0


def test_a_grey_picture_stays_grey_and_a_coloured_one_does_not(painter: InAndOutPainter) -> None:
    asked = job(3)
    grey = replace(asked, normal_bgr=np.repeat(asked.normal_bgr[:, :, :1], 3, axis=2))
    first, second = painter.paint([grey, asked])
    assert (first.image_bgr == first.image_bgr[:, :, :1]).all()
    assert (second.image_bgr != second.image_bgr[:, :, :1]).any()


def test_words_that_are_not_read_are_refused_before_anything_is_painted(model: Path, mixed: InAndOutPainter) -> None:
    painter = InAndOutPainter(small(model))
    painter._sampler._pipeline.unet.forward = None  # nothing may reach it
    with pytest.raises(GenerationError, match="it would cut 'qqqq'"):
        painter.paint([job(seed) for seed in range(4)] + [job(9, prompt="a" * 75 + "qqqq")])
    with pytest.raises(GenerationError, match=r"negative prompt .*it would cut 'qqqq'"):
        painter.check_words("white crack", "a" * 75 + "qqqq")


def test_adapters_change_the_sample_and_are_scaled_as_they_were_tuned(model: Path, lora: Path) -> None:
    """The weights file alone must hold ranks and scales: diffusers' own loading of it is the measure."""
    from diffusers import DDIMScheduler
    from peft.tuners.lora import LoraLayer

    asked = job(1, 16, 16)
    (plain,) = InAndOutPainter(small(model)).paint([asked])
    tuned = InAndOutPainter(small(model), lora)
    (painted,) = tuned.paint([asked])
    assert not same(plain, painted)
    theirs = StableDiffusionPipeline.from_pretrained(model)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config, clip_sample=False)
    theirs.load_lora_weights(lora / "lora", weight_name=adapters.WEIGHTS)
    linear, convolutions = adapters.layers(StableDiffusionPipeline.from_pretrained(model).unet)
    scales = {
        name: (layer.r, layer.scaling) for name, layer in theirs.unet.named_modules() if isinstance(layer, LoraLayer)
    }
    assert scales.keys() == {*linear, *convolutions} and min(len(linear), len(convolutions)) > 10
    for names, rank, alpha in ((linear, 3, 2), (convolutions, 2, 1)):
        for name in names:
            assert [*scales[name][0].values()] == [rank] and [*scales[name][1].values()] == [alpha / rank]
    wanted = np.asarray(
        theirs(
            "white crack", negative_prompt="smooth", height=16, width=16, num_inference_steps=2, guidance_scale=5.0,
            generator=pipelines.generator(asked.stream),
        ).images[0]
    )[:, :, ::-1]  # fmt: skip
    assert np.abs(painted.image_bgr.astype(int) - wanted).max() <= 1, "merged weights differ by rounding alone"
    facts = tuned.facts()
    assert facts["lora"]["folder"] == str(lora) and len(facts["lora"]["sha256"]) == 64 and "peft" in facts["versions"]
    again = painters.rebuild(json.loads(json.dumps(facts)))
    assert same(again.paint([asked])[0], painted) and again.facts() == facts


def test_a_painter_is_built_again_from_its_facts(model: Path) -> None:
    painter = InAndOutPainter(small(model, in_share=0.5), out=MemSegSettings(foreground="otsu", opacity_low=0.4))
    facts = json.loads(json.dumps(painter.facts()))
    assert (facts["method"], facts["lora"], facts["precision"], facts["device"]) == ("in_and_out", None, "fp32", "cpu")
    again = painters.rebuild(facts)
    assert again.facts() == painter.facts()
    jobs = [job(seed) for seed in range(6)]
    assert all(map(same, painter.paint(jobs), again.paint(jobs)))


def damaged(lora: Path, target: Path, what: str) -> Path:
    shutil.copytree(lora, target)
    weights = target / "lora" / adapters.WEIGHTS
    if what == "missing":
        weights.unlink()
    elif what == "unfinished":
        weights.unlink()
        (target / adapters.PLAN).write_text("{}")
    elif what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "other model":
        (target / adapters.RESULT).write_text(json.dumps({"plan": {"revision": "0123abc"}}))
    elif what == "no record":
        (target / adapters.RESULT).write_text("{")
    return target


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("missing", r"no pytorch_lora_weights\.safetensors there; make it with: \S+ tune CONFIG"),
        ("unfinished", r"holds an unfinished run; finish it with: \S+ tune CONFIG"),
        ("truncated", "does not load as adapters"),
        ("other model", "tuned on model revision 0123abc, this model is sampled-sha256"),
        ("no record", r"tune\.json: cannot be read"),
    ],
)
def test_adapters_that_cannot_be_used_are_never_left_out_in_silence(
    model: Path, lora: Path, tmp_path: Path, what: str, says: str
) -> None:
    with pytest.raises(GenerationError, match=says) as raised:
        InAndOutPainter(small(model), damaged(lora, tmp_path / "tuned", what))
    assert str(tmp_path / "tuned") in str(raised.value)


@pytest.mark.parametrize("other", ["unet.elsewhere", "transformer.down_blocks"])
def test_adapters_of_another_network_are_refused(model: Path, lora: Path, tmp_path: Path, other: str) -> None:
    from safetensors.torch import load_file, save_file

    held = load_file(lora / "lora" / adapters.WEIGHTS)
    moved = {name.replace("unet.down_blocks", other): value for name, value in held.items()}
    save_file(moved, tmp_path / adapters.WEIGHTS)
    with pytest.raises(GenerationError, match="expected adapters of this model; tune again"):
        InAndOutPainter(small(model), tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size_px": 20}, r"size_px = 20: .* steps of 8 px; .* set generate\.in_and_out\.size_px = 16"),
        ({"device": "cuda"}, r"generate\.in_and_out\.device = 'cuda'.*no CUDA GPU"),
        ({"model": "somebody/something"}, "hf download somebody/something"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(
    model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GenerationError, match=says):
        InAndOutPainter(small(model, **changes))


def test_a_model_for_another_task_is_refused(tmp_path: Path) -> None:
    folder = save_sd_inpaint(tmp_path / "inpaint")
    with pytest.raises(GenerationError, match=r"StableDiffusionInpaintPipeline; expected StableDiffusionPipeline"):
        InAndOutPainter(small(folder))


def test_half_precision_and_low_memory_paint_on_the_processor_too(model: Path) -> None:
    for changes in ({"precision": "bf16"}, {"memory": "low"}, {"precision": "fp16"}):
        (painted,) = InAndOutPainter(small(model, **changes)).paint([job(1)])
        assert painted.image_bgr.std() > 0


def test_nan_is_an_error_and_never_a_black_picture(model: Path) -> None:
    painter = InAndOutPainter(small(model))
    with torch.no_grad():
        painter._sampler._pipeline.vae.decoder.conv_out.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match=r"painted NaN in fp32.*generate\.in_and_out\.precision"):
        painter.paint([job(0)])
