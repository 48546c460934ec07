"""The selection from images to record: plan, views, features, choice, record."""
