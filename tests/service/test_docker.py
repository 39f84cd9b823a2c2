"""`docker compose up faster-whisper`, for real: the lessons use it, it breaks, it comes back."""

import asyncio
import io
import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import requests
from browser import StartApp, Visit
from containers import Compose, docker, need_engine
from faster_whisper import available_models
from running_lessons import ROOT, OpenLesson, RunLesson
from running_service import TRANSCRIPTION, client, until
from speech import HELLO as SAMPLE
from speech import PHRASES, Audio, lines, silence, spoken, write_wav

LESSON_6, LESSON_7 = "simple_transcription_test.py", "simple_audio_transcription.py"

# The messages that docs/docker.md explains. Each one is provoked below.
NO_ENGINE = "Cannot connect to the Docker daemon"
PORT_IS_TAKEN = "port is already allocated"
NO_GRAPHICS_CARD = 'could not select device driver "nvidia"'
WRONG_SETTING = "is unhealthy"

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]


def conversation(rate: int, pause: float = 1.0) -> Audio:
    """Return all phrases, with 2 s of silence before them, in which a microphone opens."""
    parts = [silence(2, rate)]
    for phrase in PHRASES:
        parts += [spoken(phrase, rate), silence(pause, rate)]
    return np.concatenate(parts)


def written(output: str) -> list[str]:
    """Return the phrases of lesson 7's transcript."""
    return re.findall(r"\[\d+:\d\d\] ([a-z ]+?) *\r?$", output, flags=re.MULTILINE)


