"""``stream-detector`` as it is, while its requests to Kafka are counted by kind.

``python -m benchmarks.counted FILE run --config …`` writes the counts to FILE as JSON when the command ends. It costs
one addition a request.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from kafka.net.connection import KafkaConnection

from stream_detector.cli import main

if __name__ == "__main__":
    file = Path(sys.argv.pop(1))
    sent: Counter[str] = Counter()
    send = KafkaConnection._send_request

    def count(connection: Any, request: Any, *arguments: Any, **options: Any) -> Any:
        sent[type(request).__name__.removesuffix("Request")] += 1
        return send(connection, request, *arguments, **options)

    KafkaConnection._send_request = count
    try:
        main()
    finally:
        file.write_text(json.dumps(sent))
