"""What a box's TOML holds: one file describes one box beside a line.

A section that is not there is not used: no `[mqtt]`, no broker. Leaves out: reading TOML
(`diagline/config_file.py`), and the sections themselves, which stand beside what they describe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from diagline import config_file
from diagline.config_checks import one_of, within
from diagline.errors import ConfigError
from edge_runtime.archive.config import ArchiveConfig
from edge_runtime.box import Region
from edge_runtime.camera.config import CameraConfig
from edge_runtime.dashboard.server import PageConfig
from edge_runtime.gate.config import GateConfig
from edge_runtime.gate.encoder import EncoderConfig
from edge_runtime.gpio import GpioConfig
from edge_runtime.outputs.line_files import LineFilesConfig
from edge_runtime.outputs.mqtt_output import MqttConfig
from edge_runtime.outputs.spool import SpoolConfig
from edge_runtime.outputs.webhook import WebhookConfig
from edge_runtime.plc.coil import CoilConfig
from edge_runtime.plc.modbus_server import ModbusConfig

FREE, PAGE, MQTT, MODBUS, GPIO = "free", "page", "mqtt", "modbus", "gpio"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What judges.

    Attributes:
        format: a format of the bundle, or fastest: as `diagline install` measured on this box, or the bundle says.
        threads: processor threads of one inference.
    """

    format: str = "fastest"
    threads: int = 2

    def __post_init__(self) -> None:
        one_of("engine.format", self.format, ("fastest", "onnx_fp32", "onnx_int8", "tflite_int8"))
        within("engine.threads", self.threads, 1, 256)


@dataclass(frozen=True, slots=True)
class TriggerConfig:
    """What a part is, and how long its verdict may take.

    Attributes:
        by: "free": every frame is a part; "page": a button; "mqtt", "modbus", "gpio": the section of that name.
        deadline_ms: from the trigger; what is later is NO_DECISION.
        most_open: parts that may wait for their verdict at once.
    """

    by: str = FREE
    deadline_ms: float = 200.0
    most_open: int = 16

    def __post_init__(self) -> None:
        one_of("trigger.by", self.by, (FREE, PAGE, MQTT, MODBUS, GPIO))
        within("trigger.deadline_ms", self.deadline_ms, 1.0, 600_000.0)
        within("trigger.most_open", self.most_open, 1, 100_000)


@dataclass(frozen=True, slots=True)
class BoxConfig:
    """One box, whole.

    Attributes:
        name: of the line, as people call it.
        bundle: what it runs; a link can be switched to another bundle beside it while the box runs.
        folder: `archive/`, `spool/` and the page's token lie in it; absolute for a service.
        keys: NAME.pub files whose bundles it runs, beside its user's trusted keys.
        region: the part of a frame that is judged; all of it where it is not there.
        gate: needs `gpio` or `coil` to move it, and `encoder` where it goes by that.
        lines: CSV or JSON files.
    """

    name: str
    bundle: Path
    folder: Path
    keys: tuple[Path, ...] = ()
    allow_unsigned: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)
    trigger: TriggerConfig = field(default_factory=TriggerConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    region: Region | None = None
    gate: GateConfig | None = None
    encoder: EncoderConfig | None = None
    gpio: GpioConfig | None = None
    coil: CoilConfig | None = None
    modbus: ModbusConfig | None = None
    mqtt: MqttConfig | None = None
    webhook: WebhookConfig | None = None
    lines: LineFilesConfig | None = None
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    archive: ArchiveConfig = field(default_factory=ArchiveConfig)
    page: PageConfig = field(default_factory=PageConfig)

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ConfigError("name = ''; expected what people call the line")
        if self.trigger.by in (MQTT, MODBUS, GPIO) and getattr(self, self.trigger.by) is None:
            raise ConfigError(f"trigger.by = {self.trigger.by!r}, and there is no [{self.trigger.by}]; add the section")
        if self.gate is not None and self.coil is None and not self._gpio_moves_the_gate():
            raise ConfigError("[gate] has nothing to move; expected gpio.accept or gpio.reject, or a [coil]; add one")
        by_encoder = self.gate is not None and self.gate.by == "encoder"
        if by_encoder and self.encoder is None:
            raise ConfigError("gate.by = 'encoder', and there is no [encoder]; add the section")
        if self.encoder is not None and not by_encoder:
            raise ConfigError("[encoder] is there for nothing; expected gate.by = 'encoder'; set it")

    def _gpio_moves_the_gate(self) -> bool:
        return self.gpio is not None and max(self.gpio.accept, self.gpio.reject) >= 0


def load(path: Path) -> BoxConfig:
    """Read BOX.toml; relative folders of spool and page lie in `folder`, those of `lines` too.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key, or a value out of range.
    """
    try:
        config: BoxConfig = config_file.build(BoxConfig, config_file.read(path))
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(f"{path}:") else f"{path}: {error}") from None
    lines = config.lines and replace(config.lines, folder=config.folder / config.lines.folder)
    return replace(
        config,
        lines=lines,
        spool=replace(config.spool, folder=config.folder / config.spool.folder),
        page=replace(config.page, token_file=config.folder / config.page.token_file),
    )
