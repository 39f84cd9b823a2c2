"""The service when something is wrong: keys, strangers, limits, clients that vanish, the end."""

import asyncio
import json
import signal
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import requests
from running_lessons import (
    STRICT_PYTHON,
    OpenLesson,
    RunLesson,
    free_port,
    lesson_environment,
)
from running_service import (
    MICRO_WHISPER,
    TRANSCRIPTION,
    Service,
    StartService,
    changed_copy,
    client,
    closing,
    until,
)
from speech import silence, spoken, write_wav
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

KEY = "correct-horse-battery-staple"


async def test_only_the_right_key_opens_and_no_key_is_ever_printed(
    start_service: StartService,
) -> None:
    service = start_service(API_KEY=KEY)
    for headers in ({}, {"Authorization": "Bearer wrong-key-of-mine"}):
        error, code, reason = await closing(service.url, additional_headers=headers)
        assert error["code"] == "invalid_api_key" and code == 3000
        assert reason == "invalid_request_error.invalid_api_key"
        answer = requests.get(f"{service.http_url}/v1/models", headers=headers, timeout=30)
        assert answer.status_code == 401 and "API_KEY" in answer.json()["error"]["message"]
    headers = {"Authorization": f"Bearer {KEY}"}
    assert requests.get(f"{service.http_url}/v1/models", headers=headers, timeout=30).ok
    async with client(service.url, additional_headers=headers) as student:
        await student.configure()
    assert requests.get(f"{service.http_url}/health", timeout=30).ok
    service.stop()
    assert KEY not in service.output and "wrong-key-of-mine" not in service.output


@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/transcriptions", "/health"])
async def test_a_page_from_another_origin_is_refused(service: Service, path: str) -> None:
    for origin in ("https://example.com", "null", f"http://127.0.0.1:{service.port + 1}"):
        with pytest.raises(InvalidStatus) as refused:
            async with connect(service.url, origin=origin):  # type: ignore[arg-type]
                pass
        assert refused.value.response.status_code == 403
        post = "transcriptions" in path
        answer = requests.request(
            "POST" if post else "GET",
            service.http_url + path,
            headers={"Origin": origin},
            files={"file": b""} if post else None,
            timeout=30,
        )
        assert answer.status_code == 403
    own = f"http://127.0.0.1:{service.port}"
    async with connect(service.url, origin=own):  # type: ignore[arg-type]
        pass


async def test_one_session_more_than_there_are_places_is_told_so(
    start_service: StartService,
) -> None:
    service = start_service(MAX_SESSIONS="3")
    async with client(service.url), client(service.url), client(service.url) as third:
        await third.event("session.created")
        error, code, _ = await closing(service.url)
        assert code == 1013 and "3 places" in str(error["message"])
        assert service.health()["sessions"] == 3
    await asyncio.to_thread(until, lambda: service.health()["sessions"] == 0)
    async with client(service.url) as student:
        await student.event("session.created")


async def test_a_client_that_vanishes_costs_nothing_a_moment_later(service: Service) -> None:
    async with client(service.url) as student:
        await student.event("session.created")
    before = service.open_files()
    for _ in range(5):
        plug = socket.create_connection(("127.0.0.1", service.port))
        websocket = await connect(service.url, sock=plug).__aenter__()
        await websocket.send('{"type": "input_audio_buffer.append", "audio": "AAAA"}')
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # on, 0 s: close() sends a reset
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        websocket.transport.abort()
    await asyncio.to_thread(until, lambda: service.health()["sessions"] == 0, 5)
    await asyncio.to_thread(until, lambda: service.open_files() <= before, 5)


@pytest.mark.parametrize(
    ("setting", "seconds", "code"),
    [
        ("MAX_SESSION_S", "2", "session_expired"),
        ("MAX_IDLE_S", "1", "session_idle"),
    ],
)
async def test_a_session_ends_after_its_time_and_says_why(
    start_service: StartService, setting: str, seconds: str, code: str
) -> None:
    service = start_service(**{setting: seconds})
    error, close_code, reason = await closing(service.url)
    assert error["code"] == code and close_code == 1001
    assert reason == f"invalid_request_error.{code}"


