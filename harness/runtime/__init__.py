"""Carrying runs out: stages, locks, events, ledger, manifest, plan and doctor."""
