"""Imported once by the process that workers are forked from, so that a worker starts in an instant."""

from tests.chaos import worker

worker.without_keras()
import stream_detector.app  # noqa: E402, F401 # what would bring TensorFlow has been replaced
