"""The head for lines with good parts alone: no defect teaches it, and defects stand out to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from diagline.config import Config
from diagline.config_train import TeacherConfig
from diagline.errors import ConfigError
from diagline.samples import DEFECT, GOOD, SampleSet
from export.to_onnx import teacher_onnx
from training import distill, evaluate, frozen, hints, patches, student, student_spec, teach, teacher
from training.data import Batch, Pictures

Paint = Callable[..., SampleSet]


@pytest.fixture
def asked(config: Config) -> Config:
    learned = TeacherConfig(
        head="patches", freeze=4, epochs=6, batch_size=6, learning_rate=3e-3, keep="last", precision="fp32"
    )
    return replace(config, teacher=learned)


def test_what_lies_off_the_good_features_stands_out() -> None:
    torch.manual_seed(5)
    basis = torch.randn(4, 1536)

    def good(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        places = torch.einsum("nkhw,kc->nchw", torch.randn(count, 4, 8, 8), basis)
        return places[:, :512], torch.nn.functional.avg_pool2d(places[:, 512:], 2)

    head = patches.Patches()
    head.measure([patches.join(*good(16))])
    loss, optimiser = patches.loss_of(head), torch.optim.AdamW(head.parameters(), 3e-4)
    nothing = torch.empty(0), torch.empty(0), Batch(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for _ in range(160):
        head(patches.join(*good(8)))
        value = loss(*nothing)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    head.eval()
    layer2, layer3 = good(64)
    layer2[32:, :, 2:5, 2:5] += 2 * torch.randn(32, 512, 1, 1)
    with torch.no_grad():
        said = head(patches.join(layer2, layer3))
    assert roc_auc_score([0] * 32 + [1] * 32, said) > 0.95


def test_the_worst_places_judge_alone_where_that_is_asked_and_the_file_remembers(tmp_path: Path) -> None:
    head = patches.Patches(worst=0.1).eval()
    maps = torch.randn(2, 1536, 8, 8)
    with torch.no_grad():
        places = head.judge(maps)[:, 0].flatten(1)
        torch.testing.assert_close(head(maps), places.sort(1).values[:, -7:].mean(1))
    teacher.save(teacher.Teacher(freeze=4, patches=head), tmp_path / "teacher.pt", {})
    again = teacher.load(tmp_path / "teacher.pt").patches
    assert again is not None and again.worst == 0.1


@pytest.mark.parametrize(("most", "judged"), [(128, 128), (127, 127), (20, 20), (1000, 128)])
def test_a_step_judges_no_more_places_than_it_may(monkeypatch: pytest.MonkeyPatch, most: int, judged: int) -> None:
    monkeypatch.setattr(patches, "MOST", most)
    head = patches.Patches(noise=1e-9).train()
    maps = torch.randn(2, 1536, 8, 8)
    head(maps)
    assert [len(said) for said in head.said] == [judged, judged]
    torch.testing.assert_close(*head.said)
    assert len(torch.unique(head.said[0].detach().round(decimals=5))) > 0.9 * judged  # no place twice


def test_defective_training_pictures_change_nothing(paint: Paint, asked: Config, tmp_path: Path) -> None:
    short = replace(asked, teacher=replace(asked.teacher, epochs=1))
    good, other = paint(6, 2), paint(0, 5, seed=3)
    with_these = teacher.load(teach.train_teacher(short, [good], [], tmp_path / "a")).state_dict()
    with_those = teacher.load(
        teach.train_teacher(short, [good.labelled(GOOD), other.labelled(DEFECT)], [], tmp_path / "b")
    ).state_dict()
    assert all(torch.equal(value, with_those[name]) for name, value in with_these.items())


def test_the_saved_head_says_what_the_trained_one_said_in_torch_and_as_onnx(asked: Config, tmp_path: Path) -> None:
    import onnxruntime

    torch.manual_seed(2)
    network = teacher.Teacher(freeze=4, patches=patches.Patches(0.5)).eval()
    images = torch.rand(3, 1, 48, 48)
    with torch.no_grad():
        network.patches.measure([patches.join(*network.maps(images))])  # type: ignore[union-attr]
        said, inner, places = network.look(images)
        assert torch.equal(network(images), said)
        assert inner.shape == (3, patches.HIDDEN, 6, 6) and places.shape == (3, 6, 6)
        teacher.save(network, tmp_path / "teacher.pt", {})
        assert torch.equal(teacher.load(tmp_path / "teacher.pt")(images), said)
    model = onnxruntime.InferenceSession(teacher_onnx(network, asked.input))
    pixels = (images[:1] * 255).round()
    (out,) = model.run(None, {"image": pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()})
    with torch.no_grad():
        expected = network(pixels / 255)
    np.testing.assert_allclose(np.ravel(out), expected.numpy(), rtol=1e-3, atol=1e-3)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A teacher whose head was never trained, told apart at logit 3."""
    torch.manual_seed(8)
    teacher.save(teacher.Teacher(freeze=4, patches=patches.Patches()), tmp_path / "odd.pt", {"threshold": 3.0})
    return tmp_path / "odd.pt"


