"""The service's WebSocket: what it hears, how it tells it, and that nobody can spoil it."""

import asyncio
from itertools import pairwise

import numpy as np
import pytest
from running_service import TRANSCRIPTION, Service, client
from speech import LONG_PHRASES, PHRASES, Audio, silence, spoken

from service import turns as turns_module


def speech(rate: int, phrases: list[str] = PHRASES) -> Audio:
    """Return phrases with a pause of 0.9 s after each, PCM16 at rate Hz."""
    return np.concatenate(
        [part for text in phrases for part in (spoken(text, rate), silence(0.9, rate))]
    )


@pytest.mark.parametrize("rate", [16_000, 24_000])
async def test_each_phrase_is_a_turn_with_its_exact_text(service: Service, rate: int) -> None:
    async with client(service.url) as student:
        await student.configure(format={"type": "audio/pcm", "rate": rate})
        await student.say(speech(rate), rate, speed=2)
        assert await student.transcripts(5) == PHRASES


async def test_one_append_of_15_seconds_is_heard_as_five_turns(service: Service) -> None:
    audio = speech(24_000)
    audio = np.concatenate([audio, silence(15 - len(audio) / 24_000, 24_000)])
    async with client(service.url) as student:
        await student.append(audio)
        assert await student.transcripts(5) == PHRASES


async def test_a_commit_in_mid_sentence_hears_the_words_so_far(service: Service) -> None:
    words = np.concatenate([speech(24_000, ["hello world"]), spoken("thank you", 24_000)])
    async with client(service.url) as student:
        await student.append(words)  # in one go: the first turn ends somewhere in it
        await student.send("input_audio_buffer.commit")
        assert await student.transcripts(2) == ["hello world", "thank you"]
        assert not student.all("error")


async def test_manual_commit_ends_each_turn(service: Service) -> None:
    async with client(service.url) as student:
        updated = await student.configure(turn_detection=None)
        assert updated["session"]["audio"]["input"]["turn_detection"] is None
        for phrase in PHRASES:
            await student.say(spoken(phrase, 24_000))
            await student.send("input_audio_buffer.commit")
        assert await student.transcripts(5) == PHRASES
        assert not student.all("input_audio_buffer.speech_started")


async def test_speech_that_is_cut_anywhere_into_appends_is_heard_the_same(service: Service) -> None:
    audio = speech(16_000, PHRASES[:2])
    sizes = np.random.default_rng(7).integers(1, 4000, 200)
    async with client(service.url) as student:
        await student.configure(format={"type": "audio/pcm", "rate": 16_000})
        for start, end in pairwise([0, *np.cumsum(sizes), len(audio)]):
            await student.append(audio[start:end])
        assert await student.transcripts(2) == PHRASES[:2]


@pytest.mark.parametrize("phrase", LONG_PHRASES)
async def test_deltas_come_while_one_speaks_and_begin_the_final_text(
    service: Service, phrase: str
) -> None:
    async with client(service.url) as student:
        await student.configure()
        await student.say(spoken(phrase, 24_000), speed=1)
        spoken_at = asyncio.get_running_loop().time()
        await student.say(silence(0.9, 24_000), speed=1)
        assert await student.transcripts(1) == [phrase]
        deltas = student.all(f"{TRANSCRIPTION}.delta")
        assert "".join(event["delta"] for event in deltas) == phrase
        first = student.times[student.events.index(deltas[0])]
        assert first < spoken_at - 1


async def test_the_events_of_a_turn_come_in_order_and_name_their_item(service: Service) -> None:
    async with client(service.url) as student:
        await student.event("session.created")
        await student.configure()
        await student.say(speech(24_000, PHRASES[:3]), speed=2)
        await student.transcripts(3)
    before = None
    turns = [event["item_id"] for event in student.all("input_audio_buffer.committed")]
    assert len(set(turns)) == 3
    for item_id in turns:
        events = [e for e in student.events if item_id in (e.get("item_id"), item_of(e))]
        kinds = [e["type"] for e in events if not e["type"].endswith(".delta")]
        assert kinds == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            f"{TRANSCRIPTION}.completed",
        ]
        started, stopped, committed, added, _, completed = (
            e for e in events if not e["type"].endswith(".delta")
        )
        assert 0 <= started["audio_start_ms"] < stopped["audio_end_ms"]
        assert committed["previous_item_id"] == added["previous_item_id"] == before
        assert completed["usage"]["type"] == "duration"
        assert events[-1] is completed
        before = item_id
    assert len({event["event_id"] for event in student.events}) == len(student.events)


