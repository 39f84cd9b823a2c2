"""python -m service: its command line, and where the weights come from."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model_hub import FILES, ModelHub
from running_lessons import (
    ROOT,
    OpenLesson,
    RunLesson,
    free_port,
    lesson_environment,
    printed,
)
from running_service import MICRO_WHISPER, StartService, changed_copy

SERVICE = ("-m", "service")
StartHub = Callable[..., ModelHub]


@pytest.fixture
def start_hub() -> Iterator[StartHub]:
    """Start a hub of the test's own: start_hub(bytes_per_second=..., stalls_at=...)."""
    hubs: list[ModelHub] = []

    def start(**options: float) -> ModelHub:
        hubs.append(ModelHub(**options))
        return hubs[-1]

    yield start
    for hub in hubs:
        hub.close()


def test_help_says_what_can_be_chosen(run_lesson: RunLesson) -> None:
    ended = run_lesson(*SERVICE, "--help")
    assert ended.returncode == 0
    assert all(option in ended.stdout for option in ("--model", "--host", "--port", "10300"))


def test_a_wrong_argument_is_named(run_lesson: RunLesson) -> None:
    ended = run_lesson(*SERVICE, "--prot", "8001")
    assert ended.returncode == 2 and "unrecognized arguments: --prot" in ended.stderr


def test_what_the_command_line_says_wins(run_lesson: RunLesson) -> None:
    ended = run_lesson(*SERVICE, "--port", "70000", env={"PORT": "10301"})
    assert ended.returncode == 1 and ended.stderr.startswith("PORT=70000: ")


def test_uvicorn_starts_it_too(tmp_path: Path) -> None:
    env = lesson_environment({"WHISPER_MODEL": MICRO_WHISPER})
    command = [sys.executable, "-m", "uvicorn", "service.app:app", "--port", str(free_port())]
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        assert server.stdout.readline() == "Engine: Faster Whisper (micro_whisper, cpu)\n"
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=20)


def test_uvicorn_shows_the_sentence_without_a_traceback(run_lesson: RunLesson) -> None:
    port = str(free_port())
    env = {"WHISPER_MODEL": "smal"}
    ended = run_lesson("-m", "uvicorn", "service.app:app", "--port", port, env=env)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "WHISPER_MODEL=smal is neither a model name nor a folder" in ended.stderr


def test_a_model_is_downloaded_once_with_its_progress_in_the_log(
    start_hub: StartHub, start_service: StartService, tmp_path: Path
) -> None:
    hub = start_hub(bytes_per_second=4e5)  # then it takes more than LOG_S
    total = f"{sum(map(len, FILES.values())) / 1e6:.0f} MB"
    env = {"WHISPER_MODEL": "tiny-int8", "HF_HOME": str(tmp_path)}
    service = start_service(**env, HF_ENDPOINT=hub.url)
    first, *progress, done, engine, _ = service.output.splitlines()
    assert first == "Downloading the speech model tiny. This happens only once."
    assert progress and all(line.endswith(f" of {total}") for line in progress)
    assert done == f"  {total} have arrived."
    assert engine == "Engine: Faster Whisper (tiny-int8, cpu)"
    asked = len(hub.asked)

    again = start_service(**env, HF_ENDPOINT=hub.url)
    assert again.output.splitlines()[0] == engine
    assert len(hub.asked) == asked, "it asks the network although it has everything"


