"""A config is understood whole, or its file and key are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from diagline import config, config_file, config_generate
from diagline.errors import ConfigError

BASE = """
name = "line-1"
output = "runs/line-1"
seed = 7
[data]
root = "pictures"
[input]
width_px = 64
height_px = 96
[teacher]
epochs = 3
learning_rate = 1
[tiny]
seed = 8
[tiny.teacher]
epochs = 1
"""


@pytest.fixture
def written(tmp_path):
    def write(text=BASE):
        (tmp_path / "line.toml").write_text(text, encoding="utf-8")
        return tmp_path / "line.toml"

    return write


def refused(path, *overrides, tiny=False) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(path, overrides, tiny)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_values_defaults_and_folders(written):
    line = config.load(written())
    assert (line.name, line.seed, line.data.root, line.input.shape) == ("line-1", 7, Path("pictures"), (96, 64, 3))
    assert (line.teacher.epochs, line.teacher.batch_size, line.data.layout) == (3, 32, "auto")
    assert isinstance(line.teacher.learning_rate, float)
    assert line.bundle == Path("runs/line-1/line-1.bundle") != line.teacher_bundle


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 3", "epoch = 3", "unknown key teacher.epoch; did you mean teacher.epochs?"),
        ("seed = 7", "sead = 7", "unknown key sead; did you mean seed?"),
        ("[teacher]", "[teachers]", "unknown key teachers; did you mean teacher?"),
        ("width_px", "width", "unknown key input.width; did you mean input.width_px?"),
        ("epochs = 3", "zzz = 3", "unknown key teacher.zzz; known keys: weights"),
    ],
)
def test_an_unknown_key_names_the_nearest(old, new, said, written):
    path = written(BASE.replace(old, new, 1))
    message = refused(path)
    assert message.startswith(f"{path}: ") and said in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs = 3", 'epochs = "3"', "teacher.epochs = '3'; expected int"),
        ("epochs = 3", "epochs = 3.0", "teacher.epochs = 3.0; expected int"),
        ("epochs = 3", "epochs = true", "teacher.epochs = True; expected int"),
        ("epochs = 3", "epochs = 0", "teacher.epochs = 0; expected 1 to"),
        ("learning_rate = 1", "learning_rate = nan", "teacher.learning_rate = nan; expected"),
        ("learning_rate = 1", "learning_rate = true", "teacher.learning_rate = True; expected float"),
        ("learning_rate = 1", "balance = 1", "teacher.balance = 1; expected bool"),
        ("learning_rate = 1", 'flips = "horizontl"', "did you mean 'horizontal'?"),
        ("learning_rate = 1", "weights = 5", "teacher.weights = 5; expected str"),
        ('root = "pictures"', "root = 5", "data.root = 5; expected a path"),
        ('root = "pictures"', 'root = ""', "data.root = ''; expected a path"),
        ('root = "pictures"', "", "missing key data.root"),
        ("height_px = 96", "", "missing key input.height_px"),
        ("width_px = 64", "width_px = 8", "input.width_px = 8; expected 16 to 4096"),
        ('[data]\nroot = "pictures"', "data = 5", "data = 5; expected a table [data]"),
        ('name = "line-1"', 'name = "../x"', "name = '../x'"),
        ("seed = 7", "seed = -1", "seed = -1; expected 0 to"),
        ("seed = 7", "seed = ", "cannot be read as TOML"),
    ],
)
def test_a_value_that_cannot_be_names_its_key(old, new, said, written):
    path = written(BASE.replace(old, new, 1))
    message = refused(path)
    assert message.startswith(f"{path}: ") and said in message


def test_a_missing_file_a_folder_and_a_binary_are_refused(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    assert "not found" in refused(tmp_path / "missing.toml")
    assert str(tmp_path) in refused(tmp_path)
    assert "cannot be read as TOML" in refused(tmp_path / "binary.toml")


def test_overrides_win_in_order_and_have_toml_types(written):
    line = config.load(
        written(),
        (
            "teacher.epochs=5",
            "teacher.epochs = 6",
            "student.size=S10",
            "teacher.balance=false",
            "data.root=other/pictures",
            'teacher.weights="w=1.npz"',
            "teacher.learning_rate=1e-3",
        ),
    )
    assert (line.teacher.epochs, line.student.size, line.teacher.balance) == (6, "S10", False)
    assert (line.data.root, line.teacher.weights) == (Path("other/pictures"), "w=1.npz")
    assert line.teacher.learning_rate == 1e-3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("teacher.epochs", "--set 'teacher.epochs'; expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("teacher.epoch=3", "did you mean teacher.epochs?"),
        ("teacher.epochs=many", "teacher.epochs = 'many'; expected int"),
        ("name.x=1", "name = {'x': 1}; expected str"),
        ("teacher=1", "teacher = 1; expected a table"),
    ],
)
def test_an_override_that_cannot_be_is_refused(override, said, written):
    assert said in refused(written(), override)


def test_the_tiny_table_lies_over_the_file_and_overrides_over_both(written):
    assert config.load(written()).seed == 7
    tiny = config.load(written(), tiny=True)
    assert (tiny.seed, tiny.teacher.epochs, tiny.teacher.learning_rate) == (8, 1, 1.0)
    assert config.load(written(), ("seed=9",), tiny=True).seed == 9


def test_tiny_without_its_table_is_refused(written):
    assert "no [tiny] table" in refused(written(BASE.partition("[tiny]")[0]), tiny=True)
    assert "no [tiny] table" in refused(written("tiny = 3\n" + BASE.partition("[tiny]")[0]), tiny=True)


def test_an_unknown_key_in_the_tiny_table_names_the_nearest(written):
    assert "did you mean teacher.epochs?" in refused(written(BASE + "epocs = 2\n"), tiny=True)


def test_a_config_is_plain_json_and_holds_every_default(written):
    plain = json.loads(json.dumps(config.load(written()).plain()))
    assert plain["data"]["root"] == "pictures" and plain["student"]["temperature"] == 2.0


KEYS = ("seed", "name", "data.root", "input.width_px", "teacher.epochs", "teacher.balance", "generate.textures", "run")


@given(st.sampled_from(KEYS) | st.text(max_size=6), st.text(max_size=6))
@example("data.root", "~0")  # of a user that is not there
def test_any_override_is_taken_or_refused_with_a_config_error(key, value):
    table = {"name": "x", "output": "o", "data": {"root": "r"}, "input": {"width_px": 16, "height_px": 16}}
    try:
        config_file.merge(table, config_file.override(f"{key}={value}"))
        config_file.build(config.Config, table, "")
    except ConfigError:
        pass


def test_the_tiny_twin_writes_beside_the_full_run_unless_told_where(tmp_path):
    path = tmp_path / "line.toml"
    path.write_text(
        'name = "a"\noutput = "runs/a"\n[data]\nroot = "d"\n[input]\nwidth_px = 64\nheight_px = 64\n[tiny]\n'
    )
    assert config.load(path).output == Path("runs/a")
    assert config.load(path, (), True).output == Path("runs/a-tiny")
    assert config.load(path, ('output="here"',), True).output == Path("here")


def test_a_profiles_values_lie_below_the_files_own(written):
    text = BASE.replace(
        "[teacher]", '[generate]\nmethod = "diag"\nprompts = ["rust"]\n[generate.diag]\nsteps = 5\n[teacher]'
    )
    line = config.load(written(text), profile="paper")
    diag = line.generate.diag
    assert (line.seed, line.generate.prompts, diag.steps) == (7, ("rust",), 5), "the file's own keys win"
    assert (diag.guidance, diag.strength, diag.padding_px, diag.paste) == (20.0, 0.99, 2, "pipeline")
    assert (diag.resize_width_px, diag.resize_height_px, diag.batch_size, diag.size_px) == (224, 632, 1, 1024)
    assert (line.generate.masks, line.generate.spread, line.generate.quality.gate) == ("real", "uniform", False)
    assert line.generate.negative_prompt == "smooth, plain, black, dark, shadow"
    named = config.load(written('profile = "paper"\n' + text))
    assert named == line
    corrected = config.load(written(text))
    assert corrected.generate.diag.paste == "masked" and corrected.generate.quality.gate


def test_an_unknown_profile_names_the_nearest(written):
    assert "profile = 'papers'; expected one of corrected, paper" in refused(written('profile = "papers"\n' + BASE))


def test_lists_are_read_and_each_item_is_checked(written):
    text = BASE.replace("[teacher]", '[generate]\nprompts = ["a scratch", "rust"]\n[teacher]')
    line = config.load(written(text))
    assert line.generate.prompts == ("a scratch", "rust")
    assert line.plain()["generate"]["prompts"] == ["a scratch", "rust"]
    json.dumps(line.plain())
    for new, said in (
        ('prompts = "rust"', "generate.prompts = 'rust'; expected a list"),
        ("prompts = [3]", "generate.prompts = 3; expected str"),
        ('prompts = [" "]', "generate.prompts holds an empty prompt"),
    ):
        assert said in refused(written(BASE.replace("[teacher]", f"[generate]\n{new}\n[teacher]")))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("generate.diag.paste=all", "generate.diag.paste = 'all'; expected one of masked, pipeline"),
        ("generate.diag.strength=0", "generate.diag.strength = 0.0; expected 0.01 to 1.0"),
        ("generate.diag.resize_width_px=224", "resize_height_px = 0; expected both"),
        ("generate.in_and_out.in_share=1.5", "generate.in_and_out.in_share = 1.5"),
        ('generate.shapes.kinds=["scrach"]', "generate.shapes.kinds = 'scrach'; expected one of"),
        ("generate.shapes.kinds=[]", "generate.shapes.kinds is empty"),
        ("generate.quality.budget=0.5", "generate.quality.budget = 0.5; expected 1.0 to 1000.0"),
        ("generate.tune.rank=0", "generate.tune.rank = 0; expected 1 to 1024"),
        ("generate.masks=pearl", "generate.masks = 'pearl'; expected one of auto, perlin, real, shapes, regions"),
    ],
)
def test_values_of_the_generation_sections_are_checked(override, said, written):
    assert said in refused(written(), override)


def test_auto_masks_are_perlins_for_superimposed_defects_and_shapes_for_inpainted_ones(written):
    found = {
        method: config.load(written(), (f"generate.method={method}",)).generate.mask_source
        for method in config_generate.METHODS
    }
    assert found == {"memseg": "perlin", "in_and_out": "perlin", "diag": "shapes"}
    assert config.load(written(), ("generate.masks=real",)).generate.mask_source == "real"
