"""Everything that can go wrong, by what the person who sees it can do about it.

| error            | also an     | it means                                                          |
|------------------|-------------|-------------------------------------------------------------------|
| FormatError      | ValueError  | the bytes are not a valid .lic file: says where and what          |
| UnsupportedError |             | valid perhaps, but newer, larger or other than this reader takes  |
| WeightsError     | OSError     | the weights are missing, unreadable or not the ones asked for     |
| ExactnessError   |             | this machine cannot run the integer networks exactly              |
| UsageValueError  | ValueError  | an argument has a value that is not allowed                       |
| UsageTypeError   | TypeError   | an argument has a type that is not allowed                        |

All derive from `LicError`. Only `lic_format` and `licodec` raise them; a bug stays the exception that it is.
"""

from __future__ import annotations


class LicError(Exception):
    """Base of every error that this project raises on purpose."""


class FormatError(LicError, ValueError):
    """The bytes are not a valid .lic file.

    reason: what was found and what was expected.
    offset: where in the file, in bytes, if known.
    chunk: four-letter type of the chunk concerned, if known.
    incomplete: True where the bytes end too early but nothing in them is wrong so far, so that more
        bytes could make them valid (a truncated file, or the beginning of one that is still arriving).
    """

    def __init__(
        self, reason: str, *, offset: int | None = None, chunk: str | None = None, incomplete: bool = False
    ) -> None:
        super().__init__(reason)  # one positional argument: the error survives pickling
        self.reason = reason
        self.offset = offset
        self.chunk = chunk
        self.incomplete = incomplete

    def __str__(self) -> str:
        where = [] if self.chunk is None else [f"chunk {self.chunk}"]
        where += [] if self.offset is None else [f"at byte {self.offset}"]
        return f"{self.reason} ({', '.join(where)})" if where else self.reason


class UnsupportedError(LicError):
    """The file may be valid, but this reader does not take it: newer, larger, or of an unknown codec."""


class WeightsError(LicError, OSError):
    """Weights are missing, unreadable, or not the ones that a file or a caller names."""


class ExactnessError(LicError):
    """No way of running the integer networks exactly was found on this machine."""


class UsageError(LicError):
    """A caller's mistake. Raised as `UsageValueError` or `UsageTypeError`; `argument` names the culprit."""

    def __init__(self, message: str, argument: str = "") -> None:
        super().__init__(message)
        self.argument = argument


class UsageValueError(UsageError, ValueError):
    """An argument has a value that is not allowed."""


class UsageTypeError(UsageError, TypeError):
    """An argument has a type that is not allowed."""


class LicWarning(UserWarning):
    """Something is not as it should be, yet the result stands."""
