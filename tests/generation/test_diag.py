from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_diffusion import save_flux2_klein, save_sd15, save_sd_inpaint, save_sdxl_inpaint

from diagline.config_generate import DiagConfig
from diagline.errors import DatasetError, GenerationError
from generation.diag import DiagPainter
from generation.diffusion import pipelines
from generation.painting import Job, Painted, Painter

pytestmark = pytest.mark.usefixtures("one_thread")
Models = dict[str, Path]
NEGATIVE = "smooth, plain, black, dark, shadow"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    root = tmp_path_factory.mktemp("models")
    makers = {"sdxl": save_sdxl_inpaint, "sd": save_sd_inpaint, "sd15": save_sd15, "klein": save_flux2_klein}
    return {name: make(root / name) for name, make in makers.items()}


@pytest.fixture(scope="module")
def sdxl(models: Models) -> DiagPainter:
    """Corrected, of the smallest size; one step keeps hypothesis quick."""
    return DiagPainter(small(models["sdxl"], steps=1, strength=1.0, size_px=16, padding_px=3, batch_size=3))


def small(model: Path, **changes: Any) -> DiagConfig:
    base = DiagConfig(
        model=str(model), steps=3, guidance=5.0, size_px=32, padding_px=4, batch_size=4, precision="fp32", device="cpu"
    )
    return replace(base, **changes)


