"""Lesson 7, simple_audio_transcription.py, from the microphone to the words in the terminal."""

import io
import re
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pexpect
import pytest
from ear import OpenEar
from microphone import Microphone, two_channels_only
from referee import KEY, referee
from running_lessons import ROOT, OpenLesson, RunLesson, found, free_port, printed
from running_service import Service, StartService, until
from speech import HELLO as SAMPLE
from speech import PHRASES, Audio, lines, silence, similarity, spoken, write_wav

import simple_audio_transcription as lesson_7

LESSON = "simple_audio_transcription.py"
WORDS = " ".join(PHRASES).split()
SUMMARY = "0:11 of audio."


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


def test_a_file_plays_at_the_speed_of_speech_and_nothing_is_dropped(
    service: Service, run_lesson: RunLesson
) -> None:
    with wave.open(str(ROOT / SAMPLE)) as sample:
        said = np.frombuffer(sample.readframes(sample.getnframes()), "<i2")
    with referee(service) as seen:
        ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": seen.url})
    assert lines(ended.stdout) == PHRASES
    heard = seen.heard()
    assert len(heard) == pytest.approx(len(said) * 24_000 / 16_000, abs=200)
    assert seen.seconds == pytest.approx(len(said) / 16_000, rel=0.1)
    assert similarity(resampled(said, 24_000), heard) > 0.99


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
        lesson.expect(r"\d:\d\d of audio")
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
    lesson.expect("Microphone number")
    for nonsense in ("99", "a", "-1"):
        lesson.sendline(nonsense)
        lesson.expect("Please (select|enter)")
        lesson.expect("Microphone number")
    lesson.sendline(number)
    lesson.expect("How many seconds")
    for nonsense in ("soon", "0", "-3", "nan"):
        lesson.sendline(nonsense)
        lesson.expect("How many seconds")
    lesson.sendline("1.5")
    lesson.expect(r"default, \d+ Hz. Speak! 1.5 s")
    lesson.expect(r"0:0\d of audio")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0


