"""`docker compose --profile classroom up`: one service for a room, behind https."""

import asyncio
import io
import json
import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
import requests
from browser import StartApp, Visit
from containers import CADDY, Compose, crash, docker
from playwright.sync_api import Error, expect
from running_lessons import ROOT, OpenLesson, RunLesson, free_port, need
from running_service import client, until
from speech import PHRASES, Audio, lines, silence, spoken, write_wav

LESSON_7 = "simple_audio_transcription.py"
# What docs/classroom.md explains. Each one is provoked below or, the port, in test_docker.py.
NOT_TRUSTED, NO_PAGE = "ERR_CERT_AUTHORITY_INVALID", "HTTP ERROR 502"
PORT_IS_TAKEN, NOT_READABLE = "port is already allocated", "Caddyfile: permission denied"
NAME = "classroom.test"  # like an address in the network: no browser trusts it without https

pytestmark = [pytest.mark.docker, pytest.mark.timeout(300)]


class Classroom(Compose):
    """Two services and Caddy, on ports of the test's own."""

    def __init__(self, host: str) -> None:
        self.https, self.http, self.local = free_port(), free_port(), free_port()
        self.page = free_port()
        super().__init__(
            "room",
            "classroom",
            WHISPER_PORT="0",
            CLASSROOM_HOST=host,
            CLASSROOM_PORT=str(self.https),
            CLASSROOM_HTTP_PORT=str(self.http),
            CLASSROOM_SERVICE_PORT=str(self.local),
            PAGE_PORT=str(self.page),
        )
        self.url = f"ws://127.0.0.1:{self.local}/v1/realtime?intent=transcription"

    def certificate(self, folder: Path) -> Path:
        """Fetch the certificate as a student does."""
        answer = requests.get(f"http://127.0.0.1:{self.http}/root.crt", timeout=20)
        answer.raise_for_status()
        (folder / "root.crt").write_bytes(answer.content)
        return folder / "root.crt"

    def services(self) -> list[str]:
        return self("ps", "--quiet", "faster-whisper").split()

    def sessions(self) -> list[int]:
        """Return how many sessions each of the two services has."""
        counts = []
        for number in ("1", "2"):
            address = self("port", "--index", number, "faster-whisper", "10300").strip()
            counts.append(requests.get(f"http://{address}/health", timeout=20).json()["sessions"])
        return counts


@pytest.fixture(scope="module")
def classroom(_caddy_image: None) -> Iterator[Classroom]:
    room = Classroom(NAME)
    room.down()
    try:
        room.up("--build", "--scale", "faster-whisper=2")
        yield room
    finally:
        room.down()


@pytest.fixture
def trusting_home(classroom: Classroom, tmp_path: Path) -> dict[str, str]:
    """A home in which Chromium trusts the room's certificate, as docs/classroom.md says."""
    need("certutil")
    database = tmp_path / "home/.pki/nssdb"
    database.mkdir(parents=True)
    certutil = ["certutil", "-d", f"sql:{database}"]
    subprocess.run([*certutil, "-N", "--empty-password"], check=True)
    certificate = str(classroom.certificate(tmp_path))
    add = [*certutil, "-A", "-t", "C,,", "-n", "classroom", "-i", certificate]
    subprocess.run(add, check=True)
    return {"HOME": str(tmp_path / "home")}


def conversation(rate: int) -> Audio:
    parts = [silence(2, rate)]
    for phrase in PHRASES:
        parts += [spoken(phrase, rate), silence(1, rate)]
    return np.concatenate(parts)


def test_sessions_are_spread_over_the_services(classroom: Classroom, tmp_path: Path) -> None:
    trusts = ssl.create_default_context(cafile=classroom.certificate(tmp_path))
    url = f"wss://{NAME}:{classroom.https}/v1/realtime?intent=transcription"

    async def connect_eight() -> tuple[list[int], list[list[str]]]:
        async with AsyncExitStack() as stack:
            students = []
            for _ in range(8):
                way = client(url, ssl=trusts, host="127.0.0.1", port=classroom.https)
                students.append(await stack.enter_async_context(way))
                await students[-1].event("session.created")
            counts = await asyncio.to_thread(classroom.sessions)
            for student in students:
                await student.configure(turn_detection=None)
                await student.say(spoken(PHRASES[0], 24_000))
                await student.send("input_audio_buffer.commit")
            return counts, [await student.transcripts(1) for student in students]

    counts, texts = asyncio.run(connect_eight())
    assert counts == [4, 4]
    assert texts == [[PHRASES[0]]] * 8