def item_of(event: dict[str, dict[str, str]]) -> str | None:
    return event.get("item", {}).get("id")


@pytest.mark.parametrize("count", [2, 4, 8])
async def test_clients_at_the_same_time_get_all_of_their_own_text(
    service: Service, count: int
) -> None:
    async def speak(number: int) -> tuple[list[str], list[str]]:
        phrases = [PHRASES[(number + i) % 5] for i in range(3)]
        async with client(service.url) as student:
            await student.configure()
            await student.say(speech(24_000, phrases), speed=1)
            return phrases, await student.transcripts(3)

    for said, heard in await asyncio.gather(*(speak(number) for number in range(count))):
        assert heard == said


async def test_a_speaker_who_never_pauses_is_cut_in_time_and_nothing_is_lost(
    service: Service,
) -> None:
    short_pause = silence(0.25, 24_000)  # shorter than what ends a turn
    said = [PHRASES[n % 5] for n in range(20)]
    audio = np.concatenate([part for t in said for part in (spoken(t, 24_000), short_pause)])
    async with client(service.url) as student:
        await student.configure(turn_detection={"type": "server_vad", "silence_duration_ms": 3000})
        await student.append(np.concatenate([audio, silence(4, 24_000)]))
        await student.event(f"{TRANSCRIPTION}.completed", 2)
        starts = [e["audio_start_ms"] for e in student.all("input_audio_buffer.speech_started")]
        ends = [e["audio_end_ms"] for e in student.all("input_audio_buffer.speech_stopped")]
        assert all(end - start <= 30_100 for start, end in zip(starts, ends, strict=True))
        assert starts[1:] == ends[:-1]  # each turn begins where the one before was cut


async def test_vad_settings_are_honoured(service: Service) -> None:
    pause = silence(0.7, 24_000)  # longer than the usual 500 ms
    two = np.concatenate([spoken("thank you", 24_000), pause, spoken("goodbye", 24_000)])
    audio = np.concatenate([silence(1, 24_000), two, silence(2, 24_000)])

    async def turns(**settings: float) -> list[int]:
        """Return where the turns start, in ms, if one speaks with such settings."""
        async with client(service.url) as student:
            await student.configure(turn_detection={"type": "server_vad", **settings})
            await student.say(audio)
            await student.send("session.update", session={"type": "transcription"})
            await student.event("session.updated", 2)  # by now all of the audio was heard
            started = student.all("input_audio_buffer.speech_started")
            return [event["audio_start_ms"] for event in started]

    usual = await turns()
    assert len(usual) == 2
    assert await turns(silence_duration_ms=1500) == usual[:1]
    assert await turns(threshold=1) == []
    assert (await turns(prefix_padding_ms=0))[0] == pytest.approx(usual[0] + 300, abs=32)


@pytest.mark.parametrize("threshold", [0.02, 0.05, 0.15, 0.9])
async def test_a_turn_ends_in_silence_however_little_is_taken_for_a_voice(
    service: Service, threshold: float
) -> None:
    async with client(service.url) as student:
        await student.configure(turn_detection={"type": "server_vad", "threshold": threshold})
        await student.say(np.concatenate([spoken("thank you", 24_000), silence(5, 24_000)]))
        assert await student.transcripts(1) == ["thank you"]


async def test_clear_forgets_what_was_not_committed(service: Service) -> None:
    async with client(service.url) as student:
        await student.configure(turn_detection=None)
        await student.say(spoken("thank you", 24_000))
        await student.send("input_audio_buffer.clear")
        await student.event("input_audio_buffer.cleared")
        await student.say(spoken("goodbye", 24_000))
        await student.send("input_audio_buffer.commit")
        assert await student.transcripts(1) == ["goodbye"]


