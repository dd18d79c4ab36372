"""The decisions of a migration: functions of what was seen, without input and output.

The tests go through them by table. The architecture test holds that no module here does I/O.
"""
