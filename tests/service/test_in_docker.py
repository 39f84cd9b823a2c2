"""The two programs that run only in a container, without one: the start and the health check."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from running_lessons import ROOT, free_port, lesson_environment
from running_service import Service, StartService


def start(module: str, port: int, folder: Path, **env: str) -> "subprocess.Popen[str]":
    """Run a module of the service, with a folder that stands for the container's /tmp."""
    return subprocess.Popen(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=lesson_environment({"PORT": str(port), "TMPDIR": str(folder)} | env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_healthy(port: int, folder: Path) -> bool:
    """Ask once, as Docker does."""
    check = start("service.healthy", port, folder)
    check.communicate(timeout=60)
    return check.returncode == 0


def test_a_service_that_answers_is_healthy(service: Service, tmp_path: Path) -> None:
    assert is_healthy(service.port, tmp_path)


def test_the_check_waits_for_a_service_that_is_still_loading(
    start_service: StartService, tmp_path: Path
) -> None:
    port = free_port()
    check = start("service.healthy", port, tmp_path)
    start_service(PORT=str(port))
    check.communicate(timeout=60)
    assert check.returncode == 0


@contextmanager
def answers(status: int) -> Iterator[int]:
    """Be a service that answers with a status, or hangs up without one; yield its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if status:
                self.send_response(status)
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(("status", "expected"), [(200, True), (503, False), (0, False)])
def test_only_status_200_is_healthy(status: int, expected: bool, tmp_path: Path) -> None:
    with answers(status) as port:
        assert is_healthy(port, tmp_path) == expected


def test_a_wrong_setting_stays_visible_and_is_unhealthy(tmp_path: Path) -> None:
    program = start("service.in_docker", free_port(), tmp_path, WHISPER_MODEL="smal")
    try:
        assert program.stdout
        assert program.stdout.readline().startswith("WHISPER_MODEL=smal ")
        port = free_port()
        assert not is_healthy(port, tmp_path)  # it does not wait for a service that never comes
        assert program.poll() is None
    finally:
        program.terminate()
    rest, _ = program.communicate(timeout=20)  # it does not wait for its ten minutes
    assert "Traceback" not in rest


def test_a_crash_ends_the_container_at_once(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise RuntimeError('broken on purpose')")
    program = start("service.in_docker", free_port(), tmp_path, PYTHONPATH=str(tmp_path))
    output, _ = program.communicate(timeout=60)
    assert program.returncode == 1 and "RuntimeError: broken on purpose" in output
    assert not (tmp_path / "wrong-setting").exists()


def test_a_usual_end_is_not_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit")
    program = start("service.in_docker", free_port(), tmp_path, PYTHONPATH=str(tmp_path))
    output, _ = program.communicate(timeout=60)
    assert (program.returncode, output) == (0, "")
