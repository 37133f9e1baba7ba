"""Sources open by name, in order or not at all, and keep their credentials to themselves."""

from __future__ import annotations

import base64
import http.server
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from diagline.errors import CameraError
from edge_runtime.camera import Frame, open_camera, redact

FRAMES = 12
ENDLESS = 1000  # a source that gives this many frames here has lost its end


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """Twelve frames, each 20 brighter than the one before, 500 a second."""
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 500, (64, 48))
    for index in range(FRAMES):
        writer.write(np.full((48, 64, 3), 20 * index, np.uint8))
    writer.release()
    return path


def everything(source: str | Path, realtime: bool = False, timeout_s: float = 20.0) -> tuple[list[Frame], int]:
    with open_camera(str(source), timeout_s, realtime) as camera:
        frames = list(itertools.islice(iter(camera.read, None), ENDLESS))
        return [frame for frame in frames if frame is not None], camera.dropped


def level(frame: Frame) -> int:
    assert frame.frame_bgr is not None
    return round(float(frame.frame_bgr.mean()) / 20)


def test_every_frame_of_a_film_comes_in_order(film: Path) -> None:
    frames, dropped = everything(film)
    assert [level(frame) for frame in frames] == list(range(FRAMES))
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert len({frame.part_id for frame in frames}) == FRAMES
    assert dropped == 0


def test_a_paced_film_accounts_for_every_frame(film: Path) -> None:
    frames, dropped = everything(film, realtime=True)
    assert len(frames) + dropped == FRAMES
    assert [level(frame) for frame in frames] == [frame.number for frame in frames]
    assert frames[-1].number == FRAMES - 1


def test_a_film_that_breaks_off_says_so_and_stops(film: Path) -> None:
    data = film.read_bytes()
    film.write_bytes(data[: len(data) * 2 // 3])
    frames = []
    with open_camera(str(film)) as camera, pytest.raises(CameraError, match=rf"of {FRAMES} frames"):
        for _ in range(ENDLESS):
            frame = camera.read()
            assert frame is not None
            frames.append(frame)
    assert 0 < len(frames) < FRAMES
    assert [frame.cause is None for frame in frames] == [True] * (len(frames) - 1) + [False]


def test_a_folder_is_read_in_name_order_and_a_broken_picture_does_not_end_it(picture_folder: Path) -> None:
    (picture_folder / "notes.txt").write_text("not a picture")
    frames, _ = everything(picture_folder)
    assert [frame.part_id for frame in frames] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert [frame.frame_bgr is None for frame in frames] == [False, False, True, False, False]
    assert "2.png: truncated" in str(frames[2].cause)


def test_a_single_picture_is_a_source(picture_folder: Path) -> None:
    frames, _ = everything(picture_folder / "1.png")
    assert [frame.part_id for frame in frames] == ["1.png"]


@pytest.mark.parametrize(
    "source",
    ["97", "999999999999", "nowhere.mp4", "ftp://host/x", "file:///etc/passwd", "", "x" * 5000, "rtsp://127.0.0.1:9/x"],
)
def test_what_does_not_open_is_one_line_and_no_noise(source: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CameraError) as refused:
        open_camera(source, timeout_s=2)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_no_film_is_refused_quietly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"this is no film" * 99)
    with pytest.raises(CameraError, match=r"film\.mp4: not a film"):
        open_camera(str(path))
    assert capfd.readouterr() == ("", "")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match="holds no pictures"):
        open_camera(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("rtsp://admin:secret@10.0.0.9:554/live", "rtsp://***@10.0.0.9:554/live"),
        ("http://cam/video?user=a&password=secret", "http://cam/video?***"),
        ("http://a:secret@cam/video?token=secret", "http://***@cam/video?***"),
        ("rtsp://a:sec@ret/secret@cam/live", "rtsp://***@cam/live"),
        ("rtsp://cam/live", "rtsp://cam/live"),
        ("0", "0"),
    ],
)
def test_an_address_is_shown_without_its_credentials(source: str, shown: str) -> None:
    assert redact(source) == shown


@pytest.mark.parametrize("form", ["{}:{}@cam/live", "{}:{}@cam/live?x=1#y", "cam/live?u={}&p={}"])
def test_no_password_survives_redaction(form: str) -> None:
    nasty = ["", *"@:/?#&=%[ é", "://", "@@", "?@", "/@"]
    for user, *password in itertools.product(nasty, repeat=4):
        source = "rtsp://" + form.format("U5ER" + user, "S3CRET" + "".join(password) + "S3CRET")
        shown = redact(source)
        assert "U5ER" not in shown and "S3CRET" not in shown, source


class Stream(http.server.ThreadingHTTPServer):
    """A camera that speaks MJPEG over HTTP: so many frames, then it hangs or hangs up."""

    daemon_threads = True

    def __init__(self, frames: int, hangs: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.frames, self.hangs = frames, hangs
        self.over = threading.Event()
        self.authorised: list[str] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """The client going away is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Stream

    def do_GET(self) -> None:
        self.server.authorised.append(self.headers.get("Authorization", ""))
        if not self.headers.get("Authorization"):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for index in range(self.server.frames):
            _, data = cv2.imencode(".jpg", np.full((48, 64, 3), 20 * (index % 12), np.uint8))
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {data.size}\r\n\r\n"
            self.wfile.write(head.encode() + data.tobytes() + b"\r\n")
        if self.server.hangs:
            self.server.over.wait(60)

    def log_message(self, format: str, *args: object) -> None:
        """No access log in the test's output."""


@pytest.fixture
def serve() -> Iterator[Callable[..., Stream]]:
    """Start HTTP cameras; they stop after the test."""
    running: list[Stream] = []

    def start(frames: int, hangs: bool) -> Stream:
        server = Stream(frames, hangs)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("hangs", [False, True])
def test_an_http_camera_gives_frames_until_it_stops_and_its_password_stays_hidden(
    hangs: bool, serve: Callable[..., Stream], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve(40, hangs)
    source = f"http://line:secret@127.0.0.1:{server.server_address[1]}/video?key=secret"
    frames: list[Frame] = []
    with open_camera(source, timeout_s=0.5) as camera, pytest.raises(CameraError) as stopped:
        for _ in range(ENDLESS):
            frame = camera.read()
            assert frame is not None
            frames.append(frame)
    pictures = [frame for frame in frames if frame.frame_bgr is not None]
    assert pictures and {frame.frame_bgr.shape for frame in pictures if frame.frame_bgr is not None} == {(48, 64, 3)}
    assert len({frame.number for frame in frames}) == len(frames)
    causes = [str(frame.cause) for frame in frames if frame.cause is not None]
    assert "the stream ended" in causes[-1]
    assert hangs == any("no frame within" in cause for cause in causes)
    assert base64.b64encode(b"line:secret").decode() in server.authorised[-1]
    assert "secret" not in "".join([*causes, str(stopped.value), *capfd.readouterr()])
