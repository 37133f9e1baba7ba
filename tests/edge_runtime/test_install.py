"""An installation says each step, takes it once, asks root first, and keeps the engine that is fastest here."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from diagline import bundle as bundles
from diagline import signing
from diagline.bundle import Bundle
from diagline.errors import BundleError, ConfigError, OutputError
from edge_runtime.bench import recorded
from edge_runtime.bench.recorded import engine_file, record_engine, recorded_engine
from edge_runtime.box_config import BoxConfig
from edge_runtime.service import install as room
from edge_runtime.service import unit as units
from edge_runtime.service.install import Step, install_steps, make_unit, read_box, take, uninstall_steps, writable
from edge_runtime.service.unit import Unit, quoted, verify

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def config(bundle: Bundle, tmp_path: Path) -> Path:
    """BOX.toml of the tiny bundle, with sections that an installation does not know."""
    path = tmp_path / "etc/box.toml"
    path.parent.mkdir()
    path.write_text(
        f'name = "mine"\nbundle = "{bundle.root}"\nfolder = "{tmp_path}/archive"\n[engine]\nthreads = 1\n'
        f'[archive]\nimage_format = "png"\n[spool]\nfolder = "{tmp_path}/spool"\n'
        f'[camera]\nsource = "0"\n'
    )
    return path


def steps(config: Path, bundle: Bundle, unit_dir: Path | None, keys: tuple[Path, ...] = ()) -> list[Step]:
    box = read_box(config)
    return install_steps(make_unit(config, box, "diagline"), box, bundle, keys, unit_dir, 0.0)


def files_below(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A machine with systemd at work and no user diagline, whose commands are noted and not run.

    For every test: whatever is broken, none makes a user or a unit on the machine that tests it.
    """
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(room, "UNITS", tmp_path / "units")
    monkeypatch.setattr(room, "RUNNING", tmp_path)
    monkeypatch.setattr(room, "_uid", lambda user: None)
    monkeypatch.setattr(room, "_run", lambda *command, **options: commands.append(command))
    return commands


RUN = room._run


# What is read of BOX.toml.


def test_only_what_an_installation_needs_is_read(config: Path, bundle: Bundle, tmp_path: Path) -> None:
    box = read_box(config)
    assert (box.name, box.bundle, box.engine.threads) == ("mine", bundle.root, 1)
    assert writable(box) == (tmp_path / "archive", tmp_path / "spool")
    config.write_text(f'name = "mine"\nbundle = "{bundle.root}"\nfolder = "{tmp_path}"\n')
    assert writable(read_box(config)) == (tmp_path,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"', "missing key bundle"),
        ('name = "x"\nbundle = "x.bundle"\nfolder = "/x"', "bundle = 'x.bundle'; expected an absolute path"),
        ('name = "x"\nbundle = "/x"\nfolder = "a"', "folder = 'a'; expected an absolute path"),
        ('name = "x"\nbundle = "/x"\nfolder = "/x"\n[engine]\nthreads = 0', "engine.threads"),
        ('name = "x"\nbundle = "/x"\nfolder = "/x"\n[spool]\nfolder = 3', "spool.folder = 3"),
    ],
)
def test_a_box_that_cannot_be_installed_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "box.toml").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read_box(tmp_path / "box.toml")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "user"),
    [("../x", "diagline"), ("a b", "diagline"), ("", "diagline"), ("x", "root"), ("x", "a b"), ("x", "a\nUser=root")],
)
def test_a_name_or_user_that_a_unit_cannot_have_is_refused(tmp_path: Path, name: str, user: str) -> None:
    with pytest.raises(ConfigError):
        Unit(name, tmp_path / "box.toml", user, (), ())


# The unit.


def an_odd_unit(folder: Path) -> Unit:
    odd = folder / 'a "b" %n $HOME c\\d'
    return Unit("mine", odd / "box.toml", "diagline", ("video",), (odd / "archive", folder / "spool"), 512)


