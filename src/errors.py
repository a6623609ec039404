"""The exception tree. Every error a user can cause or meet is one of these.

    FlashVSRError            anything this package raises on purpose
    ├── InputError           an option or an input file is wrong (also: option out of bounds)
    │   └── OutputExistsError   the output is already there and --overwrite was not given
    ├── WeightsError         a weight file is missing, truncated, foreign or of another version
    │   └── DownloadError    a weight file could not be fetched
    ├── DeviceError          the device, its dtype or a kernel cannot do what was asked
    │   └── RangeError          the model's numbers are too large for its dtype (fp16)
    ├── VideoError           FFmpeg failed, vanished or produced something unreadable
    └── Cancelled            the caller asked to stop; nothing is left behind

A message is one line: it carries the offending value and says what to do about it.
"""

from __future__ import annotations


class FlashVSRError(Exception):
    """Base of every error raised on purpose. ``str(error)`` is one readable line."""


class InputError(FlashVSRError):
    """An option or an input is wrong."""


class OutputExistsError(InputError):
    """The output exists and may not be overwritten."""


class WeightsError(FlashVSRError):
    """A weight file is missing, damaged, foreign or of another version."""


class DownloadError(WeightsError):
    """A weight file could not be downloaded."""


class DeviceError(FlashVSRError):
    """The device, its dtype or a kernel cannot do what was asked."""


class RangeError(DeviceError):
    """The model's numbers are too large for its dtype."""


class VideoError(FlashVSRError):
    """FFmpeg failed, or a media file cannot be read or written."""


class Cancelled(FlashVSRError):
    """The caller asked to stop before the end."""