MISTAKES = [
    ("no JSON at all", "invalid_json", None),
    ("[1, 2]", "invalid_event", "type"),
    ('{"type": 7}', "invalid_event", "type"),
    ("[" + "[]," * 10_000 + "1]", "invalid_event", None),
    ('{"type": "response.create"}', "invalid_value", "type"),
    ('{"type": "input_audio_buffer.append"}', "missing_required_parameter", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": 5}', "invalid_value", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "*"}', "invalid_value", "audio"),
    ('{"type": "input_audio_buffer.append", "audio": "AAAA"}', "invalid_value", "audio"),
    ('{"type": "input_audio_buffer.commit"}', "input_audio_buffer_commit_empty", None),
    ('{"type": "session.update"}', "missing_required_parameter", "session"),
    ('{"type": "session.update", "session": {}}', "missing_required_parameter", "session.type"),
    (
        '{"type": "session.update", "session": {"type": "realtime"}}',
        "invalid_value",
        "session.type",
    ),
]


async def test_every_mistake_is_named_and_the_session_goes_on(service: Service) -> None:
    async with client(service.url) as student:
        for count, (message, code, param) in enumerate(MISTAKES, start=1):
            await student.websocket.send(message)
            error = (await student.event("error", count))["error"]
            assert (error["code"], error["param"]) == (code, param), message
            assert error["type"] == "invalid_request_error" and len(error["message"]) > 10
        await student.websocket.send(b"\x00\x01")
        error = (await student.event("error", len(MISTAKES) + 1))["error"]
        assert error["code"] == "invalid_event" and "binary" in error["message"]
        await student.send("nonsense", event_id="mine")
        error = (await student.event("error", len(MISTAKES) + 2))["error"]
        assert error["event_id"] == "mine"
        await student.websocket.send('{"event_id": "mine, too"}')
        error = (await student.event("error", len(MISTAKES) + 3))["error"]
        assert error["event_id"] == "mine, too" and "type" in error["message"]
        await student.say(speech(24_000, ["thank you"]))
        assert await student.transcripts(1) == ["thank you"]


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"format": {"type": "audio/pcm", "rate": 8000}}, "format.rate"),
        ({"format": {"type": "audio/pcmu", "rate": 24000}}, "format.rate"),
        ({"transcription": {"language": "klingon"}}, "transcription.language"),
        ({"turn_detection": {"type": "client_vad"}}, "turn_detection"),
        ({"turn_detection": {"type": "server_vad", "threshold": 5}}, "turn_detection.threshold"),
    ],
)
async def test_a_wrong_setting_is_refused_and_changes_nothing(
    service: Service, wrong: dict[str, object], param: str
) -> None:
    async with client(service.url) as student:
        before = (await student.configure())["session"]
        session = {"type": "transcription", "audio": {"input": wrong}}
        await student.send("session.update", session=session, event_id="wrong")
        error = (await student.event("error"))["error"]
        assert error["param"] == f"session.audio.input.{param}"
        assert (error["code"], error["event_id"]) == ("invalid_value", "wrong")
        await student.send("session.update", session={"type": "transcription"})
        assert (await student.event("session.updated", 2))["session"] == before


async def test_fifteen_mebibytes_in_one_append_are_taken_and_more_is_refused(
    service: Service,
) -> None:
    neighbour_hears: list[str] = []

    async def neighbour() -> None:
        async with client(service.url) as student:
            await student.configure()
            await student.say(speech(24_000, PHRASES[:2]), speed=1)
            neighbour_hears.extend(await student.transcripts(2))

    async with client(service.url) as student:
        listening = asyncio.create_task(neighbour())
        await student.send("input_audio_buffer.append", audio="A" * (15 * 2**20))
        await student.send("input_audio_buffer.append", audio="A" * (15 * 2**20 + 4))
        error = (await student.event("error"))["error"]
        assert "15 MiB" in error["message"]
        await student.say(speech(24_000, ["goodbye"]))
        assert await student.transcripts(1) == ["goodbye"]
        await listening
    assert neighbour_hears == PHRASES[:2]


def test_no_audio_is_lost_or_doubled_where_turns_are_cut() -> None:
    said = np.concatenate([spoken(phrase) for phrase in PHRASES * 8])  # 60 s without a real pause
    detector = turns_module.TurnDetector()
    detector.settings = turns_module.ServerVad(silence_duration_ms=5000)
    turns = []
    for start in range(0, len(said), 1000):
        turns += [
            turn for what, turn in detector.feed(said[start : start + 1000]) if what == "ended"
        ]
    turns += [turn for _, turn in detector.finish()]
    assert len(turns) >= 2
    heard = np.frombuffer(b"".join(turn.audio for turn in turns), "<i2")
    begin = turns[0].start_ms * 16
    assert np.array_equal(heard, said[begin : begin + len(heard)])
    assert begin + len(heard) == len(said)
    for before, after in pairwise(turns):
        assert before.start_ms + before.length_ms == after.start_ms
        assert before.length_ms <= 30_032
        seam = after.start_ms * 16
        assert np.abs(said[seam - 800 : seam + 800]).max() < 0.3 * np.abs(said).max()  # in a pause