def test_the_unit_restarts_always_is_watched_and_may_write_to_its_folders_alone(tmp_path: Path) -> None:
    unit = Unit("mine", Path("/etc/x/box.toml"), "diagline", ("video", "gpio"), (Path("/a"), Path("/b")))
    lines = unit.text().splitlines()
    for line in (
        "Type=notify", f"WatchdogSec={units.WATCHDOG_S}", "Restart=always", f"RestartSec={units.RESTART_S}",
        "StartLimitIntervalSec=0", "User=diagline", "SupplementaryGroups=video gpio", "NoNewPrivileges=yes",
        "ProtectSystem=strict", "PrivateTmp=yes", "DevicePolicy=closed", "DeviceAllow=char-video4linux rw",
        "DeviceAllow=char-gpiochip rw", "DeviceAllow=char-ttyUSB rw", 'Environment="XDG_CONFIG_HOME=/etc/x"',
    ):  # fmt: skip
        assert line in lines
    assert [line for line in lines if line.startswith("ReadWritePaths")] == [
        'ReadWritePaths="/a"', 'ReadWritePaths="/b"',
    ]  # fmt: skip
    assert not [line for line in lines if line.startswith(("MemoryMax", "CPUScheduling", "MemoryDeny"))]
    assert lines[0] == unit.head and '"serve" "/etc/x/box.toml"' in unit.text()


def test_memory_and_unsigned_bundles_stand_in_the_unit_only_where_asked_for(tmp_path: Path) -> None:
    unit = replace(an_odd_unit(tmp_path), allow_unsigned=True)
    assert "MemoryMax=512M\n" in unit.text() and '"--allow-unsigned"\n' in unit.text()
    assert "--allow-unsigned" not in an_odd_unit(tmp_path).text()


def test_the_service_trusts_the_keys_beside_its_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # as the unit sets it
    assert signing.trusted_folder() == units.trusted_beside(tmp_path / "box.toml")


def test_a_path_with_a_line_break_is_refused() -> None:
    with pytest.raises(ConfigError, match="control characters"):
        quoted("/a\nUser=root")


def test_a_unit_says_a_path_and_not_what_systemd_would_make_of_it(tmp_path: Path) -> None:
    assert quoted('/a "b" %n c\\d') == '"/a \\"b\\" %%n c\\\\d"'
    assert "$$HOME" in an_odd_unit(tmp_path).text()


@needs_systemd
def test_systemd_takes_the_unit_whatever_characters_its_paths_have(tmp_path: Path) -> None:
    assert verify(an_odd_unit(tmp_path)) == "verified by systemd-analyze"


@needs_systemd
def test_a_unit_that_systemd_does_not_take_is_not_installed(
    tmp_path: Path, config: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units.sys, "executable", "/nowhere/python")
    with pytest.raises(OutputError, match="systemd does not take the unit"):
        list(take(steps(config, bundle, tmp_path / "units")))
    assert not (tmp_path / "units").exists()


# The steps.


def test_a_dry_run_says_every_step_and_takes_none(
    config: Path, bundle: Bundle, tmp_path: Path, machine: list[tuple[str, ...]]
) -> None:
    before = files_below(tmp_path)
    for unit_dir in (None, tmp_path / "units"):
        said = list(take(steps(config, bundle, unit_dir), dry_run=True))
        assert said and all(line.startswith("would: ") for line in said)
    said = list(take(steps(config, bundle, None), dry_run=True))
    for words in (
        "system user diagline",
        f"{tmp_path}/archive",
        f"{tmp_path}/spool",
        "fastest engine",
        "diagline-mine",
    ):
        assert any(words in line for line in said)
    assert files_below(tmp_path) == before and not (tmp_path / "archive").exists() and machine == []


def test_installing_twice_changes_nothing_the_second_time(config: Path, bundle: Bundle, tmp_path: Path) -> None:
    first = list(take(steps(config, bundle, tmp_path / "units")))
    assert all(line.startswith("done: ") for line in first)
    before = files_below(tmp_path)
    second = list(take(steps(config, bundle, tmp_path / "units")))
    assert [line for line in second if not line.startswith("is so already: ")] == [
        line for line in second if "verify" in line
    ]
    assert files_below(tmp_path) == before
    assert (tmp_path / "units/diagline-mine.service").read_text().startswith("# Written by diagline install")


