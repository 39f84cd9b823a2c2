"""Lesson 6, simple_transcription_test.py: one recording, one transcript, and every step checked."""

import http.server
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pexpect
import pytest
import trustme
from microphone import Microphone
from running_lessons import ROOT, OpenLesson, RunLesson, found, printed
from running_service import Service, StartService
from speech import PHRASES, silence, spoken, write_wav

LESSON = "simple_transcription_test.py"
SAMPLE = "samples/speech.wav"
WORDS = " ".join(PHRASES)


def test_a_file_passes_every_step(service: Service, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": service.http_url})
    steps = re.findall(r"^✓ (\w+)", ended.stdout, re.MULTILINE)
    assert steps == ["service", "recording", "transcript"]
    assert ended.stdout.endswith(f"\n\n{WORDS}\n")
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_a_proxy_for_web_pages_does_not_stand_in_the_way(
    service: Service, run_lesson: RunLesson
) -> None:
    nowhere = "http://127.0.0.1:9"
    env = {"SERVICE_URL": service.http_url, "http_proxy": nowhere, "all_proxy": nowhere}
    assert WORDS in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


def test_the_embedded_engine_does_as_well(embedded_service: Service, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": embedded_service.http_url})
    assert ended.stdout.endswith(f"\n\n{WORDS}\n")


def test_the_microphone_passes_every_step(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    lesson = open_lesson(LESSON, "--seconds", "4", env=env)
    lesson.expect("✓ service")
    lesson.expect(r"✓ microphone   default, \d+ Hz\r\n")
    wav = write_wav(tmp_path / "a.wav", spoken("set a timer for three minutes"))
    microphone.say(wav)
    lesson.expect(r"speak now  █+░+  \d\.\d s")
    lesson.expect(r"✓ recording    4.0 s, loudest moment (\d+) %")
    assert int(found(lesson)) > 10
    lesson.expect(r"✓ transcript   \(\d+\.\d\d s\)")
    lesson.expect(r"\r\nset a timer for three minutes\r\n")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0
    assert "ALSA" not in printed(lesson)


def test_devices_are_listed(microphone: Microphone, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--list-devices", env=microphone.environment)
    assert re.search(r"^ *\d+  default, \d+ Hz$", ended.stdout, re.MULTILINE)
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_a_silent_microphone_is_not_sent_but_explained(
    service: Service, microphone: Microphone, run_lesson: RunLesson
) -> None:
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    ended = run_lesson(LESSON, "--seconds", "1", env=env)
    assert ended.returncode == 1
    assert "✗ recording    1.0 s, loudest moment 0 %: that is silence." in ended.stdout
    assert "pavucontrol" in ended.stdout and "✓ transcript" not in ended.stdout


def test_without_a_microphone_there_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
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
    assert "libportaudio.so.2" in ended.stdout and "portaudio19-dev" in ended.stdout


def test_a_service_that_is_not_there_is_explained(run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": "http://127.0.0.1:9"})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "✗ service      Nothing answers at http://127.0.0.1:9." in ended.stdout
    assert "docker compose up faster-whisper" in ended.stdout
    assert "python fastapi_example.py" in ended.stdout


def test_the_other_local_service_is_offered(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    start_service(PORT="8000")
    ended = run_lesson(LESSON, "--file", SAMPLE)  # it looks for the one in Docker
    assert ended.returncode == 1
    command = re.search(rf"SERVICE_URL=(\S+) python {LESSON}", ended.stdout)
    assert command, ended.stdout
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": command.group(1)})
    assert WORDS in ended.stdout


def test_what_is_no_service_is_not_offered(run_lesson: RunLesson) -> None:
    for body in (b"", b"<html>another program</html>", b"[]", b"7"):
        with answering(200, body, port=8000):
            ended = run_lesson(LESSON, "--file", SAMPLE)
        assert ended.returncode == 1 and ended.stderr == ""
        assert "Start a service in another terminal" in ended.stdout


def test_a_wrong_key_names_the_variable_and_never_shows_the_key(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    service = start_service(API_KEY="the-right-key")
    for key in ("", "the-wrong-key"):
        env = {"SERVICE_URL": service.http_url, "API_KEY": key}
        ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
        assert ended.returncode == 1 and "✗ service" in ended.stdout
        assert "OPENAI_API_KEY" in ended.stdout and "the-wrong-key" not in ended.stdout
    env = {"SERVICE_URL": service.http_url, "API_KEY": "the-right-key"}
    assert WORDS in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


@pytest.mark.parametrize("key", ["sk-secret\u200b", "“sk-secret”", "sk-\x01secret"])
def test_a_key_that_cannot_be_one_is_not_shown_either(key: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"API_KEY": key})
    assert ended.returncode == 1 and ended.stderr == ""
    assert "Your key holds a letter that no key has." in ended.stdout
    assert "secret" not in ended.stdout


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

        assert "cannot be trusted" in says("") and "REQUESTS_CA_BUNDLE" in says("")
        assert "cannot be trusted" in says("no-such-file.pem")
        assert "404 Not Found" in says("authority.pem")


@pytest.mark.parametrize("address", ["http://a..b:80", "http://127.0.0.1:99999", "127.0.0.1:8000"])
def test_an_address_that_is_none_is_explained(address: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"SERVICE_URL": address})
    assert ended.returncode == 1 and ended.stderr == ""
    assert f"✗ service      {address}: " in ended.stdout and "begins with http://" in ended.stdout


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "1e9"])
def test_a_time_that_is_none_is_refused(seconds: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, f"--seconds={seconds}")
    assert ended.returncode == 2 and "--seconds: it can be" in ended.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no audio that can be decoded"),
        (b"hello, I am a text", "no audio that can be decoded"),
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
    assert "✗ service" in ended.stdout and sentence in ended.stdout


def test_a_recording_without_words_is_explained(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    wav = write_wav(tmp_path / "a.wav", silence(2))
    ended = run_lesson(LESSON, "--file", str(wav), env={"SERVICE_URL": service.http_url})
    assert ended.returncode == 1 and "heard no words" in ended.stdout


def test_a_missing_file_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
    env = {"SERVICE_URL": service.http_url}
    ended = run_lesson(LESSON, "--file", "nowhere.wav", env=env)
    assert ended.returncode == 1 and "Cannot read nowhere.wav" in ended.stdout
    assert "Traceback" not in ended.stderr


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
        (404, b"<html>not here</html>", ["404 Not Found", "up to the port"]),
        (200, b"<html>Welcome to our Wi-Fi!</html>", ["Is this a transcription", "log in"]),
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


def test_try_next_makes_subtitles(service: Service, run_lesson: RunLesson, tmp_path: Path) -> None:
    text = (ROOT / LESSON).read_text()
    old, new = 'RESPONSE_FORMAT = "json"', 'RESPONSE_FORMAT = "srt"'
    assert text.count(old) == 1
    copy = tmp_path / LESSON
    copy.write_text(text.replace(old, new))
    env = {"SERVICE_URL": service.http_url}
    shown = run_lesson(str(copy), "--file", SAMPLE, env=env).stdout
    assert shown.count(" --> ") == 5
    assert [line for line in shown.splitlines() if line in PHRASES] == PHRASES


def test_loudness_is_told_truly(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    half = (16384 * np.sin(np.arange(16_000 * 8) * 2 * np.pi * 400 / 16_000)).astype("<i2")
    microphone.say(write_wav(tmp_path / "tone.wav", half))
    env = microphone.environment | {"SERVICE_URL": service.http_url}
    lesson = open_lesson(LESSON, "--seconds", "2", env=env)
    lesson.expect(r"loudest moment (\d+) %")
    assert int(found(lesson)) == pytest.approx(50, abs=3)
