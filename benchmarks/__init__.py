"""Measurements on real servers and real data, next to named peers."""
