"""Models on the device. In the service, the only home of Keras and its backends."""
