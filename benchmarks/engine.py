"""The engine of the service, called directly: the floor that nothing built on it can go below."""

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Engine:
    """A process that has the model loaded and does nothing else."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, __file__, model]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def seconds(self, pcm: bytes) -> float:
        """Return how long the engine takes for PCM16 audio at 16 kHz."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(len(pcm).to_bytes(4, "little") + pcm)
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate(bytes(4), timeout=20)


def main() -> None:
    """Be that process: audio comes in, each piece behind its length; seconds go out."""
    sys.path.insert(0, str(ROOT))
    from service.engines import WhisperEngine

    engine = WhisperEngine(sys.argv[1])
    engine.transcribe(bytes(32_000), "en")  # the first call is slow
    while size := int.from_bytes(sys.stdin.buffer.read(4), "little"):
        pcm = sys.stdin.buffer.read(size)
        begin = time.perf_counter()
        engine.transcribe(pcm, "en")
        print(time.perf_counter() - begin, flush=True)


if __name__ == "__main__":
    main()
