"""A process with two children. It prints an empty line when both run, and none ends by itself."""

import os
import time


def sleep_on() -> None:
    while True:
        time.sleep(60)


if __name__ == "__main__":
    for _ in range(2):
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, b"x")
            sleep_on()
        os.read(reader, 1)
    print(flush=True)
    sleep_on()
