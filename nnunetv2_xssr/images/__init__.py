"""Image pools: cases and their tables, reading, views and their caches."""
