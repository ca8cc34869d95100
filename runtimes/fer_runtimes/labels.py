"""The seven classes, in FER2013's own order: class index i is ``LABELS[i]``."""

LABELS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
