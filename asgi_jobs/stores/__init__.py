"""Where jobs wait and are remembered."""
