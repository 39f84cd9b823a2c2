"""Lesson 7, simple_audio_transcription.py, from the microphone to the words in the terminal."""

import io
import re
import wave
from pathlib import Path

import numpy as np
import pexpect
import pytest
from microphone import Microphone
from referee import KEY, referee
from running_lessons import ROOT, OpenLesson, RunLesson, found, printed
from running_service import Service, StartService, until
from speech import HELLO as SAMPLE
from speech import PHRASES, Audio, lines, silence, similarity, spoken, write_wav

LESSON = "simple_audio_transcription.py"
WORDS = " ".join(PHRASES).split()
SUMMARY = f"5 phrases, {len(WORDS)} words, 0:11 of audio."


def phrase_file(folder: Path, text: str, rate: int = 16_000) -> Path:
    return write_wav(folder / f"{text}.wav", spoken(text, rate), rate)


@pytest.mark.parametrize("profile", ["local", "openai"])
@pytest.mark.parametrize("model", ["gpt-transcribe", "gpt-live-transcribe"])
def test_a_file_is_heard_by_the_rules_of_every_server(
    service: Service, run_lesson: RunLesson, profile: str, model: str
) -> None:
    with referee(service, profile) as seen:
        env = {"WEBSOCKET_URL": seen.url, "TRANSCRIPTION_MODEL": model, "API_KEY": KEY}
        ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
    assert seen.faults == []
    assert lines(ended.stdout) == PHRASES
    assert ended.stdout.splitlines()[-1] == SUMMARY
    assert (ended.stderr, ended.returncode) == ("", 0)


@pytest.mark.parametrize("rate", ["16000", "24000"])
def test_a_file_plays_at_the_speed_of_speech_and_nothing_is_dropped(
    service: Service, run_lesson: RunLesson, rate: str
) -> None:
    with wave.open(str(ROOT / SAMPLE)) as sample:
        said = np.frombuffer(sample.readframes(sample.getnframes()), "<i2")
    with referee(service) as seen:
        env = {"WEBSOCKET_URL": seen.url, "SAMPLE_RATE": rate}
        ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
    assert lines(ended.stdout) == PHRASES
    heard = seen.heard()
    assert len(heard) == pytest.approx(len(said) * int(rate) / 16_000, abs=200)
    assert seen.seconds == pytest.approx(len(said) / 16_000, rel=0.1)
    assert similarity(resampled(said, int(rate)), heard) > 0.99


def resampled(samples: Audio, rate: int) -> Audio:
    positions = np.arange(0, len(samples), 16_000 / rate)
    return np.asarray(np.interp(positions, np.arange(len(samples)), samples), "<i2")