def test_another_boxs_unit_is_neither_overwritten_nor_removed(config: Path, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "units/diagline-mine.service"
    path.parent.mkdir()
    path.write_text("[Service]\nExecStart=/somebody/elses\n")
    box = read_box(config)
    with pytest.raises(ConfigError, match="not written by an install of"):
        steps(config, bundle, path.parent)
    with pytest.raises(ConfigError, match="not written by an install of"):
        uninstall_steps(make_unit(config, box, "diagline"), path.parent)
    assert "elses" in path.read_text()


def test_uninstalling_takes_unit_and_engine_record_and_leaves_the_rest(
    config: Path, bundle: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive/trail").write_text("evidence")
    before = set(files_below(tmp_path))
    list(take(steps(config, bundle, tmp_path / "units")))
    unit = make_unit(config, read_box(config), "diagline")
    assert set(files_below(tmp_path)) - before == {tmp_path / "units/diagline-mine.service", engine_file(config)}
    assert all(line.startswith("done: remove ") for line in take(uninstall_steps(unit, tmp_path / "units")))
    assert set(files_below(tmp_path)) == before
    again = list(take(uninstall_steps(unit, tmp_path / "units")))
    assert all(line.startswith("is so already: ") for line in again)


def test_the_key_of_who_signed_goes_where_the_service_looks(
    make_bundle: Callable[..., Bundle], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    private, public = signing.make_pair("line", tmp_path)
    other = signing.make_pair("other", tmp_path)[1]
    made = make_bundle(tmp_path / "signed.bundle")
    signed = bundles.sign(made.root, private)
    with pytest.raises(BundleError, match="give --key"):
        steps(config, signed, tmp_path / "units", (other,))
    list(take(steps(config, signed, tmp_path / "units", (other, public))))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config.parent))  # as the unit sets it
    signing.check_trusted(signed)


def test_without_root_only_a_dry_run_or_another_folder_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(OutputError, match="expected to run as root"):
        room.check_root(None, False)
    room.check_root(tmp_path, False)
    room.check_root(None, True)


def test_on_the_machine_itself_user_and_folders_are_made_and_systemd_told(
    config: Path, bundle: Bundle, tmp_path: Path, machine: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    me = room.pwd.getpwuid(os.getuid())
    monkeypatch.setattr(room, "_uid", lambda user: me.pw_uid if machine else None)
    monkeypatch.setattr(room.pwd, "getpwnam", lambda user: me)
    list(take(steps(config, bundle, None)))
    assert [command[0] for command in machine] == ["useradd", units.sys.executable, "systemctl"]
    assert machine[0][-1] == "diagline" and str(config) in machine[1] and machine[2][1] == "daemon-reload"
    assert (tmp_path / "archive").is_dir() and (tmp_path / "spool").is_dir()
    del machine[1:]
    list(take(uninstall_steps(make_unit(config, read_box(config), "diagline"))))
    assert machine[1:] == [
        ("systemctl", "disable", "--now", "diagline-mine.service"), ("systemctl", "daemon-reload"),
    ]  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_a_bundle_that_the_service_may_not_read_is_said_at_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_run", RUN)
    secret = tmp_path / "manifest.json"
    secret.write_text("{}")
    secret.chmod(0o600)
    with pytest.raises(OutputError, match=r"Permission denied.*let nobody read it"):
        room._check_reads("nobody", [secret])


def test_a_command_that_fails_is_one_line() -> None:
    with pytest.raises(OutputError, match="sh: no such user; mend this"):
        RUN("sh", "-c", "echo warning >&2; echo no such user >&2; exit 1")
    with pytest.raises(OutputError, match=r"/nowhere/useradd.*install again"):
        RUN("/nowhere/useradd")


# The engine.


def test_the_fastest_engine_that_passes_here_is_kept_beside_the_config_and_not_in_the_bundle(
    make_bundle: Callable[..., Bundle], tmp_path: Path
) -> None:
    made = make_bundle(tmp_path / "x.bundle")
    before = files_below(made.root)
    golden = tuple(
        replace(vector, outputs={**vector.outputs, "tflite_int8": vector.outputs["tflite_int8"] - 60})
        for vector in made.golden
    )
    found = record_engine(tmp_path / "mine.toml", replace(made, golden=golden), 1, 0.0)
    assert found.format.startswith("onnx") and found.engine == "onnxruntime"  # tflite_int8 fails its golden vectors
    body = json.loads((tmp_path / "mine.engine.json").read_text())
    assert (body["format"], body["engine"], body["threads"]) == (found.format, found.engine, 1)
    assert body["bundle"] == made.sha256 and body["p50_ms"] > 0 and body["machine"]["cpu"]
    assert recorded_engine(tmp_path / "mine.toml", made) == found
    assert files_below(made.root) == before


def test_a_record_counts_only_for_the_bundle_threads_machine_and_library_that_were_timed(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    box = tmp_path / "mine.toml"
    assert recorded_engine(box, bundle) is None and capfd.readouterr().err == ""
    found = record_engine(box, bundle, 1, 0.0)
    capfd.readouterr()

    def misfit(said: str, other: Bundle = bundle, threads: int | None = None) -> None:
        assert recorded_engine(box, other, threads) is None
        told = capfd.readouterr().err
        assert said in told and f"diagline install {box}" in told

    assert recorded_engine(box, bundle, 1) == found
    misfit("another bundle", replace(bundle, sha256="0" * 64))
    misfit("1 threads were timed; the box has 2", threads=2)
    facts = recorded.record.machine()
    for key, value in (("cpu", "another"), ("cores", 999), ("int8", ["none"])):
        monkeypatch.setattr(recorded.record, "machine", lambda key=key, value=value: {**facts, key: value})
        misfit(f"({key} ")
    monkeypatch.setattr(recorded.record, "machine", lambda: {**facts, "governor": "another", "system": "newer"})
    assert recorded_engine(box, bundle) == found
    versions = recorded.record.versions()
    package = recorded.PACKAGES[found.engine]
    monkeypatch.setattr(recorded.record, "versions", lambda: {**versions, package: "99"})
    misfit(f"{found.engine} {versions[package]} was timed; here it is 99")
    for text in ("{", "[]", '{"format": 1}', '{"bundle": null}'):
        engine_file(box).write_text(text)
        misfit("cannot be read")


def test_where_no_engine_passes_nothing_is_recorded(make_bundle: Callable[..., Bundle], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="self-test failed"):
        record_engine(tmp_path / "mine.toml", make_bundle(tmp_path / "x.bundle", shift=-5.0), 1, 0.0)
    assert not engine_file(tmp_path / "mine.toml").exists()


def test_what_is_recorded_is_what_an_inspector_opens(config: Path, bundle: Bundle) -> None:
    from edge_runtime.loop import open_inspector

    found = record_engine(config, bundle, 1, 0.0)
    assert open_inspector(bundle, found.format, found.threads, found.engine).fault is None


def test_paths_are_absolute_even_when_asked_for_beside_the_shell(
    config: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    unit = make_unit(Path(config.name), BoxConfig("mine", bundle.root, Path("/records")), "diagline")
    assert unit.config == config.resolve()


def test_diagline_can_be_started_as_the_unit_starts_it(tmp_path: Path) -> None:
    unit = Unit("mine", tmp_path / "box.toml", "diagline", (), ())
    line = next(line for line in unit.text().splitlines() if line.startswith("ExecStart="))
    words = [word.strip('"') for word in line.removeprefix("ExecStart=").split()]
    assert words[1:5] == ["-I", "-m", "diagline.cli", "serve"]
    done = subprocess.run([*words[:4], "--help"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and "bench" in done.stdout
