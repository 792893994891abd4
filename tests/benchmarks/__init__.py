"""Commands that measure time and memory; not collected by pytest."""
