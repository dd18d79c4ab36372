"""The exit code of each error. No other package knows them; docs/exit-codes.md lists them."""

from __future__ import annotations

import signal

from migrate import errors

CODES: dict[type[errors.MigrateError], int] = {
    errors.BadRequest: 2,
    errors.NoSuchContainer: 10,
    errors.NotRunning: 11,
    errors.OpenFileOutside: 12,
    errors.NotMovableError: 13,
    errors.CannotPreCopy: 14,
    errors.SeveralContainers: 15,
    errors.AlreadyMoving: 16,
    errors.WouldFreezeTooLong: 17,
    errors.TargetUnreachable: 20,
    errors.AuthenticationFailed: 21,
    errors.UnknownHostKey: 22,
    errors.ChangedHostKey: 23,
    errors.RefusedHostKey: 24,
    errors.NotRoot: 30,
    errors.MissingOnHost: 31,
    errors.CriuTooOld: 32,
    errors.CriuWireMismatch: 33,
    errors.MachineMismatch: 34,
    errors.NameTaken: 40,
    errors.PathTaken: 41,
    errors.NotEnoughMemory: 42,
    errors.AddressTaken: 43,
    errors.RefusedByEngine: 44,
    errors.Refused: 49,
    errors.RolledBack: 50,
    errors.LeftBehind: 51,
    errors.NotConverging: 52,
    errors.CannotTrack: 53,
    errors.ContainerEnded: 54,
    errors.MemoryDiffers: 55,
    errors.FrozenTooLong: 56,
    errors.Undecided: 60,
    errors.ResumeFailed: 63,
    errors.LostThere: 65,
    errors.Defect: 70,
}

#: The exit codes that only `migratectl` has, in addition to those above.
CTL_CODES = {"NothingHeld": 61, "NotRecovered": 62, "NoDockerRuntime": 64}


def exit_code(error: errors.MigrateError) -> int:
    """Return the exit code of the error's nearest class in the tree of errors.

    An interruption has 128 + the signal's number, as in shells.
    """
    if isinstance(error, errors.Interrupted):
        return 128 + signal.Signals(error.signal_number)
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)
