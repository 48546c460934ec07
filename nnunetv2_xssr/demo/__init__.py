"""The built-in demo: a small two-site dataset of drawn chest X-rays, so that every stage can be tried without data."""
