"""Start the service in a container, and keep a wrong setting visible: python -m service.in_docker

A wrong setting does not become right by starting again. So when the service ends and says what is
wrong, the container stays for ten minutes, unhealthy, with that as the last line of its log. When
the service crashes, the container ends at once, and Docker starts it again.
"""

import runpy
import sys
import time

from service.healthy import WRONG_SETTING

VISIBLE_S = 600


def main() -> None:
    """Run the service. If it ends with a message, show it and wait."""
    try:
        runpy.run_module("service", run_name="__main__")
    except SystemExit as end:
        if not end.code:  # it was asked to stop
            raise
        WRONG_SETTING.touch()
        print(end.code, file=sys.stderr)
        time.sleep(VISIBLE_S)
        sys.exit(1)


if __name__ == "__main__":
    main()
