"""Lessons 7 and 8 with services that stall, leave out answers, refuse for a while, or babble."""

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pexpect
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from awkward import TRANSCRIPTION, Behaviour, Caller, awkward
from running_lessons import ROOT, OpenLesson, RunLesson, lesson_environment
from running_service import Service
from speech import HELLO as SAMPLE
from speech import PHRASES, Audio, converted, silence, write_wav
from websockets.asyncio.client import ClientConnection

import simple_audio_transcription as lesson_7
import speech_to_text_webrtc as lesson_8

LESSON = "simple_audio_transcription.py"
SECOND = 2 * 24_000 * 4 // 3  # of audio, in characters of base64


def changed(folder: Path, **settings: int) -> str:
    """Return a copy of lesson 7 with other settings."""
    text = (ROOT / LESSON).read_text()
    for name, value in settings.items():
        text, count = re.subn(rf"^{name} = [\d_]+", f"{name} = {value}", text, flags=re.M)
        assert count == 1, name
    (folder / LESSON).write_text(text)
    return str(folder / LESSON)


def beeps(seconds: float, rate: int = 24_000) -> Audio:
    return (9000 * np.sin(np.arange(int(seconds * rate)) / 9)).astype(np.int16)


Hears = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def lesson_7_hears(run_lesson: RunLesson, tmp_path: Path) -> Hears:
    """Let lesson 7 hear a sound with a service: lesson_7_hears(behave, sound, SETTING=...)."""

    def hears(
        behave: Behaviour, sound: Audio | None = None, **settings: int
    ) -> "subprocess.CompletedProcess[str]":
        wav = write_wav(tmp_path / "sound.wav", beeps(1) if sound is None else sound, 24_000)
        with awkward(behave) as url:
            lesson, env = changed(tmp_path, **settings), {"WEBSOCKET_URL": url}
            return run_lesson(lesson, "--file", str(wav), env=env)

    return hears


# ------------------------------------------------------------- what lesson 7 writes, and its end


def test_an_outage_after_a_long_silence_does_not_end_the_recording(lesson_7_hears: Hears) -> None:
    """By then what is kept moves on with every chunk, also during a handshake that takes time."""

    def behave(caller: Caller) -> None:
        if caller.number == 1:
            caller.greet()
            caller.hear("", audio=5 * SECOND)
            return  # and hangs up
        time.sleep(0.3)
        caller.greet()
        caller.hear_all()
        caller.commit("a")
        caller.write("a", "at last")
        caller.answer_the_end()

    ended = lesson_7_hears(behave, np.concatenate([silence(6, 24_000), beeps(2)]), KEEP_S=3)
    assert ended.returncode == 0 and "at last" in ended.stdout
    assert ended.stdout.endswith("0:08 of audio.\n")


def six_turns_at_a_slow_engine(caller: Caller) -> None:
    caller.greet()
    caller.hear_all()
    caller.commit(*"abcdef")
    for number, item in enumerate("abcdef"):
        time.sleep(1.2)
        caller.write(item, f"phrase {number}")
    caller.answer_the_end()


