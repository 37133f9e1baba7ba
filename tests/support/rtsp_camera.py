"""An RTSP camera that asks for user and password, for tests: PORT USER PASSWORD.

Run by the system's own Python, with Debian's python3-gi, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-good. Says
`listening` when it does; ends with exit code 3 and the reason where something of that is missing.
"""

from __future__ import annotations

import sys

try:
    import gi

    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer
except (ImportError, ValueError) as missing:
    print(missing)
    sys.exit(3)

port, user, password = sys.argv[1:]
Gst.init(None)
if missing := [name for name in ("videotestsrc", "jpegenc", "rtpjpegpay") if Gst.ElementFactory.find(name) is None]:
    print("no GStreamer element", *missing)
    sys.exit(3)

PICTURE = "video/x-raw,format=I420,width=160,height=120,framerate=25/1"
media = GstRtspServer.RTSPMediaFactory()
media.set_launch(f"( videotestsrc is-live=true pattern=snow ! {PICTURE} ! jpegenc ! rtpjpegpay name=pay0 pt=26 )")
media.set_shared(True)
rights = "line, media.factory.access=(boolean)true, media.factory.construct=(boolean)true"
media.add_role_from_structure(Gst.Structure.new_from_string(rights))
token, auth = GstRtspServer.RTSPToken(), GstRtspServer.RTSPAuth()
token.set_string("media.factory.role", "line")
auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)

server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(port)
server.set_auth(auth)
server.get_mount_points().add_factory("/live", media)
if server.attach(None) == 0:
    sys.exit(f"port {port} is taken")
print("listening", flush=True)
GLib.MainLoop().run()
