"""The doctor's look at the machine: processor, cores, heat, memory, clock, systemd, groups and disk.

Read from /proc and /sys as Linux gives them; what a machine does not show is said and is no fault.
`root` stands for `/`. Leaves out: camera, bundle and plant (`line.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import grp
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from edge_runtime.doctor.probes import Finding, Probe, doubtful, well, wrong

ROOT = Path("/")
INT8_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
FAST_INT8 = frozenset(INT8_FLAGS) - {"avx2"}
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
GROUPS = {"video": "cameras", "dialout": "serial ports", "gpio": "GPIO lines"}
HOT_C = 80.0
SCARCE_MIB, TIGHT_MIB = 128, 512
FIRST_YEAR, LAST_YEAR = 2025, 2100
CLOCK_ERROR = 5  # TIME_ERROR of adjtimex(2): nothing disciplines this clock
SYNCS, SYNCS_S, SLOW_SYNC_MS = 100, 3.0, 100.0
DAY_S = 86_400.0
SHORT_DAYS, FULL_DAYS = 7.0, 1.0
FEW_INODES = 0.05


def probes(archive: Path | None = None, gb_per_day: float | None = None) -> list[Probe]:
    """The probes of this machine, and of the disk under an archive where one is named."""
    found = [
        Probe("processor", processor),
        Probe("governor", governor),
        Probe("cores", cores),
        Probe("temperature", temperature),
        Probe("memory", memory),
        Probe("clock", lambda: clock(_kernel_clock(), datetime.now(UTC))),
        Probe("systemd", systemd),
        Probe("groups", _own_groups),
    ]
    if archive is not None:
        found.append(Probe("disk space", partial(disk_space, archive, gb_per_day), 60.0))
        found.append(Probe("disk writes", partial(disk_writes, archive), 30.0))
    return found


def processor(root: Path = ROOT) -> Iterator[Finding]:
    """The instruction sets that int8 and bf16 networks run fast with."""
    lines = (_read(root / "proc/cpuinfo") or "").splitlines()
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
    flags = set(named.get("flags", named.get("Features", "")).split())  # Features: Arm
    int8, bf16 = ([flag for flag in known if flag in flags] for known in (INT8_FLAGS, BF16_FLAGS))
    name = named.get("model name", "processor")
    found = f"{name}; int8: {' '.join(int8) or 'none'}; bf16: {' '.join(bf16) or 'none'}"
    if FAST_INT8 & flags:
        yield well("processor", found)
    else:
        step = "expect int8 to be slow here; time it: diagline bench BUNDLE"
        yield doubtful("processor", f"{found}; no VNNI, AMX or dot product", step)


def governor(root: Path = ROOT) -> Iterator[Finding]:
    """Whether the kernel lets the cores sleep between parts."""
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = sorted({text for path in paths if (text := _read(path))})
    if not found:
        yield well("governor", "not set by this kernel (a virtual machine, or the firmware's)")
    elif "powersave" in found:
        yield doubtful("governor", " ".join(found), "cpupower frequency-set -g performance")
    else:
        yield well("governor", " ".join(found))


def cores(root: Path = ROOT) -> Iterator[Finding]:
    """Cores that are kept free, and how loaded all of them are, the last minute's mean."""
    isolated = _read(root / "sys/devices/system/cpu/isolated") or "none"
    count = os.cpu_count() or 1
    load = float((_read(root / "proc/loadavg") or "nan").split()[0])
    found = f"{count}, isolated: {isolated}, load {load:.1f}"
    if load > 0.5 * count:
        yield doubtful("cores", found, "stop what else runs here, or keep cores free for the box (isolcpus=)")
    else:
        yield well("cores", found)


