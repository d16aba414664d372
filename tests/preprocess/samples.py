"""Small media files, one of each kind, for tests of whole requests."""

from skimage import data as photographs

from tests.preprocess.media_files import image_file, photograph, sound_file, tone, video_file

CAT = image_file(photograph(), "jpeg")
COFFEE = image_file(photographs.coffee(), "png")
SPEECH = sound_file(tone(1.7), 16_000, "wav")
MUSIC = sound_file(tone(2.31, 44_100, 2, seed=1), 44_100, "ogg")
FILM = video_file(sound=tone(4.0, 48_000))
SILENT_FILM = video_file(frames=24, fps=12, kind="webm")