async def test_a_client_that_never_reads_is_dropped_and_memory_stays_level(
    start_service: StartService,
) -> None:
    service = start_service(MAX_SEND_S="1")
    mistake = json.dumps({"type": "x" * 50})
    async with client(service.url) as student:
        await student.event("session.created")
        before = service.memory()
    plug = socket.create_connection(("127.0.0.1", service.port))
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with connect(service.url, sock=plug, max_queue=1) as websocket:
        websocket.transport.pause_reading()
        with pytest.raises((ConnectionClosed, TimeoutError)):
            async with asyncio.timeout(30):
                for _ in range(100_000):
                    await websocket.send(mistake)
        websocket.transport.abort()
    await asyncio.to_thread(until, lambda: service.health()["sessions"] == 0)
    assert service.memory() < before + 30e6


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_stopped_in_mid_sentence_it_writes_down_what_was_said(
    start_service: StartService, how: signal.Signals
) -> None:
    service = start_service()
    async with client(service.url) as student:
        await student.configure()
        await student.say(spoken("set a timer for three minutes", 24_000))
        await student.configure()
        await student.event("session.updated", 2)  # by now all of it has arrived
        assert await asyncio.to_thread(service.stop, how) in (0, -signal.SIGTERM)
        assert await student.transcripts(1) == ["set a timer for three minutes"]
        await asyncio.wait([student.reading], timeout=10)
        assert student.websocket.close_code == 1012


async def test_stopped_right_behind_a_commit_it_writes_that_down_too(
    start_service: StartService,
) -> None:
    service = start_service()
    async with client(service.url) as student:
        await student.configure(turn_detection=None)
        await student.say(spoken("set a timer for three minutes", 24_000))
        await student.send("input_audio_buffer.commit")
        await student.event("conversation.item.done")  # nothing is left that could be committed
        assert await asyncio.to_thread(service.stop) in (0, -signal.SIGTERM)
        assert await student.transcripts(1) == ["set a timer for three minutes"]


def test_a_taken_port_is_named_with_the_remedy(service: Service, run_lesson: RunLesson) -> None:
    ended = run_lesson("-m", "service", env={"PORT": str(service.port)})
    assert ended.returncode == 1
    assert f":{service.port}: " in ended.stderr and f"--port {service.port + 1}" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"WHISPER_MODEL": "smal-int8"}, "is neither a model name nor a folder"),
        ({"WHISPER_MODEL": "tests"}, "tests/config.json is missing"),
        ({"WHISPER_LANG": "klingon"}, "WHISPER_LANG=klingon: Moonshine knows only en"),
        ({"WHISPER_LANG": "english", "WHISPER_MODEL": MICRO_WHISPER}, "knows only af, am, ar, as"),
        (
            {"WHISPER_DEVICE": "gpu", "WHISPER_MODEL": MICRO_WHISPER},
            "WHISPER_DEVICE=gpu: the value should be",
        ),
        ({"PORT": "eighty"}, "PORT must be a whole number, not 'eighty'"),
        ({"PORT": "70000"}, "PORT=70000: the value should be less than or equal to 65535"),
        ({"HOST": "192.0.2.1"}, "192.0.2.1"),
    ],
)
def test_a_wrong_setting_is_one_clear_line_and_exit_status_1(
    run_lesson: RunLesson, env: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    free = {"PORT": str(free_port()), "HF_HOME": str(tmp_path)}
    ended = run_lesson("-m", "service", env=free | env)
    assert ended.returncode == 1
    assert sentence in ended.stderr and "Traceback" not in ended.stderr


async def test_it_writes_nothing_at_home_and_reports_to_nobody(
    start_service: StartService, tmp_path: Path
) -> None:
    service = start_service(HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path))
    async with client(service.url) as student:
        await student.say(np.concatenate([spoken("thank you", 24_000), silence(1, 24_000)]))
        assert await student.transcripts(1) == ["thank you"]
    assert not list(tmp_path.iterdir())  # ONNX Runtime's telemetry would keep its reports here


