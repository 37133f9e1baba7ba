"""One tiny line, trained and exported once, for the tests that go through the command."""

from __future__ import annotations

import hypothesis
import pytest
from tiny_line import Diagline, Line, Outcome, paint_parts, write_config

hypothesis.settings.register_profile("patient", deadline=None)  # how long an example takes proves nothing
hypothesis.settings.load_profile("patient")


@pytest.fixture
def diagline(capfd: pytest.CaptureFixture[str]) -> Diagline:
    """Run the command in this process."""
    from diagline import cli

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        try:
            cli.main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = capfd.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    """The tiny line, generated, trained, distilled and exported."""
    from diagline import config as configs
    from diagline import verbs

    root = tmp_path_factory.mktemp("line")
    data = paint_parts(root / "data")
    config = write_config(root / "line.toml", data, root / "out")
    loaded = configs.load(config)
    for step in (verbs.generate, verbs.train, verbs.distill, verbs.export):
        step(loaded)
    return Line(config, data, root / "out")
