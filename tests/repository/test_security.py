"""What stands against attacks, as docs/security.md lists them, wherever no other test shows it."""

import ast
import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import requests
from browser import StartApp, Visit
from ear import OpenEar
from packaging.requirements import Requirement
from packaging.version import Version
from playwright.sync_api import WebSocket, expect
from running_lessons import ROOT, RunLesson
from running_service import Service, StartService
from speech import silence, write_wav
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

KEY = "correct-horse-battery-staple"
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
COMPOSE = (ROOT / "compose.yml").read_text(encoding="utf-8")
CONTAINER = COMPOSE[COMPOSE.index("  faster-whisper:") : COMPOSE.index("  faster-whisper-gpu:")]
LESSONS = [path for path in ROOT.glob("*.py") if "# /// script" in path.read_text(encoding="utf-8")]

# Names that may stand in the Host header of a request, and whether the service answers to them.
NAMES = {
    "127.0.0.1": True,
    "localhost": True,
    "LOCALHOST": True,
    "[::1]": True,
    "192.168.1.20": True,  # a classmate who was let in: an address cannot be rebound
    "attacker.example": False,
    "127.0.0.1.attacker.example": False,
    "localhost.attacker.example": False,
    "": False,
}


# --- DNS rebinding: a page lets a name of its own lead to this computer ---


@pytest.mark.parametrize(("name", "is_ours"), NAMES.items())
async def test_the_service_answers_to_no_name_but_its_own(
    service: Service, name: str, is_ours: bool
) -> None:
    host = f"{name}:{service.port}" if name else ""
    answer = requests.get(f"{service.http_url}/v1/models", headers={"Host": host}, timeout=30)
    assert answer.status_code == (200 if is_ours else 403)
    assert is_ours or "ALLOWED_HOSTS" in answer.json()["error"]["message"]
    if name:
        assert await opens_websocket(service, host) == is_ours


async def opens_websocket(service: Service, host: str) -> bool:
    """Connect to the service by a name that leads there only as far as we know."""
    plug = socket.create_connection(("127.0.0.1", service.port))
    try:
        async with connect_async(service.url.replace(f"127.0.0.1:{service.port}", host), sock=plug):
            return True
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
        return False


async def test_behind_a_proxy_the_service_answers_to_the_name_it_is_given(
    start_service: StartService,
) -> None:
    """As in the container (HOST=0.0.0.0), with a proxy such as Caddy, which passes the name on."""
    service = start_service(HOST="0.0.0.0", ALLOWED_HOSTS="localhost,speech.school.example")
    for host, status in [
        ("speech.school.example", 200),  # https, so without a port
        (f"127.0.0.1:{service.port}", 200),
        ("attacker.example", 403),
    ]:
        answer = requests.get(f"{service.http_url}/health", headers={"Host": host}, timeout=30)
        assert answer.status_code == status
    assert await opens_websocket(service, "speech.school.example")


def test_lists_of_names_and_pages_may_be_written_as_people_write(
    start_service: StartService,
) -> None:
    service = start_service(
        HOST="0.0.0.0",
        ALLOWED_HOSTS="MyLaptop.local, speech.school.example",
        ALLOWED_ORIGINS="https://Page.example, http://other.example",
    )

    def status(host: str, origin: str = "") -> int:
        headers = {"Host": host} | ({"Origin": origin} if origin else {})
        return requests.get(f"{service.http_url}/docs", headers=headers, timeout=30).status_code

    assert status("mylaptop.local:8000") == status("MyLaptop.local") == 200
    assert status("speech.school.example", "http://other.example") == 200
    assert status("127.0.0.1", "https://page.example") == 200
    # Its own page, at whatever address it was opened; but a rebound name stays a stranger's.
    assert status("192.168.1.20:8000", "http://192.168.1.20:8000") == 200
    assert status("192.168.1.20:8000", "http://192.168.1.20:8001") == 403
    assert status("attacker.example", "http://attacker.example") == 403


def test_the_browser_lesson_obeys_no_page_but_its_own(start_app: StartApp) -> None:
    app = start_app()
    attacker = f"http://attacker.example:{app.port}"
    for host, origin, is_ours in [
        ("localhost", f"http://localhost:{app.port}", True),
        ("127.0.0.1", f"http://127.0.0.1:{app.port}", True),
        ("attacker.example", attacker, False),  # DNS rebinding
        ("localhost", attacker, False),
        ("localhost", "null", False),  # a page without an origin: a file, a sandboxed frame
    ]:
        plug = socket.create_connection(("127.0.0.1", app.port))
        url = f"ws://{host}:{app.port}/_stcore/stream"
        try:
            with connect(url, sock=plug, origin=Origin(origin)):
                assert is_ours, (host, origin)
        except InvalidStatus as refused:
            assert refused.response.status_code == 403
            assert not is_ours, (host, origin)


