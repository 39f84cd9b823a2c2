"""Faster Whisper, but it encodes what was said and not always thirty seconds."""

import copy
import re
from typing import Self

import ctranslate2
import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.transcribe import Segment

FRAMES = 100  # of the spectrogram in a second
WHOLE_WINDOW = (30, 0)  # what Whisper was trained on


class ShortWhisper(WhisperModel):  # type: ignore[misc]  # it has no types
    """Whisper with a window that fits what was said.

    Whisper fills up everything to 30 s with silence, and its encoder takes as long for the silence
    as for the speech: four fifths of all time for a phrase of 3 s. The encoder has a position for
    each frame and no more, so it also takes fewer. But Whisper learned that a phrase ends in a
    long silence. Where that is cut too short it doesn't find the end, and repeats itself. So a
    part of the silence stays, and whoever uses this looks for loops.
    """

    least_s, margin_s = WHOLE_WINDOW  # encode this much, and this much behind the speech

    def with_window(self, least_s: int, margin_s: int) -> Self:
        """Return the same model, with the same weights in memory, but another window."""
        other = copy.copy(self)
        other.least_s, other.margin_s = least_s, margin_s
        return other

    def encode(self, features: np.ndarray) -> ctranslate2.StorageView:
        """Encode the frames that hold sound, and some of the zeros that fill the window."""
        with_sound = np.flatnonzero(features.any(axis=0))
        end = int(with_sound[-1]) + 1 if len(with_sound) else 0
        keep = max(self.least_s * FRAMES, end + self.margin_s * FRAMES)
        return super().encode(np.ascontiguousarray(features[:, :keep]))

    def hear(self, samples: np.ndarray, language: str, **options: object) -> list[Segment]:
        """Return the segments of float32 samples (n,) at 16 kHz."""
        segments, _ = self.transcribe(
            samples,
            language=language or None,
            beam_size=1,  # take the likeliest word each time: sooner, and nearly as exact
            condition_on_previous_text=False,  # or a mistake breeds the next one
            **options,
        )
        return list(segments)


def most_tokens(seconds: float) -> int:
    """Return more tokens than one can say in that time. English takes 4 or 5 a second."""
    return min(220, int(12 + 10 * seconds))


def is_loop(segments: list[Segment], seconds: float) -> bool:
    """Tell whether Whisper may have repeated itself because it didn't find the end.

    People say things twice, too. Then the whole window says it again, and only time is lost.
    """
    words = re.findall(r"\w+", " ".join(part.text for part in segments).lower())
    ends = (words[-n:] == words[-2 * n : -n] for n in range(1, len(words) // 2 + 1))
    return (
        sum(len(part.tokens) for part in segments) >= most_tokens(seconds)
        or len(words) > 4 + 6 * seconds  # nobody speaks faster
        or any(part.compression_ratio > 2.4 for part in segments)  # Whisper's own limit
        or any(ends)  # it ends by saying the same twice
    )