def job(seed: int = 0, height_px: int = 79, width_px: int = 28, **changes: Any) -> Job:
    """A picture of KolektorSDD2's proportions with a slanted line for a mask."""
    rng = np.random.default_rng(seed)
    normal = rng.integers(90, 160, (height_px, width_px, 3), np.uint8)
    mask = np.zeros((height_px, width_px), np.uint8)
    top = int(rng.integers(0, height_px // 2))
    cv2.line(mask, (width_px // 4, top), (width_px // 2, top + height_px // 3), 255, 1 + seed % 3)
    return replace(Job(normal, mask, (7, seed), "white crack", NEGATIVE), **changes)


def changed(painted: Painted, asked: Job) -> np.ndarray:
    return (painted.image_bgr != asked.normal_bgr).any(axis=2)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    height_px=st.integers(3, 100),
    width_px=st.integers(3, 100),
    seed=st.integers(0, 2**31),
    form=st.sampled_from(["pixel", "row", "column", "line", "box", "speckle", "all"]),
    grey=st.booleans(),
)
def test_outside_the_mask_every_bit_is_the_normals_and_inside_it_is_painted(
    sdxl: DiagPainter, height_px: int, width_px: int, seed: int, form: str, grey: bool
) -> None:
    rng = np.random.default_rng(seed)
    normal = rng.integers(0, 256, (height_px, width_px, 3), np.uint8)
    if grey:
        normal = np.full_like(normal, 128)
    mask = np.zeros((height_px, width_px), np.uint8)
    y, x = int(rng.integers(height_px)), int(rng.integers(width_px))
    match form:
        case "pixel":
            mask[y, x] = 255
        case "row":
            mask[y] = 255
        case "column":
            mask[:, x] = 255
        case "line":
            cv2.line(mask, (x, y), (int(rng.integers(width_px)), int(rng.integers(height_px))), 255, 1)
        case "box":
            mask[y:, x:] = 255
        case "speckle":
            mask[rng.random(mask.shape) < 0.02] = 255
            mask[y, x] = 255
        case "all":
            mask[:] = 255
    asked = Job(normal, mask, (seed,), "white crack", "")
    before = normal.copy()
    (painted,) = sdxl.paint([asked])
    assert painted.image_bgr.shape == normal.shape and painted.image_bgr.dtype == np.uint8
    assert painted.mask is not None and np.array_equal(painted.mask, mask)
    assert np.array_equal(normal, before)
    assert np.array_equal(painted.image_bgr[mask == 0], normal[mask == 0])
    if mask.astype(bool).sum() > 3:  # random weights may hit a single pixel's colour by chance
        assert changed(painted, asked)[mask > 0].mean() > 0.5


@pytest.mark.parametrize("model", ["sdxl", "sd", "sd15", "klein"])
def test_every_kind_of_pipeline_paints_through_the_same_painter(models: Models, model: str) -> None:
    painter: Painter = DiagPainter(small(models[model], steps=2))
    assert painter.name == "diag" and painter.batch_size == 4 and painter.keeps_outside
    jobs = [job(0), job(1, 40, 90), job(2, 52, 52, negative_prompt=""), job(3, prompt="copper")]
    for asked, painted in zip(jobs, painter.paint(jobs), strict=True):
        assert asked.mask is not None
        where = changed(painted, asked)
        assert not where[asked.mask == 0].any() and where[asked.mask > 0].mean() > 0.8
    facts = painter.facts()
    twin = {"sd": "StableDiffusionInpaintPipeline", "klein": "Flux2KleinInpaintPipeline"}
    twin |= {"sd15": twin["sd"], "sdxl": "StableDiffusionXLInpaintPipeline"}
    assert facts["pipeline"] == twin[model]


@pytest.mark.parametrize("model", ["sdxl", "klein"])
def test_a_picture_depends_on_its_place_and_batch_size_and_not_on_its_neighbours(models: Models, model: str) -> None:
    painter = DiagPainter(small(models[model], steps=2))
    jobs = [job(0), job(1, 40, 90), job(2, negative_prompt=""), job(3, prompt="copper metal"), job(4)]
    painted = painter.paint(jobs)
    assert [each.facts["batch"] for each in painted] == [{"size": 4, "place": place} for place in range(4)] + [
        {"size": 1, "place": 0}
    ]
    for asked, first in zip(jobs, painted, strict=True):
        size, place = first.facts["batch"]["size"], first.facts["batch"]["place"]
        again = painter.paint([asked] * size)[place]
        assert np.array_equal(again.image_bgr, first.image_bgr) and again.facts == first.facts


def test_equal_streams_paint_equally_and_others_do_not(sdxl: DiagPainter) -> None:
    first, again, other = sdxl.paint([job(1), job(1), job(1, stream=(8, 1))])
    assert np.array_equal(first.image_bgr, again.image_bgr)
    assert not np.array_equal(first.image_bgr, other.image_bgr)
    assert first.facts["seed"] == again.facts["seed"] == pipelines.seed_of((7, 1)) != other.facts["seed"]


def test_words_change_what_is_painted(models: Models) -> None:
    painter = DiagPainter(small(models["sdxl"], guidance=20.0))
    painted = painter.paint([job(1), job(1, prompt="zzz"), job(1, negative_prompt="q"), job(1, negative_prompt="")])
    assert len({each.image_bgr.tobytes() for each in painted}) == 4


def test_the_pipeline_sees_the_defect_enlarged_with_its_aspect_and_every_thin_mask(models: Models) -> None:
    painter = DiagPainter(small(models["sdxl"], steps=1, strength=1.0, size_px=64))
    seen: dict[str, Any] = {}
    call = type(painter._pipeline).__call__

    class Watched(type(painter._pipeline)):  # type: ignore[misc]
        def __call__(self, *arguments: Any, **named: Any) -> Any:
            seen.update(named)
            return call(self, *arguments, **named)

    painter._pipeline.__class__ = Watched
    asked = job(3)
    mask = np.zeros_like(asked.mask)
    mask[20:40, 11] = 255
    (painted,) = painter.paint([replace(asked, mask=mask)])
    assert painted.facts["crop"] == {"left": 0, "top": 16, "side": 28}
    square = np.asarray(seen["image"][0])[:, :, ::-1]
    expected = cv2.resize(asked.normal_bgr[16:44], (64, 64), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(square, expected)
    columns = np.nonzero(np.asarray(seen["mask_image"][0]).any(axis=0))[0]
    assert columns.min() <= 11.5 * 64 / 28 <= columns.max() and np.ptp(columns) < 16
    latents: list[torch.Tensor] = []
    hook = painter._pipeline.unet.register_forward_pre_hook(lambda unet, arguments: latents.append(arguments[0]))
    painter.paint([replace(asked, mask=mask)])
    hook.remove()
    assert set(latents[0][:, 4].unique().tolist()) == {0.0, 1.0}  # the mask's channel


def test_the_feather_fades_inside_only(models: Models) -> None:
    asked = job(1, 60, 60)
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 15:45] = 255
    mask[30, 2:15] = 255
    asked = replace(asked, mask=mask, normal_bgr=np.full((60, 60, 3), 128, np.uint8))
    hard, soft = (
        DiagPainter(small(models["sdxl"], feather_px=feather_px)).paint([asked])[0].image_bgr.astype(float)
        for feather_px in (0.0, 6.0)
    )
    assert (soft[mask == 0] == 128).all() and (hard[mask == 0] == 128).all()
    assert np.array_equal(soft[20:40, 22:38], hard[20:40, 22:38])  # deeper than 6 px
    assert np.array_equal(soft[30, 2:8], hard[30, 2:8])  # one pixel wide
    assert np.allclose(soft[10, 20:40] - 128, (hard[10, 20:40] - 128) / 6, atol=0.51)


def test_a_pair_of_texts_is_encoded_once(models: Models) -> None:
    painter = DiagPainter(small(models["sdxl"], steps=1, strength=1.0))
    runs: list[str] = []
    for name in ("text_encoder", "text_encoder_2"):
        encoder = getattr(painter._pipeline, name)
        encoder.register_forward_pre_hook(lambda module, arguments, name=name: runs.append(name))
    painter.paint([job(0), job(1), job(2)])
    assert runs == ["text_encoder", "text_encoder_2"] * 2  # the prompt and the negative prompt
    painter.paint([job(3), job(4)])
    assert len(runs) == 4
    painter.paint([job(3, prompt="copper"), job(4)])
    assert len(runs) == 8


def test_a_pipeline_that_must_read_the_words_itself_paints_the_same_in_the_same_order(models: Models) -> None:
    jobs = [job(0), job(1, negative_prompt=""), job(2), job(3, negative_prompt=""), job(4)]
    painter = DiagPainter(small(models["sdxl"]))
    encoded = painter.paint(jobs)
    painter._words._encodes.clear()  # as a class whose encode_prompt is of another form
    painter._words._known.clear()
    plain = painter.paint(jobs)
    assert [each.facts["batch"] for each in plain] == [
        {"size": size, "place": place} for size, place in ((3, 0), (2, 0), (3, 1), (2, 1), (3, 2))
    ]
    for asked, first, second in zip(jobs, encoded, plain, strict=True):
        assert first.facts["seed"] == second.facts["seed"]
        difference = first.image_bgr.astype(int) - second.image_bgr
        assert np.abs(difference).max() <= 1 and changed(second, asked).any()


def papers_way(
    pipeline: Any, asked: Job, size_px: int, resize: tuple[int, int] | None, told: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The authors' steps, written out."""
    normal, mask = asked.normal_bgr, asked.mask
    assert mask is not None
    if resize is not None:
        normal, mask = cv2.resize(normal, resize), cv2.resize(mask, resize)
    picture = Image.fromarray(cv2.cvtColor(normal, cv2.COLOR_BGR2RGB))
    mask_picture = Image.fromarray(cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB))
    square_mask = mask_picture.resize((size_px, size_px))  # Pillow's default for RGB is bicubic
    made = pipeline(
        prompt=asked.prompt,
        negative_prompt=asked.negative_prompt,
        image=picture.resize((size_px, size_px)),
        mask_image=square_mask,
        guidance_scale=20.0,
        num_inference_steps=3,
        strength=0.99,
        generator=torch.Generator().manual_seed(pipelines.seed_of(asked.stream)),
        height=size_px,
        width=size_px,
        padding_mask_crop=2,
        **told,
    ).images[0]
    back = np.asarray(made.resize(picture.size))
    saved = np.asarray(square_mask.resize(picture.size))[:, :, 0]
    return cv2.cvtColor(back, cv2.COLOR_RGB2BGR), np.where(saved > 127, 255, 0)


@pytest.mark.parametrize("resize", [None, (22, 63)])
@pytest.mark.parametrize("model", ["sdxl", "sd"])
def test_the_papers_paste_is_its_call_of_the_pipeline_bit_for_bit(
    models: Models, model: str, resize: tuple[int, int] | None
) -> None:
    width_px, height_px = resize or (0, 0)
    config = small(models[model], paste="pipeline", guidance=20.0, padding_px=2, size_px=64)
    config = replace(config, resize_width_px=width_px, resize_height_px=height_px)
    painter = DiagPainter(config)
    assert painter.batch_size == 1 and not painter.keeps_outside
    kind = {"sdxl": diffusers.StableDiffusionXLInpaintPipeline, "sd": diffusers.StableDiffusionInpaintPipeline}[model]
    pipeline = kind.from_pretrained(models[model], local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    told = {"original_size": (64, 64), "target_size": (64, 64)} if model == "sdxl" else {}
    jobs = [job(2), job(4, prompt="copper metal scratches")]
    for asked, painted in zip(jobs, painter.paint(jobs), strict=True):
        image, mask = papers_way(pipeline, asked, 64, resize, told)
        assert np.array_equal(painted.image_bgr, image)
        assert painted.mask is not None and np.array_equal(painted.mask, mask) and mask.any()
        assert painted.facts["batch"] == {"size": 1, "place": 0}


def test_resized_first_the_rest_of_the_picture_is_the_resized_normal(models: Models) -> None:
    painter = DiagPainter(small(models["sdxl"], resize_width_px=14, resize_height_px=40))
    assert not painter.keeps_outside
    asked = job(0)  # its mask is one pixel wide
    (painted,) = painter.paint([asked])
    assert painted.image_bgr.shape == (40, 14, 3) and painted.mask is not None and painted.mask.any()
    resized = cv2.resize(asked.normal_bgr, (14, 40), interpolation=cv2.INTER_AREA)
    assert np.array_equal(painted.image_bgr[painted.mask == 0], resized[painted.mask == 0])


def test_the_record_builds_the_painter_again(models: Models) -> None:
    config = small(models["sdxl"], guidance=7.0)
    painter = DiagPainter(config)
    facts = json.loads(json.dumps(painter.facts()))
    assert facts["settings"] == asdict(config) and facts["model"] == str(models["sdxl"])
    assert facts["revision"] == pipelines.locate(str(models["sdxl"]), "key")[1]
    assert (facts["method"], facts["precision"], facts["device"]) == ("diag", "fp32", "cpu")
    assert facts["versions"] == pipelines.versions()
    again = DiagPainter(DiagConfig(**facts["settings"]))
    (first,), (second,) = painter.paint([job(1)]), again.paint([job(1)])
    assert np.array_equal(first.image_bgr, second.image_bgr) and first.facts == second.facts
    json.dumps(first.facts)


def test_jobs_that_cannot_be_painted_are_refused(sdxl: DiagPainter) -> None:
    with pytest.raises(ValueError, match="without a mask"):
        sdxl.paint([job(0, mask=None)])
    with pytest.raises(DatasetError, match="mask is 5x4, its picture 28x79"):
        sdxl.paint([job(0), job(0, mask=np.full((4, 5), 255, np.uint8))])
    with pytest.raises(DatasetError, match="mask is empty"):
        sdxl.paint([job(0, mask=np.zeros((79, 28), np.uint8))])


def test_words_that_are_not_read_are_refused_before_anything_is_painted(models: Models, tmp_path: Path) -> None:
    painter = DiagPainter(small(models["sdxl"]))
    painter._pipeline.unet.forward = None  # nothing may reach it
    with pytest.raises(GenerationError, match="it would cut 'qqqq'"):
        painter.paint([job(0), job(1, prompt="a" * 75 + "qqqq")])
    with pytest.raises(GenerationError, match=r"negative prompt .*it would cut 'qqqq'"):
        painter.check_words("white crack", "a" * 75 + "qqqq")
    weak = DiagPainter(small(models["sdxl"], guidance=1.0))
    with pytest.raises(GenerationError, match=r"does not read one .*guidance above 1"):
        weak.paint([job(0)])
    distilled = save_flux2_klein(tmp_path / "distilled", is_distilled=True)
    with pytest.raises(GenerationError, match=r"guidance = 5\.0: .* distilled .* set generate\.diag\.guidance = 1\.0"):
        DiagPainter(small(distilled))
    painter = DiagPainter(small(distilled, guidance=1.0))
    with pytest.raises(GenerationError, match="Flux2KleinInpaintPipeline does not read one"):
        painter.paint([job(0)])
    (painted,) = painter.paint([job(0, negative_prompt="")])
    assert changed(painted, job(0)).any()


def test_running_out_of_memory_names_the_next_setting_and_the_painter_goes_on(models: Models) -> None:
    painter = DiagPainter(small(models["sdxl"]))
    whole = painter._pipeline.unet.forward

    def too_large(*arguments: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    painter._pipeline.unet.forward = too_large
    with pytest.raises(GenerationError, match=r"out of GPU memory .*20\.00 GiB.* set generate\.diag\.batch_size = 1"):
        painter.paint([job(0), job(1)])
    painter._pipeline.unet.forward = whole
    assert changed(painter.paint([job(0)])[0], job(0)).any()


@pytest.mark.parametrize("paste", ["masked", "pipeline"])
def test_nan_is_an_error_and_never_a_black_picture(models: Models, paste: str) -> None:
    painter = DiagPainter(small(models["sdxl"], paste=paste))
    with torch.no_grad():
        painter._pipeline.vae.decoder.conv_out.weight.fill_(float("nan"))
    with pytest.raises(GenerationError, match=r"painted NaN in fp32.*generate\.diag\.precision"):
        painter.paint([job(0)])


def test_a_model_that_its_class_refuses_is_said_in_one_line(models: Models) -> None:
    painter = DiagPainter(small(models["sdxl"]))
    painter._pipeline.unet.register_to_config(in_channels=7)
    with pytest.raises(GenerationError, match=r"StableDiffusionXLInpaintPipeline refuses it .*channels.*--model PATH"):
        painter.paint([job(0)])


def named(folder: Path, target: Path, name: str) -> Path:
    """A copy of a model folder that calls its pipeline `name`."""
    shutil.copytree(folder, target)
    index = json.loads((target / "model_index.json").read_text())
    (target / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    return target


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("StableVideoDiffusionPipeline", "StableVideoDiffusionPipeline has no inpainting twin in diffusers"),
        ("MyOwnPipeline", "MyOwnPipeline is not a class in diffusers"),
        ("StableDiffusionControlNetInpaintPipeline", "controlnet"),
        ("KandinskyV22InpaintPipeline", "also needs image_embeds"),
    ],
)
def test_a_model_that_cannot_inpaint_is_refused(models: Models, tmp_path: Path, name: str, says: str) -> None:
    folder = named(models["sd"], tmp_path / "model", name)
    with pytest.raises(GenerationError, match=says) as raised:
        DiagPainter(small(folder))
    assert str(raised.value).startswith(str(folder)) and "--model PATH" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"size_px": 36}, r"size_px = 36: .* steps of 8 px; .* set generate\.diag\.size_px = 32"),
        ({"steps": 1, "strength": 0.9}, r"steps = 1 with strength = 0\.9: .* set generate\.diag\.steps = 2"),
        ({"device": "cuda"}, "no CUDA GPU"),
        ({"model": "somebody/something"}, "hf download somebody/something"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(
    models: Models, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GenerationError, match=says):
        DiagPainter(replace(small(models["sdxl"]), **changes))


def test_half_precision_and_low_memory_paint_on_the_processor_too(models: Models) -> None:
    for changes in ({"precision": "bf16"}, {"memory": "low"}, {"precision": "fp16"}):
        painter = DiagPainter(small(models["sdxl"], **changes))
        (painted,) = painter.paint([job(1)])
        where = changed(painted, job(1))
        assert where.any() and not where[job(1).mask == 0].any()


def test_a_grey_picture_stays_grey_and_a_coloured_one_does_not(sdxl: DiagPainter) -> None:
    asked = job(40, 40, 3)
    grey = replace(asked, normal_bgr=np.repeat(asked.normal_bgr[:, :, :1], 3, axis=2))
    painted, coloured = sdxl.paint([grey, asked])
    assert changed(painted, grey).any() and (painted.image_bgr == painted.image_bgr[:, :, :1]).all()
    inside = coloured.image_bgr[coloured.mask > 0]
    assert (inside != inside[:, :1]).any()