def test_a_terminal_shows_one_line_that_grows(
    start_hub: StartHub, open_lesson: OpenLesson, tmp_path: Path
) -> None:
    hub = start_hub(bytes_per_second=1e6)
    env = {"WHISPER_MODEL": "tiny", "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "PORT": "0"}
    lesson = open_lesson(*SERVICE, env=env)
    lesson.expect_exact("This happens only once.\r\n")
    lesson.expect(r"  [12] of \d MB\r")
    lesson.expect_exact("Engine: Faster Whisper")
    assert "%|" not in printed(lesson)  # a bar of somebody else's


def silent_server(backlog: int) -> socket.socket:
    """Return a server that accepts nothing. With a full backlog its system drops every packet."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(backlog)
    return server


@pytest.mark.parametrize("how", ["refuses", "never answers", "drops packets"])
def test_without_internet_there_is_one_sentence_within_15_seconds(
    how: str, run_lesson: RunLesson, tmp_path: Path
) -> None:
    with silent_server(8 if how == "never answers" else 0) as server, socket.socket() as filler:
        address = server.getsockname()
        if how == "refuses":
            server.close()
        elif how == "drops packets":
            if not sys.platform.startswith("linux"):
                pytest.skip("only Linux drops what does not fit into the backlog")
            filler.connect(address)
        env = {"WHISPER_MODEL": "tiny-int8", "HF_HOME": str(tmp_path), "PORT": "0"}
        begin = time.monotonic()
        ended = run_lesson(*SERVICE, env=env | {"HF_ENDPOINT": f"http://127.0.0.1:{address[1]}"})
        took = time.monotonic() - begin
    assert ended.returncode == 1 and took < 15 + 3  # and some seconds for a busy machine's imports
    reason = "Connection refused" if how == "refuses" else "the server does not answer"
    first, remedy = ended.stderr.splitlines()
    assert first.startswith("Cannot download the speech model tiny: ") and reason in first
    assert remedy.startswith("Check the internet connection")


def test_a_download_that_stands_still_is_given_up(start_hub: StartHub, tmp_path: Path) -> None:
    hub = start_hub(stalls_at=1_000_000)
    folder = changed_copy(tmp_path, "NEXT_SIGN_S = 60", "NEXT_SIGN_S = 2")
    env = {"WHISPER_MODEL": "tiny", "HF_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "PORT": "0"}
    command = [sys.executable, *SERVICE]
    ended = subprocess.run(
        command, cwd=folder, env=lesson_environment(env), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1 and "does not answer" in ended.stderr


def test_without_moonshine_it_takes_whisper_and_says_so(
    start_hub: StartHub, start_service: StartService, tmp_path: Path
) -> None:
    """As on a computer for which there is no wheel of it."""
    (tmp_path / "moonshine_voice.py").write_text("raise ImportError('no moonshine here')")
    service = start_service(
        WHISPER_MODEL="",
        PYTHONPATH=str(tmp_path),
        HF_HOME=str(tmp_path),
        HF_ENDPOINT=start_hub().url,
    )
    first = service.output.splitlines()[0]
    assert "no moonshine here" in first and "Whisper tiny.en is used" in first
    assert service.health()["model"] == "tiny.en"


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("model.bin", None, "is missing"),
        ("tokenizer.json", None, "is missing"),
        ("vocabulary.json", None, "is missing"),
        ("config.json", b'{"alignment', "is damaged"),
        ("tokenizer.json", FILES["tokenizer.json"][:1000], "is damaged"),
        ("tokenizer.json", b"{}", "is not a tokenizer"),
        ("model.bin", FILES["model.bin"][:1_000_000], "may be damaged"),
        ("model.bin", b"", "may be damaged"),
        ("model.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:4", "git lfs pull"),
    ],
)
def test_damaged_weights_are_one_sentence_that_names_the_file(
    name: str, content: bytes | None, problem: str, run_lesson: RunLesson, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MICRO_WHISPER, folder, ignore=shutil.ignore_patterns("train"))
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    env = {"WHISPER_MODEL": str(folder), "PORT": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    ended = run_lesson(*SERVICE, env=env)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    first = ended.stderr.splitlines()[0]
    assert str(folder / Path(name).stem) in first and problem in first


def test_damaged_weights_in_the_cache_are_downloaded_again_once_deleted(
    start_hub: StartHub, start_service: StartService, run_lesson: RunLesson, tmp_path: Path
) -> None:
    env = {"WHISPER_MODEL": "tiny", "HF_HOME": str(tmp_path), "HF_ENDPOINT": start_hub().url}
    start_service(**env).stop()
    (weights,) = (tmp_path / "hub").rglob("model.bin")
    weights.resolve().write_bytes(b"half")
    ended = run_lesson(*SERVICE, env=env | {"PORT": "0"})
    remedy = ended.stderr.splitlines()[1]
    folder = remedy.removeprefix("Delete ").partition(" and start again")[0]
    assert ended.returncode == 1 and str(weights) in ended.stderr
    shutil.rmtree(folder)
    assert start_service(**env).health()["status"] == "ok"
