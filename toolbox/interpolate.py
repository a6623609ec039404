"""More frames per second: RIFE or motion compensation, one shot after the other, in constant memory.

Frame i of the result belongs at time i / rate. N frames at r give round(N * R / r) at R, so that the clip lasts as
long as before; behind the last frame there is nothing to interpolate to, and it is held.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

import numpy as np

from src.errors import DownloadError, InputError
from src.video.filters import filter_frames
from src.video.timing import round_half_up
from toolbox.clip import Clip, Job
from toolbox.edit import as_depth, same_picture
from toolbox.scenes import Scenes

log = logging.getLogger(__name__)

FACTORS = ("2", "4", "8")
MAX_RUN = 3  # so many equal frames in a row are a low rate in disguise; more are a still picture
MCI_SIDE = 32  # smaller frames are grown to this for FFmpeg
MCI_STEPS = 8  # per source frame, where the wanted times do not lie on a coarser grid
_MCI = "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1:scd=none"

Between = Callable[[np.ndarray, np.ndarray, list[Fraction]], Iterator[np.ndarray]]


def interpolate(
    job: Job,
    clip: Clip,
    factor: str,
    fps: Fraction | None,
    method: str,
    device: str,
    flow_scale: float,
    scene_threshold: float,
    duplicates: str,
) -> Clip:
    """``factor`` times as many frames, or ``fps`` of them per second. The sound stays as it is."""
    rate = fps or clip.rate * int(factor)
    if rate < clip.rate:
        raise InputError(f"--fps {rate} is less than the {clip.rate} there are here; use the tool frame-rate for that")
    if rate / clip.rate > 64:
        raise InputError(f"--fps {rate} is more than 64 times the {clip.rate} there are here")
    if rate == clip.rate:
        job.note(f"the clip has {rate} frames per second already")
        return clip
    step = clip.rate / rate
    chosen, between = _choose(job, method, device, flow_scale)
    if between is not None:
        if 8 % step.denominator:
            job.note("RIFE knows only halves of halves: frames are computed at the nearest eighth between two others")

        def make(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
            return _by_pairs(frames, step, between, scene_threshold, duplicates == "smooth")
    else:
        if clip.deep:
            job.note("motion compensation computes the new frames with 8 bits")
        if duplicates == "smooth":
            job.note("repeated frames are only smoothed by RIFE; motion compensation keeps them")
        steps = step.denominator if step.denominator <= 16 else MCI_STEPS
        if steps != step.denominator:
            job.note(f"motion compensation computes {steps} steps per frame, of which the nearest is shown")

        def make(frames: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
            return _by_motion(frames, clip, step, steps, scene_threshold)

    job.note(f"interpolated by {chosen}, {clip.rate} to {rate} frames per second")
    return clip.streamed(make, rate=rate, count=max(1, round_half_up(clip.count / step)))


def _choose(job: Job, method: str, device: str, flow_scale: float) -> tuple[str, Between | None]:
    """What to say, and the function that makes frames between two (None: FFmpeg's motion compensation)."""
    if method == "mci":
        return "motion compensation (mci)", None
    from toolbox import rife

    place = rife.pick_device(device)
    if method == "auto" and not rife.weights_here(job.models_dir) and place.type == "cpu":
        job.note(
            f"method auto: motion compensation (mci), for RIFE's weights are not in {job.models_dir / rife.FOLDER} and"
            " there is no GPU; --method rife downloads them"
        )
        return "motion compensation (mci)", None
    try:
        net = rife.load(job.models_dir, place)
    except DownloadError as error:
        if method != "auto":
            raise
        job.note(f"method auto: motion compensation (mci), for RIFE's weights cannot be downloaded: {error}")
        return "motion compensation (mci)", None
    return f"RIFE on {place}", rife.Rife(net, place, flow_scale).between


class _Clock:
    """The number of the next frame to make, and its place among the source's frames."""

    def __init__(self, step: Fraction) -> None:
        self.step, self.made = step, 0

    @property
    def place(self) -> Fraction:
        return self.made * self.step

    def until(self, place: Fraction) -> list[Fraction]:
        """Places of the frames before ``place``; they count as made."""
        places = []
        while self.place < place:
            places.append(self.place)
            self.made += 1
        return places

    def end(self, frames: int) -> list[Fraction]:
        """Places that are left in a clip of so many frames."""
        count = max(1, round_half_up(frames / self.step))
        places = [number * self.step for number in range(self.made, count)]
        self.made = max(self.made, count)
        return places


def _by_pairs(
    frames: Iterator[np.ndarray], step: Fraction, between: Between, threshold: float, smooth: bool
) -> Iterator[np.ndarray]:
    clock, read = _Clock(step), 0
    scenes = Scenes(frames, threshold)
    for scene in scenes:
        last, at, skipped = None, read, 0
        for frame in scene:
            index, read = read, read + 1
            if last is None:
                # Nearer to this shot than to the one before, but before its first frame.
                yield from (frame for _ in clock.until(Fraction(index)))
                last, at = frame, index
                continue
            repeated = same_picture(last, frame)
            if smooth and repeated and skipped < MAX_RUN - 1:
                skipped += 1  # decided when the next different frame tells how far it has moved
                continue
            yield from _pair(last, frame, at, index, clock, between, repeated)
            last, at, skipped = frame, index, 0
        if last is None:
            continue
        left = clock.end(read) if scenes.ended else clock.until(read - Fraction(1, 2))
        yield from (last for _ in left)


def _pair(
    one: np.ndarray, two: np.ndarray, start: int, stop: int, clock: _Clock, between: Between, repeated: bool
) -> Iterator[np.ndarray]:
    """Frames at the places from ``start`` up to before ``stop``."""
    times = [(place - start) / (stop - start) for place in clock.until(Fraction(stop))]
    if repeated:
        yield from (one for _ in times)
        return
    if times and times[0] <= 0:
        yield one
        times = times[1:]
    yield from between(one, two, times)


def _by_motion(
    frames: Iterator[np.ndarray], clip: Clip, step: Fraction, steps: int, threshold: float
) -> Iterator[np.ndarray]:
    clock, begin = _Clock(step), 0
    scenes = Scenes(frames, threshold)
    for scene in scenes:
        shot = _Shot(scene, clip, steps)
        for frame, place, last in shot:
            # Every step is shown for the places nearest to it; those before the shot belong to its first frame.
            upto = begin + place + Fraction(1, 2 * steps)
            if last:
                upto = begin + shot.read - Fraction(1, 2)
                places = clock.end(begin + shot.read) if scenes.ended else clock.until(upto)
            else:
                places = clock.until(upto)
            yield from (frame for _ in places)
        begin += shot.read


class _Shot:
    """One shot through FFmpeg's minterpolate at ``steps`` times its rate.

    Iterating yields (frame, place in source frames, whether it is the last). Frames of the source come out untouched.
    ``read``: how many frames it had, once it is at its end.
    """

    def __init__(self, frames: Iterator[np.ndarray], clip: Clip, steps: int) -> None:
        self._frames, self._clip, self._steps = frames, clip, steps
        self._sources: deque[np.ndarray] = deque()
        self.read = 0

    def _fed(self) -> Iterator[np.ndarray]:
        frame = None
        for frame in self._frames:
            self._sources.append(frame)
            self.read += 1
            yield self._grown(as_depth(frame, False))
        if frame is not None:
            # The filter looks ahead: these let it reach the last frame, and never come out.
            for _ in range(3):
                yield self._grown(as_depth(frame, False))

    def _grown(self, frame: np.ndarray) -> np.ndarray:
        height, width = frame.shape[:2]
        more = (max(0, MCI_SIDE - height), max(0, MCI_SIDE - width))
        return np.pad(frame, ((0, more[0]), (0, more[1]), (0, 0)), mode="edge") if any(more) else frame

    def __iter__(self) -> Iterator[tuple[np.ndarray, Fraction, bool]]:
        clip, steps = self._clip, self._steps
        size = max(clip.width, MCI_SIDE), max(clip.height, MCI_SIDE)
        graph = f"format=yuv444p,minterpolate=fps={clip.rate * steps}:{_MCI}"
        made = filter_frames(self._fed(), *size, clip.rate, graph, *size)
        source: np.ndarray | None = None
        tail: list[np.ndarray] = []  # between that source frame and the next, if there is one
        for number, frame in enumerate(made):
            if number % steps:
                tail.append(as_depth(frame[: clip.height, : clip.width], clip.deep))
                continue
            if not self._sources:
                break  # these are the copies behind the end
            if source is not None:
                for rest, shown in enumerate((source, *tail)):
                    yield shown, number // steps - 1 + Fraction(rest, steps), False
            source, tail = self._sources.popleft(), []
        if source is not None:
            yield source, Fraction(self.read - 1), True