@pytest.mark.parametrize("profile", ["", "gpu", "classroom"])
def test_compose_accepts_every_profile(profile: str) -> None:
    need_engine()
    config = Compose("config", *[profile][: bool(profile)])("config", "--format", "json")
    services = json.loads(config)["services"]
    assert (
        set(services) - {"faster-whisper"}
        == {
            "": set(),
            "gpu": {"faster-whisper-gpu"},
            "classroom": {"caddy"},
        }[profile]
    )
    for name, service in services.items():
        assert service["restart"] == "unless-stopped" and service["read_only"], name
        assert service["cap_drop"] == ["ALL"] and service["mem_limit"] and service["pids_limit"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    defaults = services["faster-whisper"]["environment"]
    assert defaults["WHISPER_LANG"] == "en"
    published = {port["host_ip"] for port in services["faster-whisper"]["ports"]}
    assert published == {"127.0.0.1"}
    if profile == "gpu":
        gpu = services["faster-whisper-gpu"]
        assert gpu["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
        assert gpu["build"].pop("args") == {"GPU": "yes"}
        assert gpu["build"] == services["faster-whisper"]["build"]
        assert gpu["environment"]["WHISPER_DEVICE"] == "cuda"


def test_the_model_and_the_language_come_from_the_shell() -> None:
    """Without the tests' own file, which brings the micro Whisper."""
    need_engine()
    plain = Compose("config")
    plain.options.remove("tests/rig/compose.yml")
    del plain.options[plain.options.index("-f", 1)]

    def setting(name: str, **env: str) -> str:
        services = json.loads(plain("config", "--format", "json", **env))["services"]
        return str(services["faster-whisper"]["environment"][name])

    assert (setting("WHISPER_MODEL"), setting("WHISPER_LANG")) == ("small-int8", "en")
    assert setting("WHISPER_MODEL", WHISPER_MODEL="turbo") == "turbo"
    assert setting("WHISPER_LANG", WHISPER_LANG="") == ""


def test_lesson_6_hears_a_recording(compose: Compose, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON_6, "--file", SAMPLE, env=compose.lesson_env)
    assert " ".join(PHRASES) in ended.stdout and "✗" not in ended.stdout
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_lesson_7_hears_a_recording_live(compose: Compose, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON_7, "--file", SAMPLE, env=compose.lesson_env)
    assert written(ended.stdout) == PHRASES
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_lesson_8_hears_a_browser(
    compose: Compose, start_app: StartApp, visit: Visit, tmp_path: Path
) -> None:
    app = start_app(**compose.lesson_env)
    visitor = visit(says=write_wav(tmp_path / "said.wav", conversation(48_000), 48_000))
    visitor.open(app.url)
    visitor.start()
    visitor.expect_said(*PHRASES)
    visitor.stop()


@pytest.mark.parametrize("how", ["the program crashes", "docker kill, and up again"])
def test_lesson_7_loses_nothing_while_the_container_dies(
    how: str, compose: Compose, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    wav = write_wav(tmp_path / "said.wav", conversation(16_000))
    lesson = open_lesson(LESSON_7, "--file", str(wav), env=compose.lesson_env)
    lesson.logfile_read = output = io.StringIO()
    lesson.expect("set a")  # in mid-sentence
    if how == "the program crashes":
        compose.crash()
    else:
        docker("kill", compose.container())
        lesson.expect("Lost the connection")
        compose.up("faster-whisper")
    lesson.expect("Connected again")
    lesson.expect(r"\d of audio", timeout=60)
    assert lines(str(output.getvalue())) == PHRASES


def test_lesson_8_loses_nothing_while_the_program_in_the_container_crashes(
    compose: Compose, start_app: StartApp, visit: Visit, tmp_path: Path
) -> None:
    app = start_app(**compose.lesson_env)
    visitor = visit(says=write_wav(tmp_path / "said.wav", conversation(48_000), 48_000))
    visitor.open(app.url)
    visitor.start()
    visitor.wait_for_words("set")
    compose.crash()
    visitor.expect_said(*PHRASES)
    visitor.stop()


def test_it_is_healthy_again_after_a_crash(compose: Compose) -> None:
    compose.crash()
    until(compose.is_healthy, seconds=60)


def test_it_may_do_only_what_it_needs(compose: Compose) -> None:
    assert compose.inside("id -u").stdout.strip() == "1000"
    for path in ("/", "/app", "/usr/bin", "/etc", "/models/micro"):
        assert "Read-only" in compose.inside(f"touch {path}/mark").stdout, path
    for path in ("/config", "/tmp"):
        assert compose.inside(f"touch {path}/mark && rm {path}/mark").returncode == 0
    status = compose.inside("cat /proc/$(tr -d ' ' </proc/1/task/1/children)/status").stdout
    for line in ("NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"):
        assert line in status
    limits = compose.state()["HostConfig"]
    assert limits["Memory"] == 4 * 2**30 and limits["PidsLimit"] == 256
    assert limits["ReadonlyRootfs"] and not limits["Privileged"]
    # a fork bomb, of a program that breaks in, ends at the limit; the service goes on
    bomb = "for i in $(seq 300); do sleep 2 & done; wait"
    assert "fork" in compose.inside(bomb).stdout.lower()
    until(compose.is_healthy, seconds=60)


def test_the_image_holds_the_service_and_little_else(compose: Compose) -> None:
    found = compose.inside("find /app /config -type f -not -name '.*'").stdout.split()
    assert set(found) == {f"/app/service/{path.name}" for path in (ROOT / "service").glob("*.py")}
    (only,) = compose.inside("which gcc make git python").stdout.split()
    assert only.endswith("/python")
    image = f"{compose.name}-faster-whisper"
    as_root, find = ["run", "--rm", "--user", "0"], ["find", "/", "-xdev", "-name"]
    caches = [docker(*as_root, name, *find, ".cache") for name in (image, "python:3.12-slim")]
    assert caches[0] == caches[1]  # pip left none behind
    installed = compose.inside("pip list --format=freeze").stdout
    assert "pytest" not in installed and "streamlit" not in installed
    sizes = [
        int(docker("image", "inspect", "--format", "{{.Size}}", name))
        for name in (image, "python:3.12-slim")
    ]
    added = (sizes[0] - sizes[1]) / 1e6
    print(f"the image is {added:.0f} MB larger than python:3.12-slim")
    assert added < 600


def test_every_package_in_the_image_is_pinned(compose: Compose) -> None:
    pins = (ROOT / "service/requirements.txt").read_text()
    pinned = set(re.findall(r"^([\w-]+==[\w.]+)", pins, re.MULTILINE))
    before = docker("run", "--rm", "python:3.12-slim", "pip", "freeze", "--all").split("\n")
    after = compose.inside("pip freeze --all").stdout.split("\n")
    added = {line for line in after if "==" in line} - set(before)
    assert {name.lower().replace("_", "-") for name in added} <= pinned


def test_a_restart_keeps_the_volume_and_is_quick(compose: Compose) -> None:
    compose.inside("echo kept >/config/mark")
    image = compose.state()["Image"]
    compose("restart", "faster-whisper")
    assert compose.inside("cat /config/mark").stdout.strip() == "kept"
    compose("down")
    seconds = compose.up("--build", "faster-whisper")
    print(f"a second up: {seconds:.1f} s")
    assert compose.state()["Image"] == image  # nothing was built again
    assert compose.inside("cat /config/mark && rm /config/mark").stdout.strip() == "kept"


def test_stop_finishes_the_turn_that_is_under_way(compose: Compose) -> None:
    async def speak() -> tuple[list[str], float]:
        async with client(compose.url) as student:
            await student.event("session.created")
            await student.say(spoken(PHRASES[1], 24_000))
            await student.event("input_audio_buffer.speech_started")
            begin = time.monotonic()
            await asyncio.to_thread(compose, "stop")
            seconds = time.monotonic() - begin
            await student.event(f"{TRANSCRIPTION}.completed")
            return await student.transcripts(1), seconds

    texts, seconds = asyncio.run(speak())
    print(f"docker compose stop: {seconds:.1f} s")
    assert texts == [PHRASES[1]]
    state = compose.state()["State"]
    assert state["ExitCode"] != 137  # which would be the kill after the grace period
    assert "Traceback" not in compose("logs")
    compose.up("faster-whisper")


def test_a_page_and_a_name_of_your_own_may_be_let_in(compose: Compose) -> None:
    page, name = "https://draw.example", "mylaptop.local"
    asks = {"Origin": page, "Host": f"{name}:{compose.port}"}

    def status(*headers: str) -> int:
        only = {header: asks[header] for header in headers}
        url = f"http://127.0.0.1:{compose.port}/v1/models"
        return requests.get(url, headers=only, timeout=20).status_code

    assert (status("Origin"), status("Host"), status()) == (403, 403, 200)
    compose.up("faster-whisper", ALLOWED_ORIGINS=page, ALLOWED_HOSTS=name)
    assert (status("Origin"), status("Host"), status()) == (200, 200, 200)
    compose.up("faster-whisper")


@pytest.mark.parametrize(("name", "value"), [("TEST_MODEL", "smal"), ("DELTA_MS", "soon")])
def test_a_wrong_setting_is_said_once_and_is_unhealthy(name: str, value: str) -> None:
    need_engine()
    project = Compose("wrong")
    try:
        done = project.run("up", "--build", "--detach", "--wait", "faster-whisper", **{name: value})
        assert done.returncode and WRONG_SETTING in done.stdout
        state = project.state()
        assert state["State"]["Status"] == "running" and state["RestartCount"] == 0
        log = project("logs", "--no-log-prefix", "faster-whisper")
        assert log.count(name.replace("TEST", "WHISPER")) == 1 and value in log, log
        assert "Traceback" not in log and len(log.splitlines()) <= 3, log
        begin = time.monotonic()
        project("stop")
        assert time.monotonic() - begin < 8  # it does not wait for the grace period
    finally:
        project.down()


def test_a_port_that_is_taken_is_told(compose: Compose) -> None:
    other = Compose("other", WHISPER_PORT=str(compose.port))
    try:
        done = other.run("up", "--detach", "faster-whisper")
        assert done.returncode and PORT_IS_TAKEN in done.stdout
    finally:
        other.down()


def test_without_a_graphics_card_docker_says_so(compose: Compose) -> None:
    if shutil.which("nvidia-container-cli"):
        pytest.skip("needs a machine without the NVIDIA Container Toolkit")
    laptop = Compose("laptop", "gpu", WHISPER_PORT="0")
    image = f"{laptop.name}-faster-whisper-gpu"  # NVIDIA's library would be a large download
    docker("tag", f"{compose.name}-faster-whisper", image)
    try:
        done = laptop.run("up", "--no-build", "--detach", "faster-whisper-gpu")
        assert done.returncode and NO_GRAPHICS_CARD in done.stdout
    finally:
        laptop.down()


def test_without_an_engine_docker_says_so() -> None:
    need_engine()
    done = Compose("nowhere").run("up", "faster-whisper", DOCKER_HOST="unix:///nowhere")
    assert done.returncode and NO_ENGINE in done.stdout


def first_column(heading: str) -> list[str]:
    """Return what is `quoted` in the first column of a table in docs/docker.md."""
    page = (ROOT / "docs/docker.md").read_text(encoding="utf-8")
    section = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
    return [quoted for cell in cells for quoted in re.findall(r"`(.+?)`", cell)]


def test_docs_docker_md_explains_these_messages() -> None:
    messages = {NO_ENGINE, PORT_IS_TAKEN, NO_GRAPHICS_CARD, WRONG_SETTING}
    assert set(first_column("When something goes wrong")) == messages


def test_docs_docker_md_names_models_that_exist() -> None:
    title, *models = first_column("Choose a model")
    assert title == "WHISPER_MODEL" and "small-int8" in models
    assert {model.removesuffix("-int8") for model in models} <= set(available_models())
