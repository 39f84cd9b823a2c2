"""Lesson 6, simple_transcription_test.py: one recording, one transcript, and every step checked."""

import ast
import http.server
import re
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pexpect
import pytest
import trustme
from microphone import Microphone, two_channels_only
from running_lessons import (
    ROOT,
    OpenLesson,
    RunLesson,
    found,
    lesson_environment,
    need_default_ports,
    printed,
)
from running_service import Service, StartService
from speech import HELLO as SAMPLE
from speech import PHRASES, silence, spoken, write_wav

LESSON = "simple_transcription_test.py"
WORDS = " ".join(PHRASES)


def test_a_file_passes_every_step(service: Service, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": service.http_url})
    steps = re.findall(r"^✓ (\w+)", ended.stdout, re.MULTILINE)
    assert steps == ["service", "recording", "transcript"]
    assert ended.stdout.endswith(f"\n\n{WORDS}\n")
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_a_proxy_does_not_hide_a_service_on_this_computer(
    service: Service, run_lesson: RunLesson
) -> None:
    nowhere = "http://127.0.0.1:9"
    env = {"SERVICE_URL": service.http_url, "http_proxy": nowhere, "all_proxy": nowhere}
    assert WORDS in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


@pytest.mark.parametrize(
    ("address", "is_nearby"),
    [
        ("http://localhost:8000", True),
        ("http://127.0.0.1:8000", True),
        ("http://192.168.1.20:10300", True),
        ("https://10.1.2.3", True),
        ("http://172.31.0.7:8000", True),
        ("http://atelier.local:10300", True),
        ("http://kept.by.the.user", True),
        ("http://172.32.0.7:8000", False),
        ("https://api.openai.com", False),
    ],
)
def test_a_proxy_is_only_for_the_internet(address: str, is_nearby: bool) -> None:
    question = f"requests.utils.get_environ_proxies({address!r}) == {{}}"
    ended = subprocess.run(
        [sys.executable, "-c", f"import requests, simple_transcription_test; print({question})"],
        cwd=ROOT,
        env=lesson_environment({"all_proxy": "http://127.0.0.1:9", "NO_PROXY": "kept.by.the.user"}),
        capture_output=True,
        text=True,
    )
    assert ended.stdout == f"{is_nearby}\n", ended.stderr


def test_the_microphone_passes_every_step(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    lesson = open_lesson(LESSON, "--seconds", "4", env=env)
    lesson.expect("✓ service")
    lesson.expect(r"✓ microphone   default, \d+ Hz\r\n")
    wav = write_wav(tmp_path / "a.wav", spoken("set a timer for three minutes"))
    microphone.say(wav)
    lesson.expect(r"Speak now \S*━")
    lesson.expect(r"✓ recording    4 s, loudest moment (\d+)%")
    assert int(found(lesson)) > 10
    lesson.expect(r"✓ transcript   \d+\.\d\d s\r\n")
    lesson.expect(r"\r\nset a timer for three minutes\r\n")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0
    assert "ALSA" not in printed(lesson)


def test_devices_are_listed(microphone: Microphone, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--list-devices", env=microphone.environment)
    assert re.search(r"^ *\d+  default$", ended.stdout, re.MULTILINE)
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_a_device_is_chosen_by_its_number(
    service: Service,
    microphone: Microphone,
    run_lesson: RunLesson,
    open_lesson: OpenLesson,
    tmp_path: Path,
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    listed = run_lesson(LESSON, "--list-devices", env=env).stdout
    for number, name in re.findall(r"(\d+)  (.+)", listed):
        lesson = open_lesson(LESSON, "--device", number, "--seconds", "1", env=env)
        lesson.expect(rf"✓ microphone   {name}, \d+ Hz")


@pytest.mark.parametrize("number", ["99", "-1"])
def test_a_device_that_does_not_exist_is_a_sentence_and_no_crash(
    service: Service, microphone: Microphone, run_lesson: RunLesson, number: str
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    ended = run_lesson(LESSON, "--device", number, env=env)
    assert (ended.stderr, ended.returncode) == ("", 1)  # a crash would be -11
    assert "✗ microphone   [Errno -9996] Invalid device" in ended.stdout
    assert "--list-devices" in ended.stdout


def test_a_microphone_with_two_channels_is_mixed_to_one(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    env = microphone.environment | two_channels_only(tmp_path)
    env["SERVICE_URL"] = service.http_url
    lesson = open_lesson(LESSON, "--seconds", "4", env=env)
    lesson.expect("✓ microphone")
    microphone.say(write_wav(tmp_path / "a.wav", spoken("set a timer for three minutes")))
    lesson.expect(r"\r\nset a timer for three minutes\r\n")


def test_a_silent_microphone_is_not_sent_but_explained(
    service: Service, microphone: Microphone, run_lesson: RunLesson
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    ended = run_lesson(LESSON, "--seconds", "1", env=env)
    assert ended.returncode == 1
    assert "✗ microphone   The microphone is silent (loudest moment 0%)." in ended.stdout
    assert "pavucontrol" in ended.stdout and "✓ transcript" not in ended.stdout


def test_without_a_microphone_there_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
    pytest.importorskip("pyaudio")  # make check does without it
    env = {"PULSE_SERVER": "unix:/nonexistent", "SERVICE_URL": service.http_url}
    ended = run_lesson(LESSON, env=env)
    assert ended.returncode == 1 and "✗ microphone" in ended.stdout
    assert "pavucontrol" in ended.stdout and "Traceback" not in ended.stderr


def test_without_pyaudio_a_file_still_works_and_the_microphone_is_explained(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    (tmp_path / "pyaudio.py").write_text("raise ImportError('libportaudio.so.2: not found')")
    env = {"SERVICE_URL": service.http_url, "PYTHONPATH": str(tmp_path)}
    assert WORDS in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout
    ended = run_lesson(LESSON, env=env)
    assert ended.returncode == 1 and "✗ microphone" in ended.stdout
    assert "libportaudio.so.2" in ended.stdout and "Set-up in README.md" in ended.stdout


def test_a_service_that_is_not_there_is_explained(run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": "http://127.0.0.1:9"})
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert re.search("✗ service .*Connection refused", ended.stdout)
    assert "No service is running at http://127.0.0.1:9." in ended.stdout
    assert "docker compose up faster-whisper" in ended.stdout
    assert "python fastapi_example.py" in ended.stdout


def test_without_any_setting_it_names_both_local_addresses(run_lesson: RunLesson) -> None:
    need_default_ports()
    ended = run_lesson(LESSON, "--file", SAMPLE)
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert "at http://127.0.0.1:10300 or http://127.0.0.1:8000." in ended.stdout


def test_without_any_setting_it_finds_the_first_local_service(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    need_default_ports()
    start_service(PORT="8000")
    ended = run_lesson(LESSON, "--file", SAMPLE)
    assert "✓ service      http://127.0.0.1:8000 answers" in ended.stdout
    assert ended.stdout.endswith(f"\n\n{WORDS}\n")

    with another_program(port=10300):
        assert WORDS in run_lesson(LESSON, "--file", SAMPLE).stdout

    start_service(PORT="10300")
    ended = run_lesson(LESSON, "--file", SAMPLE)
    assert "✓ service      http://127.0.0.1:10300 answers" in ended.stdout


@contextmanager
def another_program(port: int) -> Iterator[None]:
    """Listen at a port, and hang up on everybody who speaks HTTP."""
    with socket.create_server(("127.0.0.1", port)) as listening:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    listening.accept()[0].close()

        threading.Thread(target=hang_up, daemon=True).start()
        yield
        listening.shutdown(socket.SHUT_RDWR)  # close() alone would not wake accept()


@pytest.mark.parametrize("body", [b"<html>another program</html>", b"[]", b"7", b""])
def test_another_program_at_the_port_is_named_as_such(body: bytes, run_lesson: RunLesson) -> None:
    with answering(404, body) as url:
        ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": url})
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert "✗ service      Unexpected answer: 404 Not Found." in ended.stdout
    assert "Check SERVICE_URL" in ended.stdout


def test_a_wrong_key_names_the_variable_and_never_shows_the_key(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    service = start_service(API_KEY="the-right-key")
    for key in ("", "the-wrong-key"):
        env = {"SERVICE_URL": service.http_url, "API_KEY": key}
        ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
        assert ended.returncode == 1 and "✗ service" in ended.stdout
        assert "API key into API_KEY" in ended.stdout and "the-wrong-key" not in ended.stdout
    env = {"SERVICE_URL": service.http_url, "API_KEY": "the-right-key"}
    assert WORDS in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


@pytest.mark.parametrize("key", ["sk-secret\u200b", "“sk-secret”", "sk-\x01secret", "sk-\nsecret"])
def test_a_key_that_cannot_be_one_is_not_shown_either(
    key: str, start_service: StartService, run_lesson: RunLesson
) -> None:
    service = start_service(API_KEY="right")
    env = {"SERVICE_URL": service.http_url, "API_KEY": key}
    ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert "✗ service" in ended.stdout and "secret" not in ended.stdout


def test_a_line_end_behind_a_key_does_no_harm(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    service = start_service(API_KEY="right")
    env = {"SERVICE_URL": service.http_url, "API_KEY": "right\r\n"}
    assert WORDS in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


def test_a_certificate_that_nobody_knows_is_named_as_such(
    run_lesson: RunLesson, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with answering(404, b"", tls) as url:

        def says(bundle: str) -> str:
            env = {"SERVICE_URL": url, "REQUESTS_CA_BUNDLE": str(tmp_path / bundle)}
            ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
            assert ended.returncode == 1 and ended.stderr == ""
            return ended.stdout

        assert "can't be trusted" in says("") and "REQUESTS_CA_BUNDLE" in says("")
        assert "no-such-file.pem" in says("no-such-file.pem")
        assert "404 Not Found" in says("authority.pem")


@pytest.mark.parametrize("address", ["http://a..b:80", "http://127.0.0.1:99999", "127.0.0.1:8000"])
def test_an_address_that_is_none_is_explained(address: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": address})
    assert ended.returncode == 1 and ended.stderr == ""
    assert "✗ service" in ended.stdout and "like http://127.0.0.1:8000" in ended.stdout


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no audio"),
        (b"hello, I am a text", "holds no audio"),
        (bytes(26 * 2**20), "larger than 25 MB"),
    ],
)
def test_what_is_no_recording_is_explained(
    service: Service, run_lesson: RunLesson, tmp_path: Path, content: bytes, sentence: str
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(content)
    ended = run_lesson(LESSON, "--file", str(file), env={"SERVICE_URL": service.http_url})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "✗ transcript" in ended.stdout and sentence in ended.stdout
    assert "Try --file samples/speech.wav" in ended.stdout


def test_a_recording_without_words_is_explained(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    wav = write_wav(tmp_path / "a.wav", silence(2))
    ended = run_lesson(LESSON, "--file", str(wav), env={"SERVICE_URL": service.http_url})
    assert ended.returncode == 1 and "✗ transcript   The service heard no words." in ended.stdout


def test_a_missing_file_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
    env = {"SERVICE_URL": service.http_url}
    ended = run_lesson(LESSON, "--file", "nowhere.wav", env=env)
    assert (ended.stderr, ended.returncode) == ("", 1)
    assert "✗ recording    [Errno 2] No such file or directory: 'nowhere.wav'" in ended.stdout


@contextmanager
def answering(
    status: int, body: bytes, tls: ssl.SSLContext | None = None, port: int = 0
) -> Iterator[str]:
    """Run a web server that answers everything the same, and yield its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "text/html" if b"<" in body else "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", port), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "sentences"),
    [
        (429, b'{"error": {"message": "You exceeded your quota."}}', ["your quota", "credit"]),
        (404, b"<html>not here</html>", ["404 Not Found", "SERVICE_URL"]),
        (200, b"<html>Welcome to our Wi-Fi!</html>", ["Unexpected answer: 200 OK", "SERVICE_URL"]),
        (500, b"", ["500 Internal Server Error"]),
    ],
)
def test_what_a_service_objects_to_is_shown_with_a_remedy(
    run_lesson: RunLesson, status: int, body: bytes, sentences: list[str]
) -> None:
    with answering(status, body) as url:
        ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": url})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    for sentence in sentences:
        assert sentence in ended.stdout


def changed(folder: Path, old: str, new: str) -> str:
    """Write a copy of the lesson in which something is replaced, and return its path."""
    text = (ROOT / LESSON).read_text(encoding="utf-8")
    assert text.count(old) == 1
    copy = folder / LESSON
    copy.write_text(text.replace(old, new), encoding="utf-8")
    return str(copy)


def test_try_next_lets_the_words_walk_down_the_screen(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / LESSON).read_text(encoding="utf-8"))) or ""
    exercise = docstring.partition("Try next")[2]
    code = "\n".join(line for line in exercise.splitlines() if line.startswith(" " * 8))
    assert "replace print(text) with these two lines" in exercise and code.count("\n") == 1
    lines = textwrap.indent(textwrap.dedent(code), "    ")
    copy = changed(tmp_path, "\n    print(text)\n", f"\n{lines}\n")
    shown = run_lesson(copy, "--file", SAMPLE, env={"SERVICE_URL": service.http_url}).stdout
    steps = ["  " * number + word for number, word in enumerate(WORDS.split())]
    assert shown.endswith("\n" + "\n".join(steps) + "\n")


def test_it_makes_subtitles(service: Service, run_lesson: RunLesson, tmp_path: Path) -> None:
    copy = changed(tmp_path, 'RESPONSE_FORMAT = "json"', 'RESPONSE_FORMAT = "srt"')
    shown = run_lesson(copy, "--file", SAMPLE, env={"SERVICE_URL": service.http_url}).stdout
    assert shown.count(" --> ") == 5
    assert [line for line in shown.splitlines() if line in PHRASES] == PHRASES


def test_loudness_is_told_truly(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    half = (16384 * np.sin(np.arange(16_000 * 8) * 2 * np.pi * 400 / 16_000)).astype("<i2")
    microphone.say(write_wav(tmp_path / "tone.wav", half))
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    lesson = open_lesson(LESSON, "--seconds", "2", env=env)
    lesson.expect(r"loudest moment (\d+)%")
    assert int(found(lesson)) == pytest.approx(50, abs=3)


class Thinker(http.server.BaseHTTPRequestHandler):
    """A service that thinks about a recording until it is told to answer."""

    answers = threading.Event()
    form = b""

    def do_GET(self) -> None:
        self.answer(b'{"data": []}')

    def do_POST(self) -> None:
        Thinker.form = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.answers.wait(20)
        self.answer(b'{"text": "at last"}')

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def thinker() -> Iterator[str]:
    Thinker.answers.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Thinker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_it_shows_that_it_is_alive_while_it_waits_for_the_text(
    thinker: str, open_lesson: OpenLesson
) -> None:
    lesson = open_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": thinker})
    lesson.expect(r"([⠀-⣿])\S* Waiting for the text …")
    lesson.expect(rf"(?!{found(lesson)})[⠀-⣿]\S* Waiting for the text …")  # the sign in front moves
    Thinker.answers.set()
    lesson.expect("✓ transcript")
    lesson.expect("at last")


@pytest.mark.parametrize("language", ["", "de"])
def test_a_language_is_sent_only_if_one_was_chosen(
    language: str, thinker: str, run_lesson: RunLesson
) -> None:
    Thinker.answers.set()
    env = {"SERVICE_URL": thinker, "TRANSCRIPTION_LANGUAGE": language}
    assert "at last" in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout
    sent = re.findall(rb'name="language"\r\n\r\n(.*?)\r\n', Thinker.form)
    assert sent == [language.encode()] * bool(language)
