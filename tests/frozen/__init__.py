"""An app that uses edge, and how PyInstaller freezes it."""
