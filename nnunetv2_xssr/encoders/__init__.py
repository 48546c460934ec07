"""What turns views into features: one registry, one protocol, one small module per encoder."""