def test_enter_alone_means_the_default(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    lesson = open_lesson(LESSON, env=env)
    lesson.expect("Microphone number")
    lesson.sendline("")
    lesson.expect("How many seconds")
    lesson.sendline("")
    lesson.expect("Speak! 30 s")
    lesson.sendintr()
    lesson.expect(r"0:0\d of audio")
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
        lesson.expect("0:0[23] of audio")
        lesson.expect(pexpect.EOF)
        assert "Traceback" not in printed(lesson) and lesson.wait() == 0
    assert seen.faults == []


def test_words_appear_while_they_are_spoken_and_the_line_never_overflows(
    service: Service, open_lesson: OpenLesson
) -> None:
    env = {"WEBSOCKET_URL": service.url}
    lesson = open_lesson(LESSON, "--file", SAMPLE, env=env, columns=40)
    lesson.expect(r"\x1b\[2K0:0\d [█░]{8} set a timer\b[^\r]*\r")  # not yet the whole phrase
    lesson.expect(r"\x1b\[2K\[0:0\d\] set a timer for three minutes")
    lesson.expect("0:11 of audio")
    for piece in re.split(r"[\r\n]+", re.sub(r"\x1b\[[?\d]*\w", "", printed(lesson))):
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
        lesson.expect("Lost the connection")
        service.start()
        lesson.expect("Connected again")
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
    safe = "loop.call_soon_threadsafe(speech.add, frame)"
    assert text.count(safe) == 1
    careless = tmp_path / LESSON
    careless.write_text(text.replace(safe, "loop.call_soon(speech.add, frame)"))
    assert speak_to(str(careless)) == "unsafe"


def test_an_unplugged_or_silent_microphone_is_noticed(
    service: Service, microphone: Microphone, open_lesson: OpenLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    number = device(microphone, open_lesson)
    lesson = open_lesson(LESSON, "--device", number, "--seconds", "600", env=env)
    lesson.expect("(?s)The microphone is silent.*Is it muted.*pavucontrol")
    microphone.unplug()
    lesson.expect("The microphone has stopped. Was it unplugged")
    lesson.expect(r"0:0\d of audio")
    lesson.expect(pexpect.EOF)
    assert lesson.wait() == 0 and "Traceback" not in printed(lesson)


def test_a_microphone_that_opens_only_with_two_channels_is_heard(
    service: Service, microphone: Microphone, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    number = device(microphone, open_lesson)
    env = microphone.environment | two_channels_only(tmp_path) | {"WEBSOCKET_URL": service.url}
    lesson = open_lesson(LESSON, "--device", number, "--seconds", "600", env=env)
    lesson.expect("Speak!")
    microphone.say(phrase_file(tmp_path, "set a timer for three minutes"))
    lesson.expect(r"\] set a timer for three minutes")


def test_without_a_microphone_there_is_a_sentence(service: Service, run_lesson: RunLesson) -> None:
    nowhere = {"PULSE_SERVER": "unix:/nonexistent", "WEBSOCKET_URL": service.url}
    for arguments in ((), ("--device", "0"), ("--list-devices",)):
        ended = run_lesson(LESSON, *arguments, env=nowhere)
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert "There is no microphone" in ended.stderr and "--file samples" in ended.stderr


@pytest.mark.parametrize("number", ["99", "-1"])
def test_a_number_that_no_microphone_has_is_a_sentence_and_no_crash(
    number: str, service: Service, microphone: Microphone, run_lesson: RunLesson
) -> None:
    env = microphone.environment | {"WEBSOCKET_URL": service.url}
    ended = run_lesson(LESSON, f"--device={number}", env=env)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr  # a crash would be -11
    assert "Cannot record" in ended.stderr and "--list-devices" in ended.stderr


NOWHERE = "ws://127.0.0.1:9/v1/realtime?intent=transcription"


@pytest.mark.parametrize(
    ("url", "remedies"),
    [
        (NOWHERE, ["connection refused", "docker compose up faster-whisper", "fastapi_example.py"]),
        ("http://127.0.0.1:9", ["scheme isn't ws or wss", "A complete address looks like ws://"]),
        ("ws://[::1", ["Invalid IPv6 URL", "WEBSOCKET_"]),
        ("ws://no-such-host.invalid/v1", ["Cannot reach ws://no-such-host.invalid. Is WEBSOCKET"]),
    ],
)
def test_a_service_that_is_not_there_is_explained(
    run_lesson: RunLesson, url: str, remedies: list[str]
) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": url})
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    for remedy in remedies:
        assert remedy in ended.stderr


@pytest.mark.parametrize("columns", [80, 40])
def test_the_line_that_changes_swallows_no_message_and_does_not_stay(
    service: Service, open_lesson: OpenLesson, columns: int
) -> None:
    lesson = open_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": NOWHERE}, columns=columns)
    lesson.expect(pexpect.EOF)
    assert seen_at_last(printed(lesson)).startswith("No service is running at ws://127.0.0.1:9 (")
    lesson = open_lesson(
        LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": service.url}, columns=columns
    )
    lesson.expect("hello world")
    lesson.sendintr()
    lesson.expect(pexpect.EOF)
    assert re.fullmatch(r"\s*0:0\d of audio\.\s*", seen_at_last(printed(lesson)))


def seen_at_last(output: str) -> str:
    """Return what stays on the terminal behind the last line that was wiped."""
    return re.sub(r"\x1b\[\??\d*\w", "", output.rpartition("\x1b[2K")[2])


def test_the_local_services_are_found_without_any_setting(
    start_service: StartService, run_lesson: RunLesson, tmp_path: Path
) -> None:
    """With two other ports in place of 10300 and 8000, where somebody may have a real service."""
    text = (ROOT / LESSON).read_text()
    assert text.count("for port in (10300, 8000)]") == 1
    docker, lesson_5 = free_port(), start_service()
    copy = tmp_path / LESSON
    copy.write_text(text.replace("(10300, 8000)", f"({docker}, {lesson_5.port})"))
    ended = run_lesson(str(copy), "--file", str(ROOT / SAMPLE))  # nobody is at the first port
    assert lines(ended.stdout) == PHRASES and ended.returncode == 0
    start_service(PORT=str(docker))
    ended = run_lesson(str(copy), "--file", str(ROOT / SAMPLE), env={"TRACE": "1"})
    assert f"> Host: 127.0.0.1:{docker}" in ended.stdout and ended.returncode == 0
    assert f"> Host: 127.0.0.1:{lesson_5.port}" not in ended.stdout


@pytest.mark.parametrize("language", ["", "en"])
def test_a_language_is_sent_only_if_one_was_chosen(
    language: str, open_ear: OpenEar, run_lesson: RunLesson, tmp_path: Path
) -> None:
    ear = open_ear()
    wav = write_wav(tmp_path / "a.wav", silence(0.5))
    env = {"WEBSOCKET_URL": ear.url, "TRANSCRIPTION_LANGUAGE": language}
    assert run_lesson(LESSON, "--file", str(wav), env=env).returncode == 0
    asked = ear.calls[0].sessions[0]["audio"]["input"]["transcription"]
    assert asked.get("languages", []) == ([language] if language else [])


def test_a_proxy_does_not_hide_a_service_in_the_local_network() -> None:
    """The addresses of networks at home and at school are reached directly, others are not."""
    for host in ("127.0.0.1", "localhost", "[::1]", "192.168.1.20", "10.0.0.7", "classroom-pc"):
        assert lesson_7.is_near(f"ws://{host}:10300/v1/realtime?intent=transcription"), host
    for host in ("api.openai.com", "8.8.8.8"):
        assert not lesson_7.is_near(f"wss://{host}/v1/realtime?intent=transcription"), host


def test_a_wrong_address_at_the_right_service_is_explained(
    service: Service, run_lesson: RunLesson
) -> None:
    wrong = service.url.replace("/v1/realtime", "/v1/realtme")
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": wrong})
    assert ended.returncode == 1
    assert "HTTP 403" in ended.stderr and "WEBSOCKET_URL" in ended.stderr


def test_a_wrong_key_names_the_variable_and_never_shows_the_key(
    service: Service, run_lesson: RunLesson
) -> None:
    for env in ({}, {"API_KEY": "sk-wrong-98765"}):
        with referee(service, "openai") as seen:
            ended = run_lesson(LESSON, "--file", SAMPLE, env=env | {"WEBSOCKET_URL": seen.url})
        assert ended.returncode == 1 and "Traceback" not in ended.stderr
        assert "refuses your API key. Put the right one into API_KEY" in ended.stderr
        assert "sk-wrong" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("key", ["“sk-secret”", "sk-\x01secret"])
def test_a_key_that_cannot_be_one_is_not_shown_either(key: str, run_lesson: RunLesson) -> None:
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"API_KEY": key})
    assert ended.returncode == 1 and "secret" not in ended.stderr + ended.stdout
    assert ended.stderr.startswith("Your API key contains a character that keys never have.")


def test_a_line_end_behind_a_key_does_no_harm(service: Service, run_lesson: RunLesson) -> None:
    with referee(service, "openai") as seen:
        env = {"WEBSOCKET_URL": seen.url, "API_KEY": f"{KEY}\r\n"}
        assert "0:11 of audio" in run_lesson(LESSON, "--file", SAMPLE, env=env).stdout


def test_a_service_without_a_certificate_is_named_as_such(
    service: Service, run_lesson: RunLesson
) -> None:
    address = service.url.replace("ws://", "wss://")
    ended = run_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": address})
    assert ended.returncode == 1 and "[SSL: WRONG_VERSION_NUMBER]" in ended.stderr
    assert "SSL_CERT_FILE" in ended.stderr


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


def film(path: Path, *, sound_at: float | None) -> Path:
    """Make a film of two seconds; its sound, if any, begins late."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        sound = container.add_stream("aac", rate=16_000) if sound_at is not None else None
        for _ in range(20):
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if sound is not None and sound_at is not None:
            samples = np.concatenate([spoken("hello world"), silence(1)])
            frame = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
            frame.sample_rate, frame.pts = 16_000, round(16_000 * sound_at)
            frame.time_base = Fraction(1, 16_000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def test_a_recording_without_sound_is_a_sentence(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    empty = write_wav(tmp_path / "empty.wav", silence(0))
    for recording in (empty, film(tmp_path / "silent.mp4", sound_at=None)):
        ended = run_lesson(LESSON, "--file", str(recording), env={"WEBSOCKET_URL": service.url})
        assert ended.returncode == 1
        assert ended.stderr == f"There is no sound in {recording}\n"


def test_times_are_true_where_the_sound_of_a_film_begins_late(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    late = str(film(tmp_path / "late.mp4", sound_at=3.5))
    ended = run_lesson(LESSON, "--file", late, env={"WEBSOCKET_URL": service.url})
    assert "[0:03] hello world\n" in ended.stdout


def test_a_file_needs_no_pyaudio(service: Service, run_lesson: RunLesson, tmp_path: Path) -> None:
    (tmp_path / "pyaudio.py").write_text("raise ImportError('libportaudio.so.2: not found')")
    env = {"WEBSOCKET_URL": service.url, "PYTHONPATH": str(tmp_path)}
    assert lines(run_lesson(LESSON, "--file", SAMPLE, env=env).stdout) == PHRASES
    ended = run_lesson(LESSON, "--seconds", "1", env=env)
    assert ended.returncode == 1
    assert "libportaudio.so.2" in ended.stderr
    for command in ("sudo apt install portaudio19-dev", "brew install portaudio", "Windows: pip"):
        assert command in ended.stderr


def test_the_referee_would_notice_an_event_that_does_not_exist(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    text = (ROOT / LESSON).read_text()
    right = 'await websocket.send(json.dumps({"type": "session.update", "session": session}))'
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
    assert text.count("Change the last line of use_phrase() to\n") == 1
    new = text.partition("Change the last line of use_phrase() to\n")[2].split("\n")[0].strip()
    old = re.search(r"def use_phrase\(.+\n.+\n    (.+)\n\n", text)
    assert old
    copy = tmp_path / LESSON
    copy.write_text(text.replace(f"    {old[1]}\n\n", f"    {new}\n\n"))
    ended = run_lesson(str(copy), "--file", SAMPLE, env={"WEBSOCKET_URL": service.url})
    assert lines(ended.stdout) == [phrase.upper() for phrase in PHRASES]