def temperature(root: Path = ROOT) -> Iterator[Finding]:
    """The hottest sensor, and whether the processor was ever slowed down."""
    zones = [_number(path) for path in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [value / 1000 for value in zones if value is not None]
    found = f"{max(degrees):.0f} °C" if degrees else "not shown by this machine"
    throttles = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    times = sum(_number(path) or 0 for path in throttles)
    pi = _number(root / "sys/devices/platform/soc/soc:firmware/get_throttled", 16)  # Raspberry Pi
    if pi:
        power = ", under-voltage" if pi & 0x10001 else ""
        step = "give it a better power supply" if power else "give it air or a heat sink"
        yield doubtful("temperature", f"{found}; throttled since start{power} (0x{pi:x})", step)
    elif times:
        yield doubtful("temperature", f"{found}; throttled {times} times since start", "give it air or a heat sink")
    elif degrees and max(degrees) >= HOT_C:
        yield doubtful("temperature", found, "give it air or a heat sink")
    else:
        yield well("temperature", found)


def memory(root: Path = ROOT) -> Iterator[Finding]:
    """Memory that is to be had."""
    lines = (line.split() for line in (_read(root / "proc/meminfo") or "").splitlines())
    kib = {words[0]: int(words[1]) for words in lines if len(words) > 1}
    total, free = (kib[name] // 1024 for name in ("MemTotal:", "MemAvailable:"))
    found = f"{free} of {total} MiB available"
    if free < SCARCE_MIB:
        yield wrong("memory", found, "stop what else runs here, or add memory")
    elif free < TIGHT_MIB:
        yield doubtful("memory", found, "look what else runs here: top -o %MEM")
    else:
        yield well("memory", found)


def clock(state: int, now: datetime) -> Iterator[Finding]:
    """Whether records will bear the right time.

    Args:
        state: what adjtimex(2) returns; below 0: it may not be asked here.
        now: the wall clock.
    """
    found = now.isoformat(timespec="seconds")
    if not FIRST_YEAR <= now.year < LAST_YEAR:
        yield wrong("clock", f"{found}, which cannot be", "set it: timedatectl set-time, or give it a time server")
    elif state == CLOCK_ERROR:
        yield doubtful("clock", f"{found}, not synchronised", "give it a time server: timedatectl set-ntp true")
    elif state < 0:
        yield doubtful("clock", f"{found}, cannot tell whether synchronised", "look on the host: timedatectl")
    else:
        yield well("clock", f"{found}, synchronised")


def _kernel_clock() -> int:
    library = ctypes.CDLL(None, use_errno=True)
    return int(library.adjtimex(ctypes.create_string_buffer(512)))  # struct timex of zeros: modes 0, read only


def systemd(root: Path = ROOT) -> Iterator[Finding]:
    """Whether systemd runs this machine."""
    if (root / "run/systemd/system").is_dir():
        yield well("systemd", "runs this machine")
    else:
        step = "start and watch the box by other means; diagline install needs systemd"
        yield doubtful("systemd", "does not run this machine", step)


def _own_groups() -> Iterator[Finding]:
    known = {group.gr_name for group in grp.getgrall()}
    mine = {group.gr_name for group in grp.getgrall() if group.gr_gid in {os.getegid(), *os.getgroups()}}
    return groups(os.geteuid() == 0, known, mine)


def groups(is_root: bool, known: Collection[str], mine: Collection[str]) -> Iterator[Finding]:
    """Whether the user of this process may open what hangs on the box.

    Args:
        known: groups that this machine has.
        mine: those the user is in.
    """
    missing = [name for name in GROUPS if name in known and name not in mine]
    if is_root:
        yield well("groups", "root may open everything; the service runs as a user of its own")
    elif missing:
        kinds = ", ".join(f"{name} ({GROUPS[name]})" for name in missing)
        yield doubtful("groups", f"not in {kinds}", f"usermod -aG {','.join(missing)} USER, then log in again")
    else:
        yield well("groups", ", ".join(name for name in GROUPS if name in mine) or "this machine has none for devices")


def disk_space(archive: Path, gb_per_day: float | None = None, now_s: float | None = None) -> Iterator[Finding]:
    """Days until the disk of an archive is full, and its free inodes.

    Args:
        gb_per_day: what a day writes, 10^9 bytes; None: what the archive's files of the last day say.
        now_s: seconds since the epoch; None: now.
    """
    here = _existing(archive)
    if here != archive:
        yield doubtful("archive", f"{archive} is not there yet", "diagline install makes it, or: mkdir -p it")
    free = shutil.disk_usage(here).free
    per_day = gb_per_day * 1e9 if gb_per_day is not None else _bytes_per_day(archive, now_s or time.time())
    if not per_day:
        found = f"{free / 1e9:.1f} GB free"
        yield well("disk space", f"{found}; how fast it fills is not known yet", "say it with --gb-per-day")
    else:
        days = free / per_day
        found = f"{free / 1e9:.1f} GB free, {per_day / 1e9:.2g} GB a day: {days:.1f} days, were nothing deleted"
        step = "lower the archive's quotas, or give it a larger disk"
        if days < FULL_DAYS:
            yield wrong("disk space", found, step)
        else:
            yield doubtful("disk space", found, step) if days < SHORT_DAYS else well("disk space", found)
    stat = os.statvfs(here)
    if stat.f_files:  # some file systems have no fixed number
        share, step = stat.f_favail / stat.f_files, "delete small files, or give the archive a disk of its own"
        found = f"{stat.f_favail} of {stat.f_files} free"
        few = doubtful("inodes", found, step) if stat.f_favail else wrong("inodes", found, step)
        yield few if share < FEW_INODES else well("inodes", found)


def disk_writes(archive: Path) -> Iterator[Finding]:
    """How long a small write takes until it is on the disk of an archive."""
    here = _existing(archive)
    durations_ms: list[float] = []
    until_s = time.monotonic() + SYNCS_S
    try:
        with tempfile.TemporaryFile(dir=here, buffering=0) as stream:
            while len(durations_ms) < SYNCS and (len(durations_ms) < 10 or time.monotonic() < until_s):
                start_ns = time.monotonic_ns()
                stream.write(bytes(4096))
                os.fsync(stream.fileno())
                durations_ms.append((time.monotonic_ns() - start_ns) / 1e6)
    except OSError as error:
        yield wrong("disk writes", f"{here}: {error.strerror}", "give the archive a folder that its user may write to")
    else:
        yield sync_finding(durations_ms)


def sync_finding(durations_ms: list[float]) -> Finding:
    """What some writes of 4 KiB with fsync say of a disk."""
    ordered = sorted(durations_ms)
    p50, p99 = (ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.5, 0.99))
    found = f"4 KiB with fsync: p50 {p50:.1f} ms, p99 {p99:.1f} ms of {len(ordered)}"
    if p99 > SLOW_SYNC_MS:
        return doubtful("disk writes", found, "give the archive a faster disk (an SSD, not an SD card)")
    return well("disk writes", found)


def _bytes_per_day(archive: Path, now_s: float) -> float | None:
    """Size of the files changed within a day; of a younger archive scaled up; None below an hour."""
    recent, span_s = 0, 0.0
    for folder, _, names in os.walk(archive):
        for name in names:
            with contextlib.suppress(OSError):  # deleted meanwhile: the box is at work
                stat = os.lstat(os.path.join(folder, name))
                age_s = now_s - stat.st_mtime
                recent += stat.st_size if age_s < DAY_S else 0
                span_s = min(DAY_S, max(span_s, age_s))
    return recent * DAY_S / span_s if span_s >= DAY_S / 24 else None


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(_read(path) or "", base)
    except ValueError:
        return None
