"""From events of normal operation to a model bundle: windows, model, fit, calibrate, report."""