def test_phrases_spoken_into_the_microphone_are_written_one_by_one(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    with referee(service) as seen:
        env = microphone.environment | {"WEBSOCKET_URL": seen.url}
        lesson = open_lesson(LESSON, "--device", device(microphone, open_lesson), env=env)
        lesson.expect("How many seconds")
        lesson.sendline("600")
        lesson.expect("Speak!")
        for phrase in PHRASES:
            microphone.say(phrase_file(tmp_path, phrase))
            lesson.expect(rf"\[\d+:\d\d\] {phrase}\s")
        lesson.sendintr()
        lesson.expect_exact(SUMMARY.split(", 0:")[0])
        lesson.expect(pexpect.EOF)
        assert "ALSA" not in printed(lesson) and lesson.wait() == 0
    assert seen.faults == []
    heard = seen.heard()
    for phrase in PHRASES:
        assert similarity(spoken(phrase, 24_000), heard) > 0.99


def device(microphone: Microphone, open_lesson: OpenLesson) -> str:
    """Return the number of the microphone that the virtual one has."""
    lesson = open_lesson(LESSON, "--list-devices", env=microphone.environment)
    lesson.expect(r"(\d+)  default")
    number = found(lesson)
    lesson.expect(pexpect.EOF)
    return number


def test_prompts_take_a_number_or_enter_and_ask_again_after_nonsense(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    lesson = open_lesson(LESSON, env=env)
    lesson.expect(r"(\d+)  default")
    number = found(lesson)
    lesson.expect("Which microphone")
    for nonsense in ("99", "a", "-1"):
        lesson.sendline(nonsense)
        lesson.expect("is not possible")
        lesson.expect("Which microphone")
    lesson.sendline(number)
    lesson.expect("How many seconds")
    for nonsense in ("soon", "0", "-3"):
        lesson.sendline(nonsense)
        lesson.expect("is not possible")
    lesson.sendline("1.5")
    lesson.expect(r"default, \d+ Hz. Speak! 1.5 s")
    lesson.expect("0 phrases, 0 words")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0


def test_enter_alone_means_the_default(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    lesson = open_lesson(LESSON, env=env)
    lesson.expect("Which microphone")
    lesson.sendline("")
    lesson.expect("How many seconds")
    lesson.sendline("")
    lesson.expect("Speak! 30 s")
    lesson.sendintr()
    lesson.expect("0 phrases")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0


@pytest.mark.parametrize("model", ["gpt-transcribe", "gpt-live-transcribe"])
def test_ctrl_c_in_mid_sentence_still_writes_the_last_words(
    service: Service, open_lesson: OpenLesson, tmp_path: Path, model: str
) -> None:
    sentence = spoken("set a timer for three minutes")
    wav = write_wav(tmp_path / "a.wav", np.concatenate([sentence, spoken("goodbye"), silence(5)]))
    profile = "openai" if model == "gpt-live-transcribe" else "local"
    with referee(service, profile) as seen:
        env = {"WEBSOCKET_URL": seen.url, "API_KEY": KEY, "TRANSCRIPTION_MODEL": model}
        lesson = open_lesson(LESSON, "--file", str(wav), env=env)
        until(lambda: len(seen.heard()) > 24 * len(sentence) / 16)
        lesson.sendintr()
        lesson.expect(r"\[0:00\] set a timer for three minutes")
        lesson.expect("1 phrase, 6 words, 0:0[23] of audio")
        lesson.expect(pexpect.EOF)
        assert "Traceback" not in printed(lesson) and lesson.wait() == 0
    assert seen.faults == []


def test_words_appear_while_they_are_spoken_and_the_line_never_overflows(
    service: Service, open_lesson: OpenLesson
) -> None:
    env = {"WEBSOCKET_URL": service.url}
    lesson = open_lesson(LESSON, "--file", SAMPLE, env=env, columns=40)
    lesson.expect(r"\r0:0\d [█░]{8} set a timer\b[^\r]*\r")  # not yet the whole phrase
    lesson.expect(r"\r\[0:0\d\] set a timer for three minutes")
    lesson.expect("5 phrases")
    for piece in re.split(r"[\r\n]+", printed(lesson)):
        assert len(piece) <= 40


@pytest.mark.parametrize("profile", ["local", "openai"])
def test_a_service_killed_in_mid_sentence_and_started_again_loses_nothing(
    start_service: StartService, open_lesson: OpenLesson, profile: str
) -> None:
    service = start_service()
    with referee(service, profile) as seen:
        env = {"WEBSOCKET_URL": seen.url, "API_KEY": KEY}
        lesson = open_lesson(LESSON, "--file", SAMPLE, env=env)
        lesson.logfile_read = output = io.StringIO()
        lesson.expect(r"\] hello world")
        until(lambda: len(seen.heard()) > 24_000 * 3.5)  # in the middle of the second phrase
        service.kill()
        lesson.expect("The service is gone")
        service.start()
        lesson.expect("The service is back")
        lesson.expect(re.escape(SUMMARY))
        lesson.expect(pexpect.EOF)
        assert lesson.wait() == 0
    transcript = lines(str(output.getvalue()))
    assert transcript == PHRASES


def test_a_proxy_for_web_pages_does_not_stand_in_the_way(
    service: Service, run_lesson: RunLesson
) -> None:
    nowhere = "http://127.0.0.1:9"
    env = {"WEBSOCKET_URL": service.url, "http_proxy": nowhere, "https_proxy": nowhere}
    assert lines(run_lesson(LESSON, "--file", SAMPLE, env=env).stdout) == PHRASES


def test_what_was_said_is_kept_in_a_file_if_asked_for(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.wav"
    env = {"WEBSOCKET_URL": service.url}
    run_lesson(LESSON, "--file", SAMPLE, "--save", str(kept), env=env)
    with wave.open(str(kept)) as wav, wave.open(str(ROOT / SAMPLE)) as sample:
        assert wav.getparams()[:3] == (1, 2, 24_000)
        heard = np.frombuffer(wav.readframes(wav.getnframes()), "<i2")
        said = np.frombuffer(sample.readframes(sample.getnframes()), "<i2")
    assert similarity(resampled(said, 24_000), heard) > 0.99


def test_the_callback_only_hands_audio_over(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    """In debug mode asyncio raises an error when another thread touches the event loop."""
    env = microphone.environment | {"WEBSOCKET_URL": service.url, "PYTHONASYNCIODEBUG": "1"}

    def speak_to(script: str) -> str:
        lesson = open_lesson(script, "--seconds", "600", "--device", number, env=env)
        lesson.expect("Speak!")
        microphone.say(phrase_file(tmp_path, "hello world"))
        what = lesson.expect([r"\] hello world", "Non-thread-safe operation"])
        lesson.sendintr()
        return ("heard", "unsafe")[what]

    number = device(microphone, open_lesson)
    assert speak_to(LESSON) == "heard"
    text = (ROOT / LESSON).read_text()
    safe = "loop.call_soon_threadsafe(add, pcm)"
    assert text.count(safe) == 1
    careless = tmp_path / LESSON
    careless.write_text(text.replace(safe, "loop.call_soon(add, pcm)"))
    assert speak_to(str(careless)) == "unsafe"


def test_an_unplugged_or_silent_microphone_is_noticed(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    number = device(microphone, open_lesson)
    lesson = open_lesson(LESSON, "--device", number, "--seconds", "600", env=env)
    lesson.expect("The microphone is silent.*pavucontrol")
    microphone.unplug()
    lesson.expect("The microphone has stopped. Was it unplugged")
    lesson.expect("0 phrases")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0 and "Traceback" not in printed(lesson)


def test_without_a_microphone_there_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
    nowhere = {"PULSE_SERVER": "unix:/nonexistent", "WEBSOCKET_URL": service.url}
    ended = run_lesson(LESSON, "--device", "0", env=nowhere)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "Cannot record" in ended.stderr and "--list-devices" in ended.stderr


NOWHERE = "ws://127.0.0.1:9/v1/realtime?intent=transcription"


@pytest.mark.parametrize(
    ("url", "remedies"),
    [
        (NOWHERE, ["Nothing answers", "docker compose up faster-whisper", "fastapi_example.py"]),
        ("http://127.0.0.1:9", ["is no WebSocket address", "ws://"]),
        ("ws://[::1", ["is no WebSocket address"]),
        ("ws://no-such-host.invalid/v1", ["Nothing answers at ws://no-such-host.invalid"]),
    ],
)
def test_a_service_that_is_not_there_is_explained(
    run_lesson: RunLesson, url: str, remedies: list[str]
) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": url})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    for remedy in remedies:
        assert remedy in ended.stderr


def test_the_other_local_service_is_offered(
    start_service: StartService, run_lesson: RunLesson
) -> None:
    start_service(PORT="8000")
    ended = run_lesson(LESSON, "--file", SAMPLE)  # it looks for the one in Docker
    assert ended.returncode == 1
    command = re.search(r'WEBSOCKET_URL="(\S+)" python ' + LESSON, ended.stderr)
    assert command, ended.stderr
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": command.group(1)})
    assert lines(ended.stdout) == PHRASES


def test_a_wrong_address_at_the_right_service_is_explained(
    service: Service, run_lesson: RunLesson
) -> None:
    wrong = service.url.replace("/v1/realtime", "/v1/realtme")
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": wrong})
    assert ended.returncode == 1
    assert "HTTP status 403" in ended.stderr and "WEBSOCKET_URL" in ended.stderr


def test_a_wrong_key_names_the_variable_and_never_shows_the_key(
    service: Service, run_lesson: RunLesson
) -> None:
    for env in ({}, {"API_KEY": "sk-wrong-98765"}):
        with referee(service, "openai") as seen:
            ended = run_lesson(LESSON, "--file", SAMPLE, env=env | {"WEBSOCKET_URL": seen.url})
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert "OPENAI_API_KEY" in ended.stderr
        assert "sk-wrong" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("key", ["“sk-secret”", "sk-\x01secret"])
def test_a_key_that_cannot_be_one_is_not_shown_either(key: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"API_KEY": key})
    assert ended.returncode == 1 and "secret" not in ended.stderr + ended.stdout
    assert ended.stderr == "Your key holds a letter that no key has. Copy it once more.\n"


def test_a_line_end_behind_a_key_does_no_harm(service: Service, run_lesson: RunLesson) -> None:
    with referee(service, "openai") as seen:
        env = {"WEBSOCKET_URL": seen.url, "API_KEY": f"{KEY}\r\n"}
        assert "5 phrases" in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


def test_a_service_without_a_certificate_is_named_as_such(
    service: Service, run_lesson: RunLesson
) -> None:
    address = service.url.replace("ws://", "wss://")
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": address})
    assert ended.returncode == 1 and f"certificate of {address} cannot be trusted" in ended.stderr
    assert "ws:// in place of wss://" in ended.stderr


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_time_that_is_none_is_refused(seconds: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, f"--seconds={seconds}")
    assert ended.returncode == 2 and "--seconds: it must be" in ended.stderr


@pytest.mark.parametrize("nonsense", [b"", b"hello, I am a text", b"RIFF\x00\x00\x00\x00WAVE"])
def test_a_file_that_is_no_recording_is_a_sentence(
    service: Service, run_lesson: RunLesson, tmp_path: Path, nonsense: bytes
) -> None:
    file = tmp_path / "no recording.wav"
    file.write_bytes(nonsense)
    ended = run_lesson(LESSON, "--file", str(file), env={"WEBSOCKET_URL": service.url})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "no recording.wav" in ended.stderr


def test_a_missing_file_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", "nowhere.wav", env={"WEBSOCKET_URL": service.url})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "nowhere.wav" in ended.stderr


def test_a_file_needs_no_pyaudio(service: Service, run_lesson: RunLesson, tmp_path: Path) -> None:
    (tmp_path / "pyaudio.py").write_text("raise ImportError('libportaudio.so.2: not found')")
    env = {"WEBSOCKET_URL": service.url, "PYTHONPATH": str(tmp_path)}
    assert lines(run_lesson(LESSON, "--file", SAMPLE, env=env).stdout) == PHRASES
    ended = run_lesson(LESSON, "--seconds", "1", env=env)
    assert ended.returncode == 1
    assert "libportaudio.so.2" in ended.stderr and "portaudio19-dev" in ended.stderr


def test_the_referee_would_notice_an_event_that_does_not_exist(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    text = (ROOT / LESSON).read_text()
    right = 'await send(websocket, "session.update", session=session)'
    assert text.count(right) == 1
    beta = right.replace("session.update", "transcription_session.update")
    copy = tmp_path / LESSON
    copy.write_text(text.replace(right, f"{beta}; {right}"))
    with referee(service) as seen:
        run_lesson(str(copy), "--file", SAMPLE, env={"WEBSOCKET_URL": seen.url})
    assert seen.faults == ["there is no event transcription_session.update"]


def test_try_next_makes_the_words_your_own(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    text = (ROOT / LESSON).read_text()
    assert "In write_finished_turns(), write turn.text.upper()." in text
    old = "] {turn.text}"
    assert text.count(old) == 1
    copy = tmp_path / LESSON
    copy.write_text(text.replace(old, "] {turn.text.upper()}"))
    ended = run_lesson(str(copy), "--file", SAMPLE, env={"WEBSOCKET_URL": service.url})
    assert lines(ended.stdout) == [phrase.upper() for phrase in PHRASES]
