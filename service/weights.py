"""A model's weights: a folder of your own, the cache, or the internet, in this order."""

import json
import sys
import threading
import time
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

from service.settings import settings

NEEDED = ("config.json", "tokenizer.json", "vocabulary.*", "model.bin")
FIRST_SIGN_S = 12  # how long to wait for the first byte
NEXT_SIGN_S = 60  # how long a download may stand still, as it does when the Wi-Fi changes
WANTED = (*NEEDED, "preprocessor_config.json")  # that one only some models have
LOG_S = 5  # how often to print the progress where there is no terminal to draw it in


def find_weights(model: str) -> Path:
    """Return the folder that holds a model's weights. Raises SystemExit, with a sentence."""
    for folder in (Path(model), Path(model.removesuffix("-int8"))):
        if folder.is_dir():
            check(folder)
            return folder
    folder = known_weights(model.removesuffix("-int8"))
    check(folder)
    return folder


def known_weights(name: str) -> Path:
    """Return the folder of a model that has a name; the first time, download it."""
    from faster_whisper.utils import _MODELS as KNOWN_MODELS
    from huggingface_hub import try_to_load_from_cache

    if name not in KNOWN_MODELS:
        raise SystemExit(
            f"WHISPER_MODEL={settings.whisper_model} is neither a model name nor a folder that "
            "contains model.bin.\nThe names are below. Add -int8 to save memory: small-int8.\n"
            + ", ".join(KNOWN_MODELS)
        )
    # This looks on the disk only: to ask a network that drops packets takes minutes.
    cached = try_to_load_from_cache(KNOWN_MODELS[name], "model.bin")
    if isinstance(cached, str) and not missing(Path(cached).parent):
        return Path(cached).parent
    return download(name, KNOWN_MODELS[name])


def missing(folder: Path) -> list[str]:
    """Return the names of the files that a model needs and the folder lacks."""
    return [name for name in NEEDED if not any(folder.glob(name))]


def check(folder: Path) -> None:
    """Look for what goes wrong when files are copied. Raises SystemExit, with a sentence."""
    for name in missing(folder):
        raise damaged(folder / name, "is missing")
    for file in [file for name in NEEDED for file in folder.glob(name)]:
        with file.open("rb") as opened:
            if opened.read(40).startswith(b"version https://git-lfs"):
                raise damaged(file, "is only a Git LFS pointer: git lfs pull gets the real file")
        if file.suffix == ".json":
            try:
                content = json.loads(file.read_bytes())
            except ValueError:
                raise damaged(file, "is damaged") from None
            if file.name == "tokenizer.json" and "model" not in content:
                raise damaged(file, "is not a tokenizer")


def damaged(file: Path, problem: str) -> SystemExit:
    """Return what ends the program with a sentence that names the file and the remedy."""
    remedy = f"Copy the model into {file.parent} again."
    if file.parent.parent.name == "snapshots":  # a folder of the download cache
        remedy = f"Delete {file.parents[2]} and start again, to download the model again."
    return SystemExit(f"The speech model does not load: {file} {problem}.\n{remedy}")


class Download(threading.Thread):
    """Fetches a model's files into the cache.

    A daemon, because nothing can interrupt a thread that waits for the network: if we give it up,
    the program can still end.
    """

    def __init__(self, repository: str) -> None:
        super().__init__(daemon=True)
        self.repository = repository
        self.folder: Path | None = None  # set once everything has arrived
        self.error: Exception | None = None
        self.total = 0  # bytes

    def run(self) -> None:
        from huggingface_hub import HfApi, constants, hf_hub_download
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # it would draw three at once, and none without a terminal
        # Write often: by default it collects 10 MB first, which on a slow line looks like a stall.
        constants.DOWNLOAD_CHUNK_SIZE = 2**18
        constants.HF_HUB_DISABLE_XET = True  # another way of downloading, which collects too
        try:
            listing = HfApi().model_info(self.repository, files_metadata=True).siblings or []
            files = {
                file.rfilename: file.size or 0
                for file in listing
                if any(fnmatch(file.rfilename, name) for name in WANTED)
            }
            self.total = sum(files.values())
            for name in sorted(files, key="model.bin".__eq__):
                path = hf_hub_download(self.repository, name)
            self.folder = Path(path).parent
        except Exception as error:  # of many kinds, which all mean the same
            self.error = error

    def bytes_so_far(self) -> int:
        """Return how much has arrived: what the files in the cache take, finished or not."""
        from huggingface_hub import constants

        cache = Path(constants.HF_HUB_CACHE) / f"models--{self.repository.replace('/', '--')}"
        total = 0
        for file in cache.glob("blobs/*"):
            with suppress(FileNotFoundError):  # one that is complete gets another name
                total += file.stat().st_size
        return total


def download(name: str, repository: str) -> Path:
    """Download weights and show how much has arrived. Raises SystemExit, with a sentence."""
    print(f"Downloading the speech model {name}. This happens only once.", flush=True)
    work = Download(repository)
    at_first = had = work.bytes_so_far()
    last_sign = last_line = time.monotonic()
    is_terminal = sys.stdout.isatty()
    work.start()
    while work.is_alive():
        work.join(0.2)
        have, now = work.bytes_so_far(), time.monotonic()
        if have != had:
            had, last_sign = have, now
        if work.total and now - last_line > (0 if is_terminal else LOG_S):
            last_line = now
            line = f"  {had / 1e6:.0f} of {work.total / 1e6:.0f} MB"
            print(line, end="\r" if is_terminal else "\n", flush=True)
        if now - last_sign > (FIRST_SIGN_S if had == at_first else NEXT_SIGN_S):
            work.error = TimeoutError("the server does not answer")
            break
    if work.folder:
        print(f"  {had / 1e6:.0f} MB have arrived.", flush=True)
        return work.folder
    reason = str(work.error).partition("\n")[0] or type(work.error).__name__
    hint = " Without WHISPER_MODEL it needs no download." if settings.whisper_model else ""
    raise SystemExit(
        f"Cannot download the speech model {name}: {reason.rstrip('.')}.\n"
        f"Check the internet connection, then start the service again.{hint}"
    )
