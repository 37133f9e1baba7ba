"""The systemd unit that runs a box: its text, and whether systemd takes it.

The unit may write to the box's folders alone and open cameras, GPIO and serial ports alone. It asks for no
scheduling policy, and leaves memory executable, as OpenVINO and XNNPACK compile at run time. Leaves out: putting
it in place (`install.py`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diagline.errors import ConfigError, OutputError

WATCHDOG_S, START_S, STOP_S, RESTART_S = 10, 120, 15, 2
"""Seconds without a beat, until READY, until it has stopped, and between two starts."""
DEVICES = (
    "char-video4linux", "char-media", "char-usb_device", "char-gpiochip", "char-ttyS", "char-ttyAMA", "char-ttyUSB",
    "char-ttyACM",
)  # fmt: skip
VERIFY_S = 30.0


def trusted_beside(config: Path) -> Path:
    """Where the keys lie that the service of a BOX.toml trusts, each as ID.pub."""
    return config.parent / "diagline" / "trusted"


def keys_beside(config: Path) -> list[Path]:
    """The public keys that the service of a BOX.toml trusts."""
    return sorted(trusted_beside(config).glob("*.pub"))


@dataclass(frozen=True, slots=True)
class Unit:
    """One box's service.

    Attributes:
        name: of the box; the unit is `diagline-NAME.service`.
        config: BOX.toml, absolute; the service trusts the keys in `trusted_beside` it.
        user: the user of its own that it runs as.
        groups: further groups of that user, those that own devices here.
        writable: folders that it writes to, absolute; they must be there when it starts.
        memory_max_mib: it is killed above this; None: no limit.
        allow_unsigned: it takes a bundle that nobody signed.
    """

    name: str
    config: Path
    user: str
    groups: Sequence[str]
    writable: Sequence[Path]
    memory_max_mib: int | None = None
    allow_unsigned: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", self.name):
            raise ConfigError(f"name = {self.name!r}; expected letters, digits, . - and _ (it names the unit)")
        if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", self.user) or self.user == "root":
            raise ConfigError(f"--user {self.user!r}; expected a user of its own, such as diagline, and not root")

    @property
    def file(self) -> str:
        """Name of the unit's file."""
        return f"diagline-{self.name}.service"

    @property
    def head(self) -> str:
        """The first line, by which a unit of this box is known."""
        return f"# Written by diagline install {self.config}"

    def text(self) -> str:
        """The unit's file."""
        command = [sys.executable, "-I", "-m", "diagline.cli", "serve", str(self.config)]
        command += ["--allow-unsigned"] if self.allow_unsigned else []
        groups = [f"SupplementaryGroups={' '.join(self.groups)}"] if self.groups else []
        writable = [f"ReadWritePaths={quoted(str(folder))}" for folder in self.writable]
        memory = [f"MemoryMax={self.memory_max_mib}M"] if self.memory_max_mib is not None else []
        lines = [
            self.head,
            "[Unit]",
            f"Description=diagline inspection box {self.name}",
            "Wants=network-online.target",
            "After=network-online.target time-sync.target",
            "StartLimitIntervalSec=0",  # a line that stands does not get better by giving up
            "",
            "[Service]",
            "Type=notify",
            f"ExecStart={' '.join(quoted(word).replace('$', '$$') for word in command)}",
            f"Environment={quoted(f'XDG_CONFIG_HOME={self.config.parent}')}",
            f"WatchdogSec={WATCHDOG_S}",
            f"TimeoutStartSec={START_S}",
            f"TimeoutStopSec={STOP_S}",
            "Restart=always",
            f"RestartSec={RESTART_S}",
            f"User={self.user}",
            *groups,
            *memory,
            "NoNewPrivileges=yes",
            "ProtectSystem=strict",
            "ProtectHome=read-only",
            "PrivateTmp=yes",
            "ProtectKernelTunables=yes",
            "ProtectKernelModules=yes",
            "ProtectControlGroups=yes",
            "RestrictSUIDSGID=yes",
            "LockPersonality=yes",
            *writable,
            "DevicePolicy=closed",
            *(f"DeviceAllow={device} rw" for device in DEVICES),
            "",
            "[Install]",
            "WantedBy=multi-user.target",
        ]
        return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A word of a unit's file, whatever characters it has.

    Raises:
        ConfigError: it holds a character that none may.
    """
    if not text.isprintable():
        raise ConfigError(f"{text!r}; expected a name without control characters; rename it")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def verify(unit: Unit) -> str:
    """What `systemd-analyze verify` says of a unit, before it is put in place.

    Raises:
        OutputError: systemd does not take it.
    """
    tool = shutil.which("systemd-analyze")
    if tool is None:
        return "not verified, as there is no systemd-analyze here"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, unit.file)
        path.write_text(unit.text(), encoding="utf-8")
        try:
            done = subprocess.run([tool, "verify", path], capture_output=True, text=True, timeout=VERIFY_S)
        except subprocess.TimeoutExpired as error:
            raise OutputError(f"{tool} verify: no answer within {VERIFY_S:g} s; run it again") from error
    lines = [" ".join(line.split()) for line in done.stderr.splitlines() if unit.file in line]
    if done.returncode:
        said = lines[0] if lines else done.stderr.strip()[-200:]
        raise OutputError(f"systemd does not take the unit ({said}); expected one that it verifies; update systemd")
    return "; ".join(["verified by systemd-analyze", *lines])
