"""stream-detector: windows of Kafka events, scored by an autoencoder, each exactly once."""