def test_one_service_crashes_and_nobody_loses_a_word(
    classroom: Classroom, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    """Four people at once, two at each service; the lessons on this computer need no https."""
    wav = write_wav(tmp_path / "said.wav", conversation(16_000))
    people = [
        open_lesson(LESSON_7, "--file", str(wav), env={"WEBSOCKET_URL": classroom.url})
        for _ in range(4)
    ]
    outputs = [io.StringIO() for _ in people]
    for person, output in zip(people, outputs, strict=True):
        person.logfile_read = output
        person.expect("set a")
    assert classroom.sessions() == [2, 2]
    crash(classroom.services()[0])
    for person in people:
        person.expect(r"\d of audio", timeout=60)
    texts = [str(output.getvalue()) for output in outputs]
    assert [lines(text) for text in texts] == [PHRASES] * 4
    gone = sum("Lost the connection" in text for text in texts)
    assert gone == 2
    until(lambda: classroom.sessions() == [0, 0], seconds=60)  # both are there again


def test_the_room_gets_the_page_and_its_microphone_over_https(
    classroom: Classroom,
    trusting_home: dict[str, str],
    start_app: StartApp,
    visit: Visit,
    tmp_path: Path,
) -> None:
    app = start_app(
        STREAMLIT_SERVER_PORT=str(classroom.page),
        STREAMLIT_SERVER_ADDRESS="0.0.0.0",  # so that Caddy can reach it out of its container
        STREAMLIT_BROWSER_SERVER_ADDRESS=NAME,
        WEBSOCKET_URL=classroom.url,
    )
    wav = write_wav(tmp_path / "said.wav", conversation(48_000), 48_000)
    name_is_here = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    url = f"https://{NAME}:{classroom.https}/"

    stranger = visit(arguments=(name_is_here,))
    with pytest.raises(Error, match=NOT_TRUSTED):
        stranger.page.goto(url)

    student = visit(says=wav, env=trusting_home, arguments=(name_is_here,))
    student.open(url)
    assert student.page.evaluate("window.isSecureContext")
    student.start()
    student.expect_said(*PHRASES)
    student.stop()
    assert app.port == classroom.page


def test_without_the_page_of_lesson_8_the_browser_shows_http_error_502(
    classroom: Classroom, trusting_home: dict[str, str], visit: Visit
) -> None:
    """The words are Chromium's, and docs/classroom.md says what they mean."""
    student = visit(env=trusting_home, arguments=(f"--host-resolver-rules=MAP {NAME} 127.0.0.1",))
    with pytest.raises(Error, match="ERR_HTTP_RESPONSE_CODE_FAILURE"):
        student.page.goto(f"https://{NAME}:{classroom.https}/")
    expect(student.page.get_by_text(NO_PAGE)).to_be_visible()


def test_the_room_can_open_the_docs_of_the_service(
    classroom: Classroom, trusting_home: dict[str, str], visit: Visit
) -> None:
    """Its scripts come from the service, too, and not from the page of lesson 8."""
    student = visit(env=trusting_home, arguments=(f"--host-resolver-rules=MAP {NAME} 127.0.0.1",))
    student.page.goto(f"https://{NAME}:{classroom.https}/docs")
    expect(student.page.get_by_text("/v1/audio/transcriptions")).to_be_visible()


def test_a_caddyfile_that_others_may_not_read_is_named(_caddy_image: None, tmp_path: Path) -> None:
    """As where umask is 077: root in this container has no right to read everything."""
    file = tmp_path / "Caddyfile"
    shutil.copy(ROOT / "service/Caddyfile", file)
    file.chmod(0o600)
    if os.getuid() == 0:
        os.chown(file, 1000, 1000)
    rights = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"]
    mount = ["--volume", f"{file}:/etc/caddy/Caddyfile:ro,z"]
    command = ["docker", "run", "--rm", *rights, *mount, CADDY]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode and NOT_READABLE in ended.stderr


def test_docs_classroom_md_explains_these_messages() -> None:
    page = (ROOT / "docs/classroom.md").read_text(encoding="utf-8")
    table = page.partition("## When something goes wrong\n")[2]
    explained = re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)
    assert set(explained) == {f"NET::{NOT_TRUSTED}", NO_PAGE, PORT_IS_TAKEN, NOT_READABLE}


def test_who_forgets_the_https_is_sent_there(classroom: Classroom) -> None:
    answer = requests.get(
        f"http://127.0.0.1:{classroom.http}/some?page=1", allow_redirects=False, timeout=20
    )
    assert answer.status_code == 302
    assert answer.headers["Location"] == f"https://{NAME}/some?page=1"


def test_a_lesson_of_a_student_reaches_the_service_by_a_number(
    classroom: Classroom, run_lesson: RunLesson, tmp_path: Path
) -> None:
    """Of an address that is a number the browser or lesson names no host when it connects."""
    classroom.up("--scale", "faster-whisper=2", CLASSROOM_HOST="127.0.0.1")
    wav = write_wav(tmp_path / "said.wav", conversation(16_000))
    address = f"127.0.0.1:{classroom.https}"
    settings = {
        "WEBSOCKET_URL": f"wss://{address}/v1/realtime?intent=transcription",
        "SERVICE_URL": f"https://{address}",
        "SSL_CERT_FILE": str(classroom.certificate(tmp_path)),
        "REQUESTS_CA_BUNDLE": str(classroom.certificate(tmp_path)),
    }
    live = run_lesson(LESSON_7, "--file", str(wav), env=settings)
    assert re.findall(r"\] (.*)", live.stdout) == PHRASES, live.stdout + live.stderr
    whole = run_lesson("simple_transcription_test.py", "--file", str(wav), env=settings)
    assert " ".join(PHRASES) in whole.stdout, whole.stdout + whole.stderr
    classroom.up("--scale", "faster-whisper=2")


def test_caddy_may_do_only_what_it_needs(classroom: Classroom) -> None:
    state = json.loads(docker("inspect", classroom.container("caddy")))[0]["HostConfig"]
    assert state["ReadonlyRootfs"] and state["CapDrop"] == ["ALL"]
    assert classroom.run("exec", "-T", "caddy", "touch", "/mark").returncode
    assert classroom.run("exec", "-T", "caddy", "touch", "/data/mark").returncode == 0
