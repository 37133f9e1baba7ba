"""The head for lines with good parts alone: no defect teaches it, and defects stand out to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from diagline.config import Config
from diagline.config_train import TeacherConfig
from diagline.errors import ConfigError, TrainingError
from diagline.samples import DEFECT, GOOD, SampleSet
from export.to_onnx import teacher_onnx
from training import distill, patches, teach, teacher
from training.data import Batch

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
    head.measure([good(16)])
    loss, optimiser = patches.loss_of(head), torch.optim.AdamW(head.parameters(), 3e-4)
    nothing = torch.empty(0), torch.empty(0), Batch(np.zeros(0, np.int64), np.zeros(0, np.int64))
    for _ in range(160):
        head(*good(8))
        value = loss(*nothing)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    head.eval()
    layer2, layer3 = good(64)
    layer2[32:, :, 2:5, 2:5] += 2 * torch.randn(32, 512, 1, 1)
    with torch.no_grad():
        said = head(layer2, layer3)
    assert roc_auc_score([0] * 32 + [1] * 32, said) > 0.95


def test_the_worst_places_judge_alone_where_that_is_asked_and_the_file_remembers(tmp_path: Path) -> None:
    head = patches.Patches(worst=0.1).eval()
    maps = torch.randn(2, 512, 8, 8), torch.randn(2, 1024, 4, 4)
    with torch.no_grad():
        places = head.judge(patches._join(*maps))[:, 0].flatten(1)
        torch.testing.assert_close(head(*maps), places.sort(1).values[:, -7:].mean(1))
    teacher.save(teacher.Teacher(freeze=4, patches=head), tmp_path / "teacher.pt", {})
    again = teacher.load(tmp_path / "teacher.pt").patches
    assert again is not None and again.worst == 0.1


@pytest.mark.parametrize(("most", "judged"), [(128, 128), (127, 127), (20, 20), (1000, 128)])
def test_a_step_judges_no_more_places_than_it_may(monkeypatch: pytest.MonkeyPatch, most: int, judged: int) -> None:
    monkeypatch.setattr(patches, "MOST", most)
    head = patches.Patches(noise=1e-9).train()
    maps = torch.randn(2, 512, 8, 8), torch.randn(2, 1024, 4, 4)
    head(*maps)
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
        network.patches.measure([network.maps(images)])  # type: ignore[union-attr]
        said, layer3, places = network.look(images)
        assert torch.equal(network(images), said)
        assert layer3.shape == (3, 1024, 3, 3) and places is None
        teacher.save(network, tmp_path / "teacher.pt", {})
        assert torch.equal(teacher.load(tmp_path / "teacher.pt")(images), said)
    model = onnxruntime.InferenceSession(teacher_onnx(network, asked.input))
    pixels = (images[:1] * 255).round()
    (out,) = model.run(None, {"image": pixels.permute(0, 2, 3, 1).to(torch.uint8).numpy()})
    with torch.no_grad():
        expected = network(pixels / 255)
    np.testing.assert_allclose(np.ravel(out), expected.numpy(), rtol=1e-3, atol=1e-3)


def test_its_places_are_not_taught_to_a_heat_map(paint: Paint, asked: Config, tmp_path: Path) -> None:
    teacher.save(teacher.Teacher(freeze=4, patches=patches.Patches()), tmp_path / "teacher.pt", {})
    wanted = replace(asked, student=replace(asked.student, places=1.0))
    with pytest.raises(TrainingError, match=r'student\.places = 1 with a teacher of head "patches"; expected 0'):
        distill.distill(wanted, tmp_path / "teacher.pt", [paint(3, 2)], [], tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_features_are_measured_in_their_own_spread() -> None:
    torch.manual_seed(0)
    head = patches.Patches()
    maps = [(3 + 2 * torch.randn(4, 512, 6, 6), torch.randn(4, 1024, 3, 3) - 5) for _ in range(20)]
    head.measure(maps)
    joined = torch.cat([patches._join(*each) for each in maps])
    scaled = (joined - head.mean) / head.spread
    torch.testing.assert_close(scaled.mean((0, 2, 3)), torch.zeros(1536), atol=1e-3, rtol=0)
    torch.testing.assert_close(scaled.std((0, 2, 3)), torch.ones(1536), atol=1e-2, rtol=0)


def test_one_bad_place_among_many_good_ones_makes_a_picture_bad() -> None:
    class Given(torch.nn.Module):
        def forward(self, places: torch.Tensor) -> torch.Tensor:
            return places[:, :1]

    head = patches.Patches().eval()
    head.judge = Given()  # type: ignore[assignment]
    layer2, layer3 = torch.full((2, 512, 10, 10), -8.0), torch.zeros(2, 1024, 5, 5)
    layer2[1, :, 3:6, 3:6] = 60.0
    good, bad = head(layer2, layer3).tolist()
    assert good < 0 < bad


def test_trained_stages_below_the_head_are_refused() -> None:
    with pytest.raises(ConfigError, match=r'teacher\.head = "patches" with teacher\.freeze = 0; expected 4'):
        TeacherConfig(head="patches")
