"""Judgements as pure functions: what must be there before an attempt, and why an attempt has ended."""
