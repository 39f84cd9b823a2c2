"""Where the fixtures come from, and which tests must not run at the same time."""

import os
import signal
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = [
    "running_lessons",
    "running_service",
    "bad_line",
    "browser",
    "containers",
    "ear",
    "microphone",
    "real_weights",
]

# A shell that starts pytest with & makes it deaf to Ctrl-C, and with it all lessons that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files that make check runs, all together in a minute. What needs more than Python in them (a sound
# server, a voice, a browser) is skipped there.
QUICK = {
    "test_client",
    "test_documents",
    "test_echo",
    "test_echo_ping",
    "test_repository",
    "test_single_recording",
    "test_try_next_first_steps",
}

# Files whose tests use the lessons' default ports, or see what a lesson says when nobody is there,
# or name to Docker ports that nobody else may take meanwhile.
AT_DEFAULT_PORTS = {
    "test_classroom",
    "test_demo",
    "test_docker",
    "test_live_transcription",
    "test_readme",
    "test_single_recording",
    "test_streamlit_lesson",
}


def pytest_configure(config: pytest.Config) -> None:
    """Let make check do without other programs, whether they are installed or not."""
    if config.option.markexpr == "quick":
        os.environ["ONLY_PYTHON"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests in quick files."""
    for item in items:
        if item.path.stem in QUICK:
            item.add_marker("quick")


class FilesTogether(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Let the same process run all tests of a file, and all files at the default ports."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.split("::")[0]).stem
        return "default ports" if file in AT_DEFAULT_PORTS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> FilesTogether:
    """Tell pytest-xdist how to share out the tests."""
    return FilesTogether(config, log)
