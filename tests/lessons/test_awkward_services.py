"""Lessons 7 and 8 with services that stall, leave out answers, refuse for a while, or babble."""

import asyncio
import re
import subprocess
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pexpect
import pytest
from aiortc.mediastreams import MediaStreamTrack
from awkward import TRANSCRIPTION, Behaviour, Caller, awkward
from running_lessons import ROOT, OpenLesson, RunLesson
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

    ended = lesson_7_hears(behave, np.concatenate([silence(6, 24_000), beeps(2)]))
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


def test_it_waits_for_an_engine_that_is_slower_than_speech(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(six_turns_at_a_slow_engine)
    written = re.findall(r"\] (.*)", ended.stdout)
    assert written == [f"phrase {number}" for number in range(6)]
    assert ended.returncode == 0


def later_texts_come_first(caller: Caller) -> None:
    caller.greet(has_vad=False)
    caller.hear_all()
    caller.commit("a", "b", "c")
    for item, text in (("b", "the second"), ("c", "the third"), ("a", "the first")):
        caller.write(item, text)
    caller.answer_the_end()


def test_phrases_are_written_in_the_order_of_speaking(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(later_texts_come_first)
    assert re.findall(r"\] (.*)", ended.stdout) == ["the first", "the second", "the third"]


def one_answer_is_missing(caller: Caller) -> None:
    caller.greet()
    caller.hear_all()
    caller.commit("a")
    caller.answer_the_end()
    caller.hear("")


def test_a_service_that_stops_answering_is_given_up(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(one_answer_is_missing, LAST_WORDS_S=2)
    assert ended.returncode == 1
    assert ended.stderr == "No answer for 2 s. The last words are missing.\n"


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
    assert ended.returncode == 0 and "[0:00] hello\n" in ended.stdout
    assert ended.stderr == ""  # or "No answer", and two minutes later


def no_quota(caller: Caller) -> None:
    caller.greet()
    caller.hear_all()
    caller.tell("error", error={"message": "No credit.", "code": "insufficient_quota"})
    caller.websocket.close(4000)


def test_a_service_that_hangs_up_each_time_is_given_up(lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(no_quota, LAST_WORDS_S=4)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stdout.count("The service says: No credit.") == 1  # however often it says so
    assert ended.stdout.count("Lost the connection") == 1


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

    ended = lesson_7_hears(behave, beeps(10), LAST_WORDS_S=5)
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
    assert ended.stdout == "The service says: Too many requests.\n0:01 of audio.\n"


@pytest.mark.parametrize("nonsense", ['{"type": "error", "error": "broken"}', "[]", "7", "null"])
def test_what_is_no_event_is_explained(nonsense: str, lesson_7_hears: Hears) -> None:
    ended = lesson_7_hears(lambda caller: caller.websocket.send(nonsense))
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "There is no transcription service at" in ended.stderr


def test_a_mistake_of_its_reader_is_one_plain_traceback(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    text = (ROOT / LESSON).read_text()
    assert text.count("{phrase}") == 1
    lesson = tmp_path / LESSON
    lesson.write_text(text.replace("{phrase}", "{phrase.uper()}"))
    env = {"WEBSOCKET_URL": service.url}
    ended = run_lesson(str(lesson), "--file", str(ROOT / SAMPLE), env=env)
    assert ended.returncode == 1 and "Lost the connection" not in ended.stdout
    assert ended.stderr.count("Traceback") == 1 and "Group" not in ended.stderr
    assert "in use_phrase\n" in ended.stderr
    assert "'str' object has no attribute 'uper'" in ended.stderr.splitlines()[-1]


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


def test_a_recording_that_breaks_off_is_heard_until_there(
    service: Service, run_lesson: RunLesson, tmp_path: Path
) -> None:
    parts = [
        converted("mp3", "libmp3lame", 48_000, *PHRASES[:2]),
        converted("mp3", "libmp3lame", 48_000, "thank you", layout="stereo"),
    ]
    file = tmp_path / "joined.mp3"
    file.write_bytes(b"".join(parts))
    ended = run_lesson(LESSON, "--file", str(file), env={"WEBSOCKET_URL": service.url})
    assert re.findall(r"\[\d:\d\d\] (.*)", ended.stdout) == PHRASES[:2]
    assert "The recording breaks off at 0:0" in ended.stdout


def test_a_proxy_that_it_cannot_use_is_named(run_lesson: RunLesson) -> None:
    env = {"WEBSOCKET_URL": "wss://no-such-host.invalid/", "https_proxy": "socks5://127.0.0.1:9"}
    ended = run_lesson(LESSON, "--file", SAMPLE, env=env)
    assert ended.returncode == 1 and "python-socks" in ended.stderr
    assert "Traceback" not in ended.stderr


# ------------------------------------------------------------------------ what both lessons send


class Line(ClientConnection):
    """A connection that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send(self, message: object, text: object = None) -> None:
        self.sent.append(str(message))


def frame_of(sound: Audio, rate: int = 24_000) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(sound[None], format="s16", layout="mono")
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    return frame


def new_speech(lesson: ModuleType) -> lesson_7.Speech | lesson_8.Speech:
    if lesson is lesson_7:
        return lesson_7.Speech()
    return lesson_8.Speech(lesson_8.Service(), [], 0)


BOTH = pytest.mark.parametrize("lesson", [lesson_7, lesson_8], ids=["lesson 7", "lesson 8"])


@BOTH
async def test_without_vad_a_turn_ends_after_30_seconds_at_the_latest(lesson: ModuleType) -> None:
    speech, line = new_speech(lesson), Line()
    speech.has_vad = False
    speech.add(frame_of(beeps(70)))
    speech.add(None)
    await asyncio.wait_for(lesson.send_audio(line, speech), 20)
    seconds, turns = 0.0, []
    for event in line.sent:
        if "append" in event:
            seconds += (len(event) - 60) / SECOND
        elif "commit" in event:
            turns.append(round(seconds))
            seconds = 0
    assert turns == [30, 30, 10]
    assert "clear" in line.sent[-1]  # whose answer tells that all was heard


# --------------------------------------------------------------------------------- lesson 8


class Tape(MediaStreamTrack):
    """A browser's microphone: it says what is on it, and is then silent."""

    kind = "audio"

    def __init__(self, sound: Audio) -> None:
        super().__init__()
        self.frames = [frame_of(sound, 48_000)]

    async def recv(self) -> av.AudioFrame:
        if not self.frames:
            await asyncio.get_running_loop().create_future()
        return self.frames.pop()


def page_hears(url: str) -> tuple[lesson_8.Visitor, lesson_8.Microphone]:
    """Let a visitor press START and speak for a second; only in an event loop."""
    visitor = lesson_8.Visitor()
    visitor.service = lesson_8.Service((url,))
    microphone = lesson_8.Microphone(visitor)
    microphone.addTrack(Tape(beeps(1, 48_000)))
    microphone.start()
    return visitor, microphone


async def end_of(visitor: lesson_8.Visitor, microphone: lesson_8.Microphone) -> lesson_8.Speech:
    """Press STOP, and wait for the last words."""
    microphone.stop()
    assert visitor.work
    await asyncio.wait_for(visitor.work, 30)
    return visitor.speech


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
    trouble: Behaviour | int,
) -> None:
    is_well = threading.Event()
    behave = then_all_is_well(is_full if isinstance(trouble, int) else trouble, is_well)
    with awkward(behave, {2: trouble} if isinstance(trouble, int) else None) as url:
        visitor, microphone = page_hears(url)
        assert await asyncio.to_thread(is_well.wait, 20)  # and the microphone was on all the while
        await end_of(visitor, microphone)
    assert [phrase.text for phrase in visitor.phrases] == ["all of it"]


async def test_words_that_are_lost_in_the_end_are_not_promised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lesson_8, "LAST_WORDS_S", 1)
    speech = await end_of(*page_hears("ws://127.0.0.1:9"))
    assert speech.problem == "No answer for 1 s. The last words are missing."


async def test_a_failure_does_not_get_into_the_downloads() -> None:
    with awkward(engine_fails) as url:
        speech = await end_of(*page_hears(url))
    assert speech.phrases == [] and "Too many requests." in speech.problem


async def test_a_wrong_key_is_not_tried_again_and_again() -> None:
    calls = 0

    def wrong_key(caller: Caller) -> None:
        nonlocal calls
        calls = caller.number
        caller.tell("error", error={"message": "Incorrect API key.", "code": "invalid_api_key"})

    with awkward(wrong_key) as url:
        visitor, microphone = page_hears(url)
        assert visitor.work
        await asyncio.wait_for(visitor.work, 20)  # and the microphone is still on
        visitor.speech.add(frame_of(beeps(1, 48_000), 48_000))
        assert visitor.work.done() and calls == 1
        microphone.stop()
    assert "refuses your API key" in visitor.speech.problem


async def test_old_sound_takes_no_memory() -> None:
    speech = lesson_8.Speech(lesson_8.Service(), [], 0)
    speech.add(frame_of(beeps(400)))
    kept = {id(chunk) for chunk in speech.chunks}
    assert len(kept) * lesson_8.CHUNK_MS <= lesson_8.KEEP_MS + 1000
    assert len(speech.chunks) * lesson_8.CHUNK_MS > 399_000  # the clock goes on nevertheless


async def test_sound_that_has_its_text_takes_no_memory() -> None:
    def understands(caller: Caller) -> None:
        caller.greet()
        caller.hear_all()
        caller.commit("a")
        caller.write("a", "all of it")
        caller.answer_the_end()

    with awkward(understands) as url:
        speech = await end_of(*page_hears(url))
    assert [phrase.text for phrase in speech.phrases] == ["all of it"]
    assert len({id(chunk) for chunk in speech.chunks}) == 1
