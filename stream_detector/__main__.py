"""``python -m stream_detector``."""

from stream_detector.cli import main

if __name__ == "__main__":
    main()
