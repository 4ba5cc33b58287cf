"""Carrying runs out: folders, stages, locks, events, ledger, manifest, outputs."""
