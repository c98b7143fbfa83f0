"""stream-detector: windows of Kafka events, scored by an autoencoder, each event counted exactly once."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stream_detector.bundle import load_bundle
    from stream_detector.detector import Detector

__all__ = ["Detector", "load_bundle"]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must not wait for TensorFlow."""
    if name == "Detector":
        from stream_detector.detector import Detector

        return Detector
    if name == "load_bundle":
        from stream_detector.bundle import load_bundle

        return load_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