# --- who is let in ---


def test_without_a_setting_only_this_computer_reaches_the_service(service: Service) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", service.port), timeout=5)
    assert "Whoever" not in service.output  # no warning, for there is no reason


def test_open_to_the_network_without_a_key_the_service_says_so(start_service: StartService) -> None:
    assert "Anyone who can reach this address can use it" in start_service(HOST="0.0.0.0").output
    assert "Anyone who" not in start_service(HOST="0.0.0.0", API_KEY=KEY).output


def test_streamlit_run_too_opens_the_page_for_this_computer_only(start_app: StartApp) -> None:
    app = start_app(with_streamlit=True)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", app.port), timeout=5)


def test_the_container_is_reached_from_this_computer_only_and_may_do_little() -> None:
    published = re.findall(r"^ +- (\S+):\d+$", CONTAINER, re.MULTILINE)
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    for setting in (
        'user: "1000:1000"',
        "read_only: true",
        "cap_drop: [ALL]",
        'security_opt: ["no-new-privileges:true"]',
        "pids_limit: 256",
        "mem_limit: ",
    ):
        assert CONTAINER.count(f"\n    {setting}") == 1, setting
    assert not re.search(r"privileged|docker\.sock|network_mode|cap_add|pid: host", CONTAINER)


# --- where keys go, and where not ---


