"""Reading and writing video and pictures.

``open_source`` gives frames as (H, W, 3) RGB arrays, ``VideoWriter`` and ``write_picture`` take them.
"""

from src.video.containers import holds_alpha
from src.video.encoders import pick_encoder
from src.video.paths import is_video_name, kind_of_video, output_path
from src.video.pictures import ALPHA_SUFFIXES, PictureFolder, PictureReader, write_picture
from src.video.probe import MediaInfo, is_picture, probe
from src.video.reader import Source, VideoReader, open_source
from src.video.segments import join, ticks_per_second
from src.video.streams import AudioInfo, SubtitleInfo
from src.video.writer import VideoWriter

__all__ = [
    "ALPHA_SUFFIXES",
    "AudioInfo",
    "MediaInfo",
    "PictureFolder",
    "PictureReader",
    "Source",
    "SubtitleInfo",
    "VideoReader",
    "VideoWriter",
    "holds_alpha",
    "is_picture",
    "is_video_name",
    "join",
    "kind_of_video",
    "open_source",
    "output_path",
    "pick_encoder",
    "probe",
    "ticks_per_second",
    "write_picture",
]