def test_maps_kept_once_train_the_same_head(
    paint: Paint, asked: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = replace(asked, input=replace(asked.input, height_px=56), teacher=replace(asked.teacher, epochs=2))
    train, val, made = [paint(6, 2)], [paint(3, 3, "val")], {}
    for name, room in (("kept", frozen.CACHE_BYTES), ("each step", 10)):
        monkeypatch.setattr(frozen, "CACHE_BYTES", room)
        made[name] = teacher.load(teach.train_teacher(short, train, val, tmp_path / name))
    pictures = Pictures(train, short.input, "none", 0)
    kept, plain = (evaluate.predict(network, pictures.in_order(4)) for network in made.values())
    np.testing.assert_allclose(kept, plain, rtol=0.02, atol=0.02)
    learned = [json.loads((tmp_path / name / "history.json").read_text())[-1]["loss"] for name in made]
    assert learned[0] == pytest.approx(learned[1], rel=0.02)


def test_the_strongest_place_around_each_of_the_students_is_asked_for(paint: Paint, asked: Config, odd: Path) -> None:
    network = teacher.load(odd)
    pictures = Pictures([paint(3, 2)], asked.input, "none", 0)
    said = distill.ask(network, pictures, "fp32", distill.Question(places=(3, 3))).places
    with torch.no_grad():
        places = network.look(torch.from_numpy(next(pictures.in_order(5))).float() / 255).places
    blocks = places.numpy().reshape(5, 3, 2, 3, 2).max((2, 4))
    assert said is not None and said.shape == (1, 5, 3, 3)
    np.testing.assert_allclose(said[0], blocks, rtol=2e-3, atol=2e-3)


def test_a_student_foretells_the_strongest_places(paint: Paint, asked: Config, odd: Path, tmp_path: Path) -> None:
    heard = replace(asked.student, soft_share=0.0, places=5.0)
    made = distill.distill(replace(asked, student=heard), odd, [paint(6, 4)], [], tmp_path / "student")
    row, *_ = json.loads((tmp_path / "student" / "history.json").read_text())
    assert row["loss"] > 2  # five times a variance of one, and the labels: the verdicts were heard
    plain = student.fold(student.Student(student_spec.spec("S10", asked.input)))
    assert set(student.load(made).state_dict()) == set(plain.state_dict())  # what foretold them is gone


def test_the_loss_on_the_strongest_places_is_the_one_written_down() -> None:
    class Said:
        strongest = torch.tensor([[[1.0, -2.0]], [[0.5, 4.0]]], requires_grad=True)

    places = np.array([[[[3.0, -1.0]], [[0.0, 2.0]]], [[[900.0, 9.0]], [[9.0, 9.0]]]], np.float16)
    loss = hints.strongest_loss(lambda *_: torch.tensor(7.0), Said(), places, (0,), 0.5)  # type: ignore[arg-type]
    value = loss(torch.zeros(2), torch.zeros(2), Batch(np.array([1, 0]), np.array([0, 0])))
    known = np.array([3.0, -1.0, 0.0, 2.0])
    aims = (np.array([0.0, 2.0, 3.0, -1.0]) - known.mean()) / known.std()
    expected = ((np.array([1.0, -2.0, 0.5, 4.0]) - aims) ** 2).mean()
    assert float(value.detach()) == pytest.approx(7 + 0.5 * expected, rel=1e-5)


def test_a_student_counts_from_its_threshold_on(paint: Paint, asked: Config, odd: Path) -> None:
    known, pictures = teacher.load(odd), Pictures([paint(3, 2)], asked.input, "none", 0)
    network = student.Student(student_spec.spec("S10", asked.input))
    wanted = replace(asked, student=replace(asked.student, soft_share=1.0))
    said = torch.from_numpy(distill.ask(known, pictures, "fp32").logits[0])
    _, _, soft = distill._listen(wanted, known, network, pictures)
    batch = Batch(np.arange(5), np.zeros(5, np.int64))
    by_shift = {shift: float(soft(said - shift, torch.zeros(5), batch)) for shift in (0.0, 2.5, 3.0, 3.5)}
    assert min(by_shift, key=by_shift.__getitem__) == 3.0


def test_features_are_measured_in_their_own_spread() -> None:
    torch.manual_seed(0)
    head = patches.Patches()
    maps = [patches.join(3 + 2 * torch.randn(4, 512, 6, 6), torch.randn(4, 1024, 3, 3) - 5) for _ in range(20)]
    head.measure(maps)
    scaled = (torch.cat(maps) - head.mean) / head.spread
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(1536), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(1536), atol=1e-2, rtol=0)


def test_one_bad_place_among_many_good_ones_makes_a_picture_bad() -> None:
    places = torch.full((2, 10, 10), -8.0)
    places[1, 4, 4] = 4.0
    good, bad = patches.Patches().sum_up(places).tolist()
    assert good < 0 < bad


def test_trained_stages_below_the_head_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'teacher\.head = "patches" with teacher\.freeze = 0; expected 4'):
        TeacherConfig(head="patches")
