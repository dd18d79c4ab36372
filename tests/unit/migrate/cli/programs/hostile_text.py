"""A command that shows hostile text in every way there is: hostile_text.py ESCAPED.

ESCAPED is the text with Python's escapes, since it has characters that no argument may have.
"""

import sys
import time

from migrate.cli import console
from migrate.cli.progress import observer_for
from migrate.decisions.state import State

if __name__ == "__main__":
    evil = sys.argv[1].encode().decode("unicode_escape")
    with observer_for(sys.stderr) as observer:
        observer.phase("prepare")
        time.sleep(0.5)
        observer.note(evil)
        observer.state(State.ARMED)
        time.sleep(0.5)
    console.say(evil)
    console.put(evil)