@contextmanager
def postbox() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Run a web server; yield its address, and a list of the paths and keys that come."""
    came: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            came.append((self.path, self.headers.get("Authorization", "")))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"text": "hello"}')

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", came
        server.shutdown()


def test_lesson_6_sends_the_key_in_a_header_alone(run_lesson: RunLesson) -> None:
    with postbox() as (url, came):
        env = {"SERVICE_URL": url, "API_KEY": KEY}
        ended = run_lesson("simple_transcription_test.py", "--file", "samples/speech.wav", env=env)
    assert came == [("/v1/models", f"Bearer {KEY}"), ("/v1/audio/transcriptions", f"Bearer {KEY}")]
    assert ended.returncode == 0 and KEY not in ended.stdout + ended.stderr


def test_lesson_7_sends_the_key_in_a_header_alone(
    run_lesson: RunLesson, open_ear: OpenEar, tmp_path: Path
) -> None:
    ear = open_ear()
    env = {"WEBSOCKET_URL": ear.url, "API_KEY": KEY}
    wav = write_wav(tmp_path / "second.wav", silence(1))
    ended = run_lesson("simple_audio_transcription.py", "--file", str(wav), env=env)
    assert ear.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in ear.calls[0].path + str(ear.calls[0].sessions)
    assert ended.returncode == 0 and KEY not in ended.stdout + ended.stderr


def test_the_key_for_openai_goes_to_nobody_else(
    run_lesson: RunLesson, open_ear: OpenEar, tmp_path: Path
) -> None:
    ear = open_ear()
    wav = str(write_wav(tmp_path / "second.wav", silence(1)))
    with postbox() as (url, came):
        env = {"SERVICE_URL": url, "WEBSOCKET_URL": ear.url, "OPENAI_API_KEY": KEY}
        run_lesson("simple_transcription_test.py", "--file", wav, env=env)
        run_lesson("simple_audio_transcription.py", "--file", wav, env=env)
    assert [key for _, key in came] == ["", ""]
    assert "authorization" not in ear.calls[0].headers


def test_a_key_that_was_typed_for_one_service_goes_to_no_other(
    start_app: StartApp, visit: Visit
) -> None:
    visitor = visit(env={"PULSE_SERVER": "unix:/nowhere"}, arguments=FAKE_MICROPHONE)
    visitor.open(start_app().url)
    visitor.choose("OpenAI", key=KEY)
    expect(visitor.page.get_by_label("API key")).to_have_value(KEY)
    for other in ("This computer", "Another"):
        visitor.choose(other)
        expect(visitor.page.get_by_label("API key")).to_have_value("")


def test_lesson_8_shows_its_key_to_no_visitor_and_to_no_address_but_its_own(
    start_app: StartApp, visit: Visit, open_ear: OpenEar
) -> None:
    own, foreign = open_ear(), open_ear()
    app = start_app(WEBSOCKET_URL=own.url, API_KEY=KEY)
    visitor = visit(env={"PULSE_SERVER": "unix:/nowhere"}, arguments=FAKE_MICROPHONE)
    sent: list[str | bytes] = []  # from the program to the page

    def listen(websocket: WebSocket) -> None:
        websocket.on("framereceived", lambda frame: sent.append(frame))

    visitor.page.on("websocket", listen)
    visitor.open(app.url)
    visitor.open_settings()
    hint = visitor.page.get_by_placeholder(KEY_IS_THERE)
    expect(hint).to_be_visible()
    visitor.start()
    visitor.expect_badge("service on")
    visitor.stop()
    visitor.expect_badge("service off")
    visitor.choose("Another", foreign.url)
    expect(hint).to_have_count(0)
    visitor.start()
    visitor.expect_badge("service on")
    visitor.stop()
    assert own.calls[0].headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in foreign.calls[0].headers
    frames = [frame.encode() if isinstance(frame, str) else frame for frame in sent]
    assert any(KEY_IS_THERE.encode() in frame for frame in frames)  # so we do read them
    assert not any(KEY.encode() in frame for frame in frames)
    assert KEY not in visitor.page.content() + app.output()


FAKE_MICROPHONE = ("--use-fake-device-for-media-stream",)
KEY_IS_THERE = "from the environment"


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name)
def test_no_lesson_takes_a_key_where_others_can_read_it(lesson: Path) -> None:
    """The command line is in the list of processes, and an address is in logs."""
    for node in ast.walk(ast.parse(lesson.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            assert "key" not in ast.unparse(node).lower()
        if isinstance(node, ast.JoinedStr) and "://" in ast.unparse(node):
            assert "key" not in ast.unparse(node).lower()


# --- what is uploaded ---


@pytest.mark.parametrize(
    "playlist",
    [
        "ffconcat version 1.0\nfile samples/speech.wav\n",
        "ffconcat version 1.0\nfile {http}\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{http}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsamples/speech.wav\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n",
    ],
    ids=["a file", "an address", "HLS, an address", "HLS, a file", "a port to listen at"],
)
def test_an_upload_that_names_other_files_opens_none_of_them(
    service: Service, playlist: str
) -> None:
    folder = Path(f"/proc/{service.process.pid}/cwd").resolve()
    assert (folder / "samples/speech.wav").exists()  # the service could open it
    with socket.create_server(("127.0.0.1", 0)) as trap:
        port = trap.getsockname()[1]
        upload = playlist.format(http=f"http://127.0.0.1:{port}/speech.wav", port=port)
        answer = requests.post(
            f"{service.http_url}/v1/audio/transcriptions",
            files={"file": ("speech.wav", upload.encode())},
            timeout=30,
        )
        assert answer.status_code == 400, answer.text
        assert "no audio in a format" in answer.json()["error"]["message"]
        assert not select.select([trap], [], [], 0)[0]  # nobody has called


# --- other people's code ---

SAFE_SINCE = {  # versions before these have holes that are known
    "av": "18",  # FFmpeg 8.1.2: CVE-2026-8461, CVE-2026-40962 and others
    "fastapi": "0.165",  # asks for starlette 1.6; before 1.1: CVE-2026-48710, CVE-2026-48818
    "python-multipart": "0.0.31",  # CVE-2026-42561, -53538, -53539, -53540
    "requests": "2.33",  # CVE-2024-47081, CVE-2026-25645
    "streamlit": "1.61",  # no hole of its own, but since then it has server.allowedHosts
}


def test_versions_with_known_holes_are_refused() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(text) for line in lines if (text := line.split("#")[0].strip())]
    lowest = {
        each.name: Version(part.version)
        for each in wanted
        for part in each.specifier
        if part.operator == ">="
    }
    pinned = {each.name for each in wanted if str(each.specifier).startswith("==")}
    assert lowest.keys() | pinned == {each.name for each in wanted}  # each has a lower bound
    image = (ROOT / "service/requirements.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", image, re.MULTILINE))
    assert pins.keys() & SAFE_SINCE.keys()
    for name, version in SAFE_SINCE.items():
        assert lowest[name] >= Version(version), name
        assert Version(pins.get(name, version)) >= Version(version), (
            f"{name} in service/requirements.txt"
        )


# --- the page itself ---


def test_the_page_names_tests_that_exist_and_all_of_these() -> None:
    named = set(re.findall(r"(test_\w+\.py)::(test_\w+)", PAGE))
    for file, test in named:
        (path,) = (ROOT / "tests").rglob(file)
        assert re.search(rf"def {test}\(", path.read_text(encoding="utf-8")), f"{file}::{test}"
    here = set(
        re.findall(
            r"^(?:async )?def (test_\w+)", Path(__file__).read_text(encoding="utf-8"), re.MULTILINE
        )
    )
    missing = here - {test for file, test in named if file == Path(__file__).name}
    assert missing == {"test_the_page_names_tests_that_exist_and_all_of_these"}
