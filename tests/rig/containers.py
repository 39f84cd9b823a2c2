"""compose.yml in a real Docker engine, as a project of the test's own."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from running_lessons import ROOT, free_port
from running_service import until

CADDY = re.findall(r"image: (caddy:\S+)", (ROOT / "compose.yml").read_text())[0]
DEFAULT_PORT = 10300


def docker(*arguments: str, input: str = "") -> str:  # noqa: A002 (subprocess calls it so)
    """Run docker and return what it prints; raise CalledProcessError if it fails."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, input=input)
    assert done.returncode == 0, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout


def need_engine() -> None:
    """Skip the test where there is no Docker engine; make cannot install one."""
    if not shutil.which("docker"):
        pytest.skip("needs Docker with Compose 2.17 or newer, and its engine running")
    if subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("needs a Docker engine that runs: see docker info")
    version = subprocess.run(
        ["docker", "compose", "version", "--short"], capture_output=True, text=True
    ).stdout
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < (2, 17):
        pytest.skip(f"needs Docker Compose 2.17 or newer, has {version.strip() or 'none'}")


def free_default_port() -> int:
    """Return the lessons' default port, or another if somebody has it."""
    try:
        requests.get(f"http://127.0.0.1:{DEFAULT_PORT}/", timeout=5)
    except requests.ConnectionError:
        return DEFAULT_PORT
    return free_port()


class Compose:
    """One project: what `docker compose` does with the repository's compose.yml."""

    def __init__(self, name: str, *profiles: str, **env: str) -> None:
        self.name = f"speech-test-{name}"
        self.port = free_default_port()
        self.url = f"ws://127.0.0.1:{self.port}/v1/realtime?intent=transcription"
        ours = (
            "WHISPER_",
            "CLASSROOM_",
            "COMPOSE_",
            "ALLOWED_",
            "API_KEY",
            "DELTA_MS",
            "PAGE_PORT",
        )
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        self.env |= {"WHISPER_PORT": str(self.port)} | env
        self.options = ["-f", "compose.yml", "-f", "tests/rig/compose.yml", "-p", self.name]
        self.options += ["--project-directory", ".", "--env-file", os.devnull]
        for profile in profiles:
            self.options += ["--profile", profile]
        self.lesson_env: dict[str, str] = {}
        if self.port != DEFAULT_PORT:  # the lessons would look for it there, so need no setting
            self.lesson_env = {
                "SERVICE_URL": f"http://127.0.0.1:{self.port}",
                "WEBSOCKET_URL": self.url,
            }

    def run(self, *arguments: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run docker compose; its output, both kinds together, is .stdout."""
        return subprocess.run(
            ["docker", "compose", *self.options, *arguments],
            cwd=ROOT,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __call__(self, *arguments: str, **env: str) -> str:
        done = self.run(*arguments, **env)
        assert done.returncode == 0, done.stdout + self.run("logs").stdout
        return done.stdout

    def up(self, *arguments: str, **env: str) -> float:
        """Start, wait until all is healthy, and return how many seconds that took."""
        begin = time.monotonic()
        self("up", "--detach", "--wait", *arguments, **env)
        return time.monotonic() - begin

    def container(self, service: str = "faster-whisper") -> str:
        """Return the id of a service's only container, or of its first."""
        return self("ps", "--all", "--quiet", service).split()[0]

    def state(self, service: str = "faster-whisper") -> dict[str, Any]:
        """Return what docker inspect says of it."""
        return dict(json.loads(docker("inspect", self.container(service)))[0])

    def inside(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a shell command in the container of the service."""
        return self.run("exec", "-T", "faster-whisper", "sh", "-c", command)

    def crash(self, service: str = "faster-whisper") -> None:
        """Let the program in the container die, as for want of memory."""
        crash(self.container(service))

    def is_healthy(self) -> bool:
        return bool(self.state()["State"]["Health"]["Status"] == "healthy")

    def down(self) -> None:
        self.run("--profile", "*", "down", "--volumes", "--rmi", "local", "--timeout", "1")


def crash(container: str) -> None:
    """Kill the child of process 1 in a container, and see that Docker has noticed."""
    before = json.loads(docker("inspect", container))[0]["RestartCount"]
    children = "cat /proc/1/task/1/children"
    docker("exec", container, "sh", "-c", f"kill -9 $({children})")
    until(lambda: json.loads(docker("inspect", container))[0]["RestartCount"] > before)


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    """The service faster-whisper, built and running."""
    need_engine()
    project = Compose("one")
    project.down()
    try:
        print(f"up, with the image to be built: {project.up('--build', 'faster-whisper'):.1f} s")
        yield project
    finally:
        project.down()


@pytest.fixture(scope="session")
def _caddy_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Caddy's image; where none can be had, one made of Debian's package, which is older."""
    need_engine()
    if subprocess.run(["docker", "image", "inspect", CADDY], capture_output=True).returncode == 0:
        return
    if subprocess.run(["docker", "pull", "--quiet", CADDY], capture_output=True).returncode == 0:
        return
    folder = tmp_path_factory.mktemp("caddy")
    (folder / "Dockerfile").write_text(
        "FROM python:3.12-slim\n"
        "RUN apt-get update -qq && apt-get install -qq --no-install-recommends caddy >/dev/null\n"
        "ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config\n"
        "USER root\n"
        'CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]\n'
    )
    docker("build", "--quiet", "--tag", CADDY, str(folder))
