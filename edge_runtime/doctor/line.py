"""The doctor's look at the line: camera, bundle, engines, broker and PLC.

Every one of them is asked as the box will ask it, and bears a limit. Nothing is written to a PLC or
published to a broker, and neither is given credentials. Leaves out: the machine (`machine.py`).
"""

from __future__ import annotations

import importlib.metadata
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from diagline import bundle as bundles
from diagline import signing
from diagline.bundle import Bundle
from diagline.errors import ConfigError, require
from edge_runtime import loop
from edge_runtime.bench.recorded import PACKAGES, recorded_engine
from edge_runtime.camera import Camera, Frame, open_camera
from edge_runtime.camera.checks import ChecksConfig, FrameChecks
from edge_runtime.camera.stamps import DOUBTED, WORDS
from edge_runtime.doctor.probes import Finding, Probe, doubtful, well, wrong
from edge_runtime.engines.choice import missing
from edge_runtime.engines.engine import OPENVINO_BF16
from edge_runtime.engines.golden_apart import fault_apart
from edge_runtime.gate.encoder import Encoder, EncoderConfig

FRAMES = 30
REMEDIES = {
    "size": "set the camera to one size, and to 8-bit colour",
    "black": "take the cap off, switch the light on, or expose longer",
    "flat": "take light away or expose shorter, and look what stands before the lens",
    "truncated": "check cable and network",
    "frozen": "power the camera off and on",
}
"""The next step for each check of a picture."""
MQTT_PORT, MODBUS_PORT = 1883, 502
Address = tuple[str, int]
Pair = tuple[str, str]
"""A format and one of its engines."""


def probes(
    root: Path | None = None,
    keys: Sequence[Path] = (),
    allow_unsigned: bool = False,
    box: Path | None = None,
    source: str | None = None,
    broker: str | None = None,
    plc: str | None = None,
    timeout_s: float = 5.0,
    checks: ChecksConfig | None = None,
) -> list[Probe]:
    """The probes of what was named, and of the engines.

    Args:
        root: a bundle.
        keys, allow_unsigned: as `signing.check_trusted`.
        box: the BOX.toml whose recorded engine runs; None: what `diagline run` takes runs.
        source: as `open_camera` takes it.
        broker, plc: HOST:PORT.
        timeout_s: limit of each answer of camera, broker and PLC.
        checks: the box's for its frames; None: as where a box says nothing.

    Raises:
        ConfigError: an address that is none.
    """
    found = [Probe("engines", engines)]
    if root is not None:
        found.append(Probe("bundle", partial(bundle, root, keys, allow_unsigned, box), 600.0))
    if source is not None:
        found.append(Probe("camera", partial(camera, source, timeout_s, checks), 4 * timeout_s))
    if broker is not None:
        at = address("--broker", broker, MQTT_PORT)
        found.append(Probe("broker", partial(mqtt_broker, at, timeout_s), 4 * timeout_s))
    if plc is not None:
        at = address("--plc", plc, MODBUS_PORT)
        found.append(Probe("PLC", partial(modbus_plc, at, timeout_s), 4 * timeout_s))
    return found


def address(option: str, text: str, port: int) -> Address:
    """Host and port of `HOST:PORT`, `HOST` or `[IPV6]:PORT`.

    Args:
        port: where the text names none.

    Raises:
        ConfigError: not such a text; `option` names it.
    """
    try:
        parts = urlsplit(f"//{text}")
        host, named = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or "@" in text or "/" in text:
        raise ConfigError(f"{option}: not an address; expected HOST:PORT, such as 192.168.0.10:{port}; correct it")
    return host, named or port


def engines() -> Iterator[Finding]:
    """The inference engines that are installed, with their versions."""
    found = {name: missing(name) for name in PACKAGES}
    here = [f"{name} {importlib.metadata.version(PACKAGES[name])}" for name, why in found.items() if why is None]
    absent = [name for name, why in found.items() if why is not None]
    said = ", ".join(here) + (f"; not installed: {', '.join(absent)}" if absent else "")
    if here:
        yield well("engines", said)
    else:
        yield wrong("engines", f"none of {', '.join(absent)} is installed", "pip install 'diagline[edge]'")


def encoder(config: EncoderConfig) -> Iterator[Finding]:
    """Whether the counter answers; whether it moves with the belt is for the integrator to see."""
    try:
        Encoder(config)
    except ConfigError as error:
        yield wrong("encoder", str(error), "look into /sys/bus/counter/devices, and load the counter's driver")
        return
    yield well("encoder", f"{config.count} stands at {config.count.read_text().strip()}")


def bundle(
    root: Path, keys: Sequence[Path] = (), allow_unsigned: bool = False, box: Path | None = None
) -> Iterator[Finding]:
    """Whether a bundle is whole, this user runs it, and its engines give its golden outputs here.

    One that is not trusted is not run.
    """
    found = bundles.read(root)
    signing.check_trusted(found, keys, allow_unsigned)
    if found.signer is None:
        yield doubtful("bundle", f"{found.model}, whole, not signed", "sign it: diagline sign BUNDLE NAME.key")
    else:
        yield well("bundle", f"{found.model}, whole, signed by {found.signer}, which is trusted")
    timed = recorded_engine(box, found) if box is not None else None
    yield from golden_vectors(found, (timed.format, timed.engine) if timed is not None else loop.fastest(found))