async def test_health_is_true_only_while_a_transcription_would_work(
    start_service: StartService, tmp_path: Path
) -> None:
    """The engine fails, or never answers, as long as a file of such a name is there."""
    fails, hangs = tmp_path / "fails", tmp_path / "hangs"
    begin = '    return np.frombuffer(pcm, "<i2")'  # where each engine takes the audio
    trouble = (
        f"    if Path({str(fails)!r}).exists():\n        raise RuntimeError('no memory')\n"
        f"    while Path({str(hangs)!r}).exists():\n"
        "        __import__('time').sleep(0.05)\n"
    )
    script = changed_copy(tmp_path, begin, trouble + begin)
    service = start_service(script, WHISPER_MODEL="", MAX_ENGINE_S="1")
    address = f"{service.http_url}/health"
    async with client(service.url) as student:
        await student.configure(turn_detection=None)
        for trouble_file, text in ((fails, "RuntimeError('no memory')"), (hangs, "not answered")):
            assert requests.get(address, timeout=30).json()["status"] == "ok"
            trouble_file.touch()
            await student.say(spoken("goodbye", 24_000))
            await student.send("input_audio_buffer.commit")
            answer = await asyncio.to_thread(sick, address)
            assert text in answer["status"]
            if trouble_file is fails:
                failed_upload = upload(service, write_wav(tmp_path / "a.wav", spoken("goodbye")))
                assert failed_upload.status_code == 500
                assert failed_upload.json()["error"]["type"] == "server_error"
                assert "no memory" in failed_upload.json()["error"]["message"]
            else:  # and it is so when whoever waited has gone
                async with client(service.url) as impatient:
                    await impatient.configure(turn_detection=None)
                    await impatient.say(spoken("goodbye", 24_000))
                    await impatient.send("input_audio_buffer.commit")
                    await impatient.event("conversation.item.done")
                await asyncio.to_thread(until, lambda: service.health()["sessions"] == 1)
                assert text in requests.get(address, timeout=30).json()["status"]
            trouble_file.unlink()
            await asyncio.to_thread(
                until, lambda: requests.get(address, timeout=30).status_code == 200
            )
        failed = await student.event(f"{TRANSCRIPTION}.failed")
        assert "no memory" in failed["error"]["message"]
        assert await student.transcripts(1)  # what hung goes on


def upload(service: Service, wav: Path) -> requests.Response:
    url = f"{service.http_url}/v1/audio/transcriptions"
    return requests.post(url, files={"file": wav.read_bytes()}, timeout=60)


def sick(address: str) -> dict[str, str]:
    """Wait until the service calls itself sick, and return what it says."""
    until(lambda: requests.get(address, timeout=30).status_code == 503)
    return dict(requests.get(address, timeout=30).json())


def test_without_a_card_that_works_the_processor_does_it(
    start_service: StartService, tmp_path: Path, run_lesson: RunLesson
) -> None:
    """As on a computer that has a card of NVIDIA's, but not the libraries that go with it."""
    has_card = "ctranslate2.get_cuda_device_count() > 0"
    call = "                self.transcribe(bytes(SAMPLE_RATE // 5)"
    fails = f"                if device == 'cuda':\n{' ' * 20}raise RuntimeError('no cuBLAS')\n"
    script = changed_copy(tmp_path, has_card, "True")
    changed_copy(tmp_path, call, fails + call)
    service = start_service(script)
    assert service.health()["device"] == "cpu"
    assert "on cuda: " in service.output and "The processor does it" in service.output
    env = {"WHISPER_MODEL": MICRO_WHISPER, "WHISPER_DEVICE": "cuda", "PORT": str(free_port())}
    ended = subprocess.run(  # but who asks for the card is told
        [*STRICT_PYTHON, "-m", "service"],
        cwd=script,
        env=lesson_environment(env),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1 and ended.stderr.startswith("Cannot run ")
    assert "Traceback" not in ended.stderr


def test_a_folder_of_weights_may_have_any_name(start_service: StartService, tmp_path: Path) -> None:
    (tmp_path / "mine-int8").symlink_to(MICRO_WHISPER)
    service = start_service(WHISPER_MODEL=str(tmp_path / "mine-int8"))
    assert service.health()["model"] == "mine-int8"
    wav = write_wav(tmp_path / "a.wav", spoken("thank you"))
    assert upload(service, wav).json()["text"] == "thank you"


def test_an_address_of_ipv6_is_printed_as_it_is_dialled(open_lesson: OpenLesson) -> None:
    port = free_port()
    lesson = open_lesson("-m", "service", env={"HOST": "::1", "PORT": str(port)})
    lesson.expect_exact(f"ws://[::1]:{port}/v1/realtime?intent=transcription")
    assert requests.get(f"http://[::1]:{port}/health", timeout=30).json()["status"] == "ok"


def test_a_port_that_is_taken_while_the_engine_loads_is_named_too(
    tmp_path: Path,
) -> None:
    port = free_port()
    script = changed_copy(
        tmp_path,
        "        from moonshine_voice import ModelArch, get_model_path\n",
        "        from moonshine_voice import ModelArch, get_model_path\n"
        "        print('loads', flush=True)\n"
        "        input()  # until the test has taken the port\n",
    )
    command = [*STRICT_PYTHON, "-m", "service"]
    with (
        subprocess.Popen(
            command,
            cwd=script,
            env=lesson_environment({"PORT": str(port)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as second,
        socket.socket() as first,
    ):
        assert second.stdout
        assert second.stdout.readline() == "loads\n"
        first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", port))
        first.listen()
        output, errors = second.communicate("go on\n", timeout=60)
    assert second.returncode == 1
    assert f"Cannot listen at 127.0.0.1:{port}" in errors and "Traceback" not in errors
    assert "Listening" not in output
