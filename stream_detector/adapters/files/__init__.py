"""Files as source and as outlet: CSV, JSON Lines, Parquet. PyArrow's only home."""
