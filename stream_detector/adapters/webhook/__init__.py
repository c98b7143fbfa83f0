"""One request to one target, and where it may go. In the service, the only home of an HTTP client."""
