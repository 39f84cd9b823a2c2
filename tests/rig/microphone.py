"""A virtual microphone: a PulseAudio of the test's own, into which WAV files are spoken."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_lessons import ROOT, need


class Microphone:
    """Programs started with .environment hear, on their default device, what .say() says."""

    def __init__(self, folder: Path) -> None:
        for name in ("run", "state"):
            (folder / name).mkdir(mode=0o700, parents=True)
        self.environment = {
            "PULSE_SERVER": f"unix:{folder}/native",
            "XDG_RUNTIME_DIR": f"{folder}/run",
            "PULSE_RUNTIME_PATH": f"{folder}/run",
            "PULSE_STATE_PATH": f"{folder}/state",
            "PULSE_COOKIE": f"{folder}/cookie",
        }
        modules = [
            f"module-native-protocol-unix socket={folder}/native auth-anonymous=1",
            # norewinds: else a microphone that was just opened is silent for two seconds
            "module-null-sink sink_name=mouth rate=16000 channels=1 norewinds=1",
            "module-null-sink sink_name=speaker rate=16000 channels=2 norewinds=1",
            "module-remap-source source_name=mic master=mouth.monitor",
        ]
        command = ["pulseaudio", "-n", "--daemonize=no", "--use-pid-file=no"]
        command += ["--exit-idle-time=-1", "--high-priority=no", "--realtime=no"]
        for module in modules:
            command += ["-L", module]
        environment = self._environment()
        del environment["PULSE_SERVER"]  # it is one, it does not look for one
        self.log = (folder / "log").open("w")
        self.server = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        deadline = time.monotonic() + 20
        while self._control("info").returncode:
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        self._control("set-default-sink", "speaker")
        self._control("set-default-source", "mic")

    def _environment(self) -> dict[str, str]:
        return os.environ | self.environment

    def _control(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        command = ["pactl", *arguments]
        return subprocess.run(command, env=self._environment(), capture_output=True)

    def say(self, wav: Path) -> "subprocess.Popen[bytes]":
        """Begin to speak a WAV file; .wait() waits until it is spoken."""
        return subprocess.Popen(["paplay", "--device=mouth", wav], env=self._environment())

    def unplug(self) -> None:
        """Take the sound server away while it is in use."""
        self.server.terminate()
        self.server.wait(10)
        self.log.close()


@pytest.fixture
def microphone(tmp_path: Path) -> Iterator[Microphone]:
    need("pulseaudio", "pactl", "paplay")
    microphone = Microphone(tmp_path / "pulse")
    yield microphone
    microphone.unplug()


def two_channels_only(folder: Path) -> dict[str, str]:
    """Return settings with which a microphone opens with two channels and not with one."""
    need("gcc")
    library = folder / "two_channels_only.so"
    source = ROOT / "tests/rig/two_channels_only.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}
