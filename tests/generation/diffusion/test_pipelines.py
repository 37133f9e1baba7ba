from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_diffusion import save_flux2_klein, save_sd15, save_sdxl_inpaint

from diagline.config_generate import DiagConfig, InAndOutConfig
from diagline.errors import GenerationError
from generation.diffusion import pipelines
from generation.diffusion.prompts import Words

SDXL = "diffusers/stable-diffusion-xl-1.0-inpainting-0.1"
pytestmark = pytest.mark.usefixtures("one_thread")
INPAINT = diffusers.StableDiffusionXLInpaintPipeline
CONFIG = DiagConfig(precision="fp32")


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sdxl_inpaint(tmp_path_factory.mktemp("models") / "sdxl")


@pytest.fixture
def broken(sdxl: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sdxl, tmp_path / "broken"))


def load(folder: Path, config: DiagConfig = CONFIG, kind: type = INPAINT) -> diffusers.DiffusionPipeline:
    found = pipelines.survey(folder)
    return pipelines.load(found, kind, pipelines.place(config, found), config)


def test_a_local_folder_is_found_and_its_revision_follows_its_content(sdxl: Path, broken: Path) -> None:
    folder, revision = pipelines.locate(str(sdxl), "generate.diag.model")
    assert folder == sdxl and revision.startswith("sampled-sha256:")
    assert pipelines.locate(str(broken), "generate.diag.model")[1] == revision  # the place does not count
    weights = broken / "unet/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    assert len(data) > 3 * (1 << 16)
    data[-5] ^= 1
    weights.write_bytes(data)
    assert pipelines.locate(str(broken), "generate.diag.model")[1] != revision


def cached(cache: Path, model: str, folder: Path, commit: str = "0" * 39 + "7") -> Path:
    """Lay `folder` out as the hub's cache does."""
    home = cache / f"models--{model.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs/main").write_text(commit)
    return Path(shutil.copytree(folder, home / "snapshots" / commit))


def test_a_hub_id_is_found_in_the_cache_with_its_commit(
    sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = cached(tmp_path, SDXL, sdxl)
    assert pipelines.locate(SDXL, "generate.diag.model") == (snapshot, "0" * 39 + "7")
    (snapshot / "vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(GenerationError, match=rf"vae: no weights; .*get it again with: hf download {SDXL}"):
        pipelines.locate(SDXL, "generate.diag.model")


@pytest.mark.parametrize(
    ("model", "about"),
    [
        (SDXL, r"about 7 GB in fp16, licence CreativeML OpenRAIL\+\+-M"),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "about 3 GB in fp16, licence CreativeML OpenRAIL-M"),
        ("black-forest-labs/FLUX.2-klein-4B", "about 16 GB in bf16, licence Apache-2.0"),
        ("somebody/something", "its size and licence stand on its hub page"),
    ],
)
def test_a_model_that_is_not_here_is_named_with_size_licence_and_how_to_get_it(
    model: str, about: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(GenerationError, match=about) as raised:
        pipelines.locate(model, "generate.diag.model")
    text = str(raised.value)
    assert "\n" not in text and f"hf download {model}" in text and "--model PATH" in text
    assert text.startswith(f"generate.diag.model = {model!r}")


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "models/of/mine", "~/nowhere"])
def test_a_path_that_leads_nowhere_is_not_taken_for_a_hub_id(model: str) -> None:
    with pytest.raises(GenerationError, match="no such folder"):
        pipelines.locate(model, "generate.diag.model")


def edit(name: str, change: Callable[[Path], object]) -> Callable[[Path], None]:
    return lambda folder: (change(folder / name), None)[1]


def drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    del tensors[sorted(tensors)[3]]
    save_file(tensors, path, metadata={"format": "pt"})


def reshape_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    name = sorted(tensors)[3]
    save_file(tensors | {name: torch.cat([tensors[name]] * 2)}, path, metadata={"format": "pt"})


UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (edit("model_index.json", Path.unlink), "model_index.json: not found"),
        (edit("model_index.json", lambda path: path.write_text("{")), "model_index.json: cannot be read"),
        (edit("model_index.json", lambda path: path.write_text("[]")), "model_index.json: holds a list"),
        (edit("model_index.json", lambda path: path.write_text("{}")), "model_index.json: names no pipeline"),
        (edit("unet", shutil.rmtree), "unet/config.json: not found"),
        (edit("vae/config.json", lambda path: path.write_bytes(b"\xff\xfe")), "vae/config.json: cannot be read"),
        (edit("scheduler/scheduler_config.json", Path.unlink), "scheduler/scheduler_config.json: not found"),
        (edit("tokenizer_2/tokenizer.json", Path.unlink), "tokenizer_2: no vocabulary"),
        (edit(VAE, Path.unlink), "vae: no weights"),
        (edit(UNET, lambda path: path.write_bytes(path.read_bytes()[:-1])), f"{UNET}: [0-9]+ bytes; expected [0-9]+"),
        (edit(UNET, lambda path: path.write_bytes(path.read_bytes()[:50])), f"{UNET}: not a safetensors file"),
        (edit(UNET, lambda path: path.write_bytes(b"")), f"{UNET}: not a safetensors file"),
        (edit(UNET, lambda path: path.write_text("<html>" * 99)), f"{UNET}: not a safetensors file"),
        (edit("text_encoder/model.safetensors", drop_a_tensor), "text_encoder: 1 tensors are missing"),
        (edit(UNET, drop_a_tensor), "unet: 1 tensors are missing"),
        (edit(UNET, reshape_a_tensor), "unet: does not load as UNet2DConditionModel"),
        (edit("unet/config.json", lambda path: path.write_text("{}")), "unet: "),
    ],
)
def test_a_damaged_folder_is_refused_by_name_and_part(broken: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(broken)
    with pytest.raises(GenerationError, match=says) as raised:
        load(broken)
    text = str(raised.value)
    assert text.startswith(f"{broken}: ") and "\n" not in text
    assert "expected" in text and "--model PATH" in text


def test_a_part_of_an_unknown_class_and_a_missing_shard_are_refused(broken: Path) -> None:
    index = json.loads((broken / "model_index.json").read_text())
    (broken / "model_index.json").write_text(json.dumps(index | {"unet": ["diffusers", "UNet9DModel"]}))
    with pytest.raises(GenerationError, match="unet: does not load as UNet9DModel"):
        load(broken)
    weights = broken / UNET
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00002.safetensors"))
    weight_map = {"a": "diffusion_pytorch_model-00001-of-00002.safetensors", "b": "gone.safetensors"}
    weights.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(GenerationError, match=r"unet/gone\.safetensors: not found"):
        pipelines.survey(broken)


def test_half_precision_takes_the_fp16_files_and_full_precision_the_full_ones(sdxl: Path, tmp_path: Path) -> None:
    half_only = save_sdxl_inpaint(tmp_path / "half", variant="fp16")
    both = Path(shutil.copytree(sdxl, tmp_path / "both"))
    for path in half_only.rglob("*.safetensors"):
        shutil.copy(path, both / path.relative_to(half_only))
    for folder, half, variant in (
        (both, True, "fp16"), (both, False, None), (half_only, False, "fp16"), (sdxl, True, None),
    ):  # fmt: skip
        assert {part.chosen(half).variant for part in pipelines.survey(folder).models} == {variant}
    assert load(half_only).unet.dtype == torch.float32
    assert load(both, replace(CONFIG, precision="bf16")).unet.dtype == torch.bfloat16
    values = sum(each.numel() for each in load(sdxl).unet.parameters())
    unet = next(part for part in pipelines.survey(sdxl).models if part.name == "unet")
    assert unet.weights[0].values == values


def test_a_folder_without_the_parts_that_nothing_here_uses_loads(tmp_path: Path) -> None:
    folder = save_sd15(tmp_path / "sd15")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "requires_safety_checker": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    found = pipelines.survey(folder)
    config = InAndOutConfig()
    made = pipelines.load(found, diffusers.StableDiffusionPipeline, pipelines.place(config, found), config)
    assert made.safety_checker is None and made.unet.config.in_channels == 4


def test_without_a_gpu_auto_is_the_processor_in_fp32_and_cuda_is_an_error(
    sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = pipelines.survey(sdxl)
    auto = pipelines.place(DiagConfig(), found)
    assert (auto.device.type, auto.dtype, auto.precision, auto.name) == ("cpu", torch.float32, "fp32", "cpu")
    with pytest.raises(GenerationError, match=r"generate\.diag\.device = 'cuda'.*no CUDA GPU.*'cpu'"):
        pipelines.place(DiagConfig(device="cuda"), found)
    with pytest.raises(GenerationError, match=r"generate\.in_and_out\.memory = 'offload'.*'low'"):
        pipelines.place(InAndOutConfig(memory="offload"), found)


def test_on_a_gpu_auto_is_fp16_for_u_nets_and_bf16_for_transformers(
    sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    found = pipelines.survey(sdxl)
    assert pipelines.place(DiagConfig(), found).precision == "fp16"
    klein = pipelines.survey(save_flux2_klein(tmp_path / "klein"))
    assert pipelines.place(DiagConfig(), klein).precision == "bf16"
    assert pipelines.place(DiagConfig(device="cpu"), klein).precision == "fp32"
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(device=torch.device("cuda", 3)))
    assert pipelines.place(DiagConfig(), found).device == torch.device("cuda", 3)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(GenerationError, match="A GPU has no bf16"):
        pipelines.place(DiagConfig(precision="bf16"), found)


@pytest.mark.parametrize(("memory", "says"), [("full", "memory = 'offload'"), ("offload", "use a larger GPU")])
def test_too_little_gpu_memory_is_said_before_anything_loads(
    sdxl: Path, monkeypatch: pytest.MonkeyPatch, memory: str, says: str
) -> None:
    found = pipelines.survey(sdxl)
    gpu = pipelines.Placement(torch.device("cuda", 0), torch.float16, "fp16", "A GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50_000, 100_000))
    with pytest.raises(GenerationError, match=f"A GPU has 0.0 GB free; expected 0.0 GB .*{says}"):
        pipelines.load(found, INPAINT, gpu, replace(CONFIG, memory=memory))


@pytest.mark.parametrize(
    ("config", "step"),
    [
        (DiagConfig(batch_size=4), "generate.diag.batch_size = 1"),
        (DiagConfig(batch_size=1), "generate.diag.memory = 'low'"),
        (DiagConfig(batch_size=1, memory="low"), "generate.diag.memory = 'offload'"),
        (DiagConfig(batch_size=1, memory="offload"), "generate.diag.size_px = 512"),
        (InAndOutConfig(batch_size=1, memory="offload"), "generate.in_and_out.size_px = 256"),
    ],
)
def test_out_of_memory_names_the_setting_that_fits_next(config: DiagConfig | InAndOutConfig, step: str) -> None:
    with pytest.raises(GenerationError, match="out of GPU memory") as raised, pipelines.guard(config):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    assert str(raised.value).endswith(f"set {step}") and "\n" not in str(raised.value)


def test_the_processors_memory_errors_are_translated_and_other_errors_are_not() -> None:
    config = DiagConfig(batch_size=1, memory="low")
    with pytest.raises(GenerationError, match=r"out of memory .* set generate\.diag\.size_px"), pipelines.guard(config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
    with pytest.raises(RuntimeError, match="something else"), pipelines.guard(config):
        raise RuntimeError("something else")


def test_low_memory_slices_and_tiles(sdxl: Path) -> None:
    full, low = load(sdxl), load(sdxl, replace(CONFIG, memory="low"))
    assert not full.vae.use_slicing and low.vae.use_slicing and low.vae.use_tiling
    names = [{type(each).__name__ for each in made.unet.attn_processors.values()} for made in (full, low)]
    assert names[0] != names[1] and "Sliced" in next(iter(names[1]))


def test_a_jobs_noise_is_its_streams_alone() -> None:
    draws = [torch.randn(4, generator=pipelines.generator(stream)) for stream in ((1, 2), (1, 2), (2, 1), (1,))]
    assert torch.equal(draws[0], draws[1])
    assert len({tuple(draw.tolist()) for draw in draws}) == 3
    assert pipelines.seed_of((1, 2)) == int(np.random.SeedSequence([1, 2]).generate_state(1, np.uint64)[0])


def test_words_that_do_not_fit_are_named_with_what_would_be_cut(sdxl: Path, tmp_path: Path) -> None:
    words = Words(load(sdxl), 5.0, "generate.diag")
    words.check("a" * 75, "b" * 75)  # a letter is a token here; start and end take two of 77
    with pytest.raises(
        GenerationError,
        match=r"prompt .*: 80 tokens, the text encoder reads 75 \(77 with its own marks\); it would cut 'vwxyz'",
    ):
        words.check("a" * 75 + "vwxyz", "")
    with pytest.raises(GenerationError, match=r"negative prompt .* reads 75 .*; it would cut 'z'"):
        words.encode("white crack", "a" * 75 + "z")
    config = replace(CONFIG, guidance=5.0)
    klein = load(save_flux2_klein(tmp_path / "klein"), config, diffusers.Flux2KleinInpaintPipeline)
    words = Words(klein, 5.0, "generate.diag")
    frame = klein.tokenizer.apply_chat_template(
        [{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True
    )
    room = 512 - len(klein.tokenizer(frame).input_ids) + 1
    words.check("a" * room, "")
    with pytest.raises(GenerationError, match=rf"reads {room} \(512 .*; it would cut 'z'"):
        words.check("a" * room + "z", "")


def test_the_second_tokenizer_is_asked_too(sdxl: Path) -> None:
    made = load(sdxl)
    made.tokenizer_2.model_max_length = 12
    with pytest.raises(GenerationError, match=r"reads 10 .*; it would cut 'de'"):
        Words(made, 5.0, "generate.diag").check("a" * 10 + "de", "")


def test_the_record_names_the_libraries() -> None:
    assert pipelines.versions() == {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": __import__("transformers").__version__,
    }


def test_finding_a_model_needs_neither_torch_nor_diffusers(sdxl: Path) -> None:
    code = (
        "import sys; from generation.diffusion import model_folder; model_folder.locate(sys.argv[1], 'key'); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    made = subprocess.run([sys.executable, "-c", code, str(sdxl)], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "[]"
