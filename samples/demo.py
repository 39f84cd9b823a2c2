"""The demonstration: one server, two clients, and every word of samples/speech.wav

Starts lesson 5, lets lessons 6 and 7 hear the recording, and stops lesson 5 again. The exit status
is 0 only if both lessons understood every word of samples/speech.txt.

    python samples/demo.py      (make demo does the same)
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OTHER_SETTINGS = {"HOST", "TRACE", "TRANSCRIPTION_LANGUAGE", "TRANSCRIPTION_MODEL"}
NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
REPORT_S = 10  # how often to say that the server is still starting

Program = subprocess.Popen  # a program that is running


def main() -> None:
    """Start the server, let both lessons hear the recording, and stop the server."""
    port = choose_port()
    # Settings that are meant for something else must not change the demonstration.
    for name in OTHER_SETTINGS & os.environ.keys():
        del os.environ[name]
    os.environ["PORT"] = str(port)
    os.environ["SERVICE_URL"] = f"http://127.0.0.1:{port}"
    os.environ["WEBSOCKET_URL"] = f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription"
    os.environ["PYTHONUNBUFFERED"] = "1"  # each line is shown as soon as it is printed
    os.environ["PYTHONUTF8"] = "1"

    print("Starting lesson 5, the server. It loads its speech model, which takes some seconds.")
    server = start("fastapi_example.py")
    try:
        wait_for(server, port)
        print("\nLesson 6 sends the recording as a file, and gets the text back.")
        hear("simple_transcription_test.py")
        print("\nLesson 7 sends it live, as fast as it is spoken, which takes 13 seconds.")
        hear("simple_audio_transcription.py")
    finally:
        stop(server)
    print("\nBoth lessons heard every word of samples/speech.txt.")


def choose_port() -> int:
    """Return 8000, which is lesson 5's own port, or a free one if another program uses that."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)):
            return 8000
    with socket.create_server(("127.0.0.1", 0)) as probe:  # 0 stands for any free port
        return int(probe.getsockname()[1])


def start(*command: str, output: int | None = None) -> Program[str]:
    """Start a Python program in the folder of the lessons."""
    print("$ python", *command)
    command = (sys.executable, *command)
    return Program(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, encoding="utf-8")


def stop(program: Program[str]) -> None:
    """Stop a program. A second Ctrl-C must not leave it running, so it is ignored from here on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program.terminate()
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        program.kill()


def wait_for(server: Program[str], port: int) -> None:
    """Wait until the server answers, and show that something is still happening."""
    begin = time.monotonic()
    reports = 0
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            raise SystemExit("Lesson 5 did not start. It says why above.")
        seconds = int(time.monotonic() - begin)
        if seconds // REPORT_S > reports:
            reports += 1
            print(f"Still loading the speech model ({seconds} s) ...")
        time.sleep(0.2)


def hear(lesson: str) -> None:
    """Let a lesson hear the recording, show what it prints, and check every word."""
    program = start(lesson, "--file", "samples/speech.wav", output=subprocess.PIPE)
    heard = ""
    try:
        for line in program.stdout or []:
            print(line, end="")
            heard += line
        if program.wait():
            raise SystemExit(f"{lesson} failed. It says why above.")
    finally:
        program.terminate()
    # Lesson 7 prints a time before each phrase; all that lesson 6 prints is looked through.
    phrases = re.findall(r"^\[\d+:\d\d\] (.*)", heard, re.MULTILINE) or [heard]
    expected = words((ROOT / "samples/speech.txt").read_text(encoding="utf-8"))
    if expected not in words(" ".join(phrases)):
        raise SystemExit(f"That is not what the recording says:\n{expected}")


def words(text: str) -> str:
    """Return the words alone, without case and punctuation, and with numbers written out."""
    found = re.findall(r"\w+", text.lower())
    return " ".join(NUMBERS[int(word)] if word in map(str, range(11)) else word for word in found)


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        # A terminal without ✓ shows a question mark. Lines appear at once, also in a file.
        sys.stdout.reconfigure(errors="replace", line_buffering=True)
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped.")
        raise SystemExit(130) from None  # what a shell reports after Ctrl-C