def golden_vectors(
    found: Bundle, runs: Pair, fault: Callable[[Path, str, str], str | None] = fault_apart
) -> Iterator[Finding]:
    """Whether each verified engine gives the bundle's golden outputs on this machine.

    Args:
        runs: the format and engine that the box takes: where these fail, it is wrong, and else doubtful.
    """
    for name, fmt in found.manifest.formats.items():
        for engine in fmt.engines:
            if engine == OPENVINO_BF16:
                continue  # it is there to be timed, and no box takes it
            what = f"{name} on {engine}"
            why = missing(engine) or fault(found.root, name, engine)
            if why is None:
                yield well(what, f"{len(found.golden)} golden pictures as at export")
            elif (name, engine) == runs:
                step = "take one that passes: diagline bench BUNDLE --record, or diagline install BOX.toml"
                yield wrong(what, f"{why}; it is the one that runs", step)
            else:
                yield doubtful(what, why, "nothing, as it does not run; otherwise install it, or export again")


def camera(
    source: str,
    timeout_s: float = 5.0,
    checks: ChecksConfig | None = None,
    open_source: Callable[[str, float], Camera] = open_camera,
) -> Iterator[Finding]:
    """Whether a source opens and gives frames that a box would judge; rate, size and brightness of them."""
    frames: list[Frame] = []
    with open_source(source, timeout_s) as opened:
        until_s = time.monotonic() + timeout_s
        while len(frames) < FRAMES and time.monotonic() < until_s and (frame := opened.read()) is not None:
            frames.append(frame)
        dropped = opened.dropped
    yield frames_finding(frames, dropped, checks)


def frames_finding(frames: Sequence[Frame], dropped: int = 0, checks: ChecksConfig | None = None) -> Finding:
    """What some frames of a source say of it: they are looked at as the box looks at them.

    Args:
        dropped: frames beside these that the source gave and nobody took; they count for its rate.
        checks: the box's; None: as where a box says nothing.
    """
    images = [frame.frame_bgr for frame in frames if frame.frame_bgr is not None]
    causes = [frame.cause for frame in frames if frame.cause is not None]
    if not images:
        return wrong("camera", causes[0] if causes else "gives no frame", "check cable, power, trigger and address")
    height_px, width_px = images[0].shape[:2]
    level = sum(float(image.mean()) for image in images) / len(images)
    span_s = (frames[-1].taken_ns - frames[0].taken_ns) / 1e9
    rate = f", {(len(frames) + dropped - 1) / span_s:.1f} a second" if span_s > 0 else ""
    found = f"{len(images)} frames of {width_px}x{height_px}{rate}, brightness {level:.0f} of 255"
    looked = FrameChecks(checks or ChecksConfig())
    refusals = [refusal for frame in frames if (refusal := looked.look(frame)) is not None]
    if refusals:
        worst = next((refusal for refusal in refusals if refusal.check == "frozen"), refusals[0])
        said = f"{found}; {len(refusals)} a box refuses: {worst.cause}"
        stands = len(refusals) == len(images) or worst.check == "frozen"  # a box opens a frozen source again
        return (wrong if stands else doubtful)("camera", said, REMEDIES[worst.check])
    if causes:
        return doubtful("camera", f"{found}; {len(causes)} without a picture: {causes[0]}", "check cable and network")
    found += f"; {WORDS[frames[-1].stamped]}"
    if frames[-1].stamped in DOUBTED:
        return doubtful("camera", found, "update the camera's driver, and keep other work away from this box")
    return well("camera", found)


def mqtt_broker(at: Address, timeout_s: float = 5.0) -> Iterator[Finding]:
    """Whether a broker answers an MQTT CONNECT without credentials; nothing is published."""
    mqtt = require("paho.mqtt.client", "edge")
    answers: list[Any] = []
    answered = threading.Event()
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.connect_timeout = timeout_s

    def hear(client: object, data: object, flags: object, reason: Any, properties: object) -> None:
        answers.append(reason)
        answered.set()

    client.on_connect = hear
    name = f"{at[0]}:{at[1]}"
    try:
        client.connect(*at)
    except OSError as error:
        yield wrong("broker", f"{name}: {_why(error)}", "start the broker, and check address and firewall")
        return
    client.loop_start()
    answered.wait(timeout_s)
    client.disconnect()
    client.loop_stop()
    if not answers:
        found = f"{name}: takes the connection and does not answer as MQTT"
        yield wrong("broker", found, "check the port; one with TLS cannot be asked by doctor")
    elif answers[0].is_failure:
        found = f"{name}: speaks MQTT and refuses a client without credentials ({answers[0]})"
        yield doubtful("broker", found, "give the box its user and password, and look whether they are taken")
    else:
        yield well("broker", f"{name}: takes an MQTT connection")


def modbus_plc(at: Address, timeout_s: float = 5.0) -> Iterator[Finding]:
    """Whether a PLC answers one Modbus read (holding register 0 of device 1); nothing is written."""
    modbus, errors = require("pymodbus.client", "edge"), require("pymodbus.exceptions", "edge")
    logging.getLogger("pymodbus.logging").addHandler(logging.NullHandler())  # what it would print, this says
    client = modbus.ModbusTcpClient(at[0], port=at[1], timeout=timeout_s, retries=0)
    name = f"{at[0]}:{at[1]}"
    try:
        if not client.connect():
            yield wrong("PLC", f"{name}: does not take a connection", "check address, port and firewall")
            return
        answer = client.read_holding_registers(0)
    except (errors.ModbusException, OSError):
        step = "switch its Modbus server on, and check the port"
        yield wrong("PLC", f"{name}: takes the connection and does not answer a Modbus read", step)
        return
    finally:
        client.close()
    if not answer.isError():
        yield well("PLC", f"{name}: answers; holding register 0 is {answer.registers[0]}")
    elif answer.exception_code in (10, 11):  # a gateway's: no path to the device, no answer from it
        step = "check the gateway, and the device number behind it"
        yield wrong("PLC", f"{name}: a gateway without its device (exception {answer.exception_code})", step)
    else:
        yield well("PLC", f"{name}: answers (exception {answer.exception_code} for holding register 0)")


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
