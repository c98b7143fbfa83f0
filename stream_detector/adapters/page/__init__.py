"""The live page, served by the service itself: off unless asked for, and never in the detection's way.

The pipeline's thread tells a `Listener`; a thread of the page's own keeps a `Board` of bounded size, asks the model
what it expects of sensors that somebody looks at, and leaves messages for the viewers' threads.
"""

from stream_detector.adapters.page.board import Board as Board
from stream_detector.adapters.page.listener import Listener as Listener
from stream_detector.adapters.page.live import LivePage as LivePage