def test_it_waits_as_long_as_answers_come(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(six_turns_at_a_slow_engine, ANSWER_S=2)
    written = re.findall(r"\] (.*)", ended.stdout)
    assert written == [f"phrase {number}" for number in range(6)]
    assert ended.returncode == 0


def one_answer_is_missing(caller: Caller) -> None:
    caller.greet(has_vad=False)
    caller.hear_all()
    caller.commit("a", "b", "c")
    caller.write("b", "the second")
    caller.write("c", "the third")
    caller.answer_the_end()
    caller.hear("")


def test_a_text_that_never_comes_does_not_keep_the_later_ones_back(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(one_answer_is_missing, ANSWER_S=2)
    assert re.findall(r"\] (.*)", ended.stdout) == ["the second", "the third"]
    assert ended.returncode == 1 and "did not answer for 2 s" in ended.stderr


def events_that_nobody_knows(caller: Caller) -> None:
    caller.greet()
    caller.hear_all()
    caller.commit("a")
    caller.write("a", "hello")
    caller.tell(f"{TRANSCRIPTION}.segment", item_id="a", text="hello")  # OpenAI has it
    caller.tell("conversation.item.retrieved", item_id="b")
    caller.answer_the_end()


def test_an_event_that_it_does_not_know_is_not_waited_for(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(events_that_nobody_knows)
    assert ended.returncode == 0 and "[0:01] hello\n" in ended.stdout
    assert ended.stderr == ""  # or "did not answer", and half a minute later


def no_quota(caller: Caller) -> None:
    caller.greet()
    caller.hear_all()
    caller.tell("error", error={"message": "No credit.", "code": "insufficient_quota"})
    caller.websocket.close(4000)


def test_a_service_that_hangs_up_each_time_is_given_up(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(no_quota, RETRY_S=3)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert 1 <= ended.stdout.count("No credit.") <= 6  # each time after a longer pause


def test_a_service_that_dies_each_time_is_not_given_up_while_somebody_speaks(
    lesson_7_hears: Hears,
) -> None:
    begin = time.monotonic()

    def behave(caller: Caller) -> None:
        caller.greet()
        if time.monotonic() < begin + 7:
            caller.hear("input_audio_buffer.append")
            return  # and hangs up
        caller.hear_all()
        caller.commit("a")
        caller.write("a", "all of it")
        caller.answer_the_end()

    ended = lesson_7_hears(behave, beeps(10), RETRY_S=2)
    assert ended.returncode == 0 and "all of it" in ended.stdout


def engine_fails(caller: Caller) -> None:
    caller.greet()
    caller.hear_all()
    caller.commit("a")
    error = {"type": "transcription_error", "message": "Too many requests.", "code": "rate"}
    caller.tell(f"{TRANSCRIPTION}.failed", item_id="a", content_index=0, error=error)
    caller.answer_the_end()


def test_a_failure_is_told_and_is_no_phrase(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(engine_fails)
    assert "No text: Too many requests." in ended.stdout
    assert "0 phrases, 0 words" in ended.stdout


@pytest.mark.parametrize("nonsense", ['{"type": "error", "error": "broken"}', "[]", "7", "null"])
def test_what_is_no_event_is_explained(nonsense: str, lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(lambda caller: caller.websocket.send(nonsense))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "no transcription service" in ended.stderr


def test_a_mistake_of_its_reader_is_shown_and_not_taken_for_the_service_s(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    text = (ROOT / LESSON).read_text()
    assert text.count("speech.phrases.append(turn.text)") == 1
    lesson = tmp_path / LESSON
    lesson.write_text(text.replace("append(turn.text)", "append(turn.text.uper())"))
    env = {"WEBSOCKET_URL": service.url}
    ended = run_lesson(str(lesson), "--file", str(ROOT / SAMPLE), env=env)
    assert ended.returncode == 1 and "The service is gone" not in ended.stdout
    assert "has no attribute 'uper'" in ended.stderr and "write_finished_turns" in ended.stderr


def test_a_refused_setting_is_not_taken_for_a_wrong_key(
    service: Service, run_lesson: RunLesson
) -> None:
    env = {"WEBSOCKET_URL": service.url, "TRANSCRIPTION_LANGUAGE": "xx"}
    ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
    assert ended.returncode == 1 and "does not know the language 'xx'" in ended.stderr
    assert "API_KEY" not in ended.stderr


def test_a_second_ctrl_c_ends_it_though_the_service_has_stalled(
    open_lesson: OpenLesson, tmp_path: Path
) -> None:
    stalled = threading.Event()

    def stalls(caller: Caller) -> None:
        caller.greet()
        caller.hear("input_audio_buffer.append")
        stalled.wait(30)

    with awkward(stalls) as url:
        lesson = open_lesson(LESSON, "--file", SAMPLE, env={"WEBSOCKET_URL": url})
        lesson.expect("0:01")
        lesson.sendintr()
        time.sleep(0.5)  # as a person would
        begin = time.monotonic()
        lesson.sendintr()
        lesson.expect(pexpect.EOF)
        assert time.monotonic() - begin < 5
        assert "Traceback" not in str(lesson.before) and "Task was" not in str(lesson.before)
        stalled.set()


def test_whoever_reads_only_the_first_lines_ends_it(service: Service) -> None:
    command = f"{sys.executable} {LESSON} --file {SAMPLE} | head -1"
    env = lesson_environment({"WEBSOCKET_URL": service.url})
    ended = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert ended.stdout == "[0:00] hello world\n" and ended.stderr == ""


def test_a_recording_that_becomes_stereo_is_heard_to_its_end(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    parts = [
        converted("mp3", "libmp3lame", 48_000, *PHRASES[:2]),
        converted("mp3", "libmp3lame", 48_000, "thank you", layout="stereo"),
        converted("mp3", "libmp3lame", 44_100, "goodbye"),
    ]
    file = tmp_path / "joined.mp3"
    file.write_bytes(b"".join(parts))
    ended = run_lesson(LESSON, "--file", str(file), env={"WEBSOCKET_URL": service.url})
    assert re.findall(r"\] (.*)", ended.stdout) == [*PHRASES[:2], "thank you", "goodbye"]


def test_a_recording_is_never_written_over_by_itself(run_lesson: RunLesson, tmp_path: Path) -> None:
    wav = write_wav(tmp_path / "short.wav", beeps(1), 24_000)
    before = wav.read_bytes()
    ended = run_lesson(LESSON, "--file", str(wav), "--save", str(tmp_path / "." / "short.wav"))
    assert ended.returncode == 2 and "same file" in ended.stderr
    assert wav.read_bytes() == before


@pytest.mark.parametrize("place", [".", "no/such/folder/a.wav"])
def test_a_place_where_nothing_can_be_saved_is_named(
    place: str, run_lesson: RunLesson, tmp_path: Path
) -> None:
    save = str(tmp_path / place)
    ended = run_lesson(LESSON, "--file", SAMPLE, "--save", save)
    assert ended.returncode == 2 and f"--save {save}: " in ended.stderr


def test_a_proxy_that_it_cannot_use_is_named(run_lesson: RunLesson) -> None:
    env = {"WEBSOCKET_URL": "wss://no-such-host.invalid/", "https_proxy": "socks5://127.0.0.1:9"}
    ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
    assert ended.returncode == 1 and "python-socks" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("text", ["hello", "a" * 99, "字" * 30, "ab字" * 20, ""])
def test_the_line_that_changes_is_as_wide_as_the_window(text: str) -> None:
    line = lesson_7.last_columns(text, 40)
    wide = sum("\u4e00" <= letter <= "\u9fff" for letter in line)
    assert len(line) + wide == 40
    assert text.endswith(line.rstrip()) and len(line.rstrip()) >= min(len(text), 19)


# ------------------------------------------------------------------------ what both lessons send


class Line(ClientConnection):
    """A connection that keeps what is sent, and after each event lets something happen."""

    def __init__(self, meanwhile: list[Audio]) -> None:
        self.sent: list[str] = []
        self.meanwhile = meanwhile
        self.has_closed = False
        self.speech: object = None

    async def send(self, message: object, text: object = None) -> None:
        self.sent.append(str(message))
        if self.meanwhile:
            add(self.speech, self.meanwhile.pop())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.has_closed = True


def add(speech: object, sound: Audio) -> None:
    """Let a lesson hear 24 kHz audio."""
    if isinstance(speech, lesson_7.Speech):
        frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
        frame.sample_rate = 24_000
        speech.add(frame)
    elif isinstance(speech, lesson_8.Speech):
        speech.add(sound.tobytes())


def new_speech(lesson: ModuleType) -> lesson_7.Speech | lesson_8.Speech:
    if lesson is lesson_7:
        return lesson_7.Speech()
    return lesson_8.Speech(lesson_8.Service("wss://example.invalid/", "", "en"), [], 0)


BOTH = pytest.mark.parametrize("lesson", [lesson_7, lesson_8], ids=["lesson 7", "lesson 8"])


@BOTH
async def test_who_falls_too_far_behind_begins_anew_and_says_so(
    lesson: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    speech = new_speech(lesson)
    line = Line([beeps(60), beeps(60)])  # while the first 100 ms go out, on a slow line
    line.speech = speech
    add(speech, beeps(1))
    talk = lesson.Conversation(0, 0, True)
    await asyncio.wait_for(lesson.send_audio(line, speech, talk), 20)
    assert line.has_closed and len(line.sent) <= 2
    if isinstance(speech, lesson_8.Speech):
        assert speech.lost > 0
    else:
        assert "too slow" in capsys.readouterr().out


@BOTH
async def test_without_vad_a_turn_ends_after_30_seconds_at_the_latest(
    lesson: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    speech, line = new_speech(lesson), Line([])
    monkeypatch.setattr(lesson, "ANSWER_S", 0.01)
    add(speech, beeps(70))
    speech.finish()
    talk = lesson.Conversation(0, 0, False)
    await asyncio.wait_for(lesson.send_audio(line, speech, talk), 20)
    seconds, turns = 0.0, []
    for event in line.sent:
        if "append" in event:
            seconds += (len(event) - 60) / SECOND
        else:
            turns.append(round(seconds))
            seconds = 0
    assert turns == [30, 30, 10, 0]  # the last one asks whether all was heard


# --------------------------------------------------------------------------------- lesson 8


def page_hears(url: str, seconds: float = 1) -> lesson_8.Speech:
    """Return what a visitor says before and after the microphone goes off."""
    speech = lesson_8.Speech(lesson_8.Service(url, "", "en"), [], 0)
    speech.add(beeps(seconds, 16_000).tobytes())
    return speech


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lesson_8, "RETRY_S", 10)
    yield


def then_all_is_well(trouble: Behaviour, is_well: threading.Event) -> Behaviour:
    """Hang up on the first caller, give trouble to the second, serve whoever comes after."""

    def behave(caller: Caller) -> None:
        if caller.number == 2:
            return trouble(caller)
        caller.greet()
        caller.hear("input_audio_buffer.append")
        if caller.number > 2:
            is_well.set()
            caller.hear_all()
            caller.commit("a")
            caller.write("a", "all of it")
            caller.answer_the_end()
        return None

    return behave


def is_full(caller: Caller) -> None:
    error = {"message": "All 64 places are taken.", "code": "too_many_sessions"}
    caller.tell("error", error=error)
    caller.websocket.close(1013)


def babbles(caller: Caller) -> None:
    caller.websocket.send('{"type": "error", "error": "broken"}')


@pytest.mark.parametrize(
    "trouble", [is_full, babbles, 502, 503], ids=["full", "babbles", "502", "503"]
)
async def test_a_refusal_while_a_service_restarts_does_not_end_the_listening(
    trouble: Behaviour | int, patient: None
) -> None:
    is_well = threading.Event()
    behave = then_all_is_well(is_full if isinstance(trouble, int) else trouble, is_well)
    with awkward(behave, {2: trouble} if isinstance(trouble, int) else None) as url:
        speech = page_hears(url)
        work = asyncio.create_task(lesson_8.transcribe(speech))
        assert await asyncio.to_thread(is_well.wait, 20)  # and the microphone was on all the while
        speech.finish()
        await asyncio.wait_for(work, 30)
    assert [phrase.text for phrase in speech.phrases] == ["all of it"]


async def test_words_that_are_lost_in_the_end_are_not_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lesson_8, "RETRY_S", 1)
    speech = page_hears("ws://127.0.0.1:9")
    speech.finish()
    await asyncio.wait_for(lesson_8.transcribe(speech), 30)
    assert speech.problem == "The last words are lost: the service was away for 1 s."


async def test_a_failure_does_not_get_into_the_downloads() -> None:
    with awkward(engine_fails) as url:
        speech = page_hears(url)
        speech.finish()
        await asyncio.wait_for(lesson_8.transcribe(speech), 30)
    assert speech.phrases == [] and "Too many requests." in speech.problem


class Browser(MediaStreamTrack):
    """A browser's microphone that falls silent: for so many seconds after each second of sound."""

    kind = "audio"

    def __init__(self, gaps: list[float]) -> None:
        super().__init__()
        self.gaps, self.count, self.goes_on_at = gaps, 0, 0.0

    async def recv(self) -> av.AudioFrame:
        if self.count == 50:
            if not self.gaps:
                raise MediaStreamError
            self.goes_on_at = self.goes_on_at or time.monotonic() + self.gaps[0]
            await asyncio.sleep(self.goes_on_at - time.monotonic())
            self.gaps.pop(0)
            self.count, self.goes_on_at = 0, 0.0
        self.count += 1
        frame = av.AudioFrame.from_ndarray(beeps(0.02, 48_000)[None], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        return frame


async def test_a_gap_on_the_way_from_the_browser_does_not_end_the_listening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lesson_8, "GAP_S", 1)
    speech = lesson_8.Speech(lesson_8.Service("ws://127.0.0.1:9", "", "en"), [], 0)
    microphone = lesson_8.Microphone(speech)
    microphone.addTrack(Browser([2.5]))
    await asyncio.wait_for(microphone.listen(), 30)
    seconds = speech.end / 2 / speech.service.rate
    assert 3.5 < seconds < 5  # a second of sound, two of silence, a second of sound
    assert microphone.track.readyState == "ended"


async def test_a_browser_that_has_gone_ends_it_and_nothing_piles_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lesson_8, "GAP_S", 1)
    monkeypatch.setattr(lesson_8, "VANISHED_S", 2)
    speech = lesson_8.Speech(lesson_8.Service("ws://127.0.0.1:9", "", "en"), [], 0)
    microphone = lesson_8.Microphone(speech)
    microphone.addTrack(Browser([600]))
    await asyncio.wait_for(microphone.listen(), 30)
    assert speech.has_ended and microphone.track.readyState == "ended"
