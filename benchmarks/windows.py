"""How much of its thirty seconds Whisper needs: words wrong, and time of the processor.

    PYTHONPATH=tests/rig .venv/bin/python benchmarks/windows.py FOLDER ...

A folder holds the weights of a model. People speak as they were recorded, and once more as a laptop
hears them from far in a room with an echo and a fan. The turns are cut as the service cuts them.
"""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from human_speech import in_a_room, recordings, word_errors
from speech import Audio, silence

if TYPE_CHECKING:
    from service.engines import Engine, WhisperEngine

sys.path.insert(0, str(Path(__file__).parent.parent))

# Seconds to encode at least, and seconds to encode behind the sound.
WINDOWS = [(30, 0), (20, 5), (15, 5), (12, 6), (10, 6), (8, 5), (6, 4), (5, 2)]
Turns = list[list[bytes]]  # of each recording, as PCM16


def turns_in(samples: Audio) -> list[bytes]:
    """Return the turns of a recording, as the service cuts it."""
    from service.turns import TurnDetector

    detector = TurnDetector()
    events = list(detector.feed(np.concatenate([silence(0.5), samples, silence(0.8)])))
    events += detector.finish()
    return [bytes(turn.audio) for what, turn in events if what == "ended"]


def measure(name: str, hear: Callable[[bytes], str], kinds: dict[str, Turns]) -> None:
    """Print how many words are wrong, and how long the processor takes."""
    said = [recording.text for recording in recordings()]
    results = []
    for kind, recorded in kinds.items():
        begin = time.process_time()
        heard = [" ".join(map(hear, turns)) for turns in recorded]
        seconds = time.process_time() - begin
        wrong, words = word_errors(said, heard)
        results.append(f"{kind} {100 * wrong / words:5.1f} % {seconds:6.1f} s")
    print(f"{name:<24}", *results, sep="   ", flush=True)


def hear_with(engine: "Engine") -> Callable[[bytes], str]:
    """Return a function that gives the text of a turn."""
    return lambda pcm: " ".join(part.text for part in engine.transcribe(pcm, "en"))


def hear_as_before(engine: "WhisperEngine") -> Callable[[bytes], str]:
    """Return the same with the whole window and faster-whisper's own six temperatures."""
    from service.engines import samples_of

    return lambda pcm: " ".join(part.text for part in engine.whisper.hear(samples_of(pcm), "en"))


def random_pieces(recorded: Turns) -> list[bytes]:
    """Return a piece of each turn, cut anywhere, soft or far too loud."""
    random = np.random.default_rng(len(recorded))
    pieces = []
    for turn in [turn for turns in recorded for turn in turns]:
        samples = np.frombuffer(turn, "<i2")
        begin = random.integers(0, len(samples) - 3_200)
        end = random.integers(begin + 3_200, len(samples) + 1)
        gain = 10 ** random.uniform(-2, 0.7)
        pieces.append(np.clip(samples[begin:end] * gain, -32768, 32767).astype("<i2").tobytes())
    return pieces


def look_for_loops(engine: "WhisperEngine", kinds: dict[str, Turns]) -> None:
    """Print how often random pieces made Whisper repeat itself, and what came out then."""
    begin, caught, pieces = engine.loops, [], 0
    for recorded in kinds.values():
        for piece in random_pieces(recorded):
            before = engine.loops
            text = hear_with(engine)(piece)
            pieces += 1
            if engine.loops > before:
                caught.append(f"    {len(piece) / 32_000:.1f} s: {text}")
    print(
        f"random pieces: {pieces}, heard again in full: {engine.loops - begin}", *caught, sep="\n"
    )


def main() -> None:
    """Measure Moonshine, then each model whose folder the command line names."""
    os.environ["WHISPER_MODEL"] = ""
    from service.engines import MoonshineEngine, WhisperEngine

    spoken = [recording.samples for recording in recordings()]
    kinds = {
        "clean": [turns_in(samples) for samples in spoken],
        "room": [turns_in(in_a_room(one, seed, directness=14)) for seed, one in enumerate(spoken)],
    }
    measure("Moonshine", hear_with(MoonshineEngine()), kinds)
    for folder in sys.argv[1:]:
        engine = WhisperEngine(f"{folder}-int8")
        print(f"\n{engine.model}")
        measure("as faster-whisper does", hear_as_before(engine), kinds)
        for least, margin in WINDOWS:
            before = engine.loops
            engine.for_texts = engine.whisper.with_window(least, margin)
            measure(f"{least} s, {margin} s behind", hear_with(engine), kinds)
            print(f"    heard again in full: {engine.loops - before}")
        engine.for_texts = engine.whisper.with_window(15, 5)
        look_for_loops(engine, kinds)


if __name__ == "__main__":
    main()
