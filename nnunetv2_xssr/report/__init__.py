"""The report: one page that shows what was picked, why, and how it covers the pool."""
