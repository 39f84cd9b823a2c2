"""Does the service answer? Docker asks every few seconds: python -m service.healthy

The service opens its port once the model is loaded and has been tried. Until then this program
waits, because the first start downloads the model, and that takes as long as it takes.
"""

import http.client
import os
import sys
import time
from pathlib import Path

WRONG_SETTING = Path(os.environ.get("TMPDIR", "/tmp"), "wrong-setting")  # noqa: S108 (the container's own)
PORT = int(os.environ.get("PORT", "10300"))
ANSWER_S = 10  # a service that takes longer than this to answer is not well


def is_healthy() -> bool:
    """Wait until the service answers, or until in_docker.py says that it never will."""
    while not WRONG_SETTING.exists():
        service = http.client.HTTPConnection("127.0.0.1", PORT, timeout=ANSWER_S)
        try:
            service.request("GET", "/health")
            answer = service.getresponse()
            print(answer.read().decode())  # docker inspect shows it
            return answer.status == 200
        except ConnectionRefusedError:  # not open yet
            time.sleep(0.5)
        except (OSError, http.client.HTTPException) as error:
            print(f"The service does not answer: {error!r}")
            return False
    return False


if __name__ == "__main__":
    sys.exit(0 if is_healthy() else 1)
