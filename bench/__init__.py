"""Measure speed, memory and quality."""
