"""The benchmark: does selecting beat random draws on a fully labelled target."""
