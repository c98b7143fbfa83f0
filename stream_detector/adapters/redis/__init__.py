"""Redis or Valkey, alone or as a cluster. redis-py's only home."""
